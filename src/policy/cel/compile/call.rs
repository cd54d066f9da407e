//! Calls: the function that is meant, its literal zone or pattern. *Pure.*

use cel::common::ast::{CallExpr, Expr};
use cel::parser::Expression;
use regex::RegexBuilder;

use super::literal::fold_case;
use super::{Compiler, Typed, node, null};
use crate::facts::Slot;
use crate::policy::cel::REGEX_BYTES_MAX;
use crate::policy::cel::function::{self, Ty};
use crate::policy::cel::node::{Kind, Node};
use crate::policy::cel::time::Zone;
use crate::policy::cel::value::Value;
use crate::policy::diagnostic::nearest;

impl Compiler<'_> {
    pub(super) fn function(&mut self, id: u64, call: &CallExpr) -> Typed {
        // `sets.contains(a, b)` is parsed as a method of `sets`.
        let mut full = call.func_name.clone();
        let mut exprs: Vec<&Expression> = Vec::new();
        let mut member = false;
        if let Some(target) = &call.target {
            match &target.expr {
                Expr::Ident(space) if function::is_namespace(space) && !self.is_bound(space) => {
                    full = format!("{space}.{full}");
                }
                _ => {
                    member = true;
                    exprs.push(target);
                }
            }
        }
        exprs.extend(&call.args);
        let mut typed: Vec<Typed> = exprs.iter().map(|expr| self.expr(expr)).collect();
        if full == "matches" && typed.len() == 2 {
            return self.matches(id, typed);
        }
        if member
            && typed.len() == 2
            && let Some((date, ty)) = function::find(&full, true, 1).filter(|(found, _)| found.is_date())
        {
            return self.zoned(id, date, ty, typed);
        }
        let Some((found, ty)) = function::find(&full, member, typed.len()) else {
            let near = nearest(&full, function::names());
            let near = near.map_or(String::new(), |near| format!("did you mean `{near}`? "));
            let help = format!(
                "{near}There are: {}",
                function::names().collect::<Vec<_>>().join(", ")
            );
            let message = format!(
                "there is no function `{full}` of {} arguments here",
                call.args.len()
            );
            self.error(id, message, Some(&help));
            return null(Ty::Dyn);
        };
        if self.family.is_some() {
            let types: Vec<&Ty> = typed.iter().map(|(_, ty)| ty).collect();
            if let Err(message) = function::check(found, &types) {
                self.error(id, message, None);
            }
        }
        fold_case(found, &mut typed);
        let ty = function::result(found, ty, &typed.iter().map(|(_, ty)| ty).collect::<Vec<_>>());
        let mut args: Vec<Node> = typed.into_iter().map(|(arg, _)| arg).collect();
        if found.is_regex() && args.len() > 1 {
            let pattern = args.remove(1);
            return match self.pattern(id, &full, pattern, false) {
                Some(regex) => (node(Kind::Regex(found, Box::new(regex), args)), ty),
                None => null(ty),
            };
        }
        (node(Kind::Call(found, args)), ty)
    }

    /// `now.getHours('Europe/Berlin')`: the zone is looked up at load.
    fn zoned(&mut self, id: u64, date: function::Function, ty: Ty, typed: Vec<Typed>) -> Typed {
        let mut typed = typed.into_iter();
        let (Some((time, time_ty)), Some((zone, _))) = (typed.next(), typed.next()) else {
            return null(ty);
        };
        self.want(id, &time_ty, &Ty::Other, "what a zone is for");
        let Kind::Const(Value::Text(name)) = &zone.kind else {
            let message = format!("the zone of `{}` is not a literal", date.name());
            self.error(id, message, Some("only a literal zone is looked up at load"));
            return null(ty);
        };
        match Zone::find(name) {
            Some(zone) => (node(Kind::Date(date, Box::new(time), zone)), ty),
            None => {
                let help = "write a name of the tz database, 'Europe/Berlin', or an offset, '+02:00'";
                self.error(id, format!("there is no time zone `{name}`"), Some(help));
                null(ty)
            }
        }
    }

    pub(super) fn is_bound(&self, ident: &str) -> bool {
        self.scope.iter().any(|(name, _)| name == ident) || self.names_alias(ident)
    }

    fn matches(&mut self, id: u64, typed: Vec<Typed>) -> Typed {
        let mut typed = typed.into_iter();
        let (Some((text, ty)), Some((pattern, _))) = (typed.next(), typed.next()) else {
            return null(Ty::Bool);
        };
        self.want(id, &ty, &Ty::Text, "what `matches` reads");
        let method = matches!(text.kind, Kind::Slot(Slot::HttpMethod));
        match self.pattern(id, "matches", pattern, method) {
            Some(regex) => (node(Kind::Matches(Box::new(text), regex)), Ty::Bool),
            None => null(Ty::Bool),
        }
    }

    /// A literal pattern, compiled.
    fn pattern(&mut self, id: u64, name: &str, pattern: Node, insensitive: bool) -> Option<regex::Regex> {
        let Kind::Const(Value::Text(pattern)) = pattern.kind else {
            let help = Some("only a literal pattern is compiled at load");
            self.error(id, format!("the pattern of `{name}` is not a literal"), help);
            return None;
        };
        let built = RegexBuilder::new(&pattern)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .case_insensitive(insensitive)
            .build();
        match built {
            Ok(regex) => Some(regex),
            Err(error) => {
                self.error(id, format!("not a regular expression: {error}"), None);
                None
            }
        }
    }
}
