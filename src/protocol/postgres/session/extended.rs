//! Parse, Bind, Describe, Execute, Close.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use super::agent::Again;
use super::names::{ENTRY_BYTES, Portal, Prepared};
use super::{Held, Kind, Open, PgSession, What};
use crate::audit::RecordId;
use crate::facts::Facts;
use crate::protocol::postgres::bind;
use crate::protocol::postgres::statement::{Effect, NAME_BYTES_MAX, Statement};
use crate::protocol::postgres::wire::{self, HEADER_BYTES, WireError, take_text};
use crate::verdict::Digest;

/// The first object identifier that is not the server's own (`FirstNormalObjectId` of `access/transam.h`).
const FIRST_OWN_TYPE: u32 = 16_384;

/// Describes that may stand between a Bind and its Execute.
pub const DESCRIBES_MAX: usize = 16;

const FULL_REASON: &str = "too many prepared statements, or too long ones together; close some";

impl PgSession {
    pub(super) fn parse(&mut self, message: Bytes) -> Result<Again, WireError> {
        let mut payload = message.slice(HEADER_BYTES..);
        let name = take_name(&mut payload).ok_or(WireError::Agent("Parse"))?;
        let text = take_text(&mut payload).ok_or(WireError::Agent("Parse"))?;
        let types = take_types(&mut payload).ok_or(WireError::Agent("Parse"))?;
        let bytes = ENTRY_BYTES + text.len() + types.len() * size_of::<u32>();
        let (count_max, bytes_max) = (self.config.statements_max, self.config.prepared_bytes_max);
        let reason = self
            .unreadable(&text)
            .or_else(|| (!self.statements.fits(&name, bytes, count_max, bytes_max)).then_some(FULL_REASON));
        if let Some(reason) = reason {
            self.refuse_parse(&text, "42501", reason);
            return Ok(None);
        }
        if self.reads_too_early(&text) {
            return Ok(Some(message));
        }
        if let Some(known) = self.statements.get(&name).filter(|_| !name.is_empty()) {
            if !known.confirmed && !self.awaited.is_empty() {
                return Ok(Some(message));
            }
            self.fail_segment(wire::error("ERROR", "42P05", "prepared statement already exists"));
            return Ok(None);
        }
        let mut statements = self.config.grammar.read(&text);
        let refused = match statements.as_slice() {
            [] => None,
            [one] => PgSession::refused_reading(one).map(|reason| ("42501", reason)),
            _ => Some((
                "42601",
                "cannot insert multiple commands into a prepared statement",
            )),
        };
        if let Some((code, reason)) = refused {
            self.refuse_parse(&text, code, reason);
            return Ok(None);
        }
        self.send_up(message);
        self.forget_name(&name);
        let segment = self.segment;
        let id = self.await_answer(Kind::Parse).id;
        let mut statement = statements.pop();
        if let Some(one) = statement
            .as_mut()
            .filter(|_| types.iter().any(|id| *id >= FIRST_OWN_TYPE))
        {
            one.facts = self.config.grammar.of_own_types(&one.facts);
        }
        let prepared = Prepared {
            id,
            segment,
            confirmed: false,
            statement: statement.map(Arc::new),
            types,
        };
        self.statements.insert(name, prepared);
        Ok(None)
    }

    fn refuse_parse(&mut self, text: &str, code: &str, reason: &str) {
        self.note_refusal(text, reason);
        self.fail_segment(self.says(code, reason));
    }

    pub(super) fn bind(&mut self, message: Bytes) -> Result<Again, WireError> {
        let payload = message.slice(HEADER_BYTES..);
        let mut names = payload.clone();
        let _portal = take_name(&mut names).ok_or(WireError::Agent("Bind"))?;
        let name = take_name(&mut names).ok_or(WireError::Agent("Bind"))?;
        let Some(prepared) = self.statements.get(&name) else {
            self.fail_segment(wire::error("ERROR", "26000", "prepared statement does not exist"));
            return Ok(None);
        };
        if !prepared.confirmed && prepared.segment != self.segment {
            return Ok(Some(message));
        }
        let bind = bind::read(payload, &prepared.types).ok_or(WireError::Agent("Bind"))?;
        let text = prepared.statement.as_ref().map_or("", |one| one.text.as_str());
        let portal = Portal {
            id: 0,
            segment: self.segment,
            confirmed: false,
            digest: Digest::of_parts([text.as_bytes(), &message]),
            statement: prepared.statement.clone(),
            parameters: bind.parameters,
            parameter_bytes: message.len(),
            open: None,
        };
        self.held = Some(Held {
            name: bind.portal,
            portal,
            bind: message,
            describes: Vec::new(),
        });
        Ok(None)
    }

    pub(super) fn describe(&mut self, message: Bytes) -> Result<Again, WireError> {
        if let Some(held) = &mut self.held {
            // Its kind and a name, and nothing behind.
            let is_long = message.len() > HEADER_BYTES + NAME_BYTES_MAX + 2;
            held.describes.push(message);
            if is_long || held.describes.len() > DESCRIBES_MAX {
                return Err(WireError::Agent("Describe"));
            }
            return Ok(None);
        }
        let payload = message.get(HEADER_BYTES..).unwrap_or_default();
        let described = match payload.split_last() {
            Some((0, [b'S', name @ ..])) => std::str::from_utf8(name).ok(),
            _ => None,
        };
        let described = described.and_then(|name| self.statements.get(name));
        let described = described.map(|prepared| prepared.id);
        self.send_up(message);
        self.await_answer(Kind::Describe).describes = described;
        Ok(None)
    }

