//! `rule` blocks, at the top and inside a profile.

use std::sync::Arc;

use super::super::cel::{CelError, Condition};
use super::super::diagnostic::{At, Diagnostic};
use super::super::hcl::{self, Fields, Spot};
use super::super::rule::{Outcome, Rule};
use super::super::{Limit, Per, Protocol};
use super::{Kind, Loader, Placed};
use crate::facts::Family;

impl<'a> Loader<'a> {
    pub(super) fn top_rules(&mut self) {
        for (_, _, _, _, placed) in self.of_kind(Kind::Rule) {
            self.rule(placed, None);
        }
    }

    /// Reads one rule; returns the endpoints that it names.
    pub(super) fn rule(&mut self, placed: Placed<'a>, profile: Option<&Arc<str>>) -> Vec<Arc<str>> {
        let fields = self.fields(placed);
        let Some(name) = self.rule_name(placed, profile) else {
            return Vec::new();
        };
        let endpoints = self.endpoint_refs(&fields);
        let keys: Vec<Arc<str>> = endpoints.iter().map(|(key, _)| key.clone()).collect();
        if !fields.has("endpoint") && !fields.has("endpoints") {
            let message = format!("{} names no endpoint", fields.title);
            self.findings
                .error(Diagnostic::new(fields.at, message).help("write endpoint = type.name"));
        }
        let credential = fields.reference("credential");
        let credential = credential.and_then(|reference| self.resolve(Kind::Credential, &reference));
        let outcome = self.outcome(&fields);
        let condition = self.condition(&fields, &endpoints);
        let condition_at = fields.text("condition").map(|text| text.at);
        let priority = fields.int("priority").map_or(0, |priority| priority.value);
        let disabled = fields.flag("disabled").unwrap_or(false);
        let shadow = match fields.text("mode") {
            Some(mode) if mode.value == "shadow" => true,
            Some(mode) if mode.value == "enforce" => false,
            Some(mode) => {
                self.one_of(&mode, "mode", "`shadow` or `enforce`");
                false
            }
            None => false,
        };
        let limits = self.rule_limits(&fields);
        let reason = fields.text("reason").map(|text| text.value);
        if disabled {
            let message = format!("{} is disabled and never walked", fields.title);
            self.findings.note(Diagnostic::new(fields.at, message));
        }
        fields.finish();
        if let (Some(outcome), Ok(condition)) = (outcome, condition)
            && !disabled
        {
            let order = self.rules.len();
            let endpoints = keys.clone();
            let at = name_at(placed);
            let condition_at = condition_at.filter(|_| condition.is_some());
            let profile = profile.cloned();
            self.rules.push(Rule {
                name,
                endpoints,
                profile,
                credential,
                condition,
                outcome,
                reason,
                priority,
                shadow,
                limits,
                order,
                at,
                condition_at,
            });
        }
        keys
    }

    fn rule_limits(&self, fields: &Fields<'a>) -> Option<Arc<[Limit]>> {
        let mut limits = Vec::new();
        for own in fields.nested_all("limit") {
            let per = match own.text("per") {
                None => Some(Per::Agent),
                Some(per) => match per.value.as_str() {
                    "agent" => Some(Per::Agent),
                    "profile" => Some(Per::Profile),
                    "endpoint" => Some(Per::Endpoint),
                    "rule" => Some(Per::Rule),
                    _ => {
                        self.one_of(&per, "per", "`agent`, `profile`, `endpoint` or `rule`");
                        None
                    }
                },
            };
            let rate = own.text("rate");
            if rate.is_none() && !own.has("rate") {
                let help = "write rate = \"30/m\"";
                self.findings
                    .error(Diagnostic::new(own.at, "a limit has no `rate`").help(help));
            }
            if let (Some(rate), Some(per)) = (rate, per) {
                match Limit::rate(&rate.value) {
                    Some((count, window)) => limits.push(Limit { count, window, per }),
                    None => self.one_of(
                        &rate,
                        "rate",
                        "a number (to 10000) and a time (to 31d), such as \"30/m\" or \"5/10s\"",
                    ),
                }
            }
            own.finish();
        }
        (!limits.is_empty()).then(|| limits.into())
    }

