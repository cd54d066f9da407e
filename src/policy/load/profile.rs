//! `profile` blocks: who they are for, what they hold, which rules are theirs.

use std::sync::Arc;

use super::super::diagnostic::{At, Diagnostic};
use super::super::hcl::{Fields, Spot};
use super::super::{CredentialKind, Held, Profile};
use super::{Kind, Loader, Placed};

impl<'a> Loader<'a> {
    pub(super) fn profiles(&mut self) {
        for (key, _, name, at, placed) in self.of_kind(Kind::Profile) {
            let fields = self.fields(placed);
            let mut profile = Profile {
                name: name.into(),
                tags: self.tags(&fields),
                logins: self.logins(&fields),
                nodes: values(fields.texts("nodes")),
                peers: values(fields.texts("peers")),
                grants: values(fields.texts("grants")),
                credentials: self.held(&fields),
                endpoints: Vec::new(),
            };
            for credential in &profile.credentials {
                let Some(credential) = self.model.credential(&credential.credential) else {
                    continue;
                };
                extend(&mut profile.endpoints, credential.endpoints.iter().cloned());
            }
            extend(
                &mut profile.endpoints,
                self.endpoint_refs(&fields).into_iter().map(|(key, _)| key),
            );
            for environment in fields.references("environments") {
                self.resolve(Kind::Environment, &environment);
            }
            fields.inert(
                &["environments", "hitl_async_grants", "allow_ephemeral_oidc"],
                "it is part of the grammar and not built here",
            );
            let rules = fields.nested_blocks("rule");
            fields.finish();
            for block in rules {
                let placed = Placed {
                    file: placed.file,
                    block,
                };
                let named = self.rule(placed, Some(&profile.name));
                extend(&mut profile.endpoints, named.into_iter());
            }
            self.fallbacks(&mut profile, at);
            self.empty(&profile, at);
            debug_assert_eq!(key, name);
            self.model.profiles.push(Arc::new(profile));
        }
    }

    fn tags(&self, fields: &Fields<'a>) -> Vec<String> {
        let tags = fields.texts("tags");
        for tag in &tags {
            if !tag.value.starts_with("tag:") || tag.value.len() < 5 {
                let near = format!("tag:{}", tag.value.trim_start_matches("tag:"));
                let message = format!("`{}` is not a tailnet tag", tag.value);
                self.findings
                    .error(Diagnostic::new(tag.at, message).help(format!("write \"{near}\"")));
            }
        }
        values(tags)
    }

    fn logins(&self, fields: &Fields<'a>) -> Vec<String> {
        let logins = fields.texts("logins");
        for login in &logins {
            let name = login.value.strip_prefix("*@").unwrap_or(&login.value);
            if name.is_empty() || name.contains('*') {
                let message = format!("`{}` is not a login", login.value);
                let help = "write \"alice@example.com\", or \"*@example.com\" for everyone of a domain";
                self.findings.error(Diagnostic::new(login.at, message).help(help));
            }
        }
        logins
            .into_iter()
            .map(|login| login.value.to_ascii_lowercase())
            .collect()
    }

    fn held(&self, fields: &Fields<'a>) -> Vec<Held> {
        let mut held: Vec<Held> = Vec::new();
        for item in fields.mixed("credentials") {
            let (reference, placeholder) = match item {
                Ok(reference) => (Some(reference), None),
                Err(object) => {
                    let reference = object.reference("credential");
                    let placeholder = object.text("placeholder");
                    if reference.is_none() && !object.has("credential") {
                        let help = "write { placeholder = \"PH_…\", credential = type.name }";
                        self.findings
                            .error(Diagnostic::new(object.at, "no credential is named").help(help));
                    }
                    object.inert(&["user", "database"], "set it on the credential");
                    object.finish();
                    (reference, placeholder)
                }
            };
            let Some(reference) = reference else { continue };
            let Some(key) = self.resolve(Kind::Credential, &reference) else {
                continue;
            };
            if held.iter().any(|own| own.credential == key) {
                self.findings
                    .error(Diagnostic::new(reference.at, format!("`{key}` is listed twice")));
                continue;
            }
            let name = key.split_once('.').map_or(&*key, |(_, name)| name);
            let mut placeholders = vec![format!("{{{{{name}}}}}")];
            placeholders.extend(placeholder.as_ref().map(|text| text.value.clone()));
            let fallback = placeholder.is_none();
            if let Some(text) = placeholder.filter(|text| text.value.len() < 4) {
                let message = format!(
                    "the placeholder `{}` is too short to be told from other text",
                    text.value
                );
                self.findings
                    .error(Diagnostic::new(text.at, message).help("give it 4 characters or more"));
            }
            held.push(Held {
                credential: key,
                placeholders,
                fallback,
            });
        }
        held
    }

