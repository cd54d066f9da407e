//! `approver` and `policy` blocks.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::diagnostic::Diagnostic;
use super::super::hcl::Fields;
use super::super::{Approver, ApproverKind};
use super::{Kind, Loader};

impl<'a> Loader<'a> {
    pub(super) fn approvers(&mut self) {
        let mut texts = HashMap::new();
        for (key, _, _, at, placed) in self.of_kind(Kind::Policy) {
            let fields = self.fields(placed);
            let text = fields.text("text");
            if text.is_none() && !fields.has("text") {
                let message = format!("{} has no text", fields.title);
                self.findings
                    .error(Diagnostic::new(at, message).help("write text = <<-EOT … EOT"));
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
                    let help = "there are: human_approver, llm_approver";
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
        let approvers: Vec<String> = fields
            .texts("approvers")
            .into_iter()
            .map(|text| text.value)
            .collect();
        let required = required.unwrap_or(1);
        if !approvers.is_empty() && approvers.len() < required as usize {
            let message = format!("{required} people must allow, and only {} may", approvers.len());
            self.findings
                .error(Diagnostic::new(fields.at_of("approvers"), message).help("lower `require_approvers`"));
        }
        ApproverKind::Human {
            channel: fields.text("channel").map(|text| text.value),
            timeout: fields.duration("timeout"),
            require_approvers: required,
            approvers,
        }
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
            false => fields.text("policy").map(|text| text.value),
        };
        ApproverKind::Llm {
            model: model.unwrap_or_default(),
            credential: credential.and_then(|reference| self.resolve(Kind::Credential, &reference)),
            policy: policy.unwrap_or_default(),
        }
    }
}
