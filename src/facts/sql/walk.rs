//! From the parse tree of one statement to its facts. *Pure.*

use std::collections::HashSet;

use super::Statement;
use super::builtin::{is_plain_function, runs_text};
use super::look::{dedupe, has_where, is_constant, is_off, named, push, row_limit, strings, verb_of};
use super::tree::Tree;

/// Reads the facts of one statement.
pub(super) fn facts_of(tree: &Tree, text: &str) -> Statement {
    let mut walk = Walk {
        scope: Vec::new(),
        ranges: Vec::new(),
        last_fields: Vec::new(),
        out: Statement::empty(text),
    };
    walk.out.verb = verb_of(tree);
    walk.out.row_limit = row_limit(tree);
    walk.statement(tree);
    if !walk
        .out
        .verbs
        .iter()
        .any(|verb| matches!(verb.as_str(), "update" | "delete" | "merge"))
    {
        walk.out.has_where = has_where(tree);
    }
    walk.out.opaque_itself |= walk.out.nameless;
    walk.out.opaque = walk.out.opaque_itself || !walk.out.executes.is_empty();
    // A row as a whole, `SELECT t FROM t`, is all of its columns.
    let ranges: HashSet<&String> = walk.ranges.iter().collect();
    if walk.last_fields.iter().any(|name| ranges.contains(name)) {
        push(&mut walk.out.columns, "*");
    }
    let Statement {
        verbs,
        tables,
        reads,
        writes,
        functions,
        columns,
        objects,
        bare,
        ..
    } = &mut walk.out;
    let bare = [&mut bare.reads, &mut bare.writes, &mut bare.functions];
    let lists = [verbs, tables, reads, writes, functions, columns, objects];
    for list in lists.into_iter().chain(bare) {
        dedupe(list);
    }
    walk.out
}

pub(super) struct Walk {
    /// Names that CTEs bind, outermost first.
    scope: Vec<String>,
    /// What rows are called: tables and aliases.
    ranges: Vec<String>,
    /// The last parts of what looks like columns.
    last_fields: Vec<String>,
    pub(super) out: Statement,
}

impl Walk {
    /// A node that executes as a statement of its own.
    pub(super) fn statement(&mut self, tree: &Tree) {
        let verb = verb_of(tree);
        push(&mut self.out.verbs, &verb);
        match tree.name() {
            "SelectStmt" => {
                if !tree.get("into_clause").is_none() {
                    push(&mut self.out.verbs, "create");
                }
                self.query(tree);
            }
            "InsertStmt" => self.with_ctes(tree, |walk| {
                let source = tree.get("select_stmt");
                walk.write(tree.get("relation"));
                if tree.get("cols").items().is_empty() {
                    push(&mut walk.out.columns, "*");
                }
                if source.name() == "SelectStmt" && source.get("values_lists").items().is_empty() {
                    push(&mut walk.out.verbs, "select");
                }
                if !tree
                    .get("on_conflict_clause")
                    .get("target_list")
                    .items()
                    .is_empty()
                {
                    push(&mut walk.out.verbs, "update");
                    walk.out.has_where &= true;
                }
                walk.children_but(tree, &["relation", "with_clause"]);
            }),
            "UpdateStmt" | "DeleteStmt" => self.with_ctes(tree, |walk| {
                walk.out.has_where &= has_where(tree);
                walk.write(tree.get("relation"));
                // The view's rule calls set_config with names from its rows.
                if tree.get("relation").get("relname").text() == "pg_settings" {
                    walk.set_config(&[]);
                }
                walk.children_but(tree, &["relation", "with_clause"]);
            }),
            "MergeStmt" => self.with_ctes(tree, |walk| {
                walk.out.has_where &= !is_constant(tree.get("join_condition"));
                walk.write(tree.get("relation"));
                for clause in tree.get("merge_when_clauses").items() {
                    // CmdType: 2 update, 3 insert, 4 delete, 1 select (nothing).
                    match clause.get("command_type").int() {
                        3 => push(&mut walk.out.verbs, "update"),
                        4 => push(&mut walk.out.verbs, "insert"),
                        5 => push(&mut walk.out.verbs, "delete"),
                        _ => {}
                    }
                }
                walk.children_but(tree, &["relation", "with_clause"]);
            }),
            "ExplainStmt" => {
                let runs =
                    tree.get("options").items().iter().any(|option| {
                        option.get("defname").text() == "analyze" && !is_off(option.get("arg"))
                    });
                self.inner(tree.get("query"), runs);
                self.children_but(tree, &["query"]);
            }
            "CopyStmt" => {
                let program = tree.get("is_program").is(true);
                self.out.program |= program;
                let by_wire = !program && tree.get("filename").text().is_empty();
                self.out.server_file |= !program && !by_wire;
                if tree.get("is_from").is(true) {
                    self.out.takes_rows |= by_wire;
                    self.write(tree.get("relation"));
                } else {
                    self.read(tree.get("relation"));
                }
                self.column_names(tree.get("attlist"));
                if tree.get("query").is_none() && tree.get("attlist").items().is_empty() {
                    push(&mut self.out.columns, "*");
                }
                self.inner(tree.get("query"), true);
                self.children_but(tree, &["relation", "query"]);
            }
            "PrepareStmt" | "DeclareCursorStmt" => {
                tree.get("argtypes").items().iter().for_each(|one| self.cast(one));
                self.inner(tree.get("query"), true);
                self.children_but(tree, &["query"]);
            }
            "CreateTableAsStmt" => {
                self.inner(tree.get("query"), true);
                self.children_but(tree, &["query"]);
            }
            _ => self.utility(tree),
        }
    }

