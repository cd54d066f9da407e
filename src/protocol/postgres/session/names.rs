//! What names mean: prepared statements and portals, bounded in number and bytes.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Open, PgSession};
use crate::facts::Facts;
use crate::protocol::postgres::statement::{Effect, Parameters, Seen, Statement};
use crate::verdict::Digest;

/// Bytes that an entry is taken to need besides its text.
pub(super) const ENTRY_BYTES: usize = 512;

const UNKNOWN_REASON: &str = "prepared statement does not exist";
const NESTED_REASON: &str =
    "a prepared statement that prepares, executes or closes others cannot be executed by name";

/// A prepared statement, as its Parse or PREPARE defined it.
pub(super) struct Prepared {
    pub(super) id: u64,
    pub(super) segment: u64,
    pub(super) confirmed: bool,
    /// `None` for an empty text.
    pub(super) statement: Option<Arc<Statement>>,
    pub(super) types: Arc<[u32]>,
}

/// A portal that was bound, or is held until it may be.
pub(super) struct Portal {
    pub(super) id: u64,
    pub(super) segment: u64,
    pub(super) confirmed: bool,
    pub(super) statement: Option<Arc<Statement>>,
    pub(super) parameters: Parameters,
    pub(super) parameter_bytes: usize,
    /// Over the text and the Bind.
    pub(super) digest: Digest,
    /// The permit of a Bind that is still to be executed, or of a portal that was suspended.
    pub(super) open: Option<Open>,
}

/// What a [`Kept`] entry needs.
pub(super) trait Weighs {
    fn bytes(&self) -> usize;
    fn id(&self) -> u64;
    fn confirm(&mut self);
}

impl Weighs for Prepared {
    fn bytes(&self) -> usize {
        let text = self.statement.as_ref().map_or(0, |one| one.text.len());
        ENTRY_BYTES + text + self.types.len() * size_of::<u32>()
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn confirm(&mut self) {
        self.confirmed = true;
    }
}

impl Weighs for Portal {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.parameter_bytes
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn confirm(&mut self) {
        self.confirmed = true;
    }
}

/// Entries by name, and the bytes they need together. An entry's bytes never change.
pub(super) struct Kept<V> {
    entries: HashMap<String, V>,
    bytes: usize,
}

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Kept {
            entries: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<V: Weighs> Kept<V> {
    /// Bytes that all entries need together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.entries.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        self.entries.get_mut(name)
    }

    /// Whether an entry of these bytes still fits in, in the place of what has its name now.
    pub(super) fn fits(&self, name: &str, bytes: usize, count_max: usize, bytes_max: usize) -> bool {
        let (count, old) = match self.entries.get(name) {
            Some(old) => (self.entries.len(), old.bytes()),
            None => (self.entries.len() + 1, 0),
        };
        count <= count_max && self.bytes - old + bytes <= bytes_max
    }

    pub(super) fn insert(&mut self, name: String, entry: V) -> Option<V> {
        self.bytes += entry.bytes();
        let old = self.entries.insert(name, entry);
        self.bytes -= old.as_ref().map_or(0, Weighs::bytes);
        old
    }

    pub(super) fn remove(&mut self, name: &str) {
        let old = self.entries.remove(name);
        self.bytes -= old.as_ref().map_or(0, Weighs::bytes);
    }

    /// Takes out what `gone` says.
    pub(super) fn take(&mut self, mut gone: impl FnMut(&str, &V) -> bool) -> Vec<V> {
        let taken: Vec<V> = self
            .entries
            .extract_if(|name, entry| gone(name, entry))
            .map(|(_, entry)| entry)
            .collect();
        self.bytes -= taken.iter().map(Weighs::bytes).sum::<usize>();
        taken
    }

    /// Takes out the definition with this id.
    fn take_one(&mut self, id: u64) -> Option<(String, V)> {
        let taken = self.entries.extract_if(|_, entry| entry.id() == id).next();
        self.bytes -= taken.as_ref().map_or(0, |(_, entry)| entry.bytes());
        taken
    }

    /// The server has confirmed the definition with this id.
    pub(super) fn confirm(&mut self, id: u64) {
        if let Some(entry) = self.entries.values_mut().find(|entry| entry.id() == id) {
            entry.confirm();
        }
    }
}

/// What is to be judged: the text for people, and the facts for rules.
pub(super) type Reading = (String, Facts);

impl PgSession {
    /// What a statement means now, with these parameters: for EXECUTE, together with what the name
    /// stands for. `before` are the statements that run before it in the same text.
    ///
    /// # Errors
    /// SQLSTATE and text: the name is unknown, or stands for what cannot be followed.
    pub(super) fn reading(
        &self,
        statement: &Statement,
        parameters: Parameters,
        before: &[Statement],
    ) -> Result<Reading, (&'static str, &'static str)> {
        let grammar = &self.config.grammar;
        let [name] = statement.executes.as_slice() else {
            return match statement.executes.is_empty() {
                true => Ok((
                    statement.text.clone(),
                    self.looked_up(grammar.bound(&statement.facts, parameters)),
                )),
                false => Err(("0A000", NESTED_REASON)),
            };
        };
        let prepared = self.stands_for(name, before).ok_or(("26000", UNKNOWN_REASON))?;
        if !prepared.executes.is_empty() || prepared.effect != Effect::None {
            return Err(("0A000", NESTED_REASON));
        }
        let text = format!("{}\n{}", statement.text, prepared.text);
        let facts = grammar.executing(&statement.facts, &prepared.facts);
        Ok((text, self.looked_up(facts)))
    }

