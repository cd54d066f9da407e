//! Macros that the parser leaves as calls: those of two variables, `sortBy`, and `cel.bind`. *Pure.*
//!
//! The second variable of a macro, and what `cel.bind` names, are not kept in evaluation: where they
//! stand, what they are short for is compiled again. The language has no side effects, so it says the
//! same; how often that may be done is bounded, since names can double what they are short for.

use cel::common::ast::{CallExpr, Expr};
use cel::parser::Expression;

use super::{Compiler, Typed, node, null};
use crate::policy::cel::function::{self, Function, Ty};
use crate::policy::cel::node::{Fold, Kind, Node};
use crate::policy::cel::value::Value;

/// Times that a condition may use names which are short for something.
pub(crate) const ALIAS_USES_MAX: usize = 64;

/// A name that is short for something.
#[derive(Clone)]
pub(super) struct Alias {
    name: String,
    /// Variables that were bound round it when it was named.
    depth: usize,
    of: Of,
}

#[derive(Clone)]
enum Of {
    /// What `cel.bind` was given.
    Bound(Expression),
    /// The value at the key, or the index, that a variable holds.
    Entry(Expression, usize),
}

impl Compiler<'_> {
    /// One of these macros, if the call is one.
    pub(super) fn macro_call(&mut self, id: u64, call: &CallExpr) -> Option<Typed> {
        let target = call.target.as_deref()?;
        let ident = |expr: &Expression| match &expr.expr {
            Expr::Ident(name) => Some(name.clone()),
            _ => None,
        };
        match (call.func_name.as_str(), call.args.as_slice()) {
            ("bind", [name, value, body]) if ident(target)? == "cel" && !self.is_bound("cel") => {
                let alias = Alias {
                    name: ident(name)?,
                    depth: self.scope.len(),
                    of: Of::Bound(value.clone()),
                };
                // What is wrong with it is wrong whether or not it is used.
                self.expr(value);
                self.aliases.push(alias);
                let body = self.expr(body);
                self.aliases.pop();
                Some(body)
            }
            (name @ ("all" | "exists" | "existsOne" | "exists_one"), [key, value, condition]) => {
                Some(self.of_two(id, name, target, (ident(key)?, ident(value)?), &[condition]))
            }
            (name @ ("transformList" | "transformMap" | "transformMapEntry"), [key, value, body @ ..])
                if matches!(body.len(), 1 | 2) =>
            {
                let body: Vec<&Expression> = body.iter().collect();
                Some(self.of_two(id, name, target, (ident(key)?, ident(value)?), &body))
            }
            (name @ ("optMap" | "optFlatMap"), [own, body]) => {
                Some(self.of_optional(name == "optMap", target, ident(own)?, body))
            }
            ("sortBy", [item, key]) => Some(self.sort_by(target, ident(item)?, key)),
            _ => None,
        }
    }

    fn of_two(
        &mut self,
        id: u64,
        name: &str,
        range: &Expression,
        (key, value): (String, String),
        body: &[&Expression],
    ) -> Typed {
        let (of, of_ty) = self.expr(range);
        if !matches!(of_ty, Ty::Dyn | Ty::List(_) | Ty::Map(_)) {
            let message = format!("{of_ty} cannot be walked; a list or a map can");
            self.error(range.id, message, None);
        }
        if key == value {
            self.error(id, "the two variables have one name", None);
        }
        let typed = self.family.is_some();
        let key_ty = match of_ty {
            Ty::List(_) if typed => Ty::Int,
            Ty::Map(_) if typed => Ty::Text,
            _ => Ty::Dyn,
        };
        let depth = self.scope.len();
        self.scope.push(("@result".to_owned(), Ty::Dyn));
        self.scope.push((key, key_ty));
        self.aliases.push(Alias {
            name: value,
            depth: self.scope.len(),
            of: Of::Entry(range.clone(), depth + 1),
        });
        let bodies: Vec<Typed> = body.iter().map(|body| self.expr(body)).collect();
        self.aliases.pop();
        self.scope.truncate(depth);
        let has_condition = !name.starts_with("transform") || bodies.len() == 2;
        if let (Some((_, ty)), Some(own), true) = (bodies.first(), body.first(), has_condition) {
            self.want(own.id, ty, &Ty::Bool, "the condition of a macro");
        }
        let mut bodies = bodies.into_iter();
        let Some((first, first_ty)) = bodies.next() else {
            return null(Ty::Dyn);
        };
        let range = node(Kind::Call(Function::Keys, vec![of]));
        let fold = match (name, bodies.next()) {
            ("all", _) => all(range, first, depth),
            ("exists", _) => exists(range, first, depth),
            (name, second) if name.starts_with("transform") => {
                let (filter, value, ty) = match second {
                    Some((value, ty)) => (Some(first), value, ty),
                    None => (None, first, first_ty),
                };
                return match name {
                    "transformList" => (collect(range, filter, value, depth), list_of(ty)),
                    "transformMap" => {
                        let entry = node(Kind::Map(vec![(variable(depth + 1), value)]));
                        (merge_all(range, filter, entry, depth), Ty::Map(Box::new(Ty::Dyn)))
                    }
                    _ => (merge_all(range, filter, value, depth), Ty::Map(Box::new(Ty::Dyn))),
                };
            }
            _ => exists_one(range, first, depth),
        };
        (fold, Ty::Bool)
    }

    /// `o.optMap(x, e)`: `e` for the value of `o`, if it is there.
    fn of_optional(&mut self, wraps: bool, own: &Expression, name: String, body: &Expression) -> Typed {
        let (there, _) = self.expr(own);
        let value = CallExpr {
            func_name: "value".to_owned(),
            target: Some(Box::new(own.clone())),
            args: Vec::new(),
        };
        let value = Expression {
            id: own.id,
            expr: Expr::Call(value),
        };
        self.aliases.push(Alias {
            name,
            depth: self.scope.len(),
            of: Of::Bound(value),
        });
        let (body, _) = self.expr(body);
        self.aliases.pop();
        let call = |function, args| node(Kind::Call(function, args));
        let yes = match wraps {
            true => call(Function::OptionalOf, vec![body]),
            false => body,
        };
        let no = call(Function::OptionalNone, Vec::new());
        let has = call(Function::HasValue, vec![there]);
        (node(Kind::If(Box::new([has, yes, no]))), Ty::Dyn)
    }

    fn sort_by(&mut self, range: &Expression, item: String, key: &Expression) -> Typed {
        let (of, of_ty) = self.expr(range);
        let (again, _) = self.expr(range);
        let item_ty = match &of_ty {
            Ty::List(item) if self.family.is_some() => (**item).clone(),
            Ty::Dyn | Ty::List(_) => Ty::Dyn,
            other => {
                let message = format!("`sortBy` is for lists, and this is {other}");
                self.error(range.id, message, None);
                Ty::Dyn
            }
        };
        let depth = self.scope.len();
        self.scope.push(("@result".to_owned(), Ty::Dyn));
        self.scope.push((item, item_ty));
        let (key, _) = self.expr(key);
        self.scope.truncate(depth);
        let keys = collect(again, None, key, depth);
        (node(Kind::Call(Function::SortBy, vec![of, keys])), of_ty)
    }

    pub(super) fn names_alias(&self, ident: &str) -> bool {
        self.aliases.iter().any(|alias| alias.name == ident)
    }

    /// What a name is short for, if it is; a variable that was bound inside hides it.
    pub(super) fn alias(&mut self, id: u64, ident: &str) -> Option<Typed> {
        let index = self.aliases.iter().rposition(|alias| alias.name == ident)?;
        let alias = self.aliases.get(index)?.clone();
        let bound = self.scope.iter().rposition(|(name, _)| name == ident);
        if bound.is_some_and(|bound| bound >= alias.depth) {
            return None;
        }
        self.alias_uses += 1;
        if self.alias_uses > ALIAS_USES_MAX {
            let message =
                format!("names that are short for something are used more than {ALIAS_USES_MAX} times");
            self.error(id, message, Some("split it into several rules"));
            return Some(null(Ty::Dyn));
        }
        // It means what it meant where it was named: what was bound since is out of its sight.
        let later = self.aliases.split_off(index);
        let names: Vec<String> = self
            .scope
            .iter_mut()
            .skip(alias.depth)
            .map(|(name, _)| std::mem::take(name))
            .collect();
        let typed = match &alias.of {
            Of::Bound(value) => self.expr(value),
            Of::Entry(range, key) => self.entry(range, *key, alias.depth),
        };
        for ((name, _), own) in self.scope.iter_mut().skip(alias.depth).zip(names) {
            *name = own;
        }
        self.aliases.extend(later);
        Some(typed)
    }

    /// `range[key]`. The range stands outside of the macro, whose own variables it cannot name.
    fn entry(&mut self, range: &Expression, key: usize, depth: usize) -> Typed {
        let own = depth.saturating_sub(2);
        let names: Vec<String> = self
            .scope
            .iter_mut()
            .skip(own)
            .map(|(name, _)| std::mem::take(name))
            .collect();
        let (of, ty) = self.expr(range);
        for ((name, _), was) in self.scope.iter_mut().skip(own).zip(names) {
            *name = was;
        }
        let item = function::result(Function::Index, Ty::Dyn, &[&ty, &Ty::Dyn]);
        let item = if self.family.is_some() { item } else { Ty::Dyn };
        (node(Kind::Call(Function::Index, vec![of, variable(key)])), item)
    }
}

