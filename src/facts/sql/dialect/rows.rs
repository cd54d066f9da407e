//! Which rows a statement picks, and how many. *Pure.*

use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, LimitClause, Query, SetExpr, Statement, UnaryOperator, Value, Visit as _, Visitor,
};

/// Whether the query of a statement picks rows.
pub(super) fn has_where(statement: &Statement) -> bool {
    fn of(query: &Query) -> bool {
        match &*query.body {
            SetExpr::Select(select) => select.selection.iter().chain(&select.prewhere).any(picks),
            SetExpr::Query(inner) => of(inner),
            _ => false,
        }
    }
    matches!(statement, Statement::Query(query) if of(query))
}

/// Most rows that the outermost statement gives or changes, where that is written as a number.
pub(super) fn row_limit(statement: &Statement) -> Option<i64> {
    match statement {
        Statement::Query(query) => query_limit(query),
        Statement::Update(update) => number(update.limit.as_ref()?),
        Statement::Delete(delete) => number(delete.limit.as_ref()?),
        _ => None,
    }
}

fn query_limit(query: &Query) -> Option<i64> {
    match (&query.limit_clause, &query.fetch, &*query.body) {
        (Some(LimitClause::LimitOffset { limit, limit_by, .. }), None, _) if limit_by.is_empty() => {
            number(limit.as_ref()?)
        }
        (Some(LimitClause::OffsetCommaLimit { limit, .. }), None, _) => number(limit),
        (None, Some(fetch), _) if !fetch.percent && !fetch.with_ties => number(fetch.quantity.as_ref()?),
        (None, None, SetExpr::Query(inner)) => query_limit(inner),
        (None, None, SetExpr::Update(inner) | SetExpr::Delete(inner)) => row_limit(inner),
        _ => None,
    }
}

fn number(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => text.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a condition cannot be seen to pick every row: it names a column, and is no comparison
/// of a thing with itself, nor an OR with such an arm. Not every tautology is seen.
pub(super) fn picks(condition: &Expr) -> bool {
    match condition {
        Expr::Nested(inner) => picks(inner),
        Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr,
        } => picks(expr),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => picks(left) || picks(right),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Or,
            right,
        } => picks(left) && picks(right),
        Expr::BinaryOp { left, right, .. } if left == right => false,
        other => names_a_column(other),
    }
}

fn names_a_column(expr: &Expr) -> bool {
    struct Seek;
    impl Visitor for Seek {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    expr.visit(&mut Seek).is_break()
}
