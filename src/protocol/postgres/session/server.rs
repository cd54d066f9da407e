//! The server's messages: which answer belongs to what, and what the agent gets.

use bytes::{Bytes, BytesMut};

use super::extended::take_types;
use super::names::Prepared;
use super::{Kind, PgSession};
use crate::facts::sql::path::PathChange;
use crate::protocol::postgres::wire::{self, HEADER_BYTES, SERVER_MESSAGE_BYTES_MAX, WireError};
use crate::protocol::{Output, Side};

impl PgSession {
    /// Follows the server's messages. What needs no change goes on as slices of what came.
    pub(super) fn read_server(&mut self, bytes: Bytes) -> Result<(), WireError> {
        if self.is_led_by_trial() {
            return self.read_trial(&bytes);
        }
        self.read_answers(bytes)?;
        self.go_on();
        Ok(())
    }

    fn read_answers(&mut self, bytes: Bytes) -> Result<(), WireError> {
        let mut bytes = if self.down.is_empty() {
            bytes
        } else {
            self.down.extend_from_slice(&bytes);
            std::mem::take(&mut self.down).freeze()
        };
        let mut at = 0;
        loop {
            if self.down_rest > 0 {
                let step = self.down_rest.min(bytes.len() - at);
                self.down_rest -= step;
                at += step;
                if self.down_rest > 0 {
                    break;
                }
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let head = wire::head(rest).map_err(|()| WireError::Upstream("length"))?;
            let Some((tag, total)) = head else {
                break;
            };
            if let Some(front) = self.awaited.front_mut() {
                // Read whole below, a message may come here again; then it is counted there.
                front.open.down += if is_whole(tag) { 0 } else { total as u64 };
            }
            if !is_whole(tag) {
                self.header(tag)?;
                self.down_rest = total;
                continue;
            }
            if total > SERVER_MESSAGE_BYTES_MAX {
                return Err(WireError::LongAnswer);
            }
            if rest.len() < total {
                break;
            }
            let payload = bytes.slice(at + HEADER_BYTES..at + total);
            if let Some(front) = self.awaited.front_mut() {
                front.open.down += total as u64;
            }
            if let Some(instead) = self.whole(tag, &payload)? {
                self.pass_down(bytes.split_to(at));
                self.pass_down(instead);
                let _ = bytes.split_to(total);
                at = 0;
            } else {
                at += total;
            }
        }
        let rest = bytes.split_off(at);
        self.pass_down(bytes);
        if !rest.is_empty() {
            self.down = BytesMut::from(&*rest);
        }
        Ok(())
    }

    fn pass_down(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.out.push_back(Output::Write(Side::Agent, bytes));
        }
    }

    fn front_kind(&self) -> Option<Kind> {
        self.awaited.front().map(|front| front.kind)
    }

    /// A message that is known by its header alone.
    fn header(&mut self, tag: u8) -> Result<(), WireError> {
        let front = self.front_kind();
        let expected = match tag {
            // Rows, notices and notifications come as they like.
            b'D' | b'd' | b'c' | b'H' | b'N' | b'A' => return Ok(()),
            b'1' => Kind::Parse,
            b'2' => Kind::Bind,
            b'3' => Kind::Close,
            b'I' | b's' | b'T' if front == Some(Kind::Query) => return Ok(()),
            b'I' | b's' => Kind::Execute,
            b'T' | b'n' => Kind::Describe,
            b'V' if front == Some(Kind::Function) => return Ok(()),
            b'G' => return self.copy_begins(),
            _ => return Err(WireError::Upstream("unexpected message")),
        };
        if front != Some(expected) {
            return Err(WireError::Upstream("an answer to nothing"));
        }
        if tag == b's' {
            self.answered(SUSPENDED);
        } else {
            self.answered("");
        }
        Ok(())
    }

    /// CopyInResponse: a Sync that is under way is dropped by the server; anything else would fail.
    fn copy_begins(&mut self) -> Result<(), WireError> {
        if !matches!(self.front_kind(), Some(Kind::Query | Kind::Execute)) {
            return Err(WireError::Upstream("COPY of nothing"));
        }
        if self.awaited.iter().skip(1).any(|one| one.kind != Kind::Sync) {
            return Err(WireError::Agent("messages sent ahead of COPY"));
        }
        if self.awaited.len() > 1 {
            self.awaited.truncate(1);
            self.unsynced = true;
            self.executed = true;
        }
        self.copy_in = true;
        Ok(())
    }

