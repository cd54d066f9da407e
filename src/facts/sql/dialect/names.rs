//! Names in a parse tree: tables, what binds them, functions. *Pure.*

use std::collections::HashSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Function, Ident, JoinOperator, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement,
    TableFactor, Visitor,
};

use super::super::Statement as Facts;
use super::{Dialect, statement};

/// A query whose WITH binds names.
struct Frame {
    names: Vec<Ident>,
    /// Queries of the WITH that bind their name once they are read, by address.
    pending: Vec<(usize, Ident)>,
}

/// A walk over one statement. Breaks at what it does not know.
pub(super) struct Walk {
    pub out: Facts,
    dialect: Dialect,
    frames: Vec<Frame>,
    /// Names that are no reads where they stand, by address: targets, functions, databases.
    placed: HashSet<usize>,
    /// For each EXPLAIN that runs nothing: the facts of what runs, as they were.
    kept: Vec<(usize, Vec<String>, bool)>,
}

/// Where a node is, to know it again within one walk.
pub(super) fn address<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

impl Walk {
    pub(super) fn new(text: &str, dialect: Dialect) -> Walk {
        Walk {
            out: Facts::empty(text.trim()),
            dialect,
            frames: Vec::new(),
            placed: HashSet::new(),
            kept: Vec::new(),
        }
    }

    pub(super) fn verb(&mut self, verb: &str) {
        push(&mut self.out.verbs, verb);
    }

    /// A name that is no read where it stands.
    pub(super) fn place(&mut self, name: &ObjectName) {
        self.placed.insert(address(name));
    }

    /// A table that is written, and not read by standing here.
    pub(super) fn write(&mut self, name: &ObjectName) -> ControlFlow<()> {
        self.place(name);
        self.also_write(name)
    }

    /// A table that is written, and read if it stands where tables are read.
    pub(super) fn also_write(&mut self, name: &ObjectName) -> ControlFlow<()> {
        match parts(name) {
            Some(parts) => {
                list(&mut self.out.writes, &parts);
                list(&mut self.out.tables, &parts);
            }
            None => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    pub(super) fn read(&mut self, name: &ObjectName) -> ControlFlow<()> {
        let Some(parts) = parts(name) else {
            return ControlFlow::Break(());
        };
        if !matches!(name.0.as_slice(), [ObjectNamePart::Identifier(only)] if self.is_bound(only)) {
            list(&mut self.out.reads, &parts);
            list(&mut self.out.tables, &parts);
        }
        ControlFlow::Continue(())
    }

    pub(super) fn function(&mut self, name: &ObjectName) -> ControlFlow<()> {
        let Some(parts) = parts(name) else {
            return ControlFlow::Break(());
        };
        // MySQL folds the names of functions; ClickHouse those of some, so both are listed.
        let folded: Vec<String> = parts.iter().map(|part| part.to_lowercase()).collect();
        if self.dialect == Dialect::Clickhouse {
            list(&mut self.out.functions, &parts);
        }
        list(&mut self.out.functions, &folded);
        ControlFlow::Continue(())
    }

    /// What runs is not what follows, up to the end of this statement.
    pub(super) fn keep(&mut self, explain: &Statement) {
        let kept = (address(explain), self.out.verbs.clone(), self.out.has_where);
        self.kept.push(kept);
    }

    /// Whether a WITH around this place binds the name. MySQL folds them.
    fn is_bound(&self, name: &Ident) -> bool {
        let same = |own: &Ident| match self.dialect {
            Dialect::Mysql => own.value.eq_ignore_ascii_case(&name.value),
            Dialect::Clickhouse => own.value == name.value,
        };
        self.frames.iter().flat_map(|frame| &frame.names).any(same)
    }

    fn named(&mut self, name: &str) {
        push(&mut self.out.functions, name);
    }
}

impl Visitor for Walk {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        statement::read(self, statement)
    }

    fn post_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        if self.kept.last().is_some_and(|kept| kept.0 == address(statement))
            && let Some((_, verbs, has_where)) = self.kept.pop()
        {
            self.out.verbs = verbs;
            self.out.has_where = has_where;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if query.for_clause.is_some() || !query.pipe_operators.is_empty() {
            return ControlFlow::Break(());
        }
        let mut frame = Frame {
            names: Vec::new(),
            pending: Vec::new(),
        };
        if let Some(with) = &query.with {
            for bound in &with.cte_tables {
                if with.recursive {
                    frame.names.push(bound.alias.name.clone());
                } else {
                    let own = (address(&*bound.query), bound.alias.name.clone());
                    frame.pending.push(own);
                }
            }
        }
        self.frames.push(frame);
        match &*query.body {
            SetExpr::Table(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.frames.pop();
        let own = address(query);
        if let Some(frame) = self.frames.last_mut()
            && let Some(at) = frame.pending.iter().position(|(pending, _)| *pending == own)
        {
            let (_, name) = frame.pending.swap_remove(at);
            frame.names.push(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        // SELECT … INTO writes what is not named as a table.
        if select.into.is_some() || select.top.is_some() || !select.lateral_views.is_empty() {
            return ControlFlow::Break(());
        }
        for join in select.from.iter().flat_map(|from| &from.joins) {
            let is_array = matches!(
                join.join_operator,
                JoinOperator::ArrayJoin | JoinOperator::LeftArrayJoin | JoinOperator::InnerArrayJoin
            );
            if let TableFactor::Table { name, .. } = &join.relation
                && is_array
            {
                self.place(name);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        if self.placed.contains(&address(name)) {
            return ControlFlow::Continue(());
        }
        self.read(name)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args, .. } => {
                if args.is_some() {
                    self.place(name);
                    return self.function(name);
                }
                ControlFlow::Continue(())
            }
            TableFactor::Function { name, .. } => self.function(name),
            TableFactor::JsonTable { .. } => {
                self.named("json_table");
                ControlFlow::Continue(())
            }
            TableFactor::Derived { .. }
            | TableFactor::TableFunction { .. }
            | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(Function { name, .. }) => return self.function(name),
            Expr::Extract { .. } => self.named("extract"),
            Expr::Ceil { .. } => self.named("ceil"),
            Expr::Floor { .. } => self.named("floor"),
            Expr::Position { .. } => self.named("position"),
            Expr::Substring { .. } => self.named("substring"),
            Expr::Trim { .. } => self.named("trim"),
            Expr::Overlay { .. } => self.named("overlay"),
            Expr::Convert { .. } => self.named("convert"),
            // ClickHouse: `x IN t` reads a table.
            Expr::InList { list, .. } if self.dialect == Dialect::Clickhouse => match list.as_slice() {
                [Expr::Identifier(name)] => return self.read(&ObjectName::from(vec![name.clone()])),
                [Expr::CompoundIdentifier(names)] => return self.read(&ObjectName::from(names.clone())),
                _ => {}
            },
            Expr::Prior(_) | Expr::OuterJoin(_) | Expr::Named { .. } => return ControlFlow::Break(()),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The parts of a name; `None` if one of them is computed.
fn parts(name: &ObjectName) -> Option<Vec<String>> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) => Some(ident.value.clone()),
        ObjectNamePart::Function(_) => None,
    };
    name.0.iter().map(part).collect()
}

/// A qualified name stands as written and by its bare name.
fn list(out: &mut Vec<String>, parts: &[String]) {
    push(out, &parts.join("."));
    if let [_, .., bare] = parts {
        push(out, bare);
    }
}

fn push(list: &mut Vec<String>, name: &str) {
    if !name.is_empty() && !list.iter().any(|own| own == name) {
        list.push(name.to_owned());
    }
}