    /// A statement inside another; one that is not run leaves its tables and no verb.
    fn inner(&mut self, tree: &Tree, runs: bool) {
        if tree.is_none() {
            return;
        }
        let (verbs, has_where) = (self.out.verbs.clone(), self.out.has_where);
        if tree.name().ends_with("Stmt") {
            self.statement(tree);
        } else {
            self.any(tree);
        }
        if !runs {
            self.out.verbs = verbs;
            self.out.has_where = has_where;
        }
    }

    /// A query in a place where it is part of something else. A change of rows is a statement anywhere.
    pub(super) fn query(&mut self, tree: &Tree) {
        if tree.name() == "SelectStmt" {
            self.with_ctes(tree, |walk| walk.children_but(tree, &["with_clause"]));
        } else {
            self.statement(tree);
        }
    }

    fn any(&mut self, tree: &Tree) {
        match tree.name() {
            "RangeVar" => self.read(tree),
            "IntoClause" => {
                self.write(tree.get("rel"));
                self.children_but(tree, &["rel"]);
            }
            // Names of what stands in the FROM beside it.
            "LockingClause" => {
                self.out.locks = true;
                let named = tree.get("locked_rels").items().iter();
                named
                    .filter(|one| one.name() != "RangeVar")
                    .for_each(|one| self.any(one));
            }
            name if name.ends_with("Stmt") => self.query(tree),
            _ => {
                self.expression(tree);
                self.children_but(tree, &[]);
            }
        }
    }

    pub(super) fn children_but(&mut self, tree: &Tree, but: &[&str]) {
        match tree {
            Tree::Node(_, fields) => {
                for (_, child) in fields.iter().filter(|(name, _)| !but.contains(name)) {
                    self.any(child);
                }
            }
            tree => tree.children().for_each(|child| self.any(child)),
        }
    }

    /// What an expression's node says by itself.
    pub(super) fn expression(&mut self, tree: &Tree) {
        // Written or not (IN, LIKE, USING, CASE x WHEN), an operator is looked up by its name.
        self.out.bare.operators |= matches!(tree.name(), "AExpr" | "SubLink" | "JoinExpr" | "CaseExpr");
        match tree.name() {
            "FuncCall" => {
                let parts = strings(tree.get("funcname"));
                // EXTRACT, OVERLAY and their like are written by the grammar as pg_catalog.extract.
                let by_grammar = tree.get("funcformat").int() == 4;
                let parts = if by_grammar {
                    &parts[parts.len().saturating_sub(1)..]
                } else {
                    &parts[..]
                };
                self.function(parts);
                if parts.last().is_some_and(|name| name == "set_config") {
                    self.set_config(tree.get("args").items());
                }
            }
            "VariableSetStmt" => self.set(tree),
            "TypeCast" | "XmlSerialize" | "JsonOutput" | "RangeTableFuncCol" | "JsonTableColumn" => {
                self.cast(tree.get("type_name"));
                self.named_columns(tree);
            }
            // AEXPR_OP, _ANY and _ALL name their operator; the others are the server's own.
            "AExpr" if (1..=3).contains(&tree.get("kind").int()) => self.operator(tree.get("name")),
            "SubLink" => self.operator(tree.get("oper_name")),
            "SortBy" => self.operator(tree.get("use_op")),
            "RangeFunction" | "AlterTableCmd" => self.declared(tree),
            "RangeTableSample" => {
                let parts = strings(tree.get("method"));
                if !matches!(parts.last().map(String::as_str), Some("bernoulli" | "system")) {
                    self.function(&parts);
                }
            }
            "AIndirection" => {
                self.fields_called(tree);
                self.named_columns(tree);
            }
            "ColumnRef" => {
                self.row_called(tree);
                self.named_columns(tree);
            }
            _ => self.named_columns(tree),
        }
    }

