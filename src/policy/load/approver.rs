//! `approver` and `policy` blocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;

use super::super::diagnostic::Diagnostic;
use super::super::hcl::Fields;
use super::super::{APPROVER_GRANT, Approver, ApproverKind, Escalation, FailMode, Judge, Provider, Quiet};
use super::{Kind, Loader};

/// For one question to a judge, where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Percent of certainty below which a judge's `allow` counts for nothing, where nothing is said.
const CONFIDENCE_MIN: i64 = 70;
/// Bytes that a judge is sent, where nothing is said.
const REQUEST_BYTES: u64 = 48 << 10;
/// Bytes that a judge is sent at most: an action's text is cut beyond, and a judge sees no part.
const REQUEST_BYTES_MAX: i64 = 64 << 10;
/// Tokens of a judge's answer, where nothing is said: models think before they answer, and that is a part of it.
const ANSWER_TOKENS: u32 = 8 << 10;
/// Tokens of an answer that may be said: below, no model comes to its answer.
const ANSWER_TOKENS_MIN: i64 = 256;
const ANSWER_TOKENS_MAX: i64 = 64 << 10;
/// Questions an hour, and tokens a day, where nothing is said.
const REQUESTS_PER_HOUR: u64 = 1_000;
const TOKENS_PER_DAY: u64 = 5_000_000;

/// Each type with one sentence.
pub(super) const TYPES: &[(&str, &str)] = &[
    (
        "human_approver",
        "People, by `tailkeep approvals` and on the gateway's page.",
    ),
    ("llm_approver", "A model that judges by a policy text."),
];

impl<'a> Loader<'a> {
    pub(super) fn approvers(&mut self) {
        let mut texts = HashMap::new();
        for (key, _, _, at, placed) in self.of_kind(Kind::Policy) {
            let fields = self.fields(placed);
            let text = fields.text_or_file("text");
            if text.is_none() && !fields.has("text") {
                let message = format!("{} has no text", fields.title);
                self.findings.error(
                    Diagnostic::new(at, message)
                        .help("write text = <<-EOT … EOT, or text = file(\"judge.md\")"),
                );
            }
            texts.insert(key, text.map(|text| text.value).unwrap_or_default());
            fields.finish();
        }
        for (key, type_name, name, at, placed) in self.of_kind(Kind::Approver) {
            let fields = self.fields(placed);
            let kind = match type_name {
                "human_approver" => self.human(&fields),
                "llm_approver" => self.llm(&fields, &texts),
                _ => {
                    let message = format!("there is no approver type `{type_name}`");
                    let names: Vec<&str> = TYPES.iter().map(|row| row.0).collect();
                    let help = format!("there are: {}", names.join(", "));
                    self.findings.error(Diagnostic::new(at, message).help(help));
                    continue;
                }
            };
            fields.finish();
            let approver = Approver {
                key: key.into(),
                name: name.to_owned(),
                kind,
            };
            self.model.approvers.push(Arc::new(approver));
        }
    }

    fn human(&self, fields: &Fields<'a>) -> ApproverKind {
        for (name, kind) in [("credential", Kind::Credential), ("classifier", Kind::Approver)] {
            if let Some(reference) = fields.reference(name) {
                self.resolve(kind, &reference);
                let message = format!("`{name}` of {} has no effect here", fields.title);
                let help = "people decide with `tailkeep approvals` and on the gateway's page";
                self.findings
                    .note(Diagnostic::new(reference.at, message).help(help));
            }
        }
        let names = ["interactive", "message", "sync_wait_timeout", "async_grant"];
        fields.inert(
            &names,
            "people decide with `tailkeep approvals` and on the gateway's page",
        );
        let required = fields
            .size("require_approvers", 1..=100)
            .and_then(|count| u32::try_from(count).ok());
        let approvers = self.people(fields, "approvers");
        let required = required.unwrap_or(1);
        // A grant or a domain may stand for any number of people.
        let is_group = |name: &String| name.starts_with(APPROVER_GRANT) || name.starts_with("*@");
        let counted = !approvers.is_empty() && !approvers.iter().any(is_group);
        if counted && approvers.len() < required as usize {
            let message = format!("{required} people must allow, and only {} may", approvers.len());
            self.findings
                .error(Diagnostic::new(fields.at_of("approvers"), message).help("lower `require_approvers`"));
        }
        ApproverKind::Human {
            channel: fields.text("channel").map(|text| text.value),
            channels: self.channels_of(fields),
            timeout: fields.duration("timeout"),
            require_approvers: required,
            separation: fields.flag("separation").unwrap_or_default(),
            on_timeout: self.on_timeout(fields),
            escalation: self.escalation(fields, &approvers),
            quiet: self.quiet(fields),
            approvers,
        }
    }