    /// A message that is read whole; what the agent gets in its place, if not itself.
    fn whole(&mut self, tag: u8, payload: &Bytes) -> Result<Option<Bytes>, WireError> {
        match tag {
            b'S' => self.setting(payload).map(|()| None),
            b'Z' => self.ready(payload).map(|()| None),
            b'E' => Ok(self.error(payload)),
            b't' => self.described(payload).map(|()| None),
            _ => {
                let text = payload.split(|byte| *byte == 0).next().unwrap_or_default();
                let text = String::from_utf8_lossy(text).into_owned();
                match self.front_kind() {
                    // One tag a statement: each has its own outcome.
                    Some(Kind::Query) => {
                        if let Some(mut front) = self.awaited.pop_front() {
                            self.finish_first(&mut front.open, &text);
                            self.awaited.push_front(front);
                        }
                    }
                    Some(Kind::Execute) => self.answered(&text),
                    _ => return Err(WireError::Upstream("a tag of nothing")),
                }
                self.copy_in = false;
                Ok(None)
            }
        }
    }

    /// ParameterDescription: the types of a statement that was parsed without saying them.
    fn described(&mut self, payload: &Bytes) -> Result<(), WireError> {
        let front = self.awaited.front().filter(|front| front.kind == Kind::Describe);
        let front = front.ok_or(WireError::Upstream("an answer to nothing"))?;
        let types = take_types(&mut payload.clone()).ok_or(WireError::Upstream("types"))?;
        if let Some(id) = front.describes {
            self.keep_types(id, types);
        }
        Ok(())
    }

    pub(super) fn setting(&mut self, payload: &Bytes) -> Result<(), WireError> {
        let mut texts = payload.split(|byte| *byte == 0);
        let (name, value) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        let right: &[u8] = match name {
            b"client_encoding" => b"UTF8",
            b"standard_conforming_strings" => b"on",
            // PostgreSQL tells it from version 18 on, whoever has set it.
            b"search_path" => {
                let path = std::str::from_utf8(value).map_or(PathChange::Unseen, PathChange::to_list);
                // The role that logged in is among those that were taken.
                self.path.apply(&path, "");
                return Ok(());
            }
            _ => return Ok(()),
        };
        match value == right {
            true => Ok(()),
            false => Err(WireError::Setting(String::from_utf8_lossy(name).into_owned())),
        }
    }

    fn ready(&mut self, payload: &Bytes) -> Result<(), WireError> {
        let (Some(Kind::Sync | Kind::Query | Kind::Function), [status]) = (self.front_kind(), &payload[..])
        else {
            return Err(WireError::Upstream("ready for nothing"));
        };
        self.status = *status;
        self.copy_in = false;
        let segment = self.awaited.front().map_or(0, |front| front.segment);
        if *status == b'I' {
            // A portal ends with its transaction.
            self.drop_portals(|_, portal| portal.segment <= segment);
        }
        self.answered("");
        Ok(())
    }

    /// The front is answered: its outcome is known, and what it defined is sure.
    fn answered(&mut self, status: &str) {
        let Some(mut front) = self.awaited.pop_front() else {
            return;
        };
        match front.kind {
            Kind::Parse => self.statements.confirm(front.id),
            Kind::Bind => self.portals.confirm(front.id),
            _ => {}
        }
        if status == SUSPENDED {
            let portal = front.portal.as_ref().and_then(|name| self.portals.get_mut(name));
            match portal {
                Some(portal) => portal.open = Some(front.open),
                None => self.finish(front.open, SUSPENDED),
            }
            return;
        }
        if front.failed {
            self.finish_first(&mut front.open, &front.status);
            self.finish(front.open, "SKIPPED");
            return;
        }
        self.finish(front.open, status);
        for (name, statement) in front.prepares {
            let prepared = Prepared {
                id: front.id,
                segment: front.segment,
                confirmed: true,
                statement: Some(statement),
                types: [].into(),
            };
            self.keep_prepared(name, prepared);
        }
    }

    /// An error ends the front, and in the extended protocol all behind it up to Sync.
    fn error(&mut self, payload: &Bytes) -> Option<Bytes> {
        let status = format!("ERROR {}", wire::sqlstate(payload).unwrap_or("XX000"));
        self.copy_in = false;
        let front = self.awaited.front_mut()?;
        if matches!(front.kind, Kind::Sync | Kind::Query | Kind::Function) {
            front.status = status;
            front.failed = true;
            return None;
        }
        let instead = front.error.take();
        // The error is of the first action that had not ended, be it its Bind that failed.
        let mut first = true;
        while let Some(front) = self.awaited.pop_front() {
            if front.kind == Kind::Sync {
                self.awaited.push_front(front);
                return instead;
            }
            let status = if first { status.as_str() } else { "SKIPPED" };
            first &= front.open.permits.is_empty();
            self.finish(front.open, status);
            self.statements
                .take(|_, one| !one.confirmed && one.id == front.id);
            self.drop_portals(|_, one| !one.confirmed && one.id == front.id);
        }
        // The server drops everything until a Sync that has yet to come.
        self.skipping = true;
        self.held = None;
        instead
    }
}

/// The status of a portal that has more rows.
const SUSPENDED: &str = "SUSPENDED";

/// Whether a message is read whole; of all others the header is enough.
fn is_whole(tag: u8) -> bool {
    matches!(tag, b'Z' | b'E' | b'S' | b'C' | b't')
}