    /// At most one credential of an endpoint may be used where the agent names none. Those of
    /// Postgres that log in as different users tell themselves apart by the user that the agent
    /// names, and none of them is the fallback.
    fn fallbacks(&self, profile: &mut Profile, at: At) {
        let fallback = |profile: &Profile, endpoint: &Arc<str>| -> Vec<usize> {
            let own = profile.credentials.iter().enumerate();
            own.filter(|(_, held)| held.fallback)
                .filter(|(_, held)| {
                    let credential = self.model.credential(&held.credential);
                    credential.is_some_and(|credential| credential.endpoints.contains(endpoint))
                })
                .map(|(index, _)| index)
                .collect()
        };
        for endpoint in profile.endpoints.clone() {
            let several = fallback(profile, &endpoint);
            if several.len() < 2 {
                continue;
            }
            let names: Vec<Arc<str>> = several
                .iter()
                .filter_map(|index| Some(profile.credentials.get(*index)?.credential.clone()))
                .collect();
            let mut users: Vec<String> = names.iter().filter_map(|key| self.login(key)).collect();
            users.sort();
            users.dedup();
            if users.len() == names.len() {
                for index in several {
                    if let Some(held) = profile.credentials.get_mut(index) {
                        held.fallback = false;
                    }
                }
                continue;
            }
            let listed = names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ");
            let message = format!(
                "profile `{}` holds {listed} for `{endpoint}`, and nothing tells them apart",
                profile.name
            );
            let help = "give all but one a placeholder: { placeholder = \"PH_…\", credential = type.name }";
            self.findings.error(Diagnostic::new(at, message).help(help));
        }
    }

    /// The name that a credential logs in by, where its protocol has one.
    fn login(&self, key: &str) -> Option<String> {
        match &self.model.credential(key)?.kind {
            CredentialKind::Postgres { user, .. } => user.clone(),
            _ => None,
        }
    }

    fn empty(&self, profile: &Profile, at: At) {
        let lists = [
            &profile.tags,
            &profile.logins,
            &profile.nodes,
            &profile.peers,
            &profile.grants,
        ];
        if lists.iter().all(|list| list.is_empty()) {
            let message = format!("profile `{}` is for nobody", profile.name);
            let help = "name its agents by `tags`, `logins`, `nodes`, `peers` or `grants`";
            self.findings.note(Diagnostic::new(at, message).help(help));
        }
    }

    /// An agent that two profiles claim is refused; what shows here is an error here.
    pub(super) fn check_profiles(&self) {
        for (index, one) in self.model.profiles.iter().enumerate() {
            for two in self.model.profiles.iter().skip(index + 1) {
                let lists = [
                    ("tag", &one.tags, &two.tags),
                    ("login", &one.logins, &two.logins),
                    ("node", &one.nodes, &two.nodes),
                    ("peer", &one.peers, &two.peers),
                    ("grant", &one.grants, &two.grants),
                ];
                for (what, first, second) in lists {
                    for (a, b) in first.iter().flat_map(|a| second.iter().map(move |b| (a, b))) {
                        if a == b || (what == "login" && (login_matches(a, b) || login_matches(b, a))) {
                            self.claimed_twice((&one.name, a), (&two.name, b), what);
                        }
                    }
                }
            }
        }
    }

    fn claimed_twice(&self, one: (&str, &str), two: (&str, &str), what: &str) {
        let place = |name: &str| {
            self.names
                .get(&(Kind::Profile, name.to_owned()))
                .copied()
                .unwrap_or_default()
        };
        let message = format!(
            "{what} `{}` of profile `{}` is also claimed by profile `{}` (`{}`)",
            two.1, two.0, one.0, one.1
        );
        let help = "an agent has one profile; take it out of one of them";
        self.findings.error(
            Diagnostic::new(place(two.0), message)
                .help(help)
                .other(place(one.0)),
        );
    }
}

/// Whether a login, in lower case, is `pattern`, or of the domain that `*@domain` names.
pub fn login_matches(pattern: &str, login: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(domain) => {
            domain.starts_with('@')
                && login.len() > domain.len()
                && login.ends_with(domain)
                && login.matches('@').count() == 1
        }
        None => pattern == login,
    }
}

fn values(texts: Vec<Spot<String>>) -> Vec<String> {
    texts.into_iter().map(|text| text.value).collect()
}

fn extend(list: &mut Vec<Arc<str>>, more: impl Iterator<Item = Arc<str>>) {
    for key in more {
        if !list.contains(&key) {
            list.push(key);
        }
    }
}
