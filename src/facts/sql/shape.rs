//! Texts that differ in an integer alone, and are read once. *Pure.*
//!
//! Programs that do not prepare their statements send each key in a text of its own. Of such texts one is parsed, and
//! what was read of it holds for the others, where all of this is so:
//!
//! - The text has no quote, no comment, no `$`, no backslash and nothing but ASCII, so that PostgreSQL's scanner
//!   (`scan.l`) is never in another state than its first when it comes to a digit.
//! - The integer is 1 to 999,999,999, written plainly, with nothing before or behind it that could make it a part of
//!   another token: it is one `ICONST`, whatever its value, and the grammar sees tokens, not values.
//! - It stands in the tree as one side of an operator whose other side is a column, and that comparison is the whole
//!   condition of a statement, or one arm of its AND. No rule of the grammar and no fact looks at the value there.
//!
//! Anything else in the text has to be the same, byte by byte, other integers as well: `LIMIT 5` is a fact.

use std::ops::Range;
use std::sync::Arc;

use super::cache::KEPT_TEXT_BYTES_MAX;
use super::tree::Tree;
use super::{Effect, Statement};

/// Stands in a key for an integer; no text that has a shape holds it.
const HOLE: u8 = 0;
/// Digits of an integer: nine are never too many for 32 bits, where a constant becomes another node.
const DIGITS_MAX: usize = 9;

/// Integers of a text that has a shape: what is known of each is kept.
const RUNS_MAX: usize = 16;

/// A text with its integers cut out.
#[derive(Debug)]
pub struct Shape {
    pub(super) key: Vec<u8>,
    runs: Vec<Run>,
}

/// An integer of a text: it has no other spelling.
#[derive(Debug)]
struct Run {
    at: Range<usize>,
    value: u32,
}

impl Shape {
    /// `None` where a text has no such integer, too many, is too long to be kept, or may be scanned otherwise.
    pub fn of(text: &str) -> Option<Shape> {
        if text.len() > KEPT_TEXT_BYTES_MAX {
            return None;
        }
        let bytes = text.as_bytes();
        let mut shape = Shape {
            key: Vec::with_capacity(bytes.len()),
            runs: Vec::new(),
        };
        let mut before = b' ';
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let next = bytes.get(at + 1).copied();
            match byte {
                b'1'..=b'9' if stands_before(before) => {
                    let rest = bytes.get(at..)?;
                    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    let behind = rest.get(length).copied();
                    if length <= DIGITS_MAX && behind.is_none_or(stands_behind) {
                        if shape.runs.len() == RUNS_MAX {
                            return None;
                        }
                        let at = at..at + length;
                        shape.key.push(HOLE);
                        shape.runs.push(Run {
                            value: text.get(at.clone())?.parse().ok()?,
                            at,
                        });
                    } else {
                        shape.key.extend_from_slice(rest.get(..length)?);
                    }
                    at += length;
                    before = b'0';
                    continue;
                }
                b'\'' | b'"' | b'$' | b'\\' => return None,
                b'-' if next == Some(b'-') => return None,
                b'/' if next == Some(b'*') => return None,
                b' '..=b'~' | b'\t' | b'\n' | b'\r' => shape.key.push(byte),
                _ => return None,
            }
            before = byte;
            at += 1;
        }
        (!shape.runs.is_empty()).then_some(shape)
    }
}

fn stands_before(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'(' | b'=' | b'<' | b'>')
}

fn stands_behind(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t' | b'\n' | b'\r' | b')' | b';' | b'=' | b'<' | b'>'
    )
}

/// Where a text has its only statement, and the integers in it on which no fact hangs.
#[derive(Debug)]
pub(super) struct Place {
    range: Range<usize>,
    free: Vec<usize>,
}