    /// A part that fails where the action lacks something: a note.
    fn fragile(&self, text: &Spot<String>, condition: &Condition) {
        for found in condition.fragile() {
            let message = format!(
                "`{}` fails where it is missing, and a condition that fails denies",
                found.part
            );
            let help = format!("write `{} && …` if what lacks it is not meant", found.guard);
            self.findings.note(Diagnostic::new(text.at, message).help(help));
        }
    }

    /// A literal that no action has: a note.
    fn foreign(&self, text: &Spot<String>, condition: &Condition) {
        for found in condition.foreign() {
            let message = format!("`{}` is never {}: {}", found.of, found.literal, found.why);
            let help = "correct the literal, or take the comparison out";
            self.findings.note(Diagnostic::new(text.at, message).help(help));
        }
    }

    /// A nested rule's name is `profile/name`, so that two profiles may have rules of one name.
    fn rule_name(&mut self, placed: Placed<'a>, profile: Option<&Arc<str>>) -> Option<Arc<str>> {
        let at = hcl::at(placed.file, hcl_edit::Span::span(&placed.block.ident));
        let [label] = placed.block.labels.as_slice() else {
            let error = Diagnostic::new(at, "a rule has one label, its name");
            self.findings.error(error.help("write rule \"name\" { … }"));
            return None;
        };
        let Some(profile) = profile else {
            return Some(label.as_str().into());
        };
        let name = format!("{profile}/{}", label.as_str());
        if let Some(first) = self.names.insert((Kind::Rule, name.clone()), at) {
            self.findings
                .error(Diagnostic::new(at, format!("rule `{name}` is declared twice")).other(first));
            return None;
        }
        Some(name.into())
    }

    fn outcome(&self, fields: &Fields<'a>) -> Option<Outcome> {
        let verdict = fields.text("verdict");
        let approve = fields.references("approve");
        let chain: Vec<Arc<str>> = approve
            .iter()
            .filter_map(|reference| self.resolve(Kind::Approver, reference))
            .collect();
        let help = "write verdict = \"allow\", verdict = \"deny\", or approve = [type.name, …]";
        match (verdict, fields.has("approve")) {
            (Some(verdict), false) => match verdict.value.as_str() {
                "allow" => Some(Outcome::Allow),
                "deny" => Some(Outcome::Deny),
                _ => {
                    self.one_of(&verdict, "verdict", "`allow` or `deny`");
                    None
                }
            },
            (Some(verdict), true) => {
                let message = format!("{} has a verdict and an approve chain", fields.title);
                self.findings
                    .error(Diagnostic::new(verdict.at, message).help(help));
                None
            }
            (None, true) if approve.is_empty() => {
                let message = format!("the approve chain of {} is empty", fields.title);
                self.findings
                    .error(Diagnostic::new(fields.at_of("approve"), message).help(help));
                None
            }
            // A chain with a hole would ask fewer people than was meant.
            (None, true) => (chain.len() == approve.len()).then_some(Outcome::Approve(chain)),
            (None, false) => {
                if !fields.has("verdict") {
                    let message = format!("{} has no outcome", fields.title);
                    self.findings
                        .error(Diagnostic::new(fields.at, message).help(help));
                }
                None
            }
        }
    }

