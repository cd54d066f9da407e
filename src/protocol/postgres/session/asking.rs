//! What is put before the gate, and all that people who are asked have to see of it.

use serde_json::Value;

use super::{Judging, PgSession, SUMMARY_CHARS_MAX, What};
use crate::audit::RecordId;
use crate::facts::{Fact, Facts};
use crate::protocol::Output;
use crate::protocol::postgres::bind;
use crate::protocol::postgres::wire::HEADER_BYTES;
use crate::verdict::{Action, Digest, Step};

/// What an approver is told of COPY … FROM STDIN: they decide on the statement alone.
const ROWS_UNSEEN: &str =
    "\n-- NOT SHOWN: the rows that follow. Whoever approves this approves whatever rows are sent.";

/// What people who are asked have to see beside a statement's text and what its facts say.
pub(super) enum Beside {
    Nothing,
    /// What no fact has.
    Lines(String),
    /// It cannot be shown, so that nobody is asked.
    Unseen,
}

impl Beside {
    pub(super) fn of(lines: String) -> Beside {
        match lines.is_empty() {
            true => Beside::Nothing,
            false => Beside::Lines(lines),
        }
    }
}

impl PgSession {
    /// Asks the gate about one statement. The digest is over the messages that will be sent.
    pub(super) fn decide(
        &mut self,
        (what, permits): (What, Vec<RecordId>),
        (text, beside): (&str, Beside),
        facts: Facts,
        digest: Digest,
    ) {
        let mut detail = match &beside {
            // First, so that nothing in the text passes for it.
            Beside::Lines(lines) => format!("{lines}\n{text}"),
            Beside::Nothing | Beside::Unseen => text.to_owned(),
        };
        if let Facts::Sql(facts) = &facts {
            if facts.statement.takes_rows {
                detail.push_str(ROWS_UNSEEN);
            }
            // Whether or not it is permitted and succeeds: the lists say what names may mean.
            self.path.apply(&facts.statement.path, &facts.user);
            self.path.apply_roles(&facts.statement.roles);
        }
        let mut summary: String = text.chars().take(SUMMARY_CHARS_MAX).collect();
        if text.chars().nth(SUMMARY_CHARS_MAX).is_some() {
            // What is decided on may stand behind a long comment.
            summary.push_str(&format!(" … (of {} characters)", text.chars().count()));
        }
        self.tried = None;
        self.judging = Some(Judging {
            what,
            digest,
            permits,
        });
        self.out.push_back(Output::Decide(Box::new(Action {
            step: Step::Request,
            endpoint: self.config.endpoint.clone(),
            credential: self.config.credential.clone(),
            facts,
            digest,
            whole: !matches!(beside, Beside::Unseen),
            summary: summary.split_whitespace().collect::<Vec<_>>().join(" "),
            detail,
        })));
    }

    /// The parameters of a portal, where its facts do not say them: in a form that is not read, or of an EXECUTE.
    pub(super) fn beside(&self, what: &What, facts: &Facts) -> Beside {
        if matches!(facts, Facts::Sql(facts) if facts.parameters.known().is_some()) {
            return Beside::Nothing;
        }
        let portal = match (&self.held, what) {
            (Some(held), _) => {
                let prepared = bind::statement(&held.bind).and_then(|name| self.statements.get(&name));
                let types = prepared
                    .map(|prepared| prepared.types.clone())
                    .unwrap_or_default();
                let lines = bind::shown(held.bind.slice(HEADER_BYTES..), &types);
                return lines.map_or(Beside::Unseen, Beside::of);
            }
            (None, What::Execute { name, .. }) => self.portals.get(name),
            (None, _) => None,
        };
        // Its Bind has gone up.
        match portal.map(|portal| &portal.parameters) {
            Some(Fact::Known(Value::Array(values))) => {
                let lines = values.iter().enumerate();
                let lines = lines.map(|(at, value)| format!("${} = {}", at + 1, bind::shown_value(value)));
                Beside::of(lines.collect::<Vec<_>>().join("\n"))
            }
            _ => Beside::Unseen,
        }
    }
}
