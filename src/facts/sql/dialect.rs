//! The facts of MySQL's and ClickHouse's statements, for `inspect`. *Pure.*
//!
//! The grammar is `sqlparser`'s, which is not the server's: what it takes is taken only where both
//! certainly read the same. Comments that MySQL runs, quoting that differs, kinds of statements and
//! of tables that are not named here make the whole text `unparseable`. The gateway does not judge
//! by these facts.
//!
//! Not seen, as with any parser: what a routine does, tables that a ClickHouse function names in
//! its arguments (`merge`, `remote`, `dictGet`; the function itself is listed), the server's
//! `sql_mode` (`ANSI_QUOTES` and `NO_BACKSLASH_ESCAPES` are taken to be off).

mod names;
mod rows;
mod statement;

use std::ops::ControlFlow;
use std::sync::Arc;

use sqlparser::ast::{self, Visit as _};
use sqlparser::dialect::{ClickHouseDialect, Dialect as Grammar, MySqlDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace, Word};

use super::{STACK_BYTES_MIN, Statement};
use names::Walk;

/// Nesting (parentheses, subqueries) beyond which a text is refused, levels.
pub const NESTING_MAX: usize = 256;
/// Stack that each byte of a text may need, bytes: `1+1+…` has a level for every two bytes, which
/// are read, walked and dropped by recursion.
const STACK_BYTES_PER_BYTE: usize = 12 << 10;
/// Stack that the parser's own nesting may need, bytes.
const STACK_BYTES_NESTING: usize = NESTING_MAX * (128 << 10);

/// A dialect other than Postgres'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Mysql,
    Clickhouse,
}

impl Dialect {
    /// The dialect of this name.
    pub fn of(name: &str) -> Option<Dialect> {
        match name {
            "mysql" | "mariadb" => Some(Dialect::Mysql),
            "clickhouse" => Some(Dialect::Clickhouse),
            _ => None,
        }
    }

    fn grammar(self) -> &'static dyn Grammar {
        match self {
            Dialect::Mysql => &MySqlDialect {},
            Dialect::Clickhouse => &ClickHouseDialect {},
        }
    }
}

/// Every statement of a text, in order; as [`super::read`], for another dialect.
pub fn read(text: &str, dialect: Dialect, bytes_max: usize) -> Vec<Arc<Statement>> {
    let refused = || vec![Arc::new(Statement::unparseable(text))];
    if text.len() > bytes_max || !is_plain(text) {
        return refused();
    }
    let parse = || std::panic::catch_unwind(|| parse(text, dialect)).ok().flatten();
    let stack = STACK_BYTES_MIN + STACK_BYTES_NESTING + text.len() * STACK_BYTES_PER_BYTE;
    stacker::grow(stack, parse).unwrap_or_else(refused)
}

fn parse(text: &str, dialect: Dialect) -> Option<Vec<Arc<Statement>>> {
    let grammar = dialect.grammar();
    let tokens = Tokenizer::new(grammar, text).tokenize_with_location().ok()?;
    if !tokens.iter().all(|token| reads_the_same(token, dialect)) {
        return None;
    }
    let parsed = Parser::new(grammar)
        .with_recursion_limit(NESTING_MAX)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .ok()?;
    let facts = parsed.iter().map(|statement| facts_of(statement, text, dialect));
    facts.map(|facts| facts.map(Arc::new)).collect()
}

/// The facts of one statement. `text` is the whole text: the parser keeps no places that can be
/// trusted to cut it.
fn facts_of(statement: &ast::Statement, text: &str, dialect: Dialect) -> Option<Statement> {
    let mut walk = Walk::new(text, dialect);
    if let ControlFlow::Break(()) = statement.visit(&mut walk) {
        return None;
    }
    let mut out = walk.out;
    let changes = |verb: &String| matches!(verb.as_str(), "update" | "delete");
    if !out.verbs.iter().any(changes) {
        out.has_where = rows::has_where(statement);
    }
    out.row_limit = rows::row_limit(statement);
    out.verb = out.verbs.first().cloned().unwrap_or_default();
    (!out.verb.is_empty()).then_some(out)
}

/// Whether the text holds nothing that servers take in different ways wherever it stands: comments
/// that are run (`/*!`, MariaDB's `/*M!`), control characters, white space outside ASCII.
fn is_plain(text: &str) -> bool {
    let odd = |char: char| match char {
        '\t' | '\n' | '\r' => false,
        '\u{feff}' | '\u{200b}' => true,
        char => char.is_control() || char.is_whitespace() && !char.is_ascii(),
    };
    !text.contains("/*!") && !text.contains("/*M!") && !text.contains(odd)
}

/// Whether the server cuts this token out of the text as `sqlparser` does.
fn reads_the_same(token: &TokenWithSpan, dialect: Dialect) -> bool {
    match &token.token {
        // ClickHouse undoes backslashes in quoted names too; `sqlparser` does not.
        Token::Word(Word {
            value, quote_style, ..
        }) => quote_style.is_none() || !value.contains('\\'),
        // Whether comments nest is not the same everywhere.
        Token::Whitespace(Whitespace::MultiLineComment(text)) => !text.contains("/*"),
        // Where such a comment ends, and what begins one, differ in these.
        Token::Whitespace(Whitespace::SingleLineComment { comment, prefix }) => {
            let known = match dialect {
                Dialect::Mysql => matches!(prefix.as_str(), "--" | "#"),
                Dialect::Clickhouse => prefix == "--",
            };
            known && !comment.trim_end_matches(['\n', '\r']).contains('\r')
        }
        Token::DollarQuotedString(_) => false,
        Token::TripleSingleQuotedString(_)
        | Token::TripleDoubleQuotedString(_)
        | Token::SingleQuotedByteStringLiteral(_)
        | Token::DoubleQuotedByteStringLiteral(_)
        | Token::TripleSingleQuotedByteStringLiteral(_)
        | Token::TripleDoubleQuotedByteStringLiteral(_)
        | Token::SingleQuotedRawStringLiteral(_)
        | Token::DoubleQuotedRawStringLiteral(_)
        | Token::TripleSingleQuotedRawStringLiteral(_)
        | Token::TripleDoubleQuotedRawStringLiteral(_)
        | Token::QuoteDelimitedStringLiteral(_)
        | Token::NationalQuoteDelimitedStringLiteral(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::Backslash
        | Token::Char(_)
        | Token::CustomBinaryOperator(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