    pub(super) fn execute(&mut self, message: Bytes) -> Result<Again, WireError> {
        let mut payload = message.slice(HEADER_BYTES..);
        let name = take_name(&mut payload).ok_or(WireError::Agent("Execute"))?;
        if self.held.is_none() {
            let Some(portal) = self.portals.get_mut(&name) else {
                self.fail_segment(wire::error("ERROR", "34000", "portal does not exist"));
                return Ok(None);
            };
            let running = |one: &super::Awaited| one.portal.as_deref() == Some(name.as_str());
            if !portal.confirmed && portal.segment != self.segment || self.awaited.iter().any(running) {
                return Ok(Some(message));
            }
            // A name that EXECUTE runs may mean something else by now, unless it runs already.
            let named = portal
                .statement
                .as_ref()
                .is_some_and(|one| !one.executes.is_empty());
            if let Some(open) = portal.open.take_if(|open| open.begun || !named) {
                let statement = portal.statement.clone();
                self.send_execute(message, name, statement.as_deref(), open);
                return Ok(None);
            }
        }
        let portal = match &self.held {
            Some(held) => Some(&held.portal),
            None => self.portals.get(&name),
        };
        let Some(portal) = portal else {
            return Ok(None);
        };
        let (digest, statement) = (portal.digest, portal.statement.clone());
        let Some(one) = &statement else {
            // The empty statement does nothing and is answered by EmptyQueryResponse.
            self.send_held(None);
            self.send_execute(message, name, None, Open::new(Vec::new(), self.now));
            return Ok(None);
        };
        if self.waits_for_name(one) {
            return Ok(Some(message));
        }
        let reading = self.reading(one, portal.parameters.clone(), &[]);
        let what = What::Execute {
            message,
            name,
            statement,
        };
        self.judge_portal(what, reading, digest);
        Ok(None)
    }

    /// Judges a Bind whose Execute does not follow: planning runs immutable functions. Says
    /// whether that has to wait.
    pub(super) fn judge_bind(&mut self) {
        let Some(held) = &self.held else {
            return;
        };
        let digest = held.portal.digest;
        let Some(statement) = held.portal.statement.clone() else {
            self.send_held(None);
            return;
        };
        if self.waits_for_name(&statement) {
            return;
        }
        let reading = self.reading(&statement, held.portal.parameters.clone(), &[]);
        self.judge_portal(What::Bind, reading, digest);
    }

    fn judge_portal(
        &mut self,
        what: What,
        reading: Result<(String, Facts), (&'static str, &'static str)>,
        digest: Digest,
    ) {
        match reading {
            Ok((text, facts)) => {
                let beside = self.beside(&what, &facts);
                self.decide((what, Vec::new()), (&text, beside), facts, digest);
            }
            Err((code, reason)) => {
                self.note_refusal("EXECUTE", reason);
                self.fail_segment(self.says(code, reason));
            }
        }
    }

    pub(super) fn close(&mut self, message: Bytes) -> Result<Again, WireError> {
        let mut payload = message.slice(HEADER_BYTES..);
        let kind = payload.try_get_u8().map_err(|_| WireError::Agent("Close"))?;
        let name = take_name(&mut payload).ok_or(WireError::Agent("Close"))?;
        match kind {
            b'S' => self.forget_name(&name),
            b'P' => self.drop_portals(|known, _| known == name),
            _ => return Err(WireError::Agent("Close")),
        }
        self.send_up(message);
        self.await_answer(Kind::Close);
        Ok(None)
    }

    /// Sends the held Bind, if there is one; `open` is its permit where it was judged alone.
    pub(super) fn send_held(&mut self, open: Option<Open>) -> u64 {
        let Some(held) = self.held.take() else {
            return 0;
        };
        let mut sent = held.bind.len() as u64;
        self.send_up(held.bind);
        let mut portal = held.portal;
        portal.segment = self.segment;
        portal.id = self.await_answer(Kind::Bind).id;
        for describe in held.describes {
            sent += describe.len() as u64;
            self.send_up(describe);
            self.await_answer(Kind::Describe);
        }
        portal.open = open.map(|open| Open { up: sent, ..open });
        self.keep_portal(held.name, portal);
        sent
    }

    /// An Execute, or a held Bind, has its permit.
    pub(super) fn permitted_portal(&mut self, what: What, permits: Vec<RecordId>) {
        let mut open = Open::new(permits, self.now);
        match what {
            What::Execute {
                message,
                name,
                statement,
            } => {
                open.up = self.send_held(None);
                self.send_execute(message, name, statement.as_deref(), open);
            }
            _ => {
                self.send_held(Some(open));
            }
        }
    }

    fn send_execute(&mut self, message: Bytes, name: String, statement: Option<&Statement>, mut open: Open) {
        open.up += message.len() as u64;
        open.begun = true;
        self.send_up(message);
        let effect = statement.map_or(&Effect::None, |one| &one.effect);
        self.forget(effect);
        let awaited = self.await_answer(Kind::Execute);
        awaited.open = open;
        awaited.portal = Some(name);
        if let (Effect::Prepare(name), Some(inner)) = (effect, statement.and_then(|one| one.prepares.clone()))
        {
            awaited.prepares.push((name.clone(), inner));
        }
    }
}

/// Takes a statement's or portal's name. The server keeps apart only the first
/// [`NAME_BYTES_MAX`] bytes, so that two longer names could be one there and two here.
fn take_name(bytes: &mut Bytes) -> Option<String> {
    take_text(bytes).filter(|name| name.len() <= NAME_BYTES_MAX)
}

/// Takes a list of types off a payload that ends with it.
pub(super) fn take_types(bytes: &mut Bytes) -> Option<Arc<[u32]>> {
    let count = bytes.try_get_u16().ok()?;
    let types = (0..count)
        .map(|_| bytes.try_get_u32().ok())
        .collect::<Option<_>>()?;
    bytes.is_empty().then_some(types)
}
