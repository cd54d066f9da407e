//! The agent's messages.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use super::{Held, Judging, Kind, PgSession, Portal, Prepared, What};
use crate::facts::{Blind, Fact, Facts};
use crate::protocol::Output;
use crate::protocol::postgres::bind;
use crate::protocol::postgres::statement::NAME_BYTES_MAX;
use crate::protocol::postgres::statement::{Effect, Statement};
use crate::protocol::postgres::wire::{self, HEADER_BYTES, WireError, take_text};
use crate::verdict::Digest;

/// What a SET may not touch: how the server reads the text that is judged here.
const PINNED: [&str; 2] = ["client_encoding", "standard_conforming_strings"];
const PINNED_REASON: &str = "this setting may not be changed here";
/// A backslash means something else after `standard_conforming_strings = off`, and what already
/// runs in this pipeline could have set that.
const UNCLEAR_REASON: &str =
    "a statement with a backslash cannot be read behind others in one pipeline; send Sync first";

/// `None`: the message was worked off; else it is to be tried again later.
type Again = Option<Bytes>;

impl PgSession {
    /// Works off the agent's messages until one has to wait.
    pub(super) fn pump(&mut self) -> Result<(), WireError> {
        while self.judging.is_none() && !self.closed {
            let Some(message) = self
                .front
                .take()
                .map_or_else(|| self.cut(), |front| Ok(Some(front)))?
            else {
                return Ok(());
            };
            if let Some(again) = self.agent_message(message)? {
                if self.judging.is_none() && self.unsynced && !self.flushed {
                    // What is waited for would stay in the server's buffer.
                    self.send_up(wire::message(b'H', &[]));
                    self.flushed = true;
                }
                self.front = Some(again);
                return Ok(());
            }
        }
        Ok(())
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
                self.send_up(message);
                Ok(None)
            }
            // The server drops both during COPY.
            b'H' | b'S' => Ok(None),
            _ => Err(WireError::Agent("a message in the middle of COPY")),
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

    fn query(&mut self, message: Bytes) -> Result<Again, WireError> {
        let mut payload = message.slice(HEADER_BYTES..);
        let Some(text) = take_text(&mut payload) else {
            self.fail_query(wire::error("ERROR", "22021", "the query is no UTF-8 text"));
            return Ok(None);
        };
        if !payload.is_empty() {
            return Err(WireError::Agent("a zero in a query"));
        }
        if let Some(reason) = self.unreadable(&text) {
            self.note_refusal(&text, reason);
            self.fail_query(wire::error("ERROR", "42501", reason));
            return Ok(None);
        }
        if self.reads_too_early(&text) {
            return Ok(Some(message));
        }
        let statements = self.config.grammar.read(&text);
        if statements.iter().any(|one| is_pinned(&one.effect)) {
            self.note_refusal(&text, PINNED_REASON);
            self.fail_query(wire::error("ERROR", "42501", PINNED_REASON));
            return Ok(None);
        }
        let what = What::Query {
            message,
            statements,
            at: 0,
        };
        self.next_of_query(what, Vec::new());
        Ok(None)
    }

