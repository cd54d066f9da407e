//! Every kind of node that the parser defines, and what is hidden in its fields.

use prost::Message as _;

use super::super::tree::Tree;
use super::super::walk::facts_of;
use super::{RAW, is_known};

/// Kinds that only a server makes of a parsed text. One that is met is refused.
const MADE_BY_SERVER: &[&str] = &[
    "Aggref",
    "AlternativeSubPlan",
    "ArrayCoerceExpr",
    "ArrayExpr",
    "CallContext",
    "CaseTestExpr",
    "CoerceToDomain",
    "CoerceToDomainValue",
    "CoerceViaIo",
    "CollateExpr",
    "ConvertRowtypeExpr",
    "DistinctExpr",
    "FieldSelect",
    "FieldStore",
    "FromExpr",
    "FuncExpr",
    "InferenceElem",
    "InlineCodeBlock",
    "IntList",
    "JsonConstructorExpr",
    "JsonExpr",
    "JsonTablePath",
    "JsonTablePathScan",
    "JsonTableSiblingJoin",
    "MergeAction",
    "NextValueExpr",
    "NullIfExpr",
    "OidList",
    "OnConflictExpr",
    "OpExpr",
    "Param",
    "PlAssignStmt",
    "Query",
    "RangeTblEntry",
    "RangeTblFunction",
    "RangeTblRef",
    "RawStmt",
    "RelabelType",
    "ReturningExpr",
    "RowCompareExpr",
    "RowMarkClause",
    "RtePermissionInfo",
    "ScalarArrayOpExpr",
    "SetOperationStmt",
    "SortGroupClause",
    "SubPlan",
    "SubscriptingRef",
    "TableFunc",
    "TableSampleClause",
    "TargetEntry",
    "Var",
    "WindowClause",
    "WindowFunc",
    "WindowFuncRunCondition",
    "WithCheckOption",
];

/// More fields than any kind has.
const FIELDS_MAX: u32 = 64;

/// More kinds than the parser defines.
const KINDS_MAX: u32 = 2048;

/// A field of a message: its number, and its bytes.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

fn decoded(number: u32, body: &[u8]) -> Option<Tree> {
    let node = pg_query::protobuf::Node::decode(&*field(number, body)).ok()?;
    node.node.as_ref()?;
    Tree::of(&node).ok()
}

/// The kinds that the parser defines, by their number.
fn all() -> Vec<(u32, &'static str)> {
    (1..KINDS_MAX)
        .filter_map(|number| Some((number, decoded(number, &[])?.name())))
        .collect()
}

#[test]
fn every_kind_that_the_parser_defines_is_known_or_refused() {
    let all = all();
    assert!(all.len() > 250, "{}", all.len());
    for (number, name) in &all {
        let raw = is_known(name);
        let made = MADE_BY_SERVER.contains(name);
        assert!(
            raw != made,
            "{number} {name}: raw {raw}, made by the server {made}"
        );
    }
    assert_eq!(all.len(), RAW.len() + MADE_BY_SERVER.len());
    assert!(RAW.is_sorted());
}

/// Nodes with something in them that the facts have to show, and how they show it.
fn hidden() -> Vec<(&'static str, Vec<u8>)> {
    let find = |wanted: &str| all().iter().find(|(_, name)| *name == wanted).unwrap().0;
    let text = |text: &str| field(find("String"), &field(1, text.as_bytes()));
    // RangeVar: relname is its third field. SelectStmt: from_clause is its fourth. FuncCall: its
    // first field is the name.
    let table = field(3, b"hidden_table");
    let query = field(4, &field(find("RangeVar"), &table));
    let call = field(1, &text("hidden_call"));
    let change = field(1, &table);
    vec![
        ("RangeVar", table),
        ("SelectStmt", query),
        ("FuncCall", call),
        ("DeleteStmt", change),
    ]
}

/// Fields whose tables are names for what stands elsewhere in the same query.
const NAMES_ONLY: &[&str] = &["LockingClause"];

fn shows(tree: &Tree, what: &str) -> bool {
    let facts = facts_of(tree, "");
    match what {
        "FuncCall" => facts.functions.iter().any(|name| name == "hidden_call"),
        _ => facts.tables.iter().any(|name| name == "hidden_table"),
    }
}

#[test]
fn what_stands_in_any_field_of_any_kind_is_found() {
    let all = all();
    let number = |wanted: &str| all.iter().find(|(_, name)| *name == wanted).unwrap().0;
    let mut tried = 0;
    let mut wrong = Vec::new();
    for (what, body) in hidden() {
        // A field is of any kind, or of just this one.
        let as_node = field(number(what), &body);
        for (kind, name) in all.iter().filter(|(_, name)| is_known(name)) {
            for at in 1..FIELDS_MAX {
                for inner in [&as_node, &body] {
                    let Some(tree) = decoded(*kind, &field(at, inner)) else {
                        continue;
                    };
                    let stands = tree
                        .children()
                        .any(|child| child.any(&|node| node.name() == what));
                    let full = tree.any(&|node| matches!(node.text(), "hidden_table" | "hidden_call"));
                    let names_only = NAMES_ONLY.contains(name) && what == "RangeVar";
                    if !stands || !full || names_only {
                        continue;
                    }
                    tried += 1;
                    let target = ("target_list", Tree::List(vec![tree.clone()]));
                    let select = Tree::Node("SelectStmt", vec![target]);
                    let mut check = |whole: &Tree, place: &str| {
                        if !shows(whole, what) {
                            wrong.push(format!("{what} in field {at} of {name}, {place}"));
                        }
                    };
                    check(&select, "in a SELECT");
                    let used = ("definition", Tree::List(vec![tree.clone()]));
                    let utility = Tree::Node("DefineStmt", vec![used]);
                    check(&utility, "in a CREATE");
                    if name.ends_with("Stmt") {
                        check(&tree, "alone");
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tried > 1000, "{tried}");
}
