//! What single nodes say: names, constants, limits. *Pure.*

use super::Effect;
use super::tree::Tree;

/// Settings that change how the server reads text, and the values that are read here.
const READING_SETTINGS: &[(&str, &[&str])] = &[
    ("client_encoding", &["utf8", "utf-8", "unicode"]),
    ("standard_conforming_strings", &["on", "true", "yes", "1"]),
];

/// Names of a list that are compared one by one; a longer list is rid of what stands twice at the
/// end, since a text of 128 KiB has names enough to hold everybody up for seconds.
const NAMES_COMPARED_MAX: usize = 64;

/// Adds a name; [`dedupe`] has to follow in the end.
pub(super) fn push(list: &mut Vec<String>, name: &str) {
    let is_known =
        |list: &[String]| list.len() <= NAMES_COMPARED_MAX && list.iter().any(|known| known == name);
    if !name.is_empty() && !is_known(list) {
        list.push(name.to_owned());
    }
}

/// Keeps the first of equal names.
pub(super) fn dedupe(list: &mut Vec<String>) {
    if list.len() > NAMES_COMPARED_MAX {
        let mut seen = std::collections::HashSet::with_capacity(list.len());
        list.retain(|name| seen.insert(name.clone()));
    }
}

/// The names of a relation: as written if qualified, and bare.
pub(super) fn named(range: &Tree, mut each: impl FnMut(&str)) {
    let part = |field| range.get(field).text();
    let (catalog, schema, bare) = (part("catalogname"), part("schemaname"), part("relname"));
    if !catalog.is_empty() {
        each(&format!("{catalog}.{schema}.{bare}"));
    } else if !schema.is_empty() {
        each(&format!("{schema}.{bare}"));
    }
    each(bare);
}

/// The texts of a list of `String` nodes.
pub(super) fn strings(list: &Tree) -> Vec<String> {
    list.items()
        .iter()
        .map(|item| item.get("sval").text().to_owned())
        .collect()
}

/// The names in DROP, COMMENT, RENAME and their like that are lists of strings rather than relations.
pub(super) fn named_objects(tree: &Tree) -> Vec<Vec<String>> {
    let objects = tree.get("objects");
    let all = if objects.is_none() {
        std::slice::from_ref(tree.get("object"))
    } else {
        objects.items()
    };
    all.iter()
        .map(|object| match object {
            Tree::List(_) => strings(object),
            Tree::Node("List", _) => strings(object.get("items")),
            Tree::Node("String", _) => vec![object.get("sval").text().to_owned()],
            Tree::Node("TypeName", _) => strings(object.get("names")),
            Tree::Node("ObjectWithArgs", _) => strings(object.get("objname")),
            _ => Vec::new(),
        })
        .filter(|parts| !parts.is_empty())
        .collect()
}

pub(super) fn reading_setting(name: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    READING_SETTINGS.iter().find(|(setting, _)| *setting == name)
}

/// As [`constant`], in lower case.
pub(super) fn constant_text(tree: &Tree) -> Option<String> {
    constant(tree).map(|text| text.to_ascii_lowercase())
}

/// The text of a constant, a number's as well; `None` for anything else. A cast is seen through
/// where it is to one of PostgreSQL's own types of text.
pub(super) fn constant(tree: &Tree) -> Option<String> {
    let value = match tree.name() {
        "TypeCast" => {
            let names = strings(tree.get("type_name").get("names"));
            let bare = match names.as_slice() {
                [bare] => bare,
                [schema, bare] if schema == "pg_catalog" => bare,
                _ => return None,
            };
            matches!(bare.as_str(), "text" | "varchar" | "name").then(|| tree.get("arg"))?
        }
        _ => tree,
    };
    if value.name() != "AConst" {
        return None;
    }
    let value = value.get("val");
    match value.name() {
        "String" => Some(value.get("sval").text().to_owned()),
        "Integer" => Some(value.get("ival").int().to_string()),
        _ => None,
    }
}

pub(super) fn is_off(argument: &Tree) -> bool {
    let text = argument.get("sval").text().to_ascii_lowercase();
    matches!(text.as_str(), "off" | "false" | "0" | "no")
        || argument.name() == "Integer" && argument.get("ival").int() == 0
        || argument.name() == "Boolean" && !argument.get("boolval").is(true)
}

pub(super) fn has_where(tree: &Tree) -> bool {
    let condition = tree.get("where_clause");
    !condition.is_none() && !is_constant(condition)
}

/// Whether a condition can be seen to pick every row: it names no column, compares a thing with
/// itself, or is an OR with such an arm. Not every tautology is seen; no parser can.
pub(super) fn is_constant(condition: &Tree) -> bool {
    match condition.name() {
        "BoolExpr" => {
            let mut arms = condition.get("args").items().iter();
            // BoolExprType: 1 AND, 2 OR, 3 NOT.
            if condition.get("boolop").int() == 2 {
                arms.any(is_constant)
            } else {
                arms.all(is_constant)
            }
        }
        "AExpr" if bare(condition.get("lexpr")) == bare(condition.get("rexpr")) => {
            !condition.get("lexpr").is_none()
        }
        _ => !condition.any(&|node| matches!(node.name(), "ColumnRef" | "CurrentOfExpr")),
    }
}

