//! The facts of the `sql` family, read by PostgreSQL's own grammar. *Pure.*
//!
//! [`read`] cuts a text into statements where the server would, and walks the whole parse tree of
//! each: every node is turned into one uniform shape first (`tree.rs`), so that no kind of node
//! can be left out. What the grammar refuses is one statement that is `unparseable`.
//!
//! What no parser can know is a fact too: `opaque`, for text that runs and for the bodies of
//! functions and operators that are not the server's own. What such code reaches or does is unknown then: verbs,
//! tables, reads, writes, columns and objects; `has_where` and `row_limit`, unless the text itself says `false` or `null`; and each of
//! `program`, `server_file`, `role_change` and `locks` that the text itself has not. `functions` is unknown where such code has no name
//! of its own (DO, a text that `query_to_xml` runs, an operator); where it is functions, their names are known, and each stands
//! for all that its body calls ([`View::Named`](super::View::Named)): a rule may list them, and none finds out by them that another is not
//! called. `a.f` may be a call of `f`; it is listed
//! as the column that it looks like. Views, triggers, rules, defaults and policies are not on the wire: a view
//! stands as the table that it looks like, whatever its own query calls. Who may `create` them can hide there
//! what SET or a function would show, but for how texts are read, which the session sees from the server.

mod builtin;
pub mod cache;
pub mod dialect;
mod kinds;
mod look;
mod notation;
pub mod path;
pub mod preview;
mod session;
mod setting;
pub mod shape;
mod tree;
mod utility;
mod walk;

use std::sync::Arc;

use crate::facts::Slot;

pub use path::Bare;
use path::{PathChange, SearchPath};
pub use session::{Parameters, Seen, SqlFacts};
use shape::Place;
use tree::Tree;

/// Stack that parsing may need for each byte of a text, bytes: the deepest trees (`1+1+…`) have a
/// level for every two bytes, and decoding and walking take some frames a level.
const STACK_BYTES_PER_BYTE: usize = 6 << 10;
/// Stack for any text, bytes.
const STACK_BYTES_MIN: usize = 1 << 20;
/// Texts up to this length are parsed on the caller's stack, bytes.
const SHALLOW_BYTES_MAX: usize = 64;

/// What one statement's text says, whoever runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub text: String,
    pub verb: String,
    pub verbs: Vec<String>,
    pub tables: Vec<String>,
    pub reads: Vec<String>,
    pub writes: Vec<String>,
    pub functions: Vec<String>,
    pub columns: Vec<String>,
    /// What DDL and DCL name: tables, roles, schemas, functions, extensions, ….
    pub objects: Vec<String>,
    /// The names above that have no schema.
    pub bare: Bare,
    /// What happens to the session's `search_path`.
    pub path: PathChange,
    /// The roles that the session becomes, which `"$user"` in the path stands for then.
    pub roles: PathChange,
    pub has_where: bool,
    pub row_limit: Option<i64>,
    /// COPY … PROGRAM.
    pub program: bool,
    /// COPY from or to a file of the server.
    pub server_file: bool,
    /// COPY from the agent: rows follow that are no part of the text.
    pub takes_rows: bool,
    pub role_change: bool,
    /// Takes locks that others wait for: FOR UPDATE and its like, LOCK.
    pub locks: bool,
    /// Reaches relations that the text does not name: CASCADE, ALL IN SCHEMA, OWNED BY a role.
    pub wide: bool,
    /// Runs code that cannot be read. EXECUTE is such code here; a session knows what it stands for.
    pub opaque: bool,
    /// As `opaque`, but for EXECUTE.
    pub opaque_itself: bool,
    /// Some of that code has no name in `functions`: DO, a text that the server's own functions run, an operator or a
    /// type of somebody's own.
    pub nameless: bool,
    /// The names that EXECUTE in it runs.
    pub executes: Vec<String>,
    /// For PREPARE, the statement in it.
    pub prepares: Option<Arc<Statement>>,
    /// The setting that SET or RESET names.
    pub setting: Option<String>,
    /// Could change how the server reads the texts that follow: `client_encoding` or
    /// `standard_conforming_strings` to something else than what is read here.
    pub rereads: bool,
    /// The grammar refuses the text.
    pub unparseable: bool,
    /// What the statement does to the session's own state.
    pub effect: Effect,
}

