//! `credential` blocks: which secret goes into which slot of which endpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::diagnostic::{At, Diagnostic, nearest};
use super::super::hcl::Fields;
use super::super::{Credential, CredentialKind, SecretSource};
use super::{Kind, Loader};

/// Types whose slot is told by the vendor's public API documentation, beside our own.
pub(super) const TYPES: &[(&str, &str)] = &[
    ("bearer_token", "A bearer token in the Authorization header."),
    ("header_token", "A token in a header that `header` names."),
    ("basic_auth", "The password of a Basic pair."),
    ("cookie_token", "A token in a cookie that `cookie_name` names."),
    (
        "query_token",
        "A token in the parameter of the query that `parameter` names.",
    ),
    ("mtls_credential", "A client certificate towards the upstream."),
    (
        "postgres_credential",
        "The role and the password that log in to PostgreSQL.",
    ),
    ("anthropic_manual_key", "An API key in the header x-api-key."),
    ("gemini_api_key", "An API key in the header x-goog-api-key."),
    ("github_oauth", "A bearer token of GitHub's API."),
    ("notion_oauth", "A bearer token of Notion's API."),
    ("openai_api_key", "A bearer token of OpenAI's API."),
    ("discord_bot_token", "A bot's token of Discord's API."),
];

/// Types of the grammar that are bound and never sent yet.
pub(super) const UNREAD: &[&str] = &[
    "anthropic_oauth_subscription",
    "aws_credential",
    "clickhouse_credential",
    "google_gke_credential",
    "notion_mcp_oauth",
    "openai_codex_oauth",
    "slack_tokens",
    "ssh",
    "ssh_key",
    "tailscale",
    "telegram_bot_token",
];

impl<'a> Loader<'a> {
    pub(super) fn credentials(&mut self) {
        let mut bound = self.endpoint_bindings();
        for (key, type_name, name, at, placed) in self.of_kind(Kind::Credential) {
            let fields = self.fields(placed);
            let mut endpoints: Vec<Arc<str>> = self
                .endpoint_refs(&fields)
                .into_iter()
                .map(|(endpoint, _)| endpoint)
                .collect();
            for (_, endpoint) in bound.extract_if(.., |(credential, _)| **credential == *key) {
                if !endpoints.contains(&endpoint) {
                    endpoints.push(endpoint);
                }
            }
            if let Some(first) = self.model.credentials.iter().find(|own| own.name == name) {
                let other = self
                    .names
                    .get(&(Kind::Credential, first.key.to_string()))
                    .copied();
                let message = format!("`{key}` and `{}` share the placeholder {{{{{name}}}}}", first.key);
                let error = Diagnostic::new(at, message).help("names of credentials are unique");
                self.findings.error(error.other(other.unwrap_or(at)));
            }
            let Some(kind) = self.credential_kind(type_name, &fields, at) else {
                continue;
            };
            let secrets = self.secrets(&fields, &kind);
            fields.inert(&["idempotency_key"], "no header is added to what the agent sends");
            if let CredentialKind::Unread { .. } = kind {
                let message = format!("{}: this gateway cannot inject {type_name} yet", fields.title);
                self.findings
                    .note(Diagnostic::new(at, message).help("its use is refused"));
                fields.rest_inert("its type is not injected");
            } else {
                fields.finish();
            }
            let credential = Credential {
                key: key.into(),
                name: name.to_owned(),
                placeholder: format!("{{{{{name}}}}}"),
                kind,
                endpoints,
                secrets,
            };
            self.model.credentials.push(Arc::new(credential));
        }
    }

    /// The older direction: `credential = …` inside an endpoint.
    fn endpoint_bindings(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let mut bound = Vec::new();
        for (key, _, _, _, placed) in self.of_kind(Kind::Endpoint) {
            let fields = self.fields(placed);
            if let Some(reference) = fields.reference("credential") {
                let credential = self.resolve(Kind::Credential, &reference);
                bound.extend(credential.map(|credential| (credential, Arc::from(key.as_str()))));
            }
        }
        bound
    }