    /// With what names without a schema mean in this session.
    fn looked_up(&self, facts: Facts) -> Facts {
        match facts {
            Facts::Sql(facts) => Facts::Sql(Box::new(facts.looked_up(&self.path))),
            other => other,
        }
    }

    /// What EXECUTE of a name runs, behind `before`.
    fn stands_for(&self, name: &str, before: &[Statement]) -> Option<Arc<Statement>> {
        for statement in before.iter().rev() {
            match &statement.effect {
                Effect::Prepare(made) if made == name => return statement.prepares.clone(),
                Effect::Deallocate(None) => return None,
                Effect::Deallocate(Some(gone)) if gone == name => return None,
                _ => {}
            }
        }
        let known = self.statements.get(name)?;
        known.confirmed.then(|| known.statement.clone())?
    }

    /// Whether a statement's EXECUTE has to wait for the server: a definition may be under way.
    pub(super) fn waits_for_name(&self, statement: &Statement) -> bool {
        !statement.executes.is_empty() && !self.awaited.is_empty()
    }

    /// What statements define once all of them are done.
    pub(super) fn prepared_by(&self, statements: &[Statement]) -> Vec<(String, Arc<Statement>)> {
        let mut made = Vec::new();
        for (at, statement) in statements.iter().enumerate() {
            let Effect::Prepare(name) = &statement.effect else {
                continue;
            };
            let later = statements.get(at + 1..).unwrap_or_default();
            let gone = later.iter().any(|one| match &one.effect {
                Effect::Deallocate(gone) => gone.as_ref().is_none_or(|gone| gone == name),
                _ => false,
            });
            if let (false, Some(inner)) = (gone, &statement.prepares) {
                made.push((name.clone(), inner.clone()));
            }
        }
        made
    }

    /// A statement is being sent that takes names away. It may fail; then the name is the server's
    /// alone, and its use is refused.
    pub(super) fn forget(&mut self, effect: &Effect) {
        match effect {
            Effect::Deallocate(Some(name)) => self.forget_name(name),
            Effect::Deallocate(None) => self.forget_names(),
            Effect::Discard => {
                self.forget_names();
                self.drop_portals(|_, _| true);
            }
            Effect::Cursor(name) => {
                self.drop_portals(|known, _| name.as_ref().is_none_or(|name| name == known));
            }
            _ => {}
        }
    }

    /// A name is being taken away or defined anew. A PREPARE of it that the server has yet to answer
    /// would say what it meant before.
    pub(super) fn forget_name(&mut self, name: &str) {
        self.statements.remove(name);
        for awaited in &mut self.awaited {
            awaited.prepares.retain(|(made, _)| made != name);
        }
    }

    fn forget_names(&mut self) {
        self.statements.take(|_, _| true);
        for awaited in &mut self.awaited {
            awaited.prepares.clear();
        }
    }

    /// Forgets portals; what was permitted and is still open has ended.
    pub(super) fn drop_portals(&mut self, gone: impl FnMut(&str, &Portal) -> bool) {
        for portal in self.portals.take(gone) {
            self.finish_portal(portal);
        }
    }

    pub(super) fn finish_portal(&mut self, portal: Portal) {
        if let Some(open) = portal.open {
            let status = if open.begun { "SUSPENDED" } else { "NOT RUN" };
            self.finish(open, status);
        }
    }

    /// Keeps a portal that was sent. Parameters that do not fit in are unknown at a later Execute.
    pub(super) fn keep_portal(&mut self, name: String, mut portal: Portal) {
        let (count_max, bytes_max) = (self.config.statements_max, self.config.prepared_bytes_max);
        if !self.portals.fits(&name, 0, count_max, usize::MAX) {
            self.drop_portals(|_, _| true);
        }
        if !self.portals.fits(&name, portal.bytes(), count_max, bytes_max) {
            portal.parameters = Parameters::unread(Seen::Nowhere);
            portal.parameter_bytes = 0;
        }
        if let Some(old) = self.portals.insert(name, portal) {
            self.finish_portal(old);
        }
    }

    /// The server has said which types the parameters of a definition have. If there is no room
    /// for that, parameters in binary form stay unknown.
    pub(super) fn keep_types(&mut self, id: u64, types: Arc<[u32]>) {
        let (count_max, bytes_max) = (self.config.statements_max, self.config.prepared_bytes_max);
        let Some((name, mut prepared)) = self.statements.take_one(id) else {
            return;
        };
        let before = std::mem::replace(&mut prepared.types, types);
        if !self
            .statements
            .fits(&name, prepared.bytes(), count_max, bytes_max)
        {
            prepared.types = before;
        }
        self.statements.insert(name, prepared);
    }

    /// Keeps what a PREPARE defined. What does not fit in is unknown, and refused.
    pub(super) fn keep_prepared(&mut self, name: String, prepared: Prepared) {
        let (count_max, bytes_max) = (self.config.statements_max, self.config.prepared_bytes_max);
        if self
            .statements
            .fits(&name, prepared.bytes(), count_max, bytes_max)
        {
            self.statements.insert(name, prepared);
        }
    }
}
