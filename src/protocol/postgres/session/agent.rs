//! The agent's messages.

use bytes::Bytes;

use super::{AWAITED_MAX, Judging, Kind, OUTPUTS_MAX, Open, PgSession, What};
use crate::protocol::Output;
use crate::protocol::postgres::wire::{self, HEADER_BYTES, WireError};

/// `None`: the message was worked off; else it is to be tried again later.
pub(super) type Again = Option<Bytes>;

impl PgSession {
    /// Works off the agent's messages until one has to wait, or there is much to do: then true.
    pub(super) fn pump(&mut self) -> Result<bool, WireError> {
        while self.judging.is_none() && self.trial.is_none() && !self.closed {
            if self.out.len() >= OUTPUTS_MAX {
                return Ok(true);
            }
            if self.awaited.len() >= AWAITED_MAX {
                self.flush();
                return Ok(false);
            }
            let Some(message) = self
                .front
                .take()
                .map_or_else(|| self.cut(), |front| Ok(Some(front)))?
            else {
                return Ok(false);
            };
            if let Some(again) = self.agent_message(message)? {
                if self.judging.is_none() {
                    self.flush();
                }
                self.front = Some(again);
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// What is waited for would stay in the server's buffer.
    fn flush(&mut self) {
        if self.unsynced && !self.flushed {
            self.send_up(wire::message(b'H', &[]));
            self.flushed = true;
        }
    }

    /// Cuts the next whole message off; COPY data is passed on in pieces.
    fn cut(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            if self.up_rest > 0 {
                let piece = self.up.split_to(self.up_rest.min(self.up.len())).freeze();
                if piece.is_empty() {
                    return Ok(None);
                }
                self.up_rest -= piece.len();
                if !self.up_drop {
                    self.count_up(piece.len());
                    self.send_up(piece);
                }
                continue;
            }
            let head = wire::head(&self.up).map_err(|()| WireError::Agent("length"))?;
            let Some((tag, total)) = head else {
                return Ok(None);
            };
            if tag == b'd' {
                if !self.copy_in && !self.skipping && !self.awaited.is_empty() {
                    return Ok(None);
                }
                self.up_drop = !self.copy_in;
                self.up_rest = total;
                continue;
            }
            if total > self.config.message_bytes_max {
                return Err(WireError::Long);
            }
            if self.up.len() < total {
                return Ok(None);
            }
            return Ok(Some(self.up.split_to(total).freeze()));
        }
    }

    fn agent_message(&mut self, message: Bytes) -> Result<Again, WireError> {
        let tag = message.first().copied().unwrap_or_default();
        if tag == b'X' {
            self.held = None;
            self.closed = true;
            self.send_up(message);
            self.out.push_back(Output::Close);
            return Ok(None);
        }
        if self.skipping && tag != b'S' {
            return Ok(None);
        }
        if self.copy_in {
            return self.copy_message(tag, message);
        }
        if self.held.is_some() && !self.is_for_held(tag, &message) {
            self.judge_bind();
            return Ok(Some(message));
        }
        match tag {
            b'Q' => self.query(message),
            b'P' => self.parse(message),
            b'B' => self.bind(message),
            b'D' => self.describe(message),
            b'E' => self.execute(message),
            b'C' => self.close(message),
            b'F' => Ok(self.function(message)),
            b'H' => {
                self.send_up(message);
                self.flushed = true;
                Ok(None)
            }
            b'S' => {
                self.skipping = false;
                self.send_up(message);
                self.await_answer(Kind::Sync);
                Ok(None)
            }
            // The server drops these outside of COPY; inside they wait for its CopyInResponse.
            b'c' | b'f' => Ok((!self.awaited.is_empty()).then_some(message)),
            _ => Err(WireError::Agent("unknown message type")),
        }
    }

    fn copy_message(&mut self, tag: u8, message: Bytes) -> Result<Again, WireError> {
        match tag {
            b'c' | b'f' => {
                self.copy_in = false;
                self.count_up(message.len());
                self.send_up(message);
                Ok(None)
            }
            // The server drops both during COPY.
            b'H' | b'S' => Ok(None),
            _ => Err(WireError::Agent("a message in the middle of COPY")),
        }
    }

    /// COPY data belongs to the statement that the server is working on.
    fn count_up(&mut self, bytes: usize) {
        if let Some(front) = self.awaited.front_mut() {
            front.open.up += bytes as u64;
        }
    }

    fn is_for_held(&self, tag: u8, message: &Bytes) -> bool {
        let Some(held) = &self.held else {
            return false;
        };
        let payload = message.get(HEADER_BYTES..).unwrap_or_default();
        let name = match (tag, payload.first()) {
            (b'D', Some(b'P')) => payload.get(1..),
            (b'E', _) => Some(payload),
            _ => None,
        };
        name.and_then(|name| name.split(|byte| *byte == 0).next()) == Some(held.name.as_bytes())
    }

    /// The gate said yes: what was judged is sent.
    pub(super) fn permitted(&mut self, judging: Judging) {
        match judging.what {
            What::Query {
                message,
                digest,
                statements,
                at,
            } => {
                let what = What::Query {
                    message,
                    digest,
                    statements,
                    at: at + 1,
                };
                self.next_of_query(what, judging.permits);
            }
            What::Function { message } => {
                let mut open = Open::new(judging.permits, self.now);
                open.up = message.len() as u64;
                self.send_up(message);
                self.await_answer(Kind::Function).open = open;
            }
            what @ (What::Bind | What::Execute { .. }) => self.permitted_portal(what, judging.permits),
        }
    }

    /// The gate said no, or the agent took it back.
    pub(super) fn refused(&mut self, judging: Judging, code: &'static str, reason: &str) {
        if self.trial.is_some() {
            self.trial_refused(judging, code, reason);
            return;
        }
        self.finish(Open::new(judging.permits, self.now), "NOT SENT");
        if self.skipping {
            self.held = None;
            return;
        }
        let error = self.says(code, reason);
        match judging.what {
            What::Query { .. } | What::Function { .. } => self.fail_query(error),
            What::Bind | What::Execute { .. } => self.fail_segment(error),
        }
    }
}