    /// Why a text is refused before the grammar sees it.
    fn unreadable(&self, text: &str) -> Option<&'static str> {
        if text.len() > self.config.statement_bytes_max {
            return Some("the statement is longer than `statement_bytes_max`");
        }
        (text.contains('\\') && self.executed).then_some(UNCLEAR_REASON)
    }

    /// Whether a text hangs on settings that the server has yet to report.
    fn reads_too_early(&self, text: &str) -> bool {
        text.contains('\\') && !self.awaited.is_empty()
    }

    /// Asks for the next statement of a Query, or sends it when all have a permit.
    fn next_of_query(&mut self, what: What, permits: Vec<crate::audit::RecordId>) {
        let What::Query {
            message,
            statements,
            at,
        } = &what
        else {
            return;
        };
        if let Some(statement) = statements.get(*at) {
            let facts = self.facts_of(statement, Fact::Known(serde_json::json!([])));
            let (text, digest) = (statement.text.clone(), Digest::of(message));
            self.decide(what, permits, &text, facts, digest);
            return;
        }
        let (message, statements) = (message.clone(), statements.clone());
        self.send_up(message);
        let mut prepares = Vec::new();
        for statement in statements {
            self.forget(&statement.effect);
            if let Effect::Prepare(name) = &statement.effect {
                prepares.push((name.clone(), Arc::new(inner(&statement))));
            }
        }
        let awaited = self.await_answer(Kind::Query);
        awaited.permits = permits;
        awaited.prepares = prepares;
    }

    /// The facts to judge by: for EXECUTE those of what was prepared.
    fn facts_of(&self, statement: &Statement, parameters: Fact<serde_json::Value>) -> Facts {
        let grammar = &self.config.grammar;
        let Effect::Execute(name) = &statement.effect else {
            return grammar.bound(&statement.facts, parameters);
        };
        match self.statements.get(name) {
            Some(Prepared {
                confirmed: true,
                statement: Some(prepared),
                ..
            }) => grammar.bound(&prepared.facts, Fact::Unknown(Blind::Opaque)),
            _ => grammar.opaque(&statement.text),
        }
    }

    fn forget(&mut self, effect: &Effect) {
        match effect {
            Effect::Deallocate(Some(name)) => drop(self.statements.remove(name)),
            Effect::Deallocate(None) => self.statements.clear(),
            _ => {}
        }
    }

    fn parse(&mut self, message: Bytes) -> Result<Again, WireError> {
        let mut payload = message.slice(HEADER_BYTES..);
        let name = take_name(&mut payload).ok_or(WireError::Agent("Parse"))?;
        let text = take_text(&mut payload).ok_or(WireError::Agent("Parse"))?;
        let count = payload.try_get_u16().map_err(|_| WireError::Agent("Parse"))?;
        let types = (0..count)
            .map(|_| payload.try_get_u32())
            .collect::<Result<Arc<[u32]>, _>>()
            .map_err(|_| WireError::Agent("Parse"))?;
        if !payload.is_empty() {
            return Err(WireError::Agent("Parse"));
        }
        let reason = self.unreadable(&text).or_else(|| {
            let full = self.statements.len() >= self.config.statements_max;
            (full && !self.statements.contains_key(&name)).then_some("too many prepared statements")
        });
        if let Some(reason) = reason {
            self.note_refusal(&text, reason);
            self.fail_segment(wire::error("ERROR", "42501", reason));
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
            [one] if is_pinned(&one.effect) => Some(("42501", PINNED_REASON)),
            [_] => None,
            _ => Some((
                "42601",
                "cannot insert multiple commands into a prepared statement",
            )),
        };
        if let Some((code, reason)) = refused {
            self.note_refusal(&text, reason);
            self.fail_segment(wire::error("ERROR", code, reason));
            return Ok(None);
        }
        self.send_up(message);
        let segment = self.segment;
        let id = self.await_answer(Kind::Parse).id;
        let prepared = Prepared {
            id,
            segment,
            confirmed: false,
            statement: statements.pop().map(Arc::new),
            types,
        };
        self.statements.insert(name, prepared);
        Ok(None)
    }

    fn bind(&mut self, message: Bytes) -> Result<Again, WireError> {
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
        let portal = match &prepared.statement {
            None => Portal {
                id: 0,
                segment: self.segment,
                confirmed: false,
                text: Arc::from(""),
                facts: Facts::None,
                effect: Effect::None,
                bind: message,
            },
            Some(statement) => Portal {
                id: 0,
                segment: self.segment,
                confirmed: false,
                text: Arc::from(statement.text.as_str()),
                facts: self.facts_of(statement, bind.parameters),
                effect: statement.effect.clone(),
                bind: message,
            },
        };
        self.held = Some(Held {
            name: bind.portal,
            portal,
            describes: Vec::new(),
        });
        Ok(None)
    }

    fn describe(&mut self, message: Bytes) -> Result<Again, WireError> {
        if let Some(held) = &mut self.held {
            held.describes.push(message);
            if held.describes.len() > DESCRIBES_MAX {
                return Err(WireError::Agent("Describe"));
            }
            return Ok(None);
        }
        self.send_up(message);
        self.await_answer(Kind::Describe);
        Ok(None)
    }

    fn execute(&mut self, message: Bytes) -> Result<Again, WireError> {
        let mut payload = message.slice(HEADER_BYTES..);
        let name = take_name(&mut payload).ok_or(WireError::Agent("Execute"))?;
        let known = match &self.held {
            Some(held) => Some(&held.portal),
            None => self.portals.get(&name),
        };
        let Some(portal) = known else {
            self.fail_segment(wire::error("ERROR", "34000", "portal does not exist"));
            return Ok(None);
        };
        if self.held.is_none() && !portal.confirmed && portal.segment != self.segment {
            return Ok(Some(message));
        }
        let digest = Digest::of_parts([portal.text.as_bytes(), &portal.bind, &message]);
        let (text, facts) = (portal.text.clone(), portal.facts.clone());
        let other = self.held.is_none().then(|| portal.clone());
        let what = What::Execute {
            message,
            portal: other,
        };
        if matches!(facts, Facts::None) && text.is_empty() {
            // The empty statement does nothing and is answered by EmptyQueryResponse.
            let permits = Vec::new();
            self.permitted(Judging {
                what,
                digest,
                permits,
            });
        } else {
            self.decide(what, Vec::new(), &text, facts, digest);
        }
        Ok(None)
    }

    /// Judges a Bind whose Execute does not follow: planning runs immutable functions.
    fn judge_bind(&mut self) {
        let Some(held) = &self.held else {
            return;
        };
        let (text, facts) = (held.portal.text.clone(), held.portal.facts.clone());
        let digest = Digest::of_parts([text.as_bytes(), &held.portal.bind]);
        if matches!(facts, Facts::None) && text.is_empty() {
            self.send_held(Vec::new());
        } else {
            self.decide(What::Bind, Vec::new(), &text, facts, digest);
        }
    }

    fn close(&mut self, message: Bytes) -> Result<Again, WireError> {
        let mut payload = message.slice(HEADER_BYTES..);
        let kind = payload.try_get_u8().map_err(|_| WireError::Agent("Close"))?;
        let name = take_name(&mut payload).ok_or(WireError::Agent("Close"))?;
        match kind {
            b'S' => drop(self.statements.remove(&name)),
            b'P' => drop(self.portals.remove(&name)),
            _ => return Err(WireError::Agent("Close")),
        }
        self.send_up(message);
        self.await_answer(Kind::Close);
        Ok(None)
    }

    fn function(&mut self, message: Bytes) -> Again {
        let oid = message
            .get(HEADER_BYTES..HEADER_BYTES + 4)
            .and_then(|oid| oid.try_into().ok())
            .map_or(0, u32::from_be_bytes);
        let text = format!("FUNCTION CALL {oid}");
        let facts = self.config.grammar.opaque(&text);
        let digest = Digest::of(&message);
        self.decide(What::Function { message }, Vec::new(), &text, facts, digest);
        None
    }

    fn send_held(&mut self, permits: Vec<crate::audit::RecordId>) -> Option<Portal> {
        let held = self.held.take()?;
        self.send_up(held.portal.bind.clone());
        let mut portal = held.portal;
        let segment = self.segment;
        let awaited = self.await_answer(Kind::Bind);
        awaited.permits = permits;
        portal.id = awaited.id;
        portal.segment = segment;
        for describe in held.describes {
            self.send_up(describe);
            self.await_answer(Kind::Describe);
        }
        if self.portals.len() >= self.config.statements_max && !self.portals.contains_key(&held.name) {
            self.portals.clear();
        }
        self.portals.insert(held.name, portal.clone());
        Some(portal)
    }

    /// The gate said yes: what was judged is sent.
    pub(super) fn permitted(&mut self, judging: Judging) {
        match judging.what {
            What::Query {
                message,
                statements,
                at,
            } => {
                let at = at + 1;
                let what = What::Query {
                    message,
                    statements,
                    at,
                };
                self.next_of_query(what, judging.permits);
            }
            What::Bind => drop(self.send_held(judging.permits)),
            What::Execute { message, portal } => {
                let Some(portal) = portal.or_else(|| self.send_held(Vec::new())) else {
                    return;
                };
                self.send_up(message);
                self.forget(&portal.effect);
                let awaited = self.await_answer(Kind::Execute);
                awaited.permits = judging.permits;
                if let Effect::Prepare(name) = portal.effect {
                    let statement = Statement {
                        text: portal.text.to_string(),
                        facts: portal.facts,
                        effect: Effect::None,
                    };
                    awaited.prepares.push((name, Arc::new(statement)));
                }
            }
            What::Function { message } => {
                self.send_up(message);
                self.await_answer(Kind::Function).permits = judging.permits;
            }
        }
    }

    /// The gate said no, or the agent took it back.
    pub(super) fn refused(&mut self, judging: Judging, code: &str, reason: &str) {
        let now = self.now;
        self.finish_all(judging.permits, "NOT SENT", now);
        if self.skipping {
            self.held = None;
            return;
        }
        let error = wire::error("ERROR", code, reason);
        match judging.what {
            What::Query { .. } | What::Function { .. } => self.fail_query(error),
            What::Bind | What::Execute { .. } => self.fail_segment(error),
        }
    }
}

/// Describes that may stand between a Bind and its Execute.
const DESCRIBES_MAX: usize = 16;

/// Takes a statement's or portal's name. The server keeps apart only the first
/// [`NAME_BYTES_MAX`] bytes, so that two longer names could be one there and two here.
fn take_name(bytes: &mut Bytes) -> Option<String> {
    take_text(bytes).filter(|name| name.len() <= NAME_BYTES_MAX)
}

fn is_pinned(effect: &Effect) -> bool {
    matches!(effect, Effect::Set(Some(name)) if PINNED.contains(&name.as_str()))
}

/// What EXECUTE of a PREPARE runs: the facts of a PREPARE are those of the statement in it.
fn inner(statement: &Statement) -> Statement {
    Statement {
        effect: Effect::None,
        ..statement.clone()
    }
}
