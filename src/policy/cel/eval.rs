//! The evaluation: three-valued, bounded, without a copy on the common path.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use smallvec::SmallVec;

use super::named;
use super::node::{Fold, Kind, Node};
use super::value::{Value, equal, find};
use super::{EVAL_BUILT_MAX, EVAL_STEPS_MAX};
use crate::facts::{Blind, Fact, FactSource, Family, Slot};

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A fact that could not be had.
    Unknown(Slot, Blind),
    /// An error of the evaluation, for the audit log.
    Error(Cow<'static, str>),
    /// [`EVAL_STEPS_MAX`] or [`EVAL_BUILT_MAX`] was reached. Nothing absorbs it.
    Budget,
}

impl Fault {
    pub(crate) fn error(text: impl Into<Cow<'static, str>>) -> Fault {
        Fault::Error(text.into())
    }
}

pub(crate) type Outcome<'a> = Result<Value<'a>, Fault>;

/// What the evaluation may still spend.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    steps: Cell<u32>,
}

impl Budget {
    /// Spends steps for `bytes` that are read or built.
    pub(crate) fn scan(&self, bytes: usize) -> Result<(), Fault> {
        self.spend(u32::try_from(bytes / 64).unwrap_or(u32::MAX))
    }

    /// Refuses a text or a list that would grow over [`EVAL_BUILT_MAX`].
    pub(crate) fn build(&self, size: usize) -> Result<(), Fault> {
        if size > EVAL_BUILT_MAX {
            return Err(Fault::Budget);
        }
        self.scan(size)
    }

    fn spend(&self, steps: u32) -> Result<(), Fault> {
        let spent = self.steps.get().saturating_add(steps);
        self.steps.set(spent);
        if spent > EVAL_STEPS_MAX {
            Err(Fault::Budget)
        } else {
            Ok(())
        }
    }
}

/// Who follows an evaluation, node by node. `()` follows nothing, and the evaluation of the data
/// path is compiled without it.
pub(crate) trait Watch {
    /// The evaluation of a node begins.
    fn enter(&self, node: &Node);
    /// It is done; what was entered last is left first.
    fn leave(&self, node: &Node, outcome: &Outcome<'_>);
}

impl Watch for () {
    #[inline(always)]
    fn enter(&self, _node: &Node) {}

    #[inline(always)]
    fn leave(&self, _node: &Node, _outcome: &Outcome<'_>) {}
}

/// What a condition is evaluated over.
pub(crate) struct Env<'a, W = ()> {
    facts: &'a dyn FactSource,
    agent: &'a dyn FactSource,
    now: Option<DateTime<Utc>>,
    /// Variables of comprehensions, innermost last.
    stack: RefCell<SmallVec<[Outcome<'a>; 4]>>,
    budget: Budget,
    pub(crate) watch: W,
}

impl<'a> Env<'a> {
    pub fn new(facts: &'a dyn FactSource, agent: &'a dyn FactSource) -> Self {
        Env {
            facts,
            agent,
            now: None,
            stack: RefCell::default(),
            budget: Budget::default(),
            watch: (),
        }
    }
}

impl<'a, W> Env<'a, W> {
    /// With the time that `now` means. Without it a condition that reads `now` fails.
    pub fn at(mut self, now: DateTime<Utc>) -> Self {
        self.now = Some(now);
        self
    }

    /// With somebody who follows each evaluation.
    pub(crate) fn watched<V>(self, watch: V) -> Env<'a, V> {
        Env {
            facts: self.facts,
            agent: self.agent,
            now: self.now,
            stack: self.stack,
            budget: self.budget,
            watch,
        }
    }

