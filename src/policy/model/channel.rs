//! Where people are told of held actions, beside the page. *Pure.*

use std::sync::Arc;

use super::SecretSource;

/// A channel (`channel "slack" "ops" { … }`).
#[derive(Clone, Debug)]
pub struct Channel {
    /// `slack.ops`.
    pub key: Arc<str>,
    pub name: String,
    pub kind: ChannelKind,
    /// Where its secrets are read from, by the name of their field.
    pub secrets: Vec<(&'static str, SecretSource)>,
}

impl Channel {
    /// Where one of its secrets is read from; `None` where it has none.
    pub fn secret(&self, field: &str) -> Option<&SecretSource> {
        let own = self.secrets.iter().find(|(name, _)| *name == field);
        own.map(|(_, source)| source)
    }

    /// Who decides through it, as what it calls them.
    pub fn person(&self, called: &str) -> Option<&str> {
        let own = self.people().iter().find(|person| person.called == called);
        own.map(|person| person.name.as_str())
    }
}

impl Channel {
    /// Whether another of the same key asks and hears others: who decides through it, where it is, by which secrets.
    pub fn differences(&self, other: &Channel) -> Vec<&'static str> {
        let fields = [
            ("person", self.people() == other.people()),
            ("where it is", self.kind.place() == other.kind.place()),
            ("secrets", self.secrets == other.secrets),
        ];
        let changed = fields.into_iter().filter(|(_, is_same)| !is_same);
        changed.map(|(name, _)| name).collect()
    }

    fn people(&self) -> &[ChannelPerson] {
        match &self.kind {
            ChannelKind::Slack { people, .. } | ChannelKind::Webhook { people, .. } => people,
            ChannelKind::Ntfy { .. } | ChannelKind::Email(_) => &[],
        }
    }
}

impl ChannelKind {
    /// Its fields but the people, each named so that a new one cannot be forgotten here.
    fn place(&self) -> Vec<String> {
        match self {
            ChannelKind::Slack {
                room,
                base_url,
                people: _,
            } => vec!["slack".to_owned(), room.clone(), base_url.clone()],
            ChannelKind::Webhook { url, people: _ } => vec!["webhook".to_owned(), url.clone()],
            ChannelKind::Ntfy { url, topic } => vec!["ntfy".to_owned(), url.clone(), topic.clone()],
            ChannelKind::Email(mail) => vec!["email".to_owned(), format!("{mail:?}")],
        }
    }
}

/// What kind of service it is, and what it needs besides secrets.
#[derive(Clone, Debug)]
pub enum ChannelKind {
    /// Messages with buttons, by Slack's Web API; secrets `token` and `signing_secret`.
    Slack {
        /// The conversation's ID (`room`).
        room: String,
        /// Where its API is, without the method.
        base_url: String,
        people: Vec<ChannelPerson>,
    },
    /// Requests signed by `secret`, and signed requests back.
    Webhook { url: String, people: Vec<ChannelPerson> },
    /// A push with a link to the page; `token` where the server wants one.
    Ntfy { url: String, topic: String },
    /// A message with a link to the page; `password` where the server wants one.
    Email(Box<Mail>),
}

/// A person who may decide through a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelPerson {
    /// What the channel calls them: a Slack member's ID, the `person` of a webhook.
    pub called: String,
    /// Whom an approver's `approvers` name: a login, or an account of the page.
    pub name: String,
}

/// How mail is handed on.
#[derive(Clone, Debug)]
pub struct Mail {
    pub host: String,
    pub port: u16,
    /// TLS from the first byte (`tls = "implicit"`) and not by STARTTLS. Without either nothing is sent.
    pub implicit: bool,
    /// PEM of the only roots that the server's certificate may chain to; system roots without.
    pub ca_cert: Option<String>,
    pub username: Option<String>,
    pub from: String,
    pub to: Vec<String>,
}