    fn on_timeout(&self, fields: &Fields<'a>) -> FailMode {
        match fields.text("on_timeout") {
            Some(mode) if mode.value == "next" => FailMode::Next,
            Some(mode) if mode.value != "deny" => {
                self.one_of(
                    &mode,
                    "on_timeout",
                    "`deny` or `next`; nothing is allowed by a time-out",
                );
                FailMode::Deny
            }
            _ => FailMode::Deny,
        }
    }

    fn escalation(&self, fields: &Fields<'a>, approvers: &[String]) -> Option<Escalation> {
        let (after, to) = (
            fields.duration("escalate_after"),
            self.people(fields, "escalate_to"),
        );
        let wrong = match (after.is_some(), to.is_empty()) {
            (false, true) => return None,
            (true, true) => "`escalate_after` without `escalate_to`: there is nobody to escalate to",
            (false, false) => "`escalate_to` without `escalate_after`: they are never asked",
            (true, false) if approvers.is_empty() => {
                "everybody may decide already: `escalate_to` adds nobody without `approvers`"
            }
            (true, false) => return after.map(|after| Escalation { after, to }),
        };
        let name = if after.is_some() {
            "escalate_after"
        } else {
            "escalate_to"
        };
        let help = "write approvers = [\"ann@example.com\"], escalate_after = \"5m\" and escalate_to = [\"grant:lead\"]";
        self.findings
            .error(Diagnostic::new(fields.at_of(name), wrong.to_owned()).help(help));
        None
    }

    fn quiet(&self, fields: &Fields<'a>) -> Option<Quiet> {
        let (hours, zone) = (fields.text("quiet_hours"), fields.text("quiet_zone"));
        let at = match &zone {
            None => Tz::UTC,
            Some(zone) => zone.value.parse().unwrap_or_else(|_| {
                self.one_of(zone, "quiet_zone", "a zone's name, such as `Europe/Berlin`");
                Tz::UTC
            }),
        };
        let Some(hours) = hours else {
            if let Some(zone) = zone {
                self.findings.error(
                    Diagnostic::new(zone.at, "`quiet_zone` without `quiet_hours`".to_owned())
                        .help("write quiet_hours = \"22:00-07:00\""),
                );
            }
            return None;
        };
        let quiet = Quiet::parse(&hours.value, at);
        if quiet.is_none() {
            self.one_of(&hours, "quiet_hours", "a span of hours, such as `22:00-07:00`");
        }
        quiet
    }

    /// Who may decide, each once; a login in lower case.
    fn people(&self, fields: &Fields<'a>, name: &'static str) -> Vec<String> {
        let mut people: Vec<String> = Vec::new();
        for text in fields.texts(name) {
            let (name, domain) = text.value.split_once('@').unwrap_or((&text.value, "x"));
            let wrong = match text.value.strip_prefix(APPROVER_GRANT) {
                Some(grant) => grant.is_empty() || grant.contains('/'),
                None => {
                    let is_domain = name == "*" && domain != "x";
                    name.is_empty()
                        || domain.is_empty()
                        || domain.contains('*')
                        || (name.contains('*') && !is_domain)
                        || name.starts_with("tag:")
                }
            };
            if wrong {
                let message = format!("`{}` cannot decide", text.value);
                let help = "people decide: \"alice@example.com\", \"*@example.com\", \"grant:oncall\" \
                            (app capability tailkeep.dev/cap/approver), or an account of the gateway's machine";
                self.findings.error(Diagnostic::new(text.at, message).help(help));
            }
            let person = match text.value.contains('@') && !text.value.starts_with(APPROVER_GRANT) {
                true => text.value.to_ascii_lowercase(),
                false => text.value,
            };
            if !people.contains(&person) {
                people.push(person);
            }
        }
        people
    }

