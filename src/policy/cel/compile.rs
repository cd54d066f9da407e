//! From cel's syntax tree to ours: names to slots, types checked, patterns compiled.

mod alias;
mod call;
mod extent;
mod literal;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr, SourceInfo, operators,
};
use cel::parser::Expression;

use self::literal::{header_name, joined, list_node, map_node};
use super::function::Ty;
use super::node::{Fold, Kind, Node, Span};
use super::value::Value;
use super::{CelError, floor, function};
use crate::facts::{FactSet, Family, Kind as FactKind, Slot};
use crate::policy::diagnostic::nearest;

pub(crate) struct Compiler<'a> {
    source: &'a str,
    info: &'a SourceInfo,
    family: Option<Family>,
    scope: Vec<(String, Ty)>,
    aliases: Vec<alias::Alias>,
    alias_uses: usize,
    pub(crate) reads: FactSet,
    pub(crate) reads_now: bool,
    pub(crate) errors: Vec<CelError>,
}

type Typed = (Node, Ty);

fn node(kind: Kind) -> Node {
    let span = Span::default();
    Node { kind, span }
}

fn null(ty: Ty) -> Typed {
    (node(Kind::Const(Value::Null)), ty)
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(
        source: &'a str,
        info: &'a SourceInfo,
        family: Option<Family>,
        variables: &[&str],
    ) -> Self {
        Compiler {
            source,
            info,
            family,
            scope: variables
                .iter()
                .map(|name| ((*name).to_owned(), Ty::Dyn))
                .collect(),
            aliases: Vec::new(),
            alias_uses: 0,
            reads: FactSet::EMPTY,
            reads_now: false,
            errors: Vec::new(),
        }
    }

    pub(crate) fn root(&mut self, expr: &Expression) -> Node {
        let (root, ty) = self.expr(expr);
        if self.family.is_some() && !ty.fits(&Ty::Bool) {
            let message = format!("a condition is bool, and this is {ty}");
            self.error(expr.id, message, Some("compare it with something"));
        }
        root
    }

    fn error(&mut self, id: u64, message: impl Into<String>, help: Option<&str>) {
        let (start, stop) = self.info.offset_for(id).unwrap_or((0, self.source.len() as u32));
        let start = floor(self.source, start as usize);
        let end = floor(self.source, stop as usize).max(start);
        self.errors.push(CelError {
            message: message.into(),
            help: help.map(str::to_owned),
            start,
            end,
        });
    }

    fn expr(&mut self, expr: &Expression) -> Typed {
        let (mut node, ty) = self.form(expr);
        node.span = extent::of(self.source, self.info, expr);
        (node, ty)
    }

    fn form(&mut self, expr: &Expression) -> Typed {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Ident(name) => self.ident(expr.id, name),
            Expr::Select(select) => self.select(expr.id, select),
            Expr::Call(call) => self.call(expr.id, call),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                let mut element: Option<Ty> = None;
                for item in &list.elements {
                    let (item, ty) = self.expr(item);
                    element = Some(match element {
                        None => ty,
                        Some(known) if known == ty => ty,
                        Some(_) => Ty::Dyn,
                    });
                    items.push(item);
                }
                if list.optional_indices.is_empty() {
                    return (list_node(items), Ty::List(Box::new(element.unwrap_or(Ty::Dyn))));
                }
                let optional = |at: usize| list.optional_indices.contains(&at);
                let parts = items.into_iter().enumerate();
                let parts = parts.map(|(at, item)| (item, optional(at))).collect();
                (joined(parts), Ty::List(Box::new(Ty::Dyn)))
            }
            Expr::Map(map) => {
                let mut entries = Vec::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        continue;
                    };
                    let (key, value) = (self.expr(&entry.key).0, self.expr(&entry.value).0);
                    entries.push((key, value, entry.optional));
                }
                (map_node(entries), Ty::Map(Box::new(Ty::Dyn)))
            }
            Expr::Comprehension(fold) => self.fold(fold),
            Expr::Struct(_) | Expr::Unspecified => {
                self.error(expr.id, "messages are not supported", None);
                null(Ty::Dyn)
            }
        }
    }

    fn literal(&mut self, literal: &LiteralValue) -> Typed {
        let (value, ty) = match literal {
            LiteralValue::Null => (Value::Null, Ty::Null),
            LiteralValue::Boolean(value) => (Value::Bool(*value.inner()), Ty::Bool),
            LiteralValue::Int(value) => (Value::Int(*value.inner()), Ty::Int),
            LiteralValue::UInt(value) => (Value::Uint(*value.inner()), Ty::Uint),
            LiteralValue::Double(value) => (Value::Double(*value.inner()), Ty::Double),
            LiteralValue::String(text) => (Value::text(text.inner()), Ty::Text),
            LiteralValue::Bytes(bytes) => (Value::Bytes(bytes.inner().to_vec().into()), Ty::Bytes),
        };
        (node(Kind::Const(value)), ty)
    }

    fn ident(&mut self, id: u64, ident: &str) -> Typed {
        if let Some(typed) = self.alias(id, ident) {
            return typed;
        }
        let bound = self.scope.iter().rposition(|(name, _)| name == ident);
        if let Some((index, (_, ty))) = bound.and_then(|index| Some((index, self.scope.get(index)?))) {
            return (node(Kind::Var(index)), ty.clone());
        }
        if ident == "now" && self.family.is_some() {
            self.reads_now = true;
            return (node(Kind::Now), Ty::Other);
        }
        if let Some(ty) = function::type_name(ident) {
            return (node(Kind::Const(Value::Type(ty))), Ty::Dyn);
        }
        let family = self.family.map(Family::name);
        if Some(ident) == family || (ident == "agent" && family.is_some()) {
            self.error(
                id,
                format!("`{ident}` is not a value"),
                Some("name one of its facts"),
            );
            return null(Ty::Dyn);
        }
        let known: Vec<&str> = family.into_iter().chain(["agent"]).collect();
        let other = ["http", "sql", "k8s", "ssh", "mcp"].contains(&ident) && family.is_some();
        let help = match nearest(ident, known.iter().copied()) {
            _ if other => format!(
                "the rule's endpoints are of family {}",
                known.first().unwrap_or(&"")
            ),
            Some(near) => format!("did you mean `{near}`? There are: {}", known.join(", ")),
            None => format!("there are: {}", known.join(", ")),
        };
        let message = match other {
            true => format!("`{ident}` is of another family"),
            false => format!("there is no `{ident}`"),
        };
        self.error(id, message, Some(&help));
        null(Ty::Dyn)
    }

    /// The slot that `family.fact` means. `Err` if the family is known and the fact is not.
    fn slot(&mut self, id: u64, select: &SelectExpr) -> Option<Typed> {
        // `http.method`, or `http.graphql.kind`.
        let (first, name) = match &select.operand.expr {
            Expr::Ident(first) => (first, select.field.clone()),
            Expr::Select(inner) => match &inner.operand.expr {
                Expr::Ident(first) if Slot::is_group(first, &inner.field) => {
                    (first, format!("{}.{}", inner.field, select.field))
                }
                _ => return None,
            },
            _ => return None,
        };
        if self.is_bound(first) {
            return None;
        }
        let family = match (self.family?, first.as_str()) {
            (_, "agent") => Family::Agent,
            (family, first) if family.name() == first => family,
            _ => return None,
        };
        let Some(slot) = Slot::find(family, &name) else {
            let names: Vec<&str> = Slot::of_family(family).map(Slot::name).collect();
            let near = nearest(&name, names.iter().copied());
            let near = near.map_or(String::new(), |near| format!("did you mean `{family}.{near}`? "));
            let help = format!("{near}{family} has: {}", names.join(", "));
            self.error(id, format!("there is no `{family}.{name}`"), Some(&help));
            return Some(null(Ty::Dyn));
        };
        self.reads.insert(slot);
        let ty = match slot.kind() {
            FactKind::Bool => Ty::Bool,
            FactKind::OptionalInt | FactKind::Json => Ty::Dyn,
            FactKind::Int => Ty::Int,
            FactKind::Text => Ty::Text,
            FactKind::Texts => Ty::List(Box::new(Ty::Text)),
            FactKind::Map => Ty::Map(Box::new(Ty::Text)),
            FactKind::MultiMap => Ty::Map(Box::new(Ty::List(Box::new(Ty::Text)))),
        };
        Some((node(Kind::Slot(slot)), ty))
    }

    fn select(&mut self, id: u64, select: &SelectExpr) -> Typed {
        if let Some((found, ty)) = self.slot(id, select) {
            if select.test {
                // `has(http.body)`: the slot exists always; what it holds is its own matter.
                return (node(Kind::Const(Value::Bool(true))), Ty::Bool);
            }
            return (found, ty);
        }
        if let (Expr::Ident(net), false) = (&select.operand.expr, self.is_bound("net"))
            && net == "net"
            && let Some(name) = ["net.IP", "net.CIDR"]
                .iter()
                .find(|name| name[4..] == *select.field)
        {
            return (node(Kind::Const(Value::Type(name))), Ty::Dyn);
        }
        let (of, ty) = self.expr(&select.operand);
        let value = match ty {
            Ty::Dyn => Ty::Dyn,
            Ty::Map(value) => *value,
            other => {
                if self.family.is_some() {
                    self.error(
                        id,
                        format!("{other} has no fields, so no `{}`", select.field),
                        None,
                    );
                }
                Ty::Dyn
            }
        };
        let field = header_name(&of, &select.field);
        if select.test {
            return (node(Kind::Has(Box::new(of), field)), Ty::Bool);
        }
        (node(Kind::Select(Box::new(of), field)), value)
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Typed {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND, sides) => {
                let (mut sides, ty) = self.logic(sides, true);
                // What costs nothing and finds the rule stands first; see `key`.
                sides.sort_by_key(|side| super::key::keys(side).is_none());
                (node(Kind::And(sides)), ty)
            }
            (operators::LOGICAL_OR, sides) => {
                let (sides, ty) = self.logic(sides, false);
                (node(Kind::Or(sides)), ty)
            }
            (operators::NOT_STRICTLY_FALSE, [inner]) => {
                let (inner, _) = self.expr(inner);
                (node(Kind::NotStrictlyFalse(Box::new(inner))), Ty::Bool)
            }
            (operators::CONDITIONAL, [condition, yes, no]) => {
                let (condition_node, ty) = self.expr(condition);
                self.want(condition.id, &ty, &Ty::Bool, "the condition of ?:");
                let (yes, yes_ty) = self.expr(yes);
                let (no, no_ty) = self.expr(no);
                let ty = if yes_ty == no_ty { yes_ty } else { Ty::Dyn };
                (node(Kind::If(Box::new([condition_node, yes, no]))), ty)
            }
            _ => match self.macro_call(id, call) {
                Some(typed) => typed,
                None => self.function(id, call),
            },
        }
    }

    fn want(&mut self, id: u64, ty: &Ty, wanted: &Ty, what: &str) {
        if self.family.is_some() && !ty.fits(wanted) {
            self.error(id, format!("{what} is {wanted}, and this is {ty}"), None);
        }
    }

    /// The sides of `&&` or `||`; those of one inside it are its own.
    fn logic(&mut self, sides: &[Expression], and: bool) -> (Vec<Node>, Ty) {
        let mut nodes = Vec::with_capacity(sides.len());
        for side in sides {
            let (side_node, ty) = self.expr(side);
            self.want(side.id, &ty, &Ty::Bool, "a side of && or ||");
            match side_node.kind {
                Kind::And(inner) if and => nodes.extend(inner),
                Kind::Or(inner) if !and => nodes.extend(inner),
                _ => nodes.push(side_node),
            }
        }
        (nodes, Ty::Bool)
    }

    fn fold(&mut self, fold: &ComprehensionExpr) -> Typed {
        let (range, ty) = self.expr(&fold.iter_range);
        if fold.iter_var2.is_some() {
            self.error(
                fold.iter_range.id,
                "macros of two variables are not supported",
                None,
            );
        }
        let item = match &ty {
            Ty::List(item) => (**item).clone(),
            Ty::Map(_) => Ty::Text,
            Ty::Dyn => Ty::Dyn,
            other => {
                let message = format!("{other} cannot be walked; a list or a map can");
                self.error(fold.iter_range.id, message, None);
                Ty::Dyn
            }
        };
        let item = if self.family.is_some() { item } else { Ty::Dyn };
        let (init, init_ty) = self.expr(&fold.accu_init);
        let accu = if init_ty == Ty::Bool { Ty::Bool } else { Ty::Dyn };
        let depth = self.scope.len();
        self.scope.push((fold.accu_var.clone(), accu.clone()));
        self.scope.push((fold.iter_var.clone(), item));
        let (condition, _) = self.expr(&fold.loop_cond);
        let (step, _) = self.expr(&fold.loop_step);
        let (result, result_ty) = self.expr(&fold.result);
        self.scope.truncate(depth);
        let ty = if result_ty == Ty::Dyn && matches!(init_ty, Ty::List(_)) {
            init_ty
        } else {
            result_ty
        };
        let fold = Fold {
            range,
            init,
            condition,
            step,
            result,
        };
        (node(Kind::Fold(Box::new(fold))), ty)
    }
}
