//! From the parse tree of one statement to its facts. *Pure.*

use super::Statement;
use super::look::{
    constant_text, dedupe, has_where, is_constant, is_off, named, named_objects, push, reading_setting,
    row_limit, strings, verb_of,
};
use super::runs::RUNS_TEXT;
use super::tree::Tree;

/// Letters and digits of the longest value that one of [`READING_SETTINGS`] takes, with room:
/// `mule_internal` has 12. The server leaves everything else out of an encoding's name.
const READING_VALUE_CHARS_MAX: usize = 15;

/// Settings that change who the session is.
const ROLE_SETTINGS: &[&str] = &["role", "session_authorization"];

/// Reads the facts of one statement.
pub(super) fn facts_of(tree: &Tree, text: &str) -> Statement {
    let mut walk = Walk {
        scope: Vec::new(),
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
    walk.out.opaque = walk.out.opaque_itself || !walk.out.executes.is_empty();
    let Statement {
        verbs,
        tables,
        reads,
        writes,
        functions,
        columns,
        ..
    } = &mut walk.out;
    for list in [verbs, tables, reads, writes, functions, columns] {
        dedupe(list);
    }
    walk.out
}

struct Walk {
    /// Names that CTEs bind, outermost first.
    scope: Vec<String>,
    out: Statement,
}

impl Walk {
    /// A node that executes as a statement of its own.
    fn statement(&mut self, tree: &Tree) {
        let verb = verb_of(tree);
        push(&mut self.out.verbs, &verb);
        match tree.name() {
            "SelectStmt" => {
                if !tree.get("into_clause").is_none() {
                    push(&mut self.out.verbs, "create");
                }
                self.with_ctes(tree, |walk| walk.children(tree));
            }
            "InsertStmt" => self.with_ctes(tree, |walk| {
                let source = tree.get("select_stmt");
                walk.write(tree.get("relation"));
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
                    walk.set_config(None, None);
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
            }
            "CopyStmt" => {
                self.out.program |= tree.get("is_program").is(true);
                if tree.get("is_from").is(true) {
                    self.write(tree.get("relation"));
                } else {
                    self.read(tree.get("relation"));
                }
                self.column_names(tree.get("attlist"));
                self.inner(tree.get("query"), true);
                self.children_but(tree, &["relation", "query", "attlist"]);
            }
            "PrepareStmt" | "DeclareCursorStmt" => {
                self.inner(tree.get("query"), true);
                self.children_but(tree, &["query"]);
            }
            "CreateTableAsStmt" => {
                self.write(tree.get("into").get("rel"));
                self.inner(tree.get("query"), true);
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
        self.statement(tree);
        if !runs {
            self.out.verbs = verbs;
            self.out.has_where = has_where;
        }
    }

    /// Everything that is neither a query nor a change of rows: its relations are what it acts on.
    fn utility(&mut self, tree: &Tree) {
        match tree.name() {
            "DoStmt" | "CallStmt" | "LoadStmt" | "CreateFunctionStmt" | "AlterFunctionStmt" => {
                self.out.opaque_itself = true;
            }
            // A list that may hold a name twice: two are never followed.
            "ExecuteStmt" => self.out.executes.push(tree.get("name").text().to_owned()),
            "VariableSetStmt" => self.set(tree),
            // DISCARD ALL is RESET SESSION AUTHORIZATION too; 1 is DISCARD_ALL.
            "DiscardStmt" => self.out.role_change |= tree.get("target").int() <= 1,
            "DropStmt"
            | "CommentStmt"
            | "SecLabelStmt"
            | "AlterOwnerStmt"
            | "AlterObjectSchemaStmt"
            | "RenameStmt" => {
                for object in named_objects(tree) {
                    self.name_written(&object);
                }
            }
            "CreateTrigStmt" | "CreateEventTrigStmt" => {
                let parts = strings(tree.get("funcname"));
                self.function(&parts);
            }
            _ => {}
        }
        for child in tree.children() {
            self.acted_on(child);
        }
    }

    /// SET and RESET. The server finds a setting whatever the case of its name.
    fn set(&mut self, tree: &Tree) {
        let name = tree.get("name").text().to_ascii_lowercase();
        self.out.role_change |= ROLE_SETTINGS.contains(&name.as_str());
        // VariableSetKind: 1 is to a value; DEFAULT and RESET go back to what the start-up pinned.
        if let (Some((_, values)), 1) = (reading_setting(&name), tree.get("kind").int()) {
            let wanted = match tree.get("args").items() {
                [one] => constant_text(one),
                _ => None,
            };
            self.out.rereads |= wanted.is_none_or(|wanted| !values.contains(&wanted.as_str()));
        }
        self.out.setting = Some(name);
    }

    /// `set_config(name, value, …)`: as SET of that name, of any where it cannot be seen. A name
    /// that cannot be seen with a value that no setting of the reading takes is pg_dump's.
    fn set_config(&mut self, name: Option<&Tree>, value: Option<&Tree>) {
        let name = name.and_then(constant_text);
        let long = value.and_then(constant_text).is_some_and(|value| {
            let counted = value.bytes().filter(u8::is_ascii_alphanumeric).count();
            counted > READING_VALUE_CHARS_MAX
        });
        self.out.role_change |= name.as_deref().is_none_or(|name| ROLE_SETTINGS.contains(&name));
        self.out.rereads |= name
            .as_deref()
            .map_or(!long, |name| reading_setting(name).is_some());
    }

    /// Below a utility: a relation is written, a query in it reads.
    fn acted_on(&mut self, tree: &Tree) {
        match tree.name() {
            "RangeVar" => self.write(tree),
            "SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => self.query(tree),
            "" => {
                for child in tree.children() {
                    self.acted_on(child);
                }
            }
            // A statement in a statement: CREATE SCHEMA … CREATE TABLE, the actions of a rule.
            name if name.ends_with("Stmt") && name != "VariableSetStmt" => self.statement(tree),
            _ => {
                self.expression(tree);
                for child in tree.children() {
                    self.acted_on(child);
                }
            }
        }
    }

    /// A query in a place where it is part of something else. A change of rows is a statement anywhere.
    fn query(&mut self, tree: &Tree) {
        if tree.name() == "SelectStmt" {
            self.with_ctes(tree, |walk| walk.children(tree));
        } else {
            self.statement(tree);
        }
    }

    fn any(&mut self, tree: &Tree) {
        match tree.name() {
            "RangeVar" => self.read(tree),
            "IntoClause" => self.write(tree.get("rel")),
            // Walked by `with_ctes`, in its scope.
            "WithClause" => {}
            name if name.ends_with("Stmt") => self.query(tree),
            _ => {
                self.expression(tree);
                for child in tree.children() {
                    self.any(child);
                }
            }
        }
    }

    fn children(&mut self, tree: &Tree) {
        for child in tree.children() {
            self.any(child);
        }
    }

    fn children_but(&mut self, tree: &Tree, but: &[&str]) {
        if let Tree::Node(_, fields) = tree {
            for (_, child) in fields.iter().filter(|(name, _)| !but.contains(name)) {
                self.any(child);
            }
        }
    }

    /// What an expression's node says by itself.
    fn expression(&mut self, tree: &Tree) {
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
                    let args = tree.get("args").items();
                    self.set_config(args.first(), args.get(1));
                }
            }
            "ColumnRef" => {
                let fields = tree.get("fields").items();
                match fields.last() {
                    Some(last) if last.name() == "AStar" => push(&mut self.out.columns, "*"),
                    Some(last) => push(&mut self.out.columns, last.get("sval").text()),
                    None => {}
                }
            }
            "InsertStmt" | "UpdateStmt" => {}
            "InferClause" | "OnConflictClause" => self.column_names(tree.get("target_list")),
            _ => {}
        }
    }

    fn function(&mut self, parts: &[String]) {
        let Some(bare) = parts.last() else { return };
        if parts.len() > 1 {
            push(&mut self.out.functions, &parts.join("."));
        }
        push(&mut self.out.functions, bare);
        self.out.opaque_itself |= RUNS_TEXT.contains(&bare.as_str());
    }

    fn column_names(&mut self, list: &Tree) {
        for item in list.items() {
            let name = if item.name() == "ResTarget" {
                item.get("name").text()
            } else {
                item.get("sval").text()
            };
            push(&mut self.out.columns, name);
        }
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
            self.scope.push(cte.get("ctename").text().to_owned());
        }
        for name in ["cols", "target_list"] {
            if matches!(tree.name(), "InsertStmt" | "UpdateStmt") {
                self.column_names(tree.get(name));
            }
        }
        then(self);
        self.scope.truncate(depth);
    }

    fn read(&mut self, range: &Tree) {
        let bound = range.get("schemaname").text().is_empty()
            && self.scope.iter().any(|name| name == range.get("relname").text());
        if range.name() == "RangeVar" && !bound {
            named(range, |name| {
                push(&mut self.out.reads, name);
                push(&mut self.out.tables, name);
            });
        }
    }

    fn write(&mut self, range: &Tree) {
        if range.name() == "RangeVar" {
            named(range, |name| {
                push(&mut self.out.writes, name);
                push(&mut self.out.tables, name);
            });
        }
    }

    fn name_written(&mut self, parts: &[String]) {
        let Some(bare) = parts.last() else { return };
        if parts.len() > 1 {
            let qualified = parts.join(".");
            push(&mut self.out.writes, &qualified);
            push(&mut self.out.tables, &qualified);
        }
        push(&mut self.out.writes, bare);
        push(&mut self.out.tables, bare);
    }
}