    fn llm(&self, fields: &Fields<'a>, texts: &HashMap<String, String>) -> ApproverKind {
        let model = fields.text("model").map(|text| text.value);
        if model.is_none() {
            let message = format!("{} names no model", fields.title);
            self.findings
                .error(Diagnostic::new(fields.at, message).help("write model = \"…\""));
        }
        let credential = fields.reference("credential");
        let policy = match fields.is_reference("policy") {
            true => {
                let key = fields
                    .reference("policy")
                    .and_then(|policy| self.resolve(Kind::Policy, &policy));
                key.and_then(|key| texts.get(&*key).cloned())
            }
            false => fields.text_or_file("policy").map(|text| text.value),
        };
        let model = model.unwrap_or_default();
        let provider = self.provider(fields, &model);
        let fail_mode = match fields.text("fail_mode") {
            Some(mode) if mode.value == "next" => FailMode::Next,
            Some(mode) if mode.value == "deny" => FailMode::Deny,
            Some(mode) => {
                self.one_of(&mode, "fail_mode", "`deny` or `next`");
                FailMode::Deny
            }
            None => FailMode::Deny,
        };
        let number = |name, most, otherwise| {
            let given = fields.size(name, 1..=most);
            given
                .and_then(|given| u64::try_from(given).ok())
                .unwrap_or(otherwise)
        };
        let confidence = fields.size("confidence_min", 0..=100).unwrap_or(CONFIDENCE_MIN);
        ApproverKind::Llm(Box::new(Judge {
            base_url: self.base_url(fields, provider),
            provider,
            model,
            credential: credential.and_then(|reference| self.resolve(Kind::Credential, &reference)),
            policy: policy.unwrap_or_default(),
            timeout: fields.duration("timeout").unwrap_or(TIMEOUT),
            fail_mode,
            confidence_min: confidence as f64 / 100.0,
            cache: fields.duration("cache").unwrap_or_default(),
            request_bytes_max: number("request_bytes_max", REQUEST_BYTES_MAX, REQUEST_BYTES) as usize,
            answer_tokens_max: fields
                .size("answer_tokens_max", ANSWER_TOKENS_MIN..=ANSWER_TOKENS_MAX)
                .and_then(|given| u32::try_from(given).ok())
                .unwrap_or(ANSWER_TOKENS),
            requests_per_hour: number("requests_per_hour", 1 << 30, REQUESTS_PER_HOUR),
            tokens_per_day: number("tokens_per_day", 1 << 40, TOKENS_PER_DAY),
        }))
    }

    fn provider(&self, fields: &Fields<'a>, model: &str) -> Provider {
        match fields.text("provider") {
            Some(name) if name.value == "anthropic" => Provider::Anthropic,
            Some(name) if name.value == "openai" => Provider::Openai,
            Some(name) => {
                self.one_of(&name, "provider", "`anthropic` or `openai`");
                Provider::Anthropic
            }
            None if model.starts_with("claude") => Provider::Anthropic,
            None => Provider::Openai,
        }
    }

    fn base_url(&self, fields: &Fields<'a>, provider: Provider) -> String {
        let given = fields.text("base_url");
        if let Some(url) = &given
            && !["https://", "http://"]
                .iter()
                .any(|scheme| url.value.starts_with(scheme))
        {
            self.one_of(url, "base_url", "a URL, https://judge.internal");
        }
        let own = match provider {
            Provider::Anthropic => "https://api.anthropic.com",
            Provider::Openai => "https://api.openai.com",
        };
        given.map_or_else(|| own.to_owned(), |url| url.value)
    }
}
