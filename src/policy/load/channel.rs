//! `channel` blocks: where people are told of held actions.

use std::sync::Arc;

use super::super::diagnostic::Diagnostic;
use super::super::hcl::Fields;
use super::super::{Channel, ChannelKind, ChannelPerson, Mail, SecretSource};
use super::{Kind, Loader};

/// Where Slack's API is.
const SLACK: &str = "https://slack.com/api";
/// Mail is handed in there where the server names no port: by STARTTLS, and by TLS from the start.
const SUBMISSION: (u16, u16) = (587, 465);
/// Channels of one approver.
pub(super) const CHANNELS_MAX: usize = 8;

/// Each type with one sentence.
pub(super) const TYPES: &[(&str, &str)] = &[
    ("slack", "A Slack conversation: messages with buttons."),
    (
        "webhook",
        "Signed requests to a system of your own, which may decide by a signed request back.",
    ),
    ("ntfy", "A push by ntfy, with a link to the page."),
    ("email", "A mail with a link to the page."),
];

impl<'a> Loader<'a> {
    pub(super) fn channels(&mut self) {
        for (key, type_name, name, at, placed) in self.of_kind(Kind::Channel) {
            let fields = self.fields(placed);
            let (kind, wanted, others): (_, &[_], &[_]) = match type_name {
                "slack" => (self.slack(&fields), &["token", "signing_secret"], &[]),
                "webhook" => (self.webhook(&fields), &["secret"], &[]),
                "ntfy" => (self.ntfy(&fields), &[], &["token"]),
                "email" => (self.email(&fields), &[], &["password"]),
                _ => {
                    let message = format!("there is no channel type `{type_name}`");
                    let names: Vec<&str> = TYPES.iter().map(|row| row.0).collect();
                    let help = format!("there are: {}", names.join(", "));
                    self.findings.error(Diagnostic::new(at, message).help(help));
                    continue;
                }
            };
            let mut secrets: Vec<(&'static str, SecretSource)> = Vec::new();
            for field in wanted.iter().chain(others) {
                if let Some(source) = self.own_secret(&fields, field) {
                    secrets.push((*field, source));
                } else if wanted.contains(field) && !fields.has(field) {
                    let message = format!("{} has no `{field}`", fields.title);
                    let help = format!("write {field} = env(\"NAME\") or file(\"path\")");
                    self.findings.error(Diagnostic::new(at, message).help(help));
                }
            }
            fields.finish();
            self.model.channels.push(Arc::new(Channel {
                key: key.into(),
                name: name.to_owned(),
                kind,
                secrets,
            }));
        }
    }

    /// The channels that an approver names.
    pub(super) fn channels_of(&self, fields: &Fields<'a>) -> Vec<Arc<str>> {
        let mut keys: Vec<Arc<str>> = Vec::new();
        for reference in fields.references("channels") {
            if let Some(key) = self.resolve(Kind::Channel, &reference)
                && !keys.contains(&key)
            {
                keys.push(key);
            }
        }
        if keys.len() > CHANNELS_MAX {
            let message = format!("{} names {} channels", fields.title, keys.len());
            let help = format!("an approver has at most {CHANNELS_MAX}");
            self.findings
                .error(Diagnostic::new(fields.at_of("channels"), message).help(help));
        }
        keys
    }

    fn slack(&self, fields: &Fields<'a>) -> ChannelKind {
        ChannelKind::Slack {
            room: self.needed(fields, "room", "C0123456789"),
            base_url: self.url(fields, "base_url", Some(SLACK)),
            people: self.people_of(fields),
        }
    }

    fn webhook(&self, fields: &Fields<'a>) -> ChannelKind {
        ChannelKind::Webhook {
            url: self.url(fields, "url", None),
            people: self.people_of(fields),
        }
    }

    fn ntfy(&self, fields: &Fields<'a>) -> ChannelKind {
        ChannelKind::Ntfy {
            url: self.url(fields, "url", None),
            topic: self.needed(fields, "topic", "approvals"),
        }
    }

    fn email(&self, fields: &Fields<'a>) -> ChannelKind {
        let implicit = match fields.text("tls") {
            Some(tls) if tls.value == "implicit" => true,
            Some(tls) if tls.value != "starttls" => {
                self.one_of(
                    &tls,
                    "tls",
                    "`starttls` or `implicit`; mail is never sent without",
                );
                false
            }
            _ => false,
        };
        let server = self.needed(fields, "server", "smtp.example.com:587");
        let own = if implicit { SUBMISSION.1 } else { SUBMISSION.0 };
        let (host, port) = match server.rsplit_once(':').filter(|(host, _)| !host.contains(':')) {
            Some((host, port)) => (host.to_owned(), port.parse().ok()),
            None => (server, Some(own)),
        };
        if port.is_none() {
            let message = format!("`server` of {} has no port behind its colon", fields.title);
            self.findings.error(
                Diagnostic::new(fields.at_of("server"), message)
                    .help("write server = \"smtp.example.com:587\""),
            );
        }
        let to: Vec<String> = fields.texts("to").into_iter().map(|text| text.value).collect();
        if to.is_empty() {
            let message = format!("{} has no `to`", fields.title);
            self.findings
                .error(Diagnostic::new(fields.at, message).help("write to = [\"oncall@example.com\"]"));
        }
        ChannelKind::Email(Box::new(Mail {
            host,
            port: port.unwrap_or(own),
            implicit,
            ca_cert: fields.text_or_file("ca_cert").map(|text| text.value),
            username: fields.text("username").map(|text| text.value),
            from: self.needed(fields, "from", "tailkeep@example.com"),
            to,
        }))
    }

    fn needed(&self, fields: &Fields<'a>, name: &'static str, example: &str) -> String {
        let text = fields.text(name).map(|text| text.value).unwrap_or_default();
        if text.is_empty() {
            let message = format!("{} has no `{name}`", fields.title);
            self.findings
                .error(Diagnostic::new(fields.at, message).help(format!("write {name} = \"{example}\"")));
        }
        text
    }

    fn url(&self, fields: &Fields<'a>, name: &'static str, own: Option<&str>) -> String {
        let url = match (fields.text(name), own) {
            (Some(url), _) => {
                let is_url = url.value.starts_with("https://") || url.value.starts_with("http://");
                if !is_url {
                    self.one_of(&url, name, "a URL, https://…");
                }
                url.value
            }
            (None, Some(own)) => own.to_owned(),
            (None, None) => self.needed(fields, name, "https://…"),
        };
        url.trim_end_matches('/').to_owned()
    }

    /// The `person` blocks: who may decide through it.
    fn people_of(&self, fields: &Fields<'a>) -> Vec<ChannelPerson> {
        let mut people: Vec<ChannelPerson> = Vec::new();
        for person in fields.nested_all("person") {
            let (called, name) = (person.text("id"), person.text("name"));
            let (Some(called), Some(name)) = (called, name) else {
                let message = format!("{} is not whole", person.title);
                self.findings.error(Diagnostic::new(person.at, message).help(
                    "write person { id = \"U0123\", name = \"ann@example.com\" } on lines of their own",
                ));
                person.finish();
                continue;
            };
            let wrong = [&called, &name].iter().any(|text| text.value.is_empty())
                || name.value.contains('*')
                || name.value.contains(':');
            if wrong {
                let message = format!("`{}` is no one person", name.value);
                self.findings.error(
                    Diagnostic::new(name.at, message).help("a login or an account: \"ann@example.com\""),
                );
            }
            if people.iter().any(|other| other.called == called.value) {
                let message = format!("`{}` is two people of {}", called.value, fields.title);
                self.findings
                    .error(Diagnostic::new(called.at, message).help("each id stands once"));
            }
            person.finish();
            people.push(ChannelPerson {
                called: called.value,
                name: name.value,
            });
        }
        people
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Source};

    fn load(text: &str) -> Result<Policy, String> {
        let source = Source {
            path: "dir/p.hcl".into(),
            text: text.to_owned(),
        };
        let read = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        Policy::load(vec![source], &read).map_err(|errors| errors.render())
    }

    #[test]
    fn a_mail_server_has_the_port_of_its_tls() {
        for (lines, port, implicit) in [
            ("server = \"m.test\"", 587, false),
            ("server = \"m.test\"\ntls = \"implicit\"", 465, true),
            ("server = \"m.test:25\"\ntls = \"starttls\"", 25, false),
        ] {
            let rest = "from = \"a@b.test\"\nto = [\"c@d.test\"]\npassword = env(\"P\")";
            let policy = load(&format!("channel \"email\" \"x\" {{\n{lines}\n{rest}\n}}\n")).unwrap();
            let channel = policy.model().channel("email.x").unwrap().clone();
            let ChannelKind::Email(mail) = &channel.kind else {
                panic!()
            };
            assert_eq!(
                (mail.host.as_str(), mail.port, mail.implicit),
                ("m.test", port, implicit)
            );
            assert_eq!(
                channel.secret("password"),
                Some(&SecretSource::Env("P".to_owned()))
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_channel_is_said() {
        let slack = "room = \"C1\"\ntoken = env(\"T\")\nsigning_secret = env(\"S\")\n";
        let person = |id: &str, name: &str| format!("person {{\n  id = \"{id}\"\n  name = \"{name}\"\n}}\n");
        for (kind, lines, said) in [
            ("slack", String::new(), "has no `room`"),
            (
                "slack",
                "room = \"C1\"\ntoken = \"xoxb-1\"".to_owned(),
                "a secret does not stand in a policy",
            ),
            (
                "slack",
                "room = \"C1\"\ntoken = env(\"T\")".to_owned(),
                "has no `signing_secret`",
            ),
            (
                "slack",
                format!("{slack}base_url = \"slack.com\""),
                "`base_url` is a URL",
            ),
            (
                "slack",
                format!("{slack}{}", person("U1", "*@b.test")),
                "is no one person",
            ),
            (
                "slack",
                format!("{slack}{}", person("U1", "grant:oncall")),
                "is no one person",
            ),
            (
                "slack",
                format!("{slack}{0}{0}", person("U1", "ann")),
                "is two people",
            ),
            (
                "slack",
                format!("{slack}person {{\n id = \"U1\"\n}}\n"),
                "is not whole",
            ),
            (
                "webhook",
                "url = \"https://a.test\"".to_owned(),
                "has no `secret`",
            ),
            (
                "webhook",
                "secret = vault(\"a#b\")\nurl = \"https://a.test\"".to_owned(),
                "cannot come from a vault",
            ),
            ("ntfy", "url = \"https://a.test\"".to_owned(), "has no `topic`"),
            (
                "email",
                "server = \"a.test:x\"".to_owned(),
                "no port behind its colon",
            ),
            (
                "email",
                "server = \"a.test\"\ntls = \"none\"".to_owned(),
                "`tls` is `starttls` or `implicit`",
            ),
            ("pager", String::new(), "no channel type `pager`"),
        ] {
            let error = load(&format!("channel \"{kind}\" \"x\" {{\n{lines}\n}}\n"))
                .map(drop)
                .unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
            assert!(!error.contains("xoxb-1"), "{error}");
        }
        for listen in ["0.0.0.0:80", "192.0.2.1:80"] {
            assert!(load(&format!("gateway {{\n  channel_listen = \"{listen}\"\n}}\n")).is_err());
        }
    }

    #[test]
    fn an_approver_has_so_many_channels_and_no_more() {
        for (count, fits) in [(CHANNELS_MAX, true), (CHANNELS_MAX + 1, false)] {
            let blocks: String = (0..count)
                .map(|number| {
                    format!(
                        "channel \"ntfy\" \"n{number}\" {{\nurl = \"https://a.test\"\ntopic = \"t\"\n}}\n"
                    )
                })
                .collect();
            let keys: Vec<String> = (0..count).map(|number| format!("ntfy.n{number}")).collect();
            let approver = format!(
                "approver \"human_approver\" \"a\" {{\n  channels = [{}]\n}}\n",
                keys.join(", ")
            );
            assert_eq!(load(&format!("{blocks}{approver}")).is_ok(), fits, "{count}");
        }
        assert!(load("approver \"human_approver\" \"a\" {\n  channels = [slack.none]\n}\n").is_err());
    }
}
