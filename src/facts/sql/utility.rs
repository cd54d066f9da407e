//! Everything that is neither a query nor a change of rows: what it acts on; casts and operators. *Pure.*

use super::builtin::{is_operator, is_plain_function, is_type};
use super::look::{named_objects, push, strings};
use super::tree::Tree;
use super::walk::Walk;

/// `ObjectType` of what hangs on a table: its name stands behind that of its table.
const COLUMN: i64 = 7;
const ON_A_TABLE: &[i64] = &[COLUMN, 28 + 1, 36, 41, 45];

/// `ObjectType` of a schema.
const SCHEMA: i64 = pg_query::protobuf::ObjectType::ObjectSchema as i64;

/// `GrantTargetType`: ALL … IN SCHEMA.
const ALL_IN_SCHEMA: i64 = 2;

/// Parts of a definition that name a function, which the server will call.
const FUNCTION_PARTS: &[&str] = &[
    "analyze",
    "canonical",
    "combinefunc",
    "deserialfunc",
    "finalfunc",
    "function",
    "gettoken",
    "headline",
    "end",
    "init",
    "input",
    "join",
    "lexize",
    "lextypes",
    "mfinalfunc",
    "minvfunc",
    "msfunc",
    "output",
    "procedure",
    "receive",
    "restrict",
    "send",
    "serialfunc",
    "sfunc",
    "start",
    "subscript",
    "subtype_diff",
    "typmod_in",
    "typmod_out",
];

/// Fields that hold the name of an object, besides those that end in `name`.
const OBJECT_FIELDS: &[&str] = &["role", "label_provider", "accessmethod"];

/// `DropBehavior` of CASCADE.
const CASCADE: i64 = 2;

/// Statements that reach whatever a role owns or a schema or tablespace holds.
const WIDE: &[&str] = &[
    "AlterTableMoveAllStmt",
    "DropOwnedStmt",
    "ImportForeignSchemaStmt",
    "ReassignOwnedStmt",
];

/// What stands for an integer and a sequence where a column is made.
const SERIAL: &[&str] = &[
    "bigserial",
    "serial",
    "serial2",
    "serial4",
    "serial8",
    "smallserial",
];

impl Walk {
    /// A domain's CHECK, a type's input and the function of a CREATE CAST run with a cast.
    pub(super) fn cast(&mut self, to: &Tree) {
        let parts = strings(to.get("names"));
        self.out.nameless |= !parts.is_empty() && !is_type(&parts);
        self.out.bare.operators |= parts.len() == 1;
    }

    /// The types of columns that a function's rows are given, or a table's: what is there becomes of them.
    pub(super) fn declared(&mut self, tree: &Tree) {
        self.named_columns(tree);
        self.columns_cast(tree);
    }

    fn columns_cast(&mut self, tree: &Tree) {
        if tree.name() != "ColumnDef" {
            return tree.children().for_each(|child| self.columns_cast(child));
        }
        let to = tree.get("type_name");
        // Nobody's type there, whoever has one of that name.
        let is_serial = |name: &String| SERIAL.contains(&name.as_str());
        if !matches!(strings(to.get("names")).as_slice(), [one] if is_serial(one)) {
            self.cast(to);
        }
    }

    pub(super) fn operator(&mut self, name: &Tree) {
        let parts = strings(name);
        self.out.nameless |= !parts.is_empty() && !is_operator(&parts);
    }