    fn credential_kind(&self, type_name: &str, fields: &Fields<'a>, at: At) -> Option<CredentialKind> {
        let text = |name| fields.text(name).map(|text| text.value);
        let fixed = |header: &str, prefix: &str| CredentialKind::Header {
            header: header.to_owned(),
            prefix: prefix.to_owned(),
        };
        Some(match type_name {
            "bearer_token" | "github_oauth" | "notion_oauth" | "openai_api_key" => CredentialKind::Bearer,
            "anthropic_manual_key" => fixed("x-api-key", ""),
            "gemini_api_key" => fixed("x-goog-api-key", ""),
            "discord_bot_token" => fixed("authorization", "Bot "),
            "header_token" => CredentialKind::Header {
                header: self.required(fields, "header", "X-Api-Key")?.to_ascii_lowercase(),
                prefix: text("prefix").unwrap_or_default(),
            },
            "basic_auth" => CredentialKind::Basic {
                username: text("username"),
            },
            "cookie_token" => CredentialKind::Cookie {
                name: self.required(fields, "cookie_name", "session")?,
            },
            "query_token" => CredentialKind::Query {
                parameter: self.required(fields, "parameter", "api_key")?,
            },
            "mtls_credential" => CredentialKind::Mtls,
            "postgres_credential" => CredentialKind::Postgres {
                user: text("user"),
                database: text("database"),
            },
            other if UNREAD.contains(&other) => CredentialKind::Unread {
                type_name: other.to_owned(),
            },
            other => {
                let names = || TYPES.iter().map(|row| row.0).chain(UNREAD.iter().copied());
                let near =
                    nearest(other, names()).map_or(String::new(), |near| format!("did you mean `{near}`? "));
                let help = format!("{near}There are: {}", names().collect::<Vec<_>>().join(", "));
                let message = format!("there is no credential type `{other}`");
                self.findings.error(Diagnostic::new(at, message).help(help));
                return None;
            }
        })
    }

    fn required(&self, fields: &Fields<'a>, name: &'static str, example: &str) -> Option<String> {
        let text = fields.text(name);
        if text.is_none() {
            let message = format!("{} has no `{name}`", fields.title);
            self.findings
                .error(Diagnostic::new(fields.at, message).help(format!("write {name} = \"{example}\"")));
        }
        text.map(|text| text.value)
    }

    fn secrets(&self, fields: &Fields<'a>, kind: &CredentialKind) -> Vec<(String, SecretSource)> {
        let mut secrets = Vec::new();
        if *kind == CredentialKind::Mtls {
            let nested = fields.nested("secrets");
            for slot in ["cert", "key"] {
                let own = self.secret(fields, slot);
                let within = nested.as_ref().and_then(|nested| self.secret(nested, slot));
                match own.or(within) {
                    Some(source) => secrets.push((slot.to_owned(), source)),
                    None => secrets.push((slot.to_owned(), SecretSource::Store)),
                }
            }
            let roots = "the endpoint's `ca_cert` names the roots that its server is trusted by";
            fields.inert(&["ca"], roots);
            if let Some(nested) = nested {
                nested.inert(&["ca"], roots);
                nested.finish();
            }
            return secrets;
        }
        let source = self.secret(fields, "secret").unwrap_or(SecretSource::Store);
        secrets.push((String::new(), source));
        secrets
    }

    fn secret(&self, fields: &Fields<'a>, slot: &'static str) -> Option<SecretSource> {
        let help = "write env(\"NAME\"), file(\"path\") or vault(\"path#field\"), or leave it out and use `tailkeep credentials set`";
        self.secret_of(fields, slot, help)
    }

    /// A secret of the gateway itself, for the tailnet or a channel.
    pub(super) fn own_secret(&self, fields: &Fields<'a>, slot: &'static str) -> Option<SecretSource> {
        let source = self.secret_of(fields, slot, "write env(\"NAME\") or file(\"path\")")?;
        if matches!(source, SecretSource::Vault(_)) {
            let message = format!("`{slot}` of {} cannot come from a vault here", fields.title);
            self.findings
                .error(Diagnostic::new(fields.at, message).help("write env(\"NAME\") or file(\"path\")"));
        }
        Some(source)
    }

    /// Where a field's secret is to be read from; never the secret itself.
    pub(super) fn secret_of(
        &self,
        fields: &Fields<'a>,
        slot: &'static str,
        help: &'static str,
    ) -> Option<SecretSource> {
        let call = match fields.call(slot)? {
            Ok(call) => call,
            Err(at) => {
                // The text itself is not repeated: it may be a real secret.
                let message = format!(
                    "a secret does not stand in a policy (`{slot}` of {})",
                    fields.title
                );
                self.findings
                    .error(Diagnostic::new(at, message).help(help).hidden());
                return None;
            }
        };
        let (function, argument) = call.value;
        if argument.is_empty() {
            let message = format!("`{function}` of {} names nothing", fields.title);
            self.findings.error(Diagnostic::new(call.at, message).help(help));
        }
        match function.as_str() {
            "env" => Some(SecretSource::Env(argument)),
            "file" => {
                let from = self.findings.sources.get(call.at.file)?;
                let folder = from.path.parent().unwrap_or(Path::new(""));
                Some(SecretSource::File(PathBuf::from(folder).join(argument)))
            }
            "vault" => {
                let message = format!("`{slot}` of {}: no vault is asked here yet", fields.title);
                let note = Diagnostic::new(call.at, message).help("the credential's use is refused");
                self.findings.note(note);
                Some(SecretSource::Vault(argument))
            }
            _ => {
                let message = format!("there is no secret source `{function}`");
                self.findings.error(Diagnostic::new(call.at, message).help(help));
                None
            }
        }
    }
}
