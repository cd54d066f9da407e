//! Conditions: CEL text in, a typed tree over fact slots out. *Pure.*
//!
//! `cel` parses; the check of names and types and the evaluation are ours. Evaluation is total
//! and bounded, reads facts where they lie, and knows three outcomes beside a value: an unknown
//! fact, an error, a spent budget. `&&`, `||` and `?:` absorb the first two as the CEL language
//! definition says (github.com/google/cel-spec, "Logical operators").

mod call;
mod compile;
mod cost;
pub(crate) mod coverage;
mod eval;
mod foreign;
mod format;
mod fragile;
mod function;
mod hidden;
pub(crate) mod key;
mod list;
pub(crate) mod manual;
mod named;
mod net;
mod node;
mod optional;
mod pattern;
mod print;
mod schema;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod time;
pub(crate) mod trace;
mod value;

use cel::parser::Parser;

use crate::facts::{Blind, FactSet, FactSource, Family, Mask, Slot};

pub use eval::Fault;
pub use trace::{EXPLAIN_ITEMS_MAX, EXPLAIN_PARTS_MAX, Found, Part};
pub use value::Value;

pub(crate) use eval::{Env, Outcome, Watch};
pub(crate) use node::Node;

use trace::Trace;

use text::{duration, function_arithmetic, function_join, function_text};

/// Longest condition, bytes.
pub const CONDITION_BYTES_MAX: usize = 16 << 10;

/// Most operators in a condition. Each can be one level of recursion in the parser and in the
/// evaluation, so this bounds the stack: 600 of them overflow 2 MiB in a debug build.
pub const CONDITION_OPERATORS_MAX: usize = 250;

/// Deepest nesting of brackets in a condition.
pub const CONDITION_DEPTH_MAX: usize = 24;

/// Compiled size of one regular expression, bytes.
pub const REGEX_BYTES_MAX: usize = 1 << 20;

/// Evaluation steps of one condition: a node is one step, 64 bytes scanned are one more.
pub const EVAL_STEPS_MAX: u32 = 2_000_000;

/// Items that a list, and bytes that a text is taken to have when the steps of a condition are
/// estimated at load. One that could take more than [`EVAL_STEPS_MAX`] then does not load; longer
/// ones are met by that limit when they come.
pub const ESTIMATE_ITEMS: u64 = 64;

/// See [`ESTIMATE_ITEMS`].
pub const ESTIMATE_TEXT_BYTES: u64 = 64 << 10;

/// Longest text or list that a condition may build, bytes or items.
pub const EVAL_BUILT_MAX: usize = 8 << 20;

/// Why a condition does not compile, with the bytes of it that are meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CelError {
    pub message: String,
    pub help: Option<String>,
    pub start: usize,
    pub end: usize,
}

/// A compiled condition.
#[derive(Debug)]
pub struct Condition {
    pub(crate) node: node::Node,
    reads: FactSet,
    reads_now: bool,
    source: String,
}

impl Condition {
    /// Parses, checks and compiles a condition over the facts of `family` and of the agent.
    ///
    /// # Errors
    /// Every name that does not exist, and the first error of syntax or type.
    pub fn compile(source: &str, family: Family) -> Result<Condition, Vec<CelError>> {
        Condition::compile_with(source, Some(family), &[])
    }

    /// As [`Condition::compile`], with further variables, and without facts if `family` is
    /// `None`. What remains of a type error then shows in evaluation.
    pub(crate) fn compile_with(
        source: &str,
        family: Option<Family>,
        variables: &[&str],
    ) -> Result<Condition, Vec<CelError>> {
        guard(source).map_err(|error| vec![error])?;
        let parsed = Parser::new()
            .enable_optional_syntax(true)
            .enable_ident_escape_syntax(true)
            .parse_with_source_info(source);
        let (expr, info) = parsed.map_err(|errors| syntax(source, &errors))?;
        let mut compiler = compile::Compiler::new(source, &info, family, variables);
        let node = compiler.root(&expr);
        if !compiler.errors.is_empty() {
            return Err(compiler.errors);
        }
        let steps = cost::steps(&node);
        if family.is_some() && steps > u64::from(EVAL_STEPS_MAX) {
            return Err(vec![CelError {
                message: format!(
                    "this could take {steps} steps on lists of {ESTIMATE_ITEMS} items; {EVAL_STEPS_MAX} are the limit"
                ),
                help: Some("nest fewer macros, or split it into several rules".to_owned()),
                start: 0,
                end: source.len(),
            }]);
        }
        Ok(Condition {
            node,
            reads: compiler.reads,
            reads_now: compiler.reads_now,
            source: source.to_owned(),
        })
    }

    /// The facts that the condition may read.
    pub fn reads(&self) -> FactSet {
        self.reads
    }

    /// Whether its outcome may depend on the schema of an SQL name that was written without one.
    pub(crate) fn names_schemas(&self) -> bool {
        schema::matters(&self.node)
    }

