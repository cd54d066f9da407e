//! Query and FunctionCall: judged whole, then sent.

use std::sync::Arc;

use bytes::Bytes;

use super::agent::Again;
use super::{Kind, Open, PgSession, SUMMARY_CHARS_MAX, What};
use crate::audit::RecordId;
use crate::facts::Mask;
use crate::protocol::postgres::statement::Parameters;
use crate::protocol::postgres::wire::{self, HEADER_BYTES, WireError, take_text};
use crate::verdict::Digest;

/// What is answered to a statement after which the server would read texts otherwise than this gateway.
pub const REREADS_REASON: &str = "how the server reads text may not be changed here";
const NO_TEXT_REASON: &str = "the query is no UTF-8 text";
const LONG_REASON: &str = "the statement is longer than `statement_bytes_max`";
/// A backslash means something else after `standard_conforming_strings = off`, and what already
/// runs in this pipeline could have set that.
const UNCLEAR_REASON: &str =
    "a statement with a backslash cannot be read behind others in one pipeline; send Sync first";

/// The beginning of a text that no grammar has read, as it goes on record: a literal that is cut off is one to its end.
pub(super) fn begins(text: &str) -> String {
    let begins: String = text.chars().take(SUMMARY_CHARS_MAX).collect();
    Mask::default().sql(&begins).into_owned()
}

impl PgSession {
    pub(super) fn query(&mut self, message: Bytes) -> Result<Again, WireError> {
        let mut payload = message.slice(HEADER_BYTES..);
        let Some(text) = take_text(&mut payload) else {
            let start = message.get(HEADER_BYTES..).unwrap_or_default();
            let start = String::from_utf8_lossy(start.get(..SUMMARY_CHARS_MAX).unwrap_or(start)).into_owned();
            self.note_refusal(start.trim_end_matches('\0'), NO_TEXT_REASON);
            self.fail_query(wire::error("ERROR", "22021", NO_TEXT_REASON));
            return Ok(None);
        };
        if !payload.is_empty() {
            return Err(WireError::Agent("a zero in a query"));
        }
        if let Some(reason) = self.unreadable(&text) {
            self.note_refusal(&text, reason);
            self.fail_query(self.says(wire::DENIED, reason));
            return Ok(None);
        }
        if self.reads_too_early(&text) {
            return Ok(Some(message));
        }
        let statements: Arc<[_]> = self.config.grammar.read(&text).into();
        if statements.iter().any(|one| one.rereads) {
            self.note_refusal(&text, REREADS_REASON);
            self.fail_query(self.says(wire::DENIED, REREADS_REASON));
            return Ok(None);
        }
        if statements.iter().any(|one| self.waits_for_name(one)) {
            return Ok(Some(message));
        }
        let what = What::Query {
            digest: Digest::of(&message),
            message,
            statements,
            at: 0,
        };
        self.next_of_query(what, Vec::new());
        Ok(None)
    }

    /// Why a text is refused before the grammar sees it.
    pub(super) fn unreadable(&self, text: &str) -> Option<&'static str> {
        if text.len() > self.config.statement_bytes_max {
            return Some(LONG_REASON);
        }
        (text.contains('\\') && self.executed).then_some(UNCLEAR_REASON)
    }

    /// Whether a text hangs on settings that the server has yet to report: it holds a backslash,
    /// or bytes that another encoding would read otherwise.
    pub(super) fn reads_too_early(&self, text: &str) -> bool {
        !self.awaited.is_empty() && (text.contains('\\') || !text.is_ascii())
    }

    /// Why a statement is refused once it is read.
    pub(super) fn refused_reading(statement: &super::Statement) -> Option<&'static str> {
        statement.rereads.then_some(REREADS_REASON)
    }

    /// Asks for the next statement of a Query, or sends it when all have a permit.
    pub(super) fn next_of_query(&mut self, what: What, permits: Vec<RecordId>) {
        let What::Query {
            message,
            digest,
            statements,
            at,
        } = &what
        else {
            return;
        };
        if let Some(statement) = statements.get(*at) {
            let before = statements.get(..*at).unwrap_or_default();
            match self.reading(statement, Parameters::known(Vec::new()), before) {
                Ok((text, facts)) => {
                    let digest = *digest;
                    self.decide(what, permits, &text, facts, digest);
                }
                Err((code, reason)) => {
                    self.note_refusal(&statement.text, reason);
                    self.finish(Open::new(permits, self.now), "NOT SENT");
                    self.fail_query(self.says(code, reason));
                }
            }
            return;
        }
        let prepares = self.prepared_by(statements);
        for statement in statements.iter() {
            self.forget(&statement.effect);
        }
        let mut open = Open::new(permits, self.now);
        open.up = message.len() as u64;
        self.send_up(message.clone());
        let awaited = self.await_answer(Kind::Query);
        awaited.open = open;
        awaited.prepares = prepares;
    }

    pub(super) fn function(&mut self, message: Bytes) -> Again {
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
}