    /// A statement's relations are what it acts on; a query in it reads.
    pub(super) fn utility(&mut self, tree: &Tree) {
        self.out.wide |= WIDE.contains(&tree.name())
            || tree.get("for_all_tables").is(true)
            || tree.any(&|node| {
                node.get("behavior").int() == CASCADE
                    || node.name() == "PublicationObjSpec" && node.get("pubtable").is_none()
            });
        match tree.name() {
            // What is defined here, or stands in a script or a library, runs later or now.
            "DoStmt"
            | "LoadStmt"
            | "CreateFunctionStmt"
            | "AlterFunctionStmt"
            | "CreateExtensionStmt"
            | "AlterExtensionStmt" => self.out.nameless = true,
            // The view's own query runs, and is not in the text.
            "RefreshMatViewStmt" => self.out.nameless |= !tree.get("skip_data").is(true),
            // A procedure is nobody's but somebody's own, even one that is called as a function of the server's.
            "CallStmt" => {
                self.out.opaque_itself = true;
                self.out.nameless |= is_plain_function(&strings(tree.get("funccall").get("funcname")));
            }
            // A list that may hold a name twice: two are never followed.
            "ExecuteStmt" => self.out.executes.push(tree.get("name").text().to_owned()),
            "VariableSetStmt" => {
                self.set(tree);
                self.out.setting = Some(tree.get("name").text().to_ascii_lowercase());
            }
            // DISCARD ALL is RESET SESSION AUTHORIZATION too; 1 is DISCARD_ALL.
            "DiscardStmt" => self.out.role_change |= tree.get("target").int() <= 1,
            "DropStmt"
            | "CommentStmt"
            | "SecLabelStmt"
            | "AlterOwnerStmt"
            | "AlterObjectSchemaStmt"
            | "AlterObjectDependsStmt"
            | "AlterExtensionContentsStmt"
            | "RenameStmt" => self.objects_written(tree),
            "GrantStmt" => self.granted(tree),
            "LockStmt" => self.out.locks = true,
            "CreateTrigStmt" | "CreateEventTrigStmt" => self.function(&strings(tree.get("funcname"))),
            "CreateConversionStmt" => self.function(&strings(tree.get("func_name"))),
            "CreatePLangStmt" => {
                for field in ["plhandler", "plinline", "plvalidator"] {
                    self.function(&strings(tree.get(field)));
                }
            }
            "CreateAmStmt" => self.function(&strings(tree.get("handler_name"))),
            "CreateCastStmt" => self.function(&strings(tree.get("func").get("objname"))),
            "CreateTransformStmt" => {
                self.function(&strings(tree.get("fromsql").get("objname")));
                self.function(&strings(tree.get("tosql").get("objname")));
            }
            _ => {}
        }
        self.objects(tree);
        let within = tree.get("schemaname").text();
        let (known, schema) = (self.out.bare.writes.len(), within.to_owned());
        self.acted_on_below(tree);
        // What CREATE SCHEMA makes stands in that schema.
        if tree.name() == "CreateSchemaStmt" && !schema.is_empty() {
            let made: Vec<String> = self.out.bare.writes.iter().skip(known).cloned().collect();
            for name in made {
                let name = format!("{schema}.{name}");
                push(&mut self.out.writes, &name);
                push(&mut self.out.tables, &name);
            }
        }
    }

    fn acted_on_below(&mut self, tree: &Tree) {
        for child in tree.children() {
            self.acted_on(child);
        }
    }

    fn acted_on(&mut self, tree: &Tree) {
        match tree.name() {
            "RangeVar" => self.write(tree),
            // LIKE copies a definition.
            "TableLikeClause" => {
                self.read(tree.get("relation"));
                self.children_but(tree, &["relation"]);
            }
            // What stands behind USING, WITH, DEFAULT or in a query reads.
            "SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => self.query(tree),
            "VariableSetStmt" => {
                self.expression(tree);
                self.acted_on_below(tree);
            }
            // A statement in a statement: CREATE SCHEMA … CREATE TABLE, the actions of a rule.
            name if name.ends_with("Stmt") => self.statement(tree),
            name => {
                self.expression(tree);
                match name {
                    // OWNED BY a column of a table.
                    "DefElem" if tree.get("defname").text() == "owned_by" => {
                        if let Some((_, table)) = strings_of(tree.get("arg")).split_last() {
                            self.name_written(table);
                        }
                    }
                    "RoleSpec" => push(&mut self.out.objects, tree.get("rolename").text()),
                    "DefElem" if FUNCTION_PARTS.contains(&tree.get("defname").text()) => {
                        self.function(&strings_of(tree.get("arg")));
                    }
                    // OPCLASS_ITEM_FUNCTION.
                    "CreateOpClassItem" if tree.get("itemtype").int() == 2 => {
                        self.function(&strings(tree.get("name").get("objname")));
                    }
                    _ => {}
                }
                self.acted_on_below(tree);
            }
        }
    }

