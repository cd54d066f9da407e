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

/// The types of `pg_catalog` that values can be cast to. Domains and rows are not among them.
const TYPES: &str = "aclitem bit bool box bpchar bytea char cid cidr circle cstring date datemultirange daterange \
    float4 float8 gtsvector inet int2 int2vector int4 int4multirange int4range int8 int8multirange int8range interval \
    json jsonb jsonpath line lseg macaddr macaddr8 money name nummultirange numrange numeric oid oidvector path \
    pg_lsn pg_node_tree pg_snapshot point polygon record refcursor regclass regcollation regconfig regdictionary \
    regnamespace regoper regoperator regproc regprocedure regrole regtype text tid time timestamp timestamptz timetz \
    tsmultirange tsquery tsrange tstzmultirange tstzrange tsvector txid_snapshot unknown uuid varbit varchar xid xid8 xml";

/// Functions that run text which they are given as SQL, read a table whose name they are given, or make a value of a
/// type that they are given: the CHECK of a domain runs.
const RUNS_TEXT: &[&str] = &[
    "array_in",
    "array_recv",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "domain_in",
    "domain_recv",
    "multirange_in",
    "multirange_recv",
    "pg_input_error_info",
    "pg_input_is_valid",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "range_in",
    "range_recv",
    "record_in",
    "record_recv",
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

/// Whether it is the server's own function that these parts name, and one that runs a text.
pub(super) fn runs_text(parts: &[String]) -> bool {
    own(parts).is_some_and(|bare| RUNS_TEXT.contains(&bare))
}

/// Whether it is the server's own operator that these parts name.
pub(super) fn is_operator(parts: &[String]) -> bool {
    own(parts).is_some_and(|bare| OPERATORS.split_whitespace().any(|known| known == bare))
}

/// Whether it is the server's own type that these parts name, or an array of it (`_text`).
pub(super) fn is_type(parts: &[String]) -> bool {
    own(parts).is_some_and(|bare| {
        let one = bare.strip_prefix('_').unwrap_or(bare);
        TYPES.split_whitespace().any(|known| known == one)
    })
}

/// The bare name, where it can be the server's.
fn own(parts: &[String]) -> Option<&str> {
    match parts {
        [bare] => Some(bare),
        [schema, bare] if schema == "pg_catalog" => Some(bare),
        _ => None,
    }
}
