//! Functions that are called as fields. *Pure.*
//!
//! Where there is no such column, `(x).f` and `t.f` are `f(x)` and `f(t)` to a server (PostgreSQL's manual,
//! 8.16.5), and no text tells which. What may be a call is taken for one: `(x).f` always, and `t.f` where `f` is
//! a function of the server's own that takes any row. A function of somebody's own that takes the rows of one
//! table looks like a column of it.

use super::look::push;
use super::tree::Tree;
use super::walk::Walk;

/// The server's own functions that take a row of any table, alone, and give back what stands in it.
const OF_ANY_ROW: &[&str] = &[
    "any_value",
    "array_agg",
    "concat",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "max",
    "min",
    "quote_literal",
    "quote_nullable",
    "record_out",
    "record_send",
    "row_to_json",
    "to_json",
    "to_jsonb",
];

impl Walk {
    /// Of an `AIndirection`, `(x).f`.
    pub(super) fn fields_called(&mut self, tree: &Tree) {
        for part in tree.get("indirection").items() {
            let name = part.get("sval").text();
            if !name.is_empty() {
                self.function(&[name.to_owned()]);
            }
        }
    }

    /// Of a `ColumnRef`, `t.f`.
    pub(super) fn row_called(&mut self, tree: &Tree) {
        let fields = tree.get("fields").items();
        let last = fields.last().map_or("", |last| last.get("sval").text());
        if fields.len() > 1 && OF_ANY_ROW.contains(&last) {
            self.function(&[last.to_owned()]);
            push(&mut self.out.columns, "*");
        }
    }

    /// Columns of a list of names, or of targets.
    pub(super) fn column_names(&mut self, list: &Tree) {
        for item in list.items() {
            let name = if item.name() == "ResTarget" {
                item.get("name").text()
            } else {
                item.get("sval").text()
            };
            push(&mut self.out.columns, name);
        }
    }
}