/// Fields that say where something stands in the text.
const PLACES: [&str; 5] = [
    "location",
    "list_start",
    "list_end",
    "rexpr_list_start",
    "rexpr_list_end",
];

/// A tree without the places in the text, so that two equal expressions are equal.
pub(super) fn bare(tree: &Tree) -> Tree {
    match tree {
        Tree::List(items) => Tree::List(items.iter().map(bare).collect()),
        Tree::Node(name, fields) => Tree::Node(
            name,
            fields
                .iter()
                .filter(|(field, _)| !PLACES.contains(field))
                .map(|(field, value)| (*field, bare(value)))
                .collect(),
        ),
        leaf => leaf.clone(),
    }
}

pub(super) fn row_limit(tree: &Tree) -> Option<i64> {
    let count = tree.get("limit_count");
    let value = count.get("val");
    // WITH TIES gives more rows than it says.
    let ties = tree.get("limit_option").int() == 3;
    (tree.name() == "SelectStmt" && !ties && count.name() == "AConst" && value.name() == "Integer")
        .then(|| value.get("ival").int())
}

/// The command's own verb, in lower case.
pub(super) fn verb_of(tree: &Tree) -> String {
    let fixed = match tree.name() {
        "GrantStmt" | "GrantRoleStmt" => {
            if tree.get("is_grant").is(true) {
                "grant"
            } else {
                "revoke"
            }
        }
        "AlterDefaultPrivilegesStmt" | "RenameStmt" => "alter",
        // VariableSetKind: 5 and 6 are RESET and RESET ALL.
        "VariableSetStmt" => {
            if tree.get("kind").int() >= 5 {
                "reset"
            } else {
                "set"
            }
        }
        "VariableShowStmt" => "show",
        "ConstraintsSetStmt" => "set",
        "TransactionStmt" => match tree.get("kind").int() {
            1 => "begin",
            2 => "start",
            3 => "commit",
            4 => "rollback",
            5 => "savepoint",
            6 => "release",
            7 => "rollback",
            // Not this session's own: what takes effect there is not in any text here.
            8 => "prepare_transaction",
            9 => "commit_prepared",
            10 => "rollback_prepared",
            _ => "rollback",
        },
        "VacuumStmt" => {
            if tree.get("is_vacuumcmd").is(true) {
                "vacuum"
            } else {
                "analyze"
            }
        }
        "FetchStmt" => {
            if tree.get("ismove").is(true) {
                "move"
            } else {
                "fetch"
            }
        }
        "ClosePortalStmt" => "close",
        "CheckPointStmt" => "checkpoint",
        "SecLabelStmt" => "security",
        "ReassignOwnedStmt" => "reassign",
        "CopyStmt" => "copy",
        "DropdbStmt" => "drop",
        "CreatedbStmt" | "ViewStmt" | "IndexStmt" | "RuleStmt" | "CompositeTypeStmt" | "DefineStmt" => {
            "create"
        }
        _ => "",
    };
    if !fixed.is_empty() {
        return fixed.to_owned();
    }
    // `AlterTableStmt` is alter, `DropOwnedStmt` drop: the first word of the type's name.
    let name = tree.name();
    let end = name
        .bytes()
        .skip(1)
        .position(|byte| byte.is_ascii_uppercase())
        .map_or(name.len(), |at| at + 1);
    name[..end].to_ascii_lowercase()
}

/// What a statement does to the session's own state.
pub(super) fn effect_of(tree: &Tree) -> Effect {
    let name = |field: &str| Some(tree.get(field).text().to_owned()).filter(|name| !name.is_empty());
    match tree.name() {
        "PrepareStmt" => Effect::Prepare(name("name").unwrap_or_default()),
        "ExecuteStmt" => Effect::Execute(name("name").unwrap_or_default()),
        "DeallocateStmt" => Effect::Deallocate(name("name")),
        // DiscardMode: 1 is DISCARD_ALL; the others leave statements and portals alone.
        "DiscardStmt" if tree.get("target").int() <= 1 => Effect::Discard,
        "DeclareCursorStmt" | "ClosePortalStmt" => Effect::Cursor(name("portalname")),
        _ => Effect::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_names_are_compared_and_more_at_the_end() {
        let mut names: Vec<String> = (0..=NAMES_COMPARED_MAX)
            .map(|number| format!("c{number}"))
            .collect();
        let all = names.clone();
        push(&mut names, "c0");
        assert_eq!(names.len(), all.len() + 1, "looked for in a list that is long");
        dedupe(&mut names);
        assert_eq!(names, all);
        let mut few = vec!["a".to_owned()];
        push(&mut few, "a");
        assert_eq!(few, ["a"]);
    }
}
