//! What each macro of a condition is, in one line. *Pure.*

use super::{Entry, global, member};

/// Those that the parser spells out, or that the compiler knows beside the table of functions.
pub(crate) const MACROS: &[Entry] = &[
    global("has", "has(map.field) -> bool", "Whether a field is there."),
    member(
        "all",
        "list.all(x, condition) -> bool",
        "Whether the condition holds for every item, or key of a map.",
    ),
    member(
        "exists",
        "list.exists(x, condition) -> bool",
        "Whether the condition holds for an item, or key of a map.",
    ),
    member(
        "exists_one",
        "list.exists_one(x, condition) -> bool",
        "Whether the condition holds for exactly one item, or key of a map.",
    ),
    member(
        "map",
        "list.map(x, value) -> list",
        "The value for each item; list.map(x, condition, value) takes those that match.",
    ),
    member(
        "filter",
        "list.filter(x, condition) -> list",
        "The items for which the condition holds.",
    ),
    member(
        "all",
        "map.all(key, value, condition) -> bool",
        "Whether the condition holds for every entry of a map, or index and item of a list.",
    ),
    member(
        "exists",
        "map.exists(key, value, condition) -> bool",
        "Whether the condition holds for an entry of a map, or an index and item of a list.",
    ),
    member(
        "existsOne",
        "map.existsOne(key, value, condition) -> bool",
        "Whether the condition holds for exactly one entry, or one index and item.",
    ),
    member(
        "transformList",
        "map.transformList(key, value, [condition,] result) -> list",
        "The result for each entry of a map, or index and item of a list.",
    ),
    member(
        "transformMap",
        "map.transformMap(k, v, [filter,] value) -> map",
        "As transformList, at the keys.",
    ),
    member(
        "transformMapEntry",
        "map.transformMapEntry(k, v, [filter,] map) -> map",
        "All these as one map.",
    ),
    member(
        "optMap",
        "optional.optMap(x, value) -> optional",
        "The value for what is there.",
    ),
    member(
        "optFlatMap",
        "optional.optFlatMap(x, optional) -> optional",
        "The optional value for what is there.",
    ),
    member(
        "sortBy",
        "list.sortBy(x, key) -> list",
        "The items in the order of their keys.",
    ),
    global(
        "cel.bind",
        "cel.bind(name, value, result) -> result",
        "The result, in which the name stands for the value.",
    ),
    member(
        "matches",
        "string.matches(pattern) -> bool",
        "Whether a part of the text matches the regular expression, a literal in RE2's syntax.",
    ),
    global("now", "now -> timestamp", "When the action is judged."),
];
