//! The grammar of one session: `facts::sql`, behind the cache that all sessions share. *Pure.*

use std::sync::{Arc, Mutex, PoisonError};

use super::statement::{Grammar, Parameters, Seen, Statement};
use crate::facts::Facts;
use crate::facts::sql::cache::Cache;
use crate::facts::sql::shape::Shape;
use crate::facts::sql::{self, SqlFacts};

/// Reads the SQL of one session.
pub struct Reader {
    pub cache: Arc<Mutex<Cache>>,
    /// Bytes of one text of SQL.
    pub bytes_max: usize,
    pub database: String,
    pub user: String,
}

impl Reader {
    fn facts(&self, statement: Arc<sql::Statement>, statements: usize) -> Facts {
        let mut facts = SqlFacts::new(statement, &self.database, &self.user);
        facts.statements = i64::try_from(statements).unwrap_or(i64::MAX);
        Facts::Sql(Box::new(facts))
    }

    fn statement(&self, read: &Arc<sql::Statement>, statements: usize) -> Statement {
        Statement {
            text: read.text.clone(),
            facts: self.facts(read.clone(), statements),
            effect: read.effect.clone(),
            executes: read.executes.clone(),
            rereads: read.rereads,
            prepares: read
                .prepares
                .as_ref()
                .map(|inner| Arc::new(self.statement(inner, 1))),
        }
    }
}

impl Grammar for Reader {
    fn read(&self, text: &str) -> Vec<Statement> {
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        // Parsed, or put together, without the lock: a long text of one session holds up no other.
        let known = cache().get(text);
        let read = known.unwrap_or_else(|| {
            let shape = Shape::of(text);
            let pattern = shape.as_ref().and_then(|shape| cache().shaped(shape));
            let shaped = pattern.zip(shape.as_ref());
            if let Some(own) = shaped.and_then(|(pattern, shape)| pattern.statement(text, shape)) {
                return [Arc::new(own)].into();
            }
            let read = sql::read_whole(text, self.bytes_max);
            cache().put(text, shape, &read);
            read.statements
        });
        read.iter().map(|one| self.statement(one, read.len())).collect()
    }

    fn bound(&self, facts: &Facts, parameters: Parameters) -> Facts {
        match facts {
            Facts::Sql(facts) => {
                let mut facts = facts.clone();
                facts.parameters = parameters;
                Facts::Sql(facts)
            }
            other => other.clone(),
        }
    }

    fn executing(&self, outer: &Facts, prepared: &Facts) -> Facts {
        let (Facts::Sql(outer), Facts::Sql(prepared)) = (outer, prepared) else {
            return self.opaque("EXECUTE");
        };
        let mut facts = outer.clone();
        facts.statement = Arc::new(outer.statement.executing(&prepared.statement));
        // They stand in the text, as the server takes no others.
        facts.parameters = Parameters::unread(Seen::There);
        Facts::Sql(facts)
    }

    fn of_own_types(&self, facts: &Facts) -> Facts {
        let Facts::Sql(own) = facts else {
            return self.opaque("Parse");
        };
        let mut own = own.clone();
        own.statement = Arc::new(own.statement.hiding());
        Facts::Sql(own)
    }

    fn opaque(&self, text: &str) -> Facts {
        let mut facts = self.facts(Arc::new(sql::Statement::opaque(text)), 1);
        if let Facts::Sql(facts) = &mut facts {
            // It has arguments; which, is not read.
            facts.parameters = Parameters::unread(Seen::Nowhere);
        }
        facts
    }
}