    /// Columns that a node names.
    pub(super) fn named_columns(&mut self, tree: &Tree) {
        let mut one = |name: &str| push(&mut self.out.columns, name);
        match tree.name() {
            "ColumnRef" => match tree.get("fields").items().last() {
                Some(last) if last.name() == "AStar" => one("*"),
                Some(last) => {
                    one(last.get("sval").text());
                    self.last_fields.push(last.get("sval").text().to_owned());
                }
                None => {}
            },
            "AIndirection" => {
                for part in tree.get("indirection").items() {
                    match part.name() {
                        "AStar" => one("*"),
                        _ => one(part.get("sval").text()),
                    }
                }
            }
            "JoinExpr" => {
                if tree.get("is_natural").is(true) || !tree.get("alias").get("colnames").items().is_empty() {
                    one("*");
                }
                self.column_names(tree.get("using_clause"));
                self.range(tree.get("alias"));
            }
            "RangeSubselect" | "RangeFunction" => self.range(tree.get("alias")),
            "OnConflictClause" | "MergeWhenClause" => self.column_names(tree.get("target_list")),
            "IndexElem" | "StatsElem" | "PartitionElem" | "AlterTableCmd" => one(tree.get("name").text()),
            "ColumnDef" => one(tree.get("colname").text()),
            "Constraint" => {
                for list in ["keys", "including", "fk_attrs", "pk_attrs", "fk_del_set_cols"] {
                    self.column_names(tree.get(list));
                }
            }
            "AccessPriv" => self.column_names(tree.get("cols")),
            "VacuumRelation" => self.column_names(tree.get("va_cols")),
            "PublicationTable" | "CreateTrigStmt" => self.column_names(tree.get("columns")),
            _ => {}
        }
    }

    fn range(&mut self, alias: &Tree) {
        push(&mut self.ranges, alias.get("aliasname").text());
    }

    /// A function that is called. What one does that is not the server's own cannot be seen.
    pub(super) fn function(&mut self, parts: &[String]) {
        let Some(bare) = parts.last() else { return };
        if parts.len() > 1 {
            push(&mut self.out.functions, &parts.join("."));
        } else {
            push(&mut self.out.bare.functions, bare);
        }
        push(&mut self.out.functions, bare);
        self.out.opaque_itself |= !is_plain_function(parts);
        self.out.nameless |= runs_text(parts);
    }

    /// Walks the CTEs of a query, then the query with their names bound.
    fn with_ctes(&mut self, tree: &Tree, then: impl FnOnce(&mut Walk)) {
        let with = tree.get("with_clause");
        let depth = self.scope.len();
        let ctes = with.get("ctes").items();
        if with.get("recursive").is(true) {
            self.scope
                .extend(ctes.iter().map(|cte| cte.get("ctename").text().to_owned()));
        }
        for cte in ctes {
            let query = cte.get("ctequery");
            if query.name() == "SelectStmt" {
                self.query(query);
            } else if !query.is_none() {
                self.statement(query);
            }
            self.children_but(cte, &["ctequery"]);
            self.scope.push(cte.get("ctename").text().to_owned());
        }
        for name in ["cols", "target_list"] {
            if matches!(tree.name(), "InsertStmt" | "UpdateStmt") {
                self.column_names(tree.get(name));
            }
        }
        self.children_but(with, &["ctes"]);
        then(self);
        self.scope.truncate(depth);
    }

    pub(super) fn read(&mut self, range: &Tree) {
        if range.name() != "RangeVar" {
            return;
        }
        self.range(range.get("alias"));
        let bare = range.get("schemaname").text().is_empty();
        let name = range.get("relname").text();
        if bare && self.scope.iter().any(|bound| bound == name) {
            return;
        }
        self.rows_of(range);
        if bare {
            push(&mut self.out.bare.reads, name);
        }
        named(range, |name| {
            push(&mut self.out.reads, name);
            push(&mut self.out.tables, name);
        });
    }

    /// The row of a table may be asked for by its name; columns may get other names by an alias.
    fn rows_of(&mut self, range: &Tree) {
        if range.get("alias").is_none() {
            push(&mut self.ranges, range.get("relname").text());
        }
        if !range.get("alias").get("colnames").items().is_empty() {
            push(&mut self.out.columns, "*");
        }
    }

    pub(super) fn write(&mut self, range: &Tree) {
        if range.name() != "RangeVar" {
            return;
        }
        self.range(range.get("alias"));
        self.rows_of(range);
        if range.get("schemaname").text().is_empty() {
            push(&mut self.out.bare.writes, range.get("relname").text());
        }
        named(range, |name| {
            push(&mut self.out.writes, name);
            push(&mut self.out.tables, name);
        });
    }
}