    /// Adds a variable, in the order in which they were named to the compiler.
    #[cfg(test)]
    pub(crate) fn bind(&self, value: Value<'a>) {
        self.stack.borrow_mut().push(Ok(value));
    }
}

impl<'a, W: Watch> Env<'a, W> {
    pub(crate) fn eval_root(&self, node: &'a Node) -> Outcome<'a> {
        self.budget.steps.set(0);
        self.eval(node)
    }

    fn eval(&self, node: &'a Node) -> Outcome<'a> {
        self.watch.enter(node);
        let outcome = self.value(node);
        self.watch.leave(node, &outcome);
        outcome
    }

    fn value(&self, node: &'a Node) -> Outcome<'a> {
        self.budget.spend(1)?;
        match &node.kind {
            Kind::Const(value) => Ok(value.borrow()),
            Kind::Slot(slot) => self.slot(*slot),
            Kind::Var(index) => match self.stack.borrow().get(*index) {
                Some(value) => value.clone(),
                None => Err(Fault::error("a variable is not bound")),
            },
            Kind::Select(of, field) => self.select(of, field),
            Kind::Has(of, field) => self.has(of, field),
            Kind::And(sides) => self.logic(sides, false),
            Kind::Or(sides) => self.logic(sides, true),
            Kind::If(parts) => {
                let [condition, yes, no] = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Err(Fault::error("no such overload: _?_:_")),
                }
            }
            Kind::NotStrictlyFalse(inner) => match self.eval(inner) {
                Err(Fault::Budget) => Err(Fault::Budget),
                Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                _ => Ok(Value::Bool(true)),
            },
            Kind::List(items) => {
                let items = items.iter().map(|item| named::read(self.eval(item)?));
                let items: Result<Vec<_>, _> = items.collect();
                Ok(Value::List(Arc::new(items?)))
            }
            Kind::Map(entries) => self.map(entries),
            Kind::Matches(of, regex) => match named::read(self.eval(of)?)? {
                Value::Text(text) => {
                    self.budget.scan(text.len().saturating_mul(4))?;
                    Ok(Value::Bool(regex.is_match(&text)))
                }
                _ => Err(Fault::error("no such overload: matches")),
            },
            Kind::Now => match self.now {
                Some(now) => Ok(Value::Timestamp(now)),
                None => Err(Fault::error("there is no `now` here")),
            },
            Kind::Date(function, of, zone) => match self.eval(of)? {
                Value::Timestamp(time) => super::time::date(*function, time, zone),
                _ => Err(Fault::error("no such overload: a zone is for times")),
            },
            Kind::Regex(function, regex, args) => {
                let mut values: SmallVec<[Value<'a>; 3]> = SmallVec::new();
                for arg in args {
                    values.push(named::read(self.eval(arg)?)?);
                }
                super::pattern::call(&self.budget, *function, regex, &values)
            }
            Kind::Call(function, args) => {
                let mut values: SmallVec<[Value<'a>; 3]> = SmallVec::new();
                for arg in args {
                    values.push(self.eval(arg)?);
                }
                match named::call(&self.budget, *function, &values) {
                    Some(outcome) => outcome,
                    None => super::call::call(&self.budget, *function, &values),
                }
            }
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn slot(&self, slot: Slot) -> Outcome<'a> {
        let source = if slot.family() == Family::Agent {
            self.agent
        } else {
            self.facts
        };
        match source.fact(slot) {
            Fact::Known(view) => Ok(Value::of_view(slot, view)),
            Fact::Unknown(blind) => Err(Fault::Unknown(slot, blind)),
        }
    }

    fn select(&self, of: &'a Node, field: &'a str) -> Outcome<'a> {
        let value = self.eval(of)?;
        let key = Value::Text(Cow::Borrowed(field));
        if let Value::Optional(of) = &value {
            return match of {
                Some(of) => super::optional::read(&self.budget, of, &key),
                None => Ok(value),
            };
        }
        if !value.is_map() {
            return Err(Fault::error(format!(
                "no such field: `{field}` of {}",
                value.type_name()
            )));
        }
        self.budget
            .scan(value.len().unwrap_or_default().saturating_mul(8))?;
        value
            .get(&key)
            .ok_or_else(|| Fault::error(format!("no such key: {field}")))
    }

    fn has(&self, of: &'a Node, field: &'a str) -> Outcome<'a> {
        let value = self.eval(of)?;
        let value = match value {
            Value::Optional(None) => return Ok(Value::Bool(false)),
            Value::Optional(Some(of)) => (*of).clone(),
            value => value,
        };
        // A request without a body has no field of it: its JSON is null.
        if matches!((&value, &of.kind), (Value::Null, Kind::Slot(_))) {
            return Ok(Value::Bool(false));
        }
        if !value.is_map() {
            return Err(Fault::error(format!(
                "no such field: `{field}` of {}",
                value.type_name()
            )));
        }
        self.budget
            .scan(value.len().unwrap_or_default().saturating_mul(8))?;
        let found = find(&value, &Value::Text(Cow::Borrowed(field)))?;
        Ok(Value::Bool(found.is_some()))
    }

    /// `&&` where `decisive` is false, `||` where it is true: the decisive value on either side
    /// absorbs an error or an unknown on the other. An unknown outranks an error.
    fn logic(&self, sides: &'a [Node], decisive: bool) -> Outcome<'a> {
        let mut fault: Option<Fault> = None;
        for side in sides {
            let found = match self.eval(side) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => continue,
                Ok(_) => Fault::error("no such overload: a side of && or || is no bool"),
                Err(Fault::Budget) => return Err(Fault::Budget),
                Err(fault) => fault,
            };
            if fault.is_none() || matches!((&fault, &found), (Some(Fault::Error(_)), Fault::Unknown(..))) {
                fault = Some(found);
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => Ok(Value::Bool(!decisive)),
        }
    }

    fn map(&self, entries: &'a [(Node, Node)]) -> Outcome<'a> {
        let mut map: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = named::read(self.eval(key)?)?;
            if !matches!(
                key,
                Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Text(_)
            ) {
                return Err(Fault::error("unsupported key type"));
            }
            if map.iter().any(|(own, _)| equal(own, &key)) {
                return Err(Fault::error("repeated key"));
            }
            let value = named::read(self.eval(value)?)?;
            map.push((key, value));
        }
        Ok(Value::Map(Arc::new(map)))
    }

    fn fold(&self, fold: &'a Fold) -> Outcome<'a> {
        let mut range = self.eval(&fold.range)?;
        // `all` and `exists` ask of each; how many there are is not known of names that stand for more.
        if !matches!(fold.init.kind, Kind::Const(Value::Bool(_))) {
            range = named::read(range)?;
        }
        let Some(count) = range.len() else {
            return Err(Fault::error(format!("{} cannot be walked", range.type_name())));
        };
        let init = self.eval(&fold.init);
        if init == Err(Fault::Budget) {
            return init;
        }
        let base = self.stack.borrow().len();
        self.stack.borrow_mut().push(init);
        self.stack.borrow_mut().push(Ok(Value::Null));
        let outcome = self.walk(fold, &range, count, base);
        self.stack.borrow_mut().truncate(base);
        outcome
    }

    fn walk(&self, fold: &'a Fold, range: &Value<'a>, count: usize, base: usize) -> Outcome<'a> {
        for index in 0..count {
            self.budget.spend(1)?;
            let Some(item) = range.step(index) else { break };
            self.set(base + 1, Ok(item));
            if matches!(self.eval(&fold.condition)?, Value::Bool(false)) {
                break;
            }
            let step = self.eval(&fold.step);
            if step == Err(Fault::Budget) {
                return step;
            }
            self.set(base, step);
        }
        self.eval(&fold.result)
    }

    fn set(&self, index: usize, value: Outcome<'a>) {
        if let Some(place) = self.stack.borrow_mut().get_mut(index) {
            *place = value;
        }
    }
}

/// Only for the comparison of faults: values are compared by [`equal`].
impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        equal(self, other)
    }
}
