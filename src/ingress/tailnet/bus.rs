//! tailscaled's bus: a line of JSON for each change. It is asked to say something every 3 seconds, so that one that
//! is open and dead is told from one on which nothing changes.

use std::time::Duration;

use tokio::time::Instant;

use super::localapi::{LINE_BYTES_MAX, LocalApiError, Notify, counted, down, late};

/// How long the bus may be silent, which says something every 3 seconds. An open connection's peer is who it
/// was for no longer than that where tailscaled's changes no longer come.
pub const SILENT_MAX: Duration = Duration::from_secs(10);

/// The bus of one tailscaled.
#[derive(Debug)]
pub struct Bus {
    answer: reqwest::Response,
    line: Vec<u8>,
    /// Bytes of `line` that hold no end of a line.
    seen: usize,
    /// When it last said something.
    heard: Instant,
}

impl Bus {
    pub(super) fn new(answer: reqwest::Response) -> Self {
        Bus {
            answer,
            line: Vec::new(),
            seen: 0,
            heard: Instant::now(),
        }
    }

    /// The next thing that it says.
    ///
    /// Cancel safe: a line that was read in part is kept, and silence counts on.
    ///
    /// # Errors
    /// The bus has ended, or is silent; what changed from here on is not known.
    pub async fn next(&mut self) -> Result<Notify, LocalApiError> {
        let said = tokio::time::timeout_at(self.heard + SILENT_MAX, self.line());
        let line = said.await.map_err(|_| late(SILENT_MAX))??;
        self.heard = Instant::now();
        serde_json::from_slice(&line).map_err(|error| counted(LocalApiError::Answer(error.to_string())))
    }

    /// The next line that says something.
    async fn line(&mut self) -> Result<Vec<u8>, LocalApiError> {
        loop {
            let unseen = self.line.get(self.seen..).unwrap_or_default();
            if let Some(end) = memchr::memchr(b'\n', unseen) {
                let rest = self.line.split_off(self.seen + end + 1);
                self.seen = 0;
                let line = std::mem::replace(&mut self.line, rest);
                let line = line.trim_ascii();
                if line.is_empty() {
                    continue;
                }
                return Ok(line.to_vec());
            }
            self.seen = self.line.len();
            match self.answer.chunk().await.map_err(down)? {
                None => return Err(LocalApiError::Down("the bus has ended".to_owned())),
                Some(piece) if self.line.len() + piece.len() > LINE_BYTES_MAX => {
                    return Err(counted(LocalApiError::Long(LINE_BYTES_MAX)));
                }
                Some(piece) => self.line.extend_from_slice(&piece),
            }
        }
    }
}
