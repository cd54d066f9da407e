//! One execution of a statement, in the session that runs it: what a condition reads. *Pure.*

use std::sync::Arc;

use super::Statement;
use super::path::{Bare, SearchPath};
use crate::facts::json::Document;
use crate::facts::{Blind, Fact, FactSource, Slot, View};

/// The parameters that a statement is run with.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// As a JSON list of texts and nulls.
    pub fact: Fact<Arc<Document>>,
    pub seen: Seen,
}

/// Where people see each parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// In the fact, or in the statement's text.
    There,
    /// Here, as a JSON list of texts and nulls: no rule reads them.
    Apart(Arc<serde_json::Value>),
    Nowhere,
}

impl Parameters {
    pub fn known(values: Vec<serde_json::Value>) -> Parameters {
        Parameters {
            fact: Fact::Known(Arc::new((&serde_json::Value::Array(values)).into())),
            seen: Seen::There,
        }
    }

    pub fn unread(seen: Seen) -> Parameters {
        Parameters {
            fact: Fact::Unknown(Blind::Opaque),
            seen,
        }
    }

    /// What people see besides the fact.
    pub fn apart(&self) -> Option<&serde_json::Value> {
        match &self.seen {
            Seen::Apart(values) => Some(values),
            Seen::There | Seen::Nowhere => None,
        }
    }
}

/// The facts of one execution of a statement.
#[derive(Clone, Debug)]
pub struct SqlFacts {
    pub statement: Arc<Statement>,
    pub parameters: Parameters,
    /// How many statements were sent together.
    pub statements: i64,
    pub database: String,
    pub user: String,
    /// Where the session looks names up.
    path: SearchPath,
}

impl SqlFacts {
    /// A statement without parameters, alone.
    pub fn new(statement: Arc<Statement>, database: &str, user: &str) -> SqlFacts {
        SqlFacts {
            statement,
            parameters: Parameters::known(Vec::new()),
            statements: 1,
            database: database.to_owned(),
            user: user.to_owned(),
            path: SearchPath::default(),
        }
    }

    /// The same in a session with this path.
    #[must_use]
    pub fn looked_up(&self, path: &SearchPath) -> SqlFacts {
        let plain = path.is_plain() || self.statement.unparseable;
        SqlFacts {
            statement: match plain {
                true => self.statement.clone(),
                false => Arc::new(self.statement.looked_up(path)),
            },
            path: path.clone(),
            ..self.clone()
        }
    }

    /// Whether a list holds a name whose schema cannot be told.
    fn is_unseen(&self, slot: Slot) -> bool {
        let Bare {
            reads,
            writes,
            functions,
            ..
        } = &self.statement.bare;
        self.path.is_unseen()
            && match slot {
                Slot::SqlTables => !reads.is_empty() || !writes.is_empty(),
                Slot::SqlReads => !reads.is_empty(),
                Slot::SqlWrites => !writes.is_empty(),
                Slot::SqlFunctions => !functions.is_empty(),
                _ => false,
            }
    }
}

impl FactSource for SqlFacts {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        let statement = &*self.statement;
        match slot {
            Slot::SqlUnparseable => return Fact::Known(View::Bool(statement.unparseable)),
            Slot::SqlStatement => return Fact::Known(View::Text(&statement.text)),
            Slot::SqlStatements => return Fact::Known(View::Int(self.statements)),
            Slot::SqlDatabase => return Fact::Known(View::Text(&self.database)),
            Slot::SqlUser => return Fact::Known(View::Text(&self.user)),
            Slot::SqlParameters => return self.parameters.fact.as_ref().map(|list| View::Json(list)),
            Slot::SqlOpaque => return Fact::Known(View::Bool(statement.opaque)),
            Slot::SqlSearchPath => {
                let known = self.path.known().map(View::Texts);
                return known.map_or(Fact::Unknown(Blind::Opaque), Fact::Known);
            }
            _ if statement.unparseable => return Fact::Unknown(Blind::Unparseable),
            // Opaque code with no verb of its own: a function call message, an unknown EXECUTE.
            _ if statement.verb.is_empty() => return Fact::Unknown(Blind::Opaque),
            // Whose names only the server knows.
            Slot::SqlTables | Slot::SqlReads | Slot::SqlWrites | Slot::SqlObjects if statement.wide => {
                return Fact::Unknown(Blind::Opaque);
            }
            slot if statement.opaque && statement.may_be_more(slot) => return Fact::Unknown(Blind::Opaque),
            slot if self.is_unseen(slot) => return Fact::Unknown(Blind::Ambiguous),
            _ => {}
        }
        Fact::Known(match slot {
            Slot::SqlVerb => View::Text(&statement.verb),
            Slot::SqlVerbs => View::Texts(&statement.verbs),
            Slot::SqlTables => View::Texts(&statement.tables),
            Slot::SqlReads => View::Texts(&statement.reads),
            Slot::SqlWrites => View::Texts(&statement.writes),
            Slot::SqlFunctions if statement.opaque => View::Named(&statement.functions),
            Slot::SqlFunctions => View::Texts(&statement.functions),
            Slot::SqlColumns => View::Texts(&statement.columns),
            Slot::SqlObjects => View::Texts(&statement.objects),
            Slot::SqlHasWhere => View::Bool(statement.has_where),
            Slot::SqlRowLimit => statement.row_limit.map_or(View::Null, View::Int),
            Slot::SqlServerFile => View::Bool(statement.server_file),
            Slot::SqlProgram => View::Bool(statement.program),
            Slot::SqlLocks => View::Bool(statement.locks),
            Slot::SqlRoleChange => View::Bool(statement.role_change),
            _ => return Fact::Unknown(Blind::NotRead),
        })
    }
}
