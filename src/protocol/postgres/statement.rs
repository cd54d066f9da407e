//! What the session needs to know of SQL: the seam to the grammar. *Pure.*

use crate::facts::{Fact, Facts};

/// One statement of a text, as PostgreSQL's grammar cuts it.
#[derive(Clone, Debug)]
pub struct Statement {
    pub text: String,
    /// Its facts, but for `parameters`.
    pub facts: Facts,
    pub effect: Effect,
}

/// What a statement does to the session's own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// SET or RESET of a setting, folded; `None` for RESET ALL.
    Set(Option<String>),
    /// PREPARE name AS the statement whose facts these are.
    Prepare(String),
    /// EXECUTE name.
    Execute(String),
    /// DEALLOCATE name; `None` for ALL and for DISCARD ALL.
    Deallocate(Option<String>),
}

/// Reads SQL as the server does.
pub trait Grammar: Send + Sync {
    /// Every statement of a text in order. A text that does not parse is one statement with
    /// unknown facts; a text without a statement is empty.
    fn read(&self, text: &str) -> Vec<Statement>;

    /// The facts of a statement run with these parameters (a JSON list of texts and nulls).
    fn bound(&self, facts: &Facts, parameters: Fact<serde_json::Value>) -> Facts;

    /// The facts of code that cannot be read: a function call message, EXECUTE of an unknown name.
    fn opaque(&self, text: &str) -> Facts;
}

/// Bytes of a name that the server keeps apart (`NAMEDATALEN` - 1).
pub const NAME_BYTES_MAX: usize = 63;

/// A name that is never defined: EXECUTE of it is opaque.
const UNKNOWN_NAME: &str = "\0";

/// Reads a statement's effect off its tokens, as PostgreSQL's scanner cuts them. A statement of
/// these kinds is known by its first words, and the scanner does not recurse.
pub fn effect(text: &str) -> Effect {
    let Ok(scanned) = pg_query::scan(text) else {
        return Effect::None;
    };
    let words = scanned.tokens.iter().filter_map(|token| {
        let start = usize::try_from(token.start).ok()?;
        let word = text.get(start..usize::try_from(token.end).ok()?)?;
        (!word.starts_with("--") && !word.starts_with("/*")).then_some(word)
    });
    let words: Vec<&str> = words.take(4).collect();
    let is = |at: usize, wanted: &str| {
        words
            .get(at)
            .is_some_and(|word| word.eq_ignore_ascii_case(wanted))
    };
    let name = |at: usize| words.get(at).and_then(|word| identifier(word));
    match words.first().map(|word| word.to_ascii_lowercase()).as_deref() {
        Some("set") => {
            let at = if is(1, "session") || is(1, "local") { 2 } else { 1 };
            Effect::Set(Some(match name(at).as_deref() {
                // SET NAMES is SET client_encoding; a name in escapes is taken for the worst.
                Some("names") | None => "client_encoding".to_owned(),
                Some(name) => name.to_owned(),
            }))
        }
        // RESET goes back to what the start-up pinned.
        Some("reset") => Effect::Set(None),
        Some("prepare") if !is(1, "transaction") => name(1).map_or(Effect::None, Effect::Prepare),
        Some("execute") => Effect::Execute(name(1).unwrap_or_else(|| UNKNOWN_NAME.to_owned())),
        Some("deallocate") => {
            let at = usize::from(is(1, "prepare") && words.len() > 2 && !is(2, ";")) + 1;
            Effect::Deallocate(if is(at, "all") { None } else { name(at) })
        }
        Some("discard") => Effect::Deallocate(None),
        _ => Effect::None,
    }
}

/// An identifier as the server folds it; `None` where escapes or truncation make that unsure.
fn identifier(word: &str) -> Option<String> {
    let name = match word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None if word.contains('"') || !word.is_ascii() => return None,
        None => word.to_ascii_lowercase(),
    };
    (name.len() <= NAME_BYTES_MAX).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_read_off_the_tokens() {
        let prepare = |name: &str| Effect::Prepare(name.to_owned());
        let set = |name: &str| Effect::Set(Some(name.to_owned()));
        for (text, want) in [
            ("select 1", Effect::None),
            ("/* x */ SET client_encoding = 'SJIS'", set("client_encoding")),
            ("set local \"client_encoding\" to x", set("client_encoding")),
            ("SET NAMES 'SJIS'", set("client_encoding")),
            ("set U&\"x\" = 1", set("client_encoding")),
            ("set search_path = a", set("search_path")),
            ("--\nPREPARE Foo as select 1", prepare("foo")),
            ("prepare \"F\"\"o\" as select 1", prepare("F\"o")),
            ("prepare transaction 'a'", Effect::None),
            ("execute x(1)", Effect::Execute("x".to_owned())),
            ("execute U&\"x\"", Effect::Execute(UNKNOWN_NAME.to_owned())),
            ("deallocate prepare x", Effect::Deallocate(Some("x".to_owned()))),
            ("deallocate all", Effect::Deallocate(None)),
            ("discard all", Effect::Deallocate(None)),
        ] {
            assert_eq!(effect(text), want, "{text}");
        }
    }
}