    /// Compiles the condition for the family of the rule's endpoints.
    fn condition(&self, fields: &Fields<'a>, endpoints: &[(Arc<str>, At)]) -> Result<Option<Condition>, ()> {
        let text = fields.text("condition");
        let mut family: Option<(Family, &Arc<str>)> = None;
        let mut readable = false;
        for (key, at) in endpoints {
            let Some(endpoint) = self.model.endpoint(key) else {
                continue;
            };
            readable |= endpoint.protocol != Protocol::Unread || endpoint.family != Family::Agent;
            match family {
                Some((first, name)) if first != endpoint.family => {
                    let message = format!(
                        "`{name}` is of family {first} and `{key}` of family {}",
                        endpoint.family
                    );
                    let help = "a rule is for endpoints of one family; write a rule for each";
                    self.findings.error(Diagnostic::new(*at, message).help(help));
                    return Err(());
                }
                _ => family = Some((endpoint.family, key)),
            }
        }
        let Some(text) = text else {
            return if fields.has("condition") {
                Err(())
            } else {
                Ok(None)
            };
        };
        if text.value.trim().is_empty() {
            return Ok(None);
        }
        let Some((family, _)) = family else {
            return Err(());
        };
        if !readable {
            let message = format!("the condition of {} is not checked", fields.title);
            let help = "its endpoints are refused whole, as their protocol is not read yet";
            self.findings.note(Diagnostic::new(text.at, message).help(help));
            return Err(());
        }
        match Condition::compile(&text.value, family) {
            Ok(condition) => {
                self.fragile(&text, &condition);
                self.foreign(&text, &condition);
                Ok(Some(condition))
            }
            Err(errors) => {
                for error in errors {
                    self.cel_error(&text, error);
                }
                Err(())
            }
        }
    }

    fn cel_error(&self, text: &Spot<String>, error: CelError) {
        let raw = self
            .findings
            .sources
            .get(text.at.file)
            .map(|source| source.text.as_str());
        let raw = raw
            .and_then(|raw| raw.get(text.at.start..text.at.end))
            .unwrap_or("");
        let (start, end) = (
            raw_offset(raw, &text.value, error.start),
            raw_offset(raw, &text.value, error.end),
        );
        let at = At {
            file: text.at.file,
            start: text.at.start + start,
            end: text.at.start + end.max(start),
        };
        let mut diagnostic = Diagnostic::new(at, error.message);
        diagnostic.help = error.help;
        self.findings.error(diagnostic);
    }
}

fn name_at(placed: Placed<'_>) -> At {
    let span = placed.block.labels.first().and_then(hcl_edit::Span::span);
    hcl::at(
        placed.file,
        span.or_else(|| hcl_edit::Span::span(&placed.block.ident)),
    )
}

/// Where byte `offset` of a text stands in the HCL that wrote it: behind escapes, or in the lines
/// of a heredoc whose indentation was taken off.
pub(in crate::policy) fn raw_offset(raw: &str, text: &str, offset: usize) -> usize {
    if raw.starts_with('"') {
        let mut position = 1;
        let mut read = 0;
        let mut rest = raw.get(1..).unwrap_or("").char_indices().peekable();
        while let Some((index, c)) = rest.next() {
            position = index + 1;
            if read >= offset {
                break;
            }
            if c == '\\' {
                match rest.next() {
                    Some((_, 'u')) => {
                        rest.by_ref().take(4).count();
                    }
                    Some((_, 'U')) => {
                        rest.by_ref().take(8).count();
                    }
                    _ => {}
                }
            }
            read += text
                .get(read..)
                .and_then(|rest| rest.chars().next())
                .map_or(1, char::len_utf8);
        }
        return position.min(raw.len());
    }
    // A heredoc: its lines follow the one with the marker.
    let body = raw
        .find('\n')
        .map_or(0, |index| if raw.starts_with("<<") { index + 1 } else { 0 });
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count();
    let column = before.len() - before.rfind('\n').map_or(0, |index| index + 1);
    let mut start = body;
    let mut lines = raw.get(body..).unwrap_or("").split_inclusive('\n');
    for _ in 0..line {
        start += lines.next().map_or(0, str::len);
    }
    let raw_line = lines.next().unwrap_or("").trim_end_matches(['\n', '\r']);
    let own = text.split('\n').nth(line).unwrap_or("").trim_end_matches('\r');
    let indent = raw_line.len().saturating_sub(own.len());
    (start + indent + column).min(raw.len())
}
