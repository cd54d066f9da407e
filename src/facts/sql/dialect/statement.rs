//! Kinds of statements: their verb, what they write, whether they pick rows. *Pure.*

use std::ops::ControlFlow;

use sqlparser::ast::{
    AlterTable, AlterTableOperation, CreateTable, CreateTableLikeKind, Delete, DescribeAlias, FromTable,
    GrantObjects, Insert, ObjectName, OnInsert, Query, RenameTableNameKind, Set, SetExpr,
    ShowStatementOptions, Statement, TableFactor, TableObject, TableWithJoins, Update,
};

use super::names::Walk;
use super::rows::picks;

const DONE: ControlFlow<()> = ControlFlow::Continue(());
const UNKNOWN: ControlFlow<()> = ControlFlow::Break(());

/// Reads a statement's own kind; what stands in it is visited after.
pub(super) fn read(walk: &mut Walk, statement: &Statement) -> ControlFlow<()> {
    match statement {
        // A change of rows behind a WITH is a statement in the query, and says its own verb.
        Statement::Query(query) => {
            if !is_change(query) {
                walk.verb("select");
            }
            DONE
        }
        Statement::Insert(insert) => read_insert(walk, insert),
        Statement::Update(update) => read_update(walk, update),
        Statement::Delete(delete) => read_delete(walk, delete),
        Statement::Explain { analyze, .. } => {
            walk.verb("explain");
            if !analyze {
                walk.keep(statement);
            }
            DONE
        }
        Statement::ExplainTable { describe_alias, .. } => {
            walk.verb(match describe_alias {
                DescribeAlias::Explain => "explain",
                DescribeAlias::Describe | DescribeAlias::Desc => "describe",
            });
            DONE
        }
        Statement::CreateTable(_)
        | Statement::CreateView(_)
        | Statement::CreateIndex(_)
        | Statement::CreateDatabase { .. }
        | Statement::CreateSchema { .. } => read_create(walk, statement),
        Statement::AlterTable(_) | Statement::AlterView { .. } => read_alter(walk, statement),
        Statement::Drop { .. }
        | Statement::Truncate(_)
        | Statement::RenameTable(_)
        | Statement::OptimizeTable { .. }
        | Statement::Grant(_)
        | Statement::Revoke(_)
        | Statement::LockTables { .. }
        | Statement::Flush { .. } => read_object(walk, statement),
        other => read_session(walk, other),
    }
}

fn read_insert(walk: &mut Walk, insert: &Insert) -> ControlFlow<()> {
    let foreign = insert.or.is_some()
        || insert.overwrite
        || insert.partitioned.is_some()
        || insert.output.is_some()
        || !insert.after_columns.is_empty()
        // The rows stand in the text behind it, in a grammar of their own.
        || insert.format_clause.is_some();
    if foreign {
        return UNKNOWN;
    }
    if insert.replace_into {
        walk.verb("replace");
        // The rows that go are those whose key is given: that is its WHERE.
        walk.verb("delete");
    }
    walk.verb("insert");
    match &insert.on {
        Some(OnInsert::DuplicateKeyUpdate(_)) => walk.verb("update"),
        Some(_) => return UNKNOWN,
        None => {}
    }
    if insert
        .source
        .as_ref()
        .is_some_and(|source| !matches!(*source.body, SetExpr::Values(_)))
    {
        walk.verb("select");
    }
    match &insert.table {
        TableObject::TableName(name) => walk.write(name),
        TableObject::TableFunction(function) => walk.function(&function.name),
        TableObject::TableQuery(_) => UNKNOWN,
    }
}

fn read_update(walk: &mut Walk, update: &Update) -> ControlFlow<()> {
    if update.or.is_some() || update.output.is_some() || update.from.is_some() {
        return UNKNOWN;
    }
    walk.verb("update");
    walk.out.has_where &= update.selection.as_ref().is_some_and(picks);
    targets(walk, std::slice::from_ref(&update.table))
}