impl Place {
    pub(super) fn new(tree: &Tree, range: Range<usize>) -> Option<Place> {
        if !matches!(tree.name(), "SelectStmt" | "UpdateStmt" | "DeleteStmt") {
            return None;
        }
        let condition = tree.get("where_clause");
        // BoolExprType: 1 is AND.
        let is_and = condition.name() == "BoolExpr" && condition.get("boolop").int() == 1;
        let arms = match is_and {
            true => condition.get("args").items(),
            false => std::slice::from_ref(condition),
        };
        let free: Vec<usize> = arms.iter().filter_map(compared).collect();
        (!free.is_empty()).then_some(Place { range, free })
    }
}

/// Where the integer stands that a column is compared with.
fn compared(arm: &Tree) -> Option<usize> {
    // A_Expr_Kind: 1 is an operator between two.
    if arm.name() != "AExpr" || arm.get("kind").int() != 1 {
        return None;
    }
    let (left, right) = (arm.get("lexpr"), arm.get("rexpr"));
    let constant = match (left.name(), right.name()) {
        ("ColumnRef", "AConst") => right,
        ("AConst", "ColumnRef") => left,
        _ => return None,
    };
    let is_integer = constant.get("val").name() == "Integer";
    usize::try_from(constant.get("location").int())
        .ok()
        .filter(|_| is_integer)
}

/// What was read of one text, for all that have its shape.
#[derive(Debug)]
pub struct Pattern {
    statement: Arc<Statement>,
    /// Bytes of the text before and behind the statement.
    around: (usize, usize),
    /// Each integer, where it has to be the same.
    fixed: Vec<Option<u32>>,
}

impl Pattern {
    /// `None` where all of the text has to be the same.
    pub(super) fn new(
        text: &str,
        shape: &Shape,
        place: &Place,
        statement: &Arc<Statement>,
    ) -> Option<Pattern> {
        let is_whole = statement.effect == Effect::None && statement.prepares.is_none();
        let is_fixed = |run: &Run| !place.free.contains(&run.at.start);
        let fixed = shape.runs.iter().map(|run| is_fixed(run).then_some(run.value));
        let fixed: Vec<_> = fixed.collect();
        let behind = text.len().checked_sub(place.range.end)?;
        // What is cut off by its length has to have its length.
        let first = shape.runs.first()?.at.start >= place.range.start;
        let last = shape.runs.last()?.at.end <= place.range.end;
        (is_whole && first && last && fixed.contains(&None)).then(|| Pattern {
            statement: statement.clone(),
            around: (place.range.start, behind),
            fixed,
        })
    }