fn list_of(ty: Ty) -> Ty {
    Ty::List(Box::new(ty))
}

fn variable(index: usize) -> Node {
    node(Kind::Var(index))
}

fn constant(value: Value<'static>) -> Node {
    node(Kind::Const(value))
}

fn fold(range: Node, init: Node, condition: Node, step: Node, result: Node) -> Node {
    node(Kind::Fold(Box::new(Fold {
        range,
        init,
        condition,
        step,
        result,
    })))
}

/// As the parser writes `all` of one variable: an item that decides ends it.
fn all(range: Node, body: Node, result: usize) -> Node {
    let goes_on = node(Kind::NotStrictlyFalse(Box::new(variable(result))));
    let step = node(Kind::And(vec![variable(result), body]));
    fold(
        range,
        constant(Value::Bool(true)),
        goes_on,
        step,
        variable(result),
    )
}

fn exists(range: Node, body: Node, result: usize) -> Node {
    let not = node(Kind::Call(Function::Not, vec![variable(result)]));
    let goes_on = node(Kind::NotStrictlyFalse(Box::new(not)));
    let step = node(Kind::Or(vec![variable(result), body]));
    fold(
        range,
        constant(Value::Bool(false)),
        goes_on,
        step,
        variable(result),
    )
}

fn exists_one(range: Node, body: Node, result: usize) -> Node {
    let one = node(Kind::Call(
        Function::Add,
        vec![variable(result), constant(Value::Int(1))],
    ));
    let step = node(Kind::If(Box::new([body, one, variable(result)])));
    let is_one = node(Kind::Call(
        Function::Equal,
        vec![variable(result), constant(Value::Int(1))],
    ));
    fold(
        range,
        constant(Value::Int(0)),
        constant(Value::Bool(true)),
        step,
        is_one,
    )
}

/// The list of what `body` is for each item that `filter` takes.
fn collect(range: Node, filter: Option<Node>, body: Node, result: usize) -> Node {
    let item = node(Kind::List(vec![body]));
    let empty = constant(Value::List(std::sync::Arc::default()));
    gather(range, filter, (empty, Function::Add, item), result)
}

/// The map of the entries that `body` is for each item that `filter` takes.
fn merge_all(range: Node, filter: Option<Node>, body: Node, result: usize) -> Node {
    let empty = constant(Value::Map(std::sync::Arc::default()));
    gather(range, filter, (empty, Function::Merge, body), result)
}

fn gather(
    range: Node,
    filter: Option<Node>,
    (empty, add, part): (Node, Function, Node),
    result: usize,
) -> Node {
    let added = node(Kind::Call(add, vec![variable(result), part]));
    let step = match filter {
        Some(filter) => node(Kind::If(Box::new([filter, added, variable(result)]))),
        None => added,
    };
    fold(range, empty, constant(Value::Bool(true)), step, variable(result))
}