fn read_delete(walk: &mut Walk, delete: &Delete) -> ControlFlow<()> {
    if delete.output.is_some() {
        return UNKNOWN;
    }
    walk.verb("delete");
    walk.out.has_where &= delete.selection.as_ref().is_some_and(picks);
    // With several tables the targets may be aliases: each table that stands here may be one.
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    for name in &delete.tables {
        walk.place(name);
    }
    if !delete.tables.is_empty() {
        return several(walk, from);
    }
    match &delete.using {
        None => targets(walk, from),
        Some(using) => {
            for table in from {
                if let TableFactor::Table { name, .. } = &table.relation {
                    walk.place(name);
                }
            }
            several(walk, using)
        }
    }
}

/// The one table of a statement is written; several joined ones are written and read.
fn targets(walk: &mut Walk, tables: &[TableWithJoins]) -> ControlFlow<()> {
    match tables {
        [
            TableWithJoins {
                relation: TableFactor::Table { name, args: None, .. },
                joins,
            },
        ] if joins.is_empty() => walk.write(name),
        tables => several(walk, tables),
    }
}

fn several(walk: &mut Walk, tables: &[TableWithJoins]) -> ControlFlow<()> {
    for table in tables {
        let joined = table.joins.iter().map(|join| &join.relation);
        for factor in std::iter::once(&table.relation).chain(joined) {
            match factor {
                TableFactor::Table { name, args: None, .. } => walk.also_write(name)?,
                TableFactor::NestedJoin { table_with_joins, .. } => {
                    several(walk, std::slice::from_ref(table_with_joins))?;
                }
                // A derived table cannot be changed.
                TableFactor::Derived { .. } => {}
                _ => return UNKNOWN,
            }
        }
    }
    DONE
}

fn read_create(walk: &mut Walk, statement: &Statement) -> ControlFlow<()> {
    walk.verb("create");
    match statement {
        Statement::CreateTable(CreateTable {
            name,
            query,
            like,
            clone,
            ..
        }) => {
            if query.is_some() {
                walk.verb("select");
            }
            if let Some(CreateTableLikeKind::Plain(like) | CreateTableLikeKind::Parenthesized(like)) = like {
                walk.read(&like.name)?;
            }
            if let Some(clone) = clone {
                walk.read(clone)?;
            }
            walk.write(name)
        }
        Statement::CreateView(view) => {
            if let Some(to) = &view.to {
                walk.write(to)?;
            }
            walk.write(&view.name)
        }
        Statement::CreateIndex(index) => walk.write(&index.table_name),
        Statement::CreateDatabase { .. } | Statement::CreateSchema { .. } => DONE,
        _ => UNKNOWN,
    }
}

fn read_alter(walk: &mut Walk, statement: &Statement) -> ControlFlow<()> {
    walk.verb("alter");
    match statement {
        Statement::AlterTable(AlterTable { name, operations, .. }) => {
            for operation in operations {
                read_operation(walk, operation)?;
            }
            walk.write(name)
        }
        Statement::AlterView { name, .. } => walk.write(name),
        _ => UNKNOWN,
    }
}

/// One change of a table. Those that name another one are read here; what is not listed is unknown.
fn read_operation(walk: &mut Walk, operation: &AlterTableOperation) -> ControlFlow<()> {
    use AlterTableOperation as Change;
    match operation {
        Change::RenameTable { table_name } => {
            let (RenameTableNameKind::As(name) | RenameTableNameKind::To(name)) = table_name;
            walk.write(name)
        }
        Change::AddColumn { .. }
        | Change::DropColumn { .. }
        | Change::ModifyColumn { .. }
        | Change::ChangeColumn { .. }
        | Change::RenameColumn { .. }
        | Change::AlterColumn { .. }
        | Change::AddConstraint { .. }
        | Change::DropConstraint { .. }
        | Change::DropPrimaryKey { .. }
        | Change::DropForeignKey { .. }
        | Change::DropIndex { .. }
        | Change::DropPartitions { .. }
        | Change::FreezePartition { .. }
        | Change::UnfreezePartition { .. }
        | Change::AttachPartition { .. }
        | Change::DetachPartition { .. }
        | Change::AddProjection { .. }
        | Change::DropProjection { .. }
        | Change::MaterializeProjection { .. }
        | Change::ClearProjection { .. } => DONE,
        _ => UNKNOWN,
    }
}

