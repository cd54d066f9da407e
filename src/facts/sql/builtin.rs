//! What PostgreSQL itself brings: its functions, its operators, and those that run text. *Pure.*
//!
//! What any other function does stands in its body, which is not on the wire: calling it is
//! `opaque`. A name that is missing here is at worst opaque too.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Every function name of `pg_catalog`; `tests/postgres` compares it with a server.
const FUNCTIONS: &str = include_str!("builtin.txt");

/// The operators of `pg_catalog`.
const OPERATORS: &str = "!! !~ !~* !~~ !~~* # ## #- #> #>> % & && &< &<| &> * *< *<= *<> *= *> *>= + - -> ->> -|- / < \
    <-> << <<= <<| <= <> <@ <^ = > >= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@ ^ ^@ | |&> |/ |>> || ||/ ~ \
    ~* ~<=~ ~<~ ~= ~>=~ ~>~ ~~ ~~*";

/// Functions that run text which they are given as SQL, or read a table whose name they are given.
const RUNS_TEXT: &[&str] = &[
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "ts_rewrite",
    "ts_stat",
];

/// Whether it is the server's own function that these parts name, and one that runs no text.
pub(super) fn is_plain_function(parts: &[String]) -> bool {
    static NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| FUNCTIONS.split_whitespace().collect());
    own(parts).is_some_and(|bare| NAMES.contains(bare) && !RUNS_TEXT.contains(&bare))
}

/// Whether it is the server's own operator that these parts name.
pub(super) fn is_operator(parts: &[String]) -> bool {
    own(parts).is_some_and(|bare| OPERATORS.split_whitespace().any(|known| known == bare))
}

/// The bare name, where it can be the server's.
fn own(parts: &[String]) -> Option<&str> {
    match parts {
        [bare] => Some(bare),
        [schema, bare] if schema == "pg_catalog" => Some(bare),
        _ => None,
    }
}
