//! The API's client, for the operator's commands.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::stream::ALIVE_S;

/// Bytes of one event of a stream.
const EVENT_BYTES_MAX: usize = 16 << 20;
/// Seconds of silence after which a stream counts as lost; the gateway speaks every [`ALIVE_S`].
const SILENCE_S: u64 = 3 * ALIVE_S;

/// Where the gateway's API is.
#[derive(Clone, Debug, clap::Args)]
pub struct Reach {
    /// The gateway's admin socket.
    #[arg(
        long,
        env = "TAILKEEP_SOCKET",
        default_value = ".tailkeep/admin.sock",
        value_name = "PATH",
        global = true
    )]
    socket: PathBuf,
}

/// The API could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("no gateway answers at {0}: {1}")]
    Unreachable(String, String),
    #[error("{0}")]
    Refused(String),
}

impl Reach {
    /// Sends one request and returns the answer's JSON.
    ///
    /// # Errors
    /// No gateway is there, or it refused; the text is the gateway's own.
    pub fn ask(&self, method: reqwest::Method, path: &str, body: Option<Vec<u8>>) -> Result<Value, ApiError> {
        self.run(async {
            let mut answer = self.send(method, path, body).await?;
            let mut text = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|error| self.lost(&error))? {
                text.extend_from_slice(&chunk);
            }
            serde_json::from_slice(&text).map_err(|error| ApiError::Refused(error.to_string()))
        })
    }

    /// [`Reach::ask`] with GET.
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask(reqwest::Method::GET, path, None)
    }

    /// Hands every event of a stream to `each`, until it breaks or the gateway ends; first an event
    /// `open`, once the gateway serves it.
    ///
    /// # Errors
    /// No gateway is there any more, or it refused.
    pub fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(&str, Value) -> ControlFlow<()>,
    ) -> Result<(), ApiError> {
        self.run(async {
            let mut answer = self.send(reqwest::Method::GET, path, None).await?;
            if each("open", Value::Null).is_break() {
                return Ok(());
            }
            let mut held: Vec<u8> = Vec::new();
            loop {
                let silence = Duration::from_secs(SILENCE_S);
                let chunk = tokio::time::timeout(silence, answer.chunk()).await;
                let chunk = chunk
                    .map_err(|_| self.silent())?
                    .map_err(|error| self.lost(&error))?;
                let Some(chunk) = chunk else { return Ok(()) };
                held.extend_from_slice(&chunk);
                while let Some(end) = memchr::memmem::find(&held, b"\n\n") {
                    let event: Vec<u8> = held.drain(..end + 2).collect();
                    if let Some((name, data)) = parse(&String::from_utf8_lossy(&event))
                        && each(&name, data).is_break()
                    {
                        return Ok(());
                    }
                }
                if held.len() > EVENT_BYTES_MAX {
                    return Err(ApiError::Refused("an event is too long".to_owned()));
                }
            }
        })
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ApiError::Refused(error.to_string()))?;
        runtime.block_on(work)
    }

    async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<reqwest::Response, ApiError> {
        let client = reqwest::Client::builder()
            .unix_socket(self.socket.clone())
            .build()
            .map_err(|error| self.lost(&error))?;
        let mut request = client.request(method, format!("http://gateway{path}"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.map_err(|error| self.lost(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let value: Value = answer.json().await.map_err(|error| self.lost(&error))?;
        let text = value["error"].as_str().unwrap_or("the gateway refused");
        Err(ApiError::Refused(text.to_owned()))
    }

    fn lost(&self, error: &reqwest::Error) -> ApiError {
        let mut deepest: &dyn std::error::Error = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        ApiError::Unreachable(self.socket.display().to_string(), deepest.to_string())
    }

    fn silent(&self) -> ApiError {
        ApiError::Unreachable(self.socket.display().to_string(), "it fell silent".to_owned())
    }
}

/// An event's name and its JSON; `None` for a comment.
fn parse(event: &str) -> Option<(String, Value)> {
    let (mut name, mut data) = ("message", String::new());
    for line in event.lines() {
        match line.split_once(':') {
            Some(("event", rest)) => name = rest.trim(),
            Some(("data", rest)) => data.push_str(rest.strip_prefix(' ').unwrap_or(rest)),
            _ => {}
        }
    }
    Some((name.to_owned(), serde_json::from_str(&data).ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// It lasts as long as a stream may be silent.
    #[test]
    fn a_stream_that_falls_silent_is_lost() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nevent: a\ndata: 1\n\n");
            let _ = ends.recv();
        });
        let mut heard = Vec::new();
        let followed = Reach { socket }.follow("/", |name, _| {
            heard.push(name.to_owned());
            ControlFlow::Continue(())
        });
        assert!(matches!(followed, Err(ApiError::Unreachable(_, why)) if why == "it fell silent"));
        assert_eq!(heard, ["open", "a"]);
        drop(end);
    }

    #[test]
    fn an_event_has_a_size() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            // No empty line ends the event.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: ");
            let _ = stream.write_all(&vec![b'x'; EVENT_BYTES_MAX + 1]);
        });
        let followed = Reach { socket }.follow("/", |_, _| ControlFlow::Continue(()));
        assert!(matches!(followed, Err(ApiError::Refused(text)) if text.contains("too long")));
    }
}