/// What a statement does to the session's state, for the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    #[default]
    None,
    /// PREPARE name AS ….
    Prepare(String),
    /// EXECUTE name.
    Execute(String),
    /// DEALLOCATE name; `None` for ALL.
    Deallocate(Option<String>),
    /// DISCARD ALL.
    Discard,
    /// DECLARE or CLOSE of a cursor, which is a portal; `None` for CLOSE ALL.
    Cursor(Option<String>),
}

impl Statement {
    fn empty(text: &str) -> Statement {
        Statement {
            text: text.to_owned(),
            verb: String::new(),
            verbs: Vec::new(),
            tables: Vec::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            functions: Vec::new(),
            columns: Vec::new(),
            objects: Vec::new(),
            bare: Bare::default(),
            path: PathChange::None,
            roles: PathChange::None,
            has_where: true,
            row_limit: None,
            program: false,
            server_file: false,
            takes_rows: false,
            role_change: false,
            locks: false,
            wide: false,
            opaque: false,
            opaque_itself: false,
            nameless: false,
            executes: Vec::new(),
            prepares: None,
            setting: None,
            rereads: false,
            unparseable: false,
            effect: Effect::None,
        }
    }

    /// This statement, of which EXECUTE is a part, together with what the name stands for. EXECUTE
    /// itself gives way to the prepared statement; EXPLAIN and CREATE TABLE AS stay in front.
    #[must_use]
    pub fn executing(&self, prepared: &Statement) -> Statement {
        let mut whole = self.clone();
        let runs = whole.verbs.iter().any(|verb| verb == "execute");
        whole.verbs.retain(|verb| verb != "execute");
        if self.verb == "execute" {
            whole.verb.clone_from(&prepared.verb);
        }
        if runs {
            join(&mut whole.verbs, &prepared.verbs);
            whole.has_where = prepared.has_where;
        }
        join(&mut whole.tables, &prepared.tables);
        join(&mut whole.reads, &prepared.reads);
        join(&mut whole.writes, &prepared.writes);
        join(&mut whole.functions, &prepared.functions);
        join(&mut whole.columns, &prepared.columns);
        join(&mut whole.objects, &prepared.objects);
        join(&mut whole.bare.reads, &prepared.bare.reads);
        join(&mut whole.bare.writes, &prepared.bare.writes);
        join(&mut whole.bare.functions, &prepared.bare.functions);
        whole.bare.operators |= prepared.bare.operators;
        whole.path.join(prepared.path.clone());
        whole.roles.join(prepared.roles.clone());
        whole.text = format!("{}\n{}", self.text, prepared.text);
        whole.row_limit = prepared.row_limit.filter(|_| self.verb == "execute");
        whole.program |= prepared.program;
        whole.server_file |= prepared.server_file;
        whole.role_change |= prepared.role_change;
        whole.locks |= prepared.locks;
        whole.wide |= prepared.wide;
        whole.opaque = self.opaque_itself || prepared.opaque;
        whole.opaque_itself = whole.opaque;
        whole.nameless |= prepared.nameless;
        whole.executes.clone_from(&prepared.executes);
        whole.rereads |= prepared.rereads;
        whole.unparseable |= prepared.unparseable;
        whole
    }

    /// This statement, with what its bare names mean in each schema of a path.
    #[must_use]
    pub fn looked_up(&self, path: &SearchPath) -> Statement {
        let mut whole = self.clone();
        for schema in path.known().unwrap_or_default() {
            let within = |names: &[String]| -> Vec<String> {
                names.iter().map(|name| format!("{schema}.{name}")).collect()
            };
            let (reads, writes) = (within(&self.bare.reads), within(&self.bare.writes));
            join(&mut whole.tables, &reads);
            join(&mut whole.tables, &writes);
            join(&mut whole.reads, &reads);
            join(&mut whole.writes, &writes);
            join(&mut whole.functions, &within(&self.bare.functions));
        }
        // Every session looks there first, and nobody else makes relations of such names.
        if path.known().is_some() {
            let catalog = |names: &[String]| -> Vec<String> {
                let own = names.iter().filter(|name| name.starts_with("pg_"));
                own.map(|name| format!("pg_catalog.{name}")).collect()
            };
            let (reads, writes) = (catalog(&self.bare.reads), catalog(&self.bare.writes));
            join(&mut whole.tables, &reads);
            join(&mut whole.tables, &writes);
            join(&mut whole.reads, &reads);
            join(&mut whole.writes, &writes);
        }
        // What has the name of the server's own function, operator or type may be another's.
        let calls = !self.bare.functions.is_empty() || self.bare.operators;
        let shadowed = path.shadows_builtin() && calls;
        whole.opaque |= shadowed;
        whole.opaque_itself |= shadowed;
        whole.nameless |= shadowed;
        whole
    }