fn read_object(walk: &mut Walk, statement: &Statement) -> ControlFlow<()> {
    match statement {
        Statement::Drop {
            object_type,
            names,
            table,
            ..
        } => {
            use sqlparser::ast::ObjectType as Type;
            walk.verb("drop");
            if let Some(table) = table {
                walk.write(table)?;
            }
            match object_type {
                Type::Table | Type::View | Type::MaterializedView => all(walk, names),
                Type::Database | Type::Schema | Type::Index | Type::User | Type::Role => DONE,
                _ => UNKNOWN,
            }
        }
        Statement::Truncate(truncate) => {
            walk.verb("truncate");
            all(walk, truncate.table_names.iter().map(|target| &target.name))
        }
        Statement::RenameTable(renames) => {
            walk.verb("rename");
            all(
                walk,
                renames.iter().flat_map(|one| [&one.old_name, &one.new_name]),
            )
        }
        Statement::OptimizeTable { name, .. } => {
            walk.verb("optimize");
            walk.write(name)
        }
        Statement::Grant(grant) => {
            walk.verb("grant");
            granted(walk, grant.objects.as_ref())
        }
        Statement::Revoke(revoke) => {
            walk.verb("revoke");
            granted(walk, revoke.objects.as_ref())
        }
        Statement::LockTables { tables } => {
            walk.verb("lock");
            tables
                .iter()
                .try_for_each(|lock| walk.write(&ObjectName::from(vec![lock.table.clone()])))
        }
        Statement::Flush { tables, .. } => {
            walk.verb("flush");
            all(walk, tables)
        }
        _ => UNKNOWN,
    }
}

fn all<'a>(walk: &mut Walk, names: impl IntoIterator<Item = &'a ObjectName>) -> ControlFlow<()> {
    names.into_iter().try_for_each(|name| walk.write(name))
}

fn granted(walk: &mut Walk, objects: Option<&GrantObjects>) -> ControlFlow<()> {
    match objects {
        Some(GrantObjects::Tables(names)) => all(walk, names),
        None => DONE,
        Some(_) => UNKNOWN,
    }
}

/// Statements that touch no table, and calls.
fn read_session(walk: &mut Walk, statement: &Statement) -> ControlFlow<()> {
    let verb = match statement {
        Statement::ShowCreate { obj_name, .. } => {
            walk.read(obj_name)?;
            "show"
        }
        Statement::ShowTables { show_options, .. }
        | Statement::ShowDatabases { show_options, .. }
        | Statement::ShowSchemas { show_options, .. }
        | Statement::ShowViews { show_options, .. } => {
            outer(walk, show_options);
            "show"
        }
        Statement::ShowColumns { .. }
        | Statement::ShowVariable { .. }
        | Statement::ShowVariables { .. }
        | Statement::ShowStatus { .. }
        | Statement::ShowCollation { .. }
        | Statement::ShowCharset(_)
        | Statement::ShowProcessList { .. }
        | Statement::ShowFunctions { .. } => "show",
        Statement::Use(_) => "use",
        Statement::StartTransaction {
            begin,
            statements,
            exception,
            ..
        } => {
            if !statements.is_empty() || exception.is_some() {
                return UNKNOWN;
            }
            if *begin { "begin" } else { "start" }
        }
        Statement::Commit { .. } => "commit",
        Statement::Rollback { .. } => "rollback",
        Statement::Savepoint { .. } => "savepoint",
        Statement::ReleaseSavepoint { .. } => "release",
        Statement::Set(Set::SetRole { .. } | Set::SetSessionAuthorization(_)) => {
            walk.out.role_change = true;
            "set"
        }
        Statement::Set(_) => "set",
        Statement::Kill { .. } => "kill",
        Statement::UnlockTables => "unlock",
        Statement::Deallocate { .. } => "deallocate",
        Statement::Call(function) => {
            walk.function(&function.name)?;
            walk.out.opaque = true;
            "call"
        }
        _ => return UNKNOWN,
    };
    walk.verb(verb);
    DONE
}

/// The database of a SHOW is no table.
fn outer(walk: &mut Walk, options: &ShowStatementOptions) {
    let within = options.show_in.as_ref();
    if let Some(name) = within.and_then(|within| within.parent_name.as_ref()) {
        walk.place(name);
    }
}

fn is_change(query: &Query) -> bool {
    match &*query.body {
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => true,
        SetExpr::Query(inner) => is_change(inner),
        _ => false,
    }
}