    /// DROP, COMMENT, RENAME and their like.
    fn objects_written(&mut self, tree: &Tree) {
        let kind = ["remove_type", "objtype", "object_type", "rename_type"]
            .into_iter()
            .map(|field| tree.get(field).int())
            .find(|kind| *kind != 0);
        let on_a_table = kind.is_some_and(|kind| ON_A_TABLE.contains(&kind));
        if kind == Some(COLUMN) {
            push(&mut self.out.columns, tree.get("subname").text());
            push(&mut self.out.columns, tree.get("newname").text());
        }
        for object in named_objects(tree) {
            match object.split_last() {
                Some((part, table)) if on_a_table && !table.is_empty() => {
                    if kind == Some(COLUMN) {
                        push(&mut self.out.columns, part);
                    } else {
                        push(&mut self.out.objects, part);
                    }
                    self.name_written(table);
                }
                _ => self.name_written(&object),
            }
        }
        if !on_a_table {
            self.moved(tree);
        }
    }

    /// RENAME TO and SET SCHEMA: a thing is called otherwise from then on, and may take another's place.
    fn moved(&mut self, tree: &Tree) {
        let (name, schema) = (tree.get("newname").text(), tree.get("newschema").text());
        if name.is_empty() && schema.is_empty() {
            return;
        }
        let relation = tree.get("relation");
        let mut parts = match relation.name() {
            "RangeVar" => ["schemaname", "relname"]
                .map(|field| relation.get(field).text().to_owned())
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect(),
            _ => named_objects(tree).into_iter().next().unwrap_or_default(),
        };
        push(&mut self.out.objects, schema);
        match parts.last_mut() {
            Some(last) if !name.is_empty() => {
                name.clone_into(last);
                self.name_written(&parts);
            }
            Some(last) => {
                let moved = [schema.to_owned(), std::mem::take(last)];
                self.name_written(&moved);
            }
            // A role, a database, or a schema, whose tables are called otherwise then.
            None => {
                push(&mut self.out.objects, tree.get("subname").text());
                push(&mut self.out.objects, name);
                self.out.wide |= tree.get("rename_type").int() == SCHEMA;
            }
        }
    }

    /// GRANT and REVOKE on what is no relation, or on every relation of a schema.
    fn granted(&mut self, tree: &Tree) {
        let all = tree.get("targtype").int() == ALL_IN_SCHEMA;
        for object in named_objects(tree) {
            push(&mut self.out.objects, &object.join("."));
            if all {
                self.out.wide = true;
                self.name_written(&[object.join("."), "*".to_owned()]);
            }
        }
    }

    /// Objects that a statement names by itself, such as a role, a schema, an extension.
    fn objects(&mut self, tree: &Tree) {
        let Tree::Node(_, fields) = tree else { return };
        for (field, value) in fields {
            let renamed = tree.name() == "RenameStmt" && matches!(*field, "newname" | "subname");
            let names = field.ends_with("name") && !renamed && *field != "savepoint_name";
            match value {
                Tree::Text(text) if names || OBJECT_FIELDS.contains(field) => {
                    push(&mut self.out.objects, text);
                }
                Tree::List(_) if names => push(&mut self.out.objects, &strings(value).join(".")),
                // A function, with its arguments.
                Tree::Node("ObjectWithArgs", _) => {
                    push(&mut self.out.objects, &strings(value.get("objname")).join("."));
                }
                _ => {}
            }
        }
    }

    fn name_written(&mut self, parts: &[String]) {
        let Some(bare) = parts.last() else { return };
        let whole = parts.join(".");
        if parts.len() == 1 {
            push(&mut self.out.bare.writes, bare);
        }
        for name in [&whole, bare] {
            push(&mut self.out.writes, name);
            push(&mut self.out.tables, name);
        }
        push(&mut self.out.objects, &whole);
    }
}

/// The parts of a name in a definition, however the grammar holds them.
fn strings_of(value: &Tree) -> Vec<String> {
    match value.name() {
        "TypeName" => strings(value.get("names")),
        "List" => strings(value.get("items")),
        "String" => vec![value.get("sval").text().to_owned()],
        _ => strings(value),
    }
}