    /// The statement of a text of this shape, if it differs in nothing else.
    pub fn statement(&self, text: &str, shape: &Shape) -> Option<Statement> {
        let mut each = self.fixed.iter().zip(&shape.runs);
        if !each.all(|(fixed, run)| fixed.is_none_or(|value| value == run.value)) {
            return None;
        }
        let (before, behind) = self.around;
        let own = text.get(before..text.len().checked_sub(behind)?)?;
        Some(Statement {
            text: own.trim().to_owned(),
            ..Statement::clone(&self.statement)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::read;
    use super::*;
    use crate::facts::sql::cache::Cache;

    /// What the cache gives for a text after it was given another.
    fn after(first: &str, text: &str) -> Option<Vec<Arc<Statement>>> {
        let mut cache = Cache::new(8);
        cache.read(first, 1 << 10);
        if let Some(read) = cache.get(text) {
            return Some(read.to_vec());
        }
        let shape = Shape::of(text)?;
        let statement = cache.shaped(&shape)?.statement(text, &shape)?;
        Some(vec![Arc::new(statement)])
    }

    #[test]
    fn a_text_with_another_key_is_not_parsed_again() {
        for (first, text) in [
            (
                "SELECT a FROM t WHERE id = 1;",
                "SELECT a FROM t WHERE id = 999999999;",
            ),
            (
                " select a from t where id=12 and 7 < b ; ",
                " select a from t where id=3 and 80 < b ; ",
            ),
            (
                "update t set a = 5 where id = 6",
                "update t set a = 5 where id = 77",
            ),
            ("delete from t where (id = 6)", "delete from t where (id = 1)"),
            (
                "select a from t where id = 6 limit 10",
                "select a from t where id = 7 limit 10",
            ),
        ] {
            assert_eq!(after(first, text), Some(read(text, 1 << 10)), "{text}");
        }
    }

    #[test]
    fn what_a_fact_or_the_grammar_may_look_at_is_read_anew() {
        for (first, text) in [
            (
                "select a from t where id = 6 limit 10",
                "select a from t where id = 6 limit 11",
            ),
            ("select a from t where id = 6", "select a from t where id = 0"),
            ("select a from t where id = 6", "select a from t where id = 06"),
            (
                "select a from t where id = 6",
                "select a from t where id = 6666666666",
            ),
            ("select a from t where id = 6", "select a from t where id = 6.5"),
            ("select a from t where id = 6", "select a from t where id = 6e5"),
            ("select a from t where id = 6", "select a from t where id = 6a"),
            ("select a from t where id = 6", "select a from t where id = 6 "),
            ("select a from t where id = 6", "select b from t where id = 6"),
            ("select a from t where id = -6", "select a from t where id = -7"),
            (
                "select a from t where (a = 1) = (a = 2)",
                "select a from t where (a = 1) = (a = 1)",
            ),
            (
                "select a from t where id = 6 or 1 = 2",
                "select a from t where id = 6 or 1 = 1",
            ),
            (
                "select a from t where a = 1 or b = 2",
                "select a from t where a = 1 or b = 3",
            ),
            (
                "select a from t where id = 6 and 1 = 2",
                "select a from t where id = 6 and 1 = 1",
            ),
            (
                "select a from t where id = 6::float(3)",
                "select a from t where id = 6::float(40)",
            ),
            ("select a from t where id = '6'", "select a from t where id = '7'"),
            (
                "select a from t where id = 6 -- 1",
                "select a from t where id = 6 -- 2",
            ),
            (
                "select a from t where id = 6 /* 1 */",
                "select a from t where id = 6 /* 2 */",
            ),
            ("select 5 from t where id = 6", "select 6 from t where id = 6"),
            (
                "select a from t where id = $1 and b = 1",
                "select a from t where id = $1 and b = 2",
            ),
            (
                "select a from t where id = 6; drop table t",
                "select a from t where id = 7; drop table t",
            ),
            (
                "prepare p as select a from t where id = 6",
                "prepare p as select a from t where id = 7",
            ),
            (
                "explain select a from t where id = 6",
                "explain select a from t where id = 7",
            ),
            (
                "select a from \u{fc} where id = 6",
                "select a from \u{fc} where id = 7",
            ),
        ] {
            assert_eq!(after(first, text), None, "{text}");
        }
    }

    #[test]
    fn a_text_with_many_integers_or_many_bytes_has_no_shape() {
        let list = |count: usize| format!("id = 1 and b in (1{})", " , 1".repeat(count - 2));
        assert_eq!(Shape::of(&list(RUNS_MAX)).unwrap().runs.len(), RUNS_MAX);
        assert!(Shape::of(&list(RUNS_MAX + 1)).is_none());
        let long = |bytes: usize| format!("{:bytes$}", "id = 1");
        assert!(Shape::of(&long(KEPT_TEXT_BYTES_MAX)).is_some());
        assert!(Shape::of(&long(KEPT_TEXT_BYTES_MAX + 1)).is_none());
    }

    proptest! {
        /// Whatever texts are made of such pieces: what the cache says is what PostgreSQL's grammar says.
        #[test]
        fn the_cache_says_what_the_grammar_says(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "id = ", "1", "22", "0", ".", "-", "(", ")", " and ", " or ", "b < ", " = b", " = ", "::", "float(", " limit ",
                ", ", "x", "_", "e", " ", "\n", ";", "not ", "in (", " between ", "+", "*", "a.", "[", "]", ":", "@", "true",
            ]), 1..12),
            other in 1u32..100_000,
        ) {
            let text = format!("select a from t where id = 5 and {}", pieces.concat());
            let changed = text.replace("22", &other.to_string()).replace("5", "61");
            if let Some(got) = after(&text, &changed) {
                prop_assert_eq!(got, read(&changed, 1 << 10));
            }
        }
    }
}