    /// Whether code that cannot be read could make another value of a fact than the text has: more names in a list, a
    /// `true` where the text itself says `false`, an UPDATE without a WHERE, rows that no LIMIT of the text counts.
    fn may_be_more(&self, slot: Slot) -> bool {
        match slot {
            Slot::SqlVerbs
            | Slot::SqlTables
            | Slot::SqlReads
            | Slot::SqlWrites
            | Slot::SqlColumns
            | Slot::SqlObjects => true,
            // Else each name stands for what it calls: `View::Named`.
            Slot::SqlFunctions => self.nameless || !self.executes.is_empty() || self.functions.is_empty(),
            Slot::SqlHasWhere => self.has_where,
            Slot::SqlRowLimit => self.row_limit.is_some(),
            Slot::SqlProgram => !self.program,
            Slot::SqlServerFile => !self.server_file,
            Slot::SqlRoleChange => !self.role_change,
            Slot::SqlLocks => !self.locks,
            _ => false,
        }
    }

    /// The statement that a refused text is: nothing is known of it.
    pub fn unparseable(text: &str) -> Statement {
        crate::bad_input::count(crate::bad_input::Reader::Sql, &"unparseable");
        Statement {
            unparseable: true,
            has_where: false,
            ..Statement::empty(text)
        }
    }

    /// This statement, with code that cannot be read beside what it says.
    #[must_use]
    pub fn hiding(&self) -> Statement {
        Statement {
            opaque: true,
            opaque_itself: true,
            nameless: true,
            ..self.clone()
        }
    }

    /// Code that cannot be read at all: a function call message, EXECUTE of an unknown name.
    pub fn opaque(text: &str) -> Statement {
        Statement {
            opaque: true,
            opaque_itself: true,
            nameless: true,
            has_where: false,
            ..Statement::empty(text)
        }
    }
}

fn join(list: &mut Vec<String>, more: &[String]) {
    for name in more {
        look::push(list, name);
    }
    look::dedupe(list);
}

/// What was read of a text.
pub struct Read {
    /// Every statement, in order.
    pub statements: cache::Statements,
    /// For texts that differ in nothing that matters.
    place: Option<Place>,
}

/// Every statement of a text, in order. A text without a statement gives none; one that the
/// grammar refuses, that holds a NUL, or that is longer than `bytes_max`, gives one that is
/// unparseable.
pub fn read(text: &str, bytes_max: usize) -> Vec<Arc<Statement>> {
    read_whole(text, bytes_max).statements.to_vec()
}

/// As [`read`], for a [`cache`].
pub fn read_whole(text: &str, bytes_max: usize) -> Read {
    let refused = || Read {
        statements: [Arc::new(Statement::unparseable(text))].into(),
        place: None,
    };
    if text.len() > bytes_max || text.contains('\0') {
        return refused();
    }
    let parse = || std::panic::catch_unwind(|| parse(text)).ok().flatten();
    let read = if text.len() <= SHALLOW_BYTES_MAX {
        parse()
    } else {
        stacker::grow(STACK_BYTES_MIN + text.len() * STACK_BYTES_PER_BYTE, parse)
    };
    read.unwrap_or_else(refused)
}

fn parse(text: &str) -> Option<Read> {
    let parsed = pg_query::parse(text, pg_query::ParserOptions::default()).ok()?;
    let mut statements = Vec::with_capacity(parsed.protobuf.stmts.len());
    let mut place = None;
    for raw in &parsed.protobuf.stmts {
        let tree = Tree::of(raw.stmt.as_ref()?).ok()?;
        if tree.any(&|node| !node.name().is_empty() && !kinds::is_known(node.name())) {
            return None;
        }
        let start = usize::try_from(raw.stmt_location).ok()?;
        let end = match usize::try_from(raw.stmt_len).ok()? {
            0 => text.len(),
            len => start.checked_add(len)?,
        };
        let own = text.get(start..end)?.trim();
        let mut statement = walk::facts_of(&tree, own);
        statement.effect = look::effect_of(&tree);
        if tree.name() == "PrepareStmt" {
            statement.prepares = Some(Arc::new(walk::facts_of(tree.get("query"), own)));
        }
        place = Place::new(&tree, start..end);
        statements.push(Arc::new(statement));
    }
    Some(Read {
        place: place.filter(|_| statements.len() == 1),
        statements: statements.into(),
    })
}

#[cfg(test)]
mod clauses_tests;
#[cfg(test)]
mod tests;