    /// Whether its outcome may change with the time.
    pub fn reads_now(&self) -> bool {
        self.reads_now
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the condition holds.
    ///
    /// # Errors
    /// An unknown fact that matters, an evaluation error, a spent budget.
    pub(crate) fn holds<'a, W: Watch>(&'a self, env: &Env<'a, W>) -> Result<bool, Fault> {
        match env.eval_root(&self.node)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(Fault::error(format!(
                "the condition is {} and not bool",
                other.type_name()
            ))),
        }
    }

    /// The keys of each part that must be met for it to hold.
    pub(crate) fn required(&self) -> Vec<Vec<key::Key>> {
        key::required(&self.node)
    }

    /// The sides of its outermost `&&`, as text: two conditions that share one say the same there.
    pub(crate) fn sides(&self) -> Vec<String> {
        match &self.node.kind {
            node::Kind::And(sides) => sides.iter().map(print::text).collect(),
            _ => vec![print::text(&self.node)],
        }
    }

    /// Where it fails on what an action may lack.
    pub(crate) fn fragile(&self) -> Vec<fragile::Fragile> {
        fragile::find(&self.node)
    }

    /// Literals that what they are compared with never is.
    pub(crate) fn foreign(&self) -> Vec<foreign::Foreign> {
        foreign::find(&self.node)
    }

    /// What every part of it was in the evaluation that `trace` has just followed; what `mask` hides
    /// of `facts` is not shown.
    pub(crate) fn part(&self, trace: &Trace, facts: &dyn FactSource, mask: &Mask) -> Part {
        let hidden = hidden::Hidden::of(&self.node, self.reads, facts, mask);
        trace.take(&self.node, &self.source, &hidden)
    }

    /// The operands of its `&&`, `||` and `?:`, in the order of its text.
    pub(crate) fn operands(&self) -> Vec<coverage::Operand<'_>> {
        coverage::operands(&self.node, &self.source)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Unknown(slot, blind) => write!(f, "{} is unknown ({})", name(*slot), why(*blind)),
            Fault::Error(text) => f.write_str(text),
            Fault::Budget => f.write_str("the evaluation took too many steps"),
        }
    }
}

/// `http.path`.
pub(crate) fn name(slot: Slot) -> String {
    format!("{}.{}", slot.family(), slot.name())
}

fn why(blind: Blind) -> &'static str {
    match blind {
        Blind::Truncated => "longer than its limit",
        Blind::Unparseable => "it does not parse",
        Blind::Ambiguous => "two readers could differ",
        Blind::Opaque => "code that cannot be read decides it",
        Blind::NotRead => "it was not read",
    }
}

/// Refuses what could overflow the stack of the parser or of the evaluation.
fn guard(source: &str) -> Result<(), CelError> {
    let refuse = |message: String, start: usize| CelError {
        message,
        help: Some("split it into several rules".to_owned()),
        start,
        end: (start + 1).min(source.len()),
    };
    if source.len() > CONDITION_BYTES_MAX {
        return Err(refuse(
            format!("a condition may have {CONDITION_BYTES_MAX} bytes"),
            0,
        ));
    }
    let (mut depth, mut operators, mut quote) = (0usize, 0usize, None);
    let mut previous = b' ';
    let mut bytes = source.bytes().enumerate().peekable();
    while let Some((index, byte)) = bytes.next() {
        // The second byte of `&&`, `||`, `==`, `<=`.
        let second =
            matches!(byte, b'&' | b'|' | b'=') && matches!(previous, b'&' | b'|' | b'=' | b'<' | b'>' | b'!');
        previous = byte;
        match (quote, byte) {
            (None, _) if second => {}
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => continue,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => {
                depth += 1;
                operators += 1;
            }
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (
                None,
                b'.' | b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'?' | b'<' | b'>' | b'=' | b'&' | b'|',
            ) => {
                operators += 1;
            }
            (None, b'i') if source[index..].starts_with("in") => operators += 1,
            _ => {}
        }
        if depth > CONDITION_DEPTH_MAX {
            return Err(refuse(
                format!("brackets nest deeper than {CONDITION_DEPTH_MAX}"),
                index,
            ));
        }
        if operators > CONDITION_OPERATORS_MAX {
            return Err(refuse(
                format!("more than {CONDITION_OPERATORS_MAX} operators"),
                index,
            ));
        }
    }
    Ok(())
}

fn syntax(source: &str, errors: &cel::ParseErrors) -> Vec<CelError> {
    let mut found: Vec<CelError> = errors
        .errors
        .iter()
        .map(|error| {
            let line = usize::try_from(error.pos.0).unwrap_or(1).max(1);
            let column = usize::try_from(error.pos.1).unwrap_or(1).max(1);
            let lines = source.split_inclusive('\n');
            let before: usize = lines.take(line - 1).map(str::len).sum();
            let start = floor(source, (before + column - 1).min(source.len()));
            CelError {
                message: format!("not CEL: {}", error.msg),
                help: None,
                start,
                end: floor(source, start + 1),
            }
        })
        .collect();
    found.truncate(4);
    if found.is_empty() {
        found.push(CelError {
            message: "not CEL".to_owned(),
            help: None,
            start: 0,
            end: source.len(),
        });
    }
    found
}

/// The nearest character boundary at or before `index`.
fn floor(source: &str, index: usize) -> usize {
    let mut index = index.min(source.len());
    while !source.is_char_boundary(index) {
        index -= 1;
    }
    index
}
