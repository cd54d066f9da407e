//! Decisions that come back from channels.

use http::HeaderMap;

use super::post::Failure;
use super::sign::Unsigned;
use super::{Channels, channels_of, slack, webhook};
use crate::policy::{Channel, ChannelKind, Model};
use crate::state::{StateError, now_us};
use crate::verdict::approval::{Decide, DecideError, Decision, Held, Voter};

/// Why a channel's decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("there is no such channel")]
    NoChannel,
    #[error(transparent)]
    Unsigned(#[from] Unsigned),
    #[error("it cannot be read: {0}")]
    Malformed(String),
    #[error("there is no approval {0} that this channel was told of")]
    Unknown(i64),
    #[error("you are not among those who decide by this channel")]
    NotListed,
    #[error("it is of another action, or not of the last message")]
    Another,
    #[error(transparent)]
    Decide(#[from] DecideError),
    #[error("the channel's secret cannot be had")]
    NoSecret,
}

impl From<StateError> for Denied {
    fn from(error: StateError) -> Self {
        Denied::Decide(error.into())
    }
}

/// What a channel's request says.
struct Answer<'a> {
    id: i64,
    token: &'a str,
    /// Whom the channel names.
    called: &'a str,
    decision: Decision,
    reason: Option<String>,
}

impl Channels {
    /// Takes what Slack sends when a button is pressed. What is refused then is said to the member alone.
    ///
    /// # Errors
    /// It is not Slack's, or no interaction: the caller answers so.
    pub async fn from_slack(&self, name: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Denied> {
        let channel = self.channel("slack", name)?;
        let ChannelKind::Slack { base_url, .. } = &channel.kind else {
            return Err(Denied::NoChannel);
        };
        let secret = self.secret(&channel, "signing_secret").map_err(no_secret)?;
        let (at, signature) = slack::verify(secret.expose(), headers, body)?;
        self.seen.once(&signature, at, now_us() / 1_000_000)?;
        let Some(pressed) = slack::pressed(body).map_err(Denied::Malformed)? else {
            return Ok(());
        };
        let answer = Answer {
            id: pressed.approval,
            token: &pressed.token,
            called: &pressed.member,
            decision: pressed.decision,
            reason: None,
        };
        let place = self
            .queue
            .place_of(pressed.approval, channel.key.to_string())
            .await?;
        let decided = match place.as_deref() == Some(pressed.place.as_str()) {
            true => self.decide(&channel, answer).await.map(drop),
            false => Err(Denied::Another),
        };
        let Err(denied) = decided else { return Ok(()) };
        tracing::warn!(channel = %channel.key, member = pressed.member, error = %denied, "a decision was not taken");
        let url = pressed
            .response_url
            .filter(|url| slack::is_response_url(url, base_url));
        // One try, within bounds: it is a courtesy.
        if let Some(url) = url
            && let Ok(_place) = self.places.try_acquire()
        {
            let text = format!("Not taken: {denied}. The page says more.");
            let said = serde_json::json!({
                "response_type": "ephemeral", "replace_original": false, "mrkdwn": false, "text": text,
            });
            let sent = super::answer(self.client.post(url).json(&said).timeout(SAYING)).await;
            if let Err(error) = sent {
                tracing::warn!(channel = %channel.key, ?error, "a member could not be answered");
            }
        }
        Ok(())
    }

    /// Takes a webhook's decision; how the question stands after it.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn from_webhook(&self, name: &str, headers: &HeaderMap, body: &[u8]) -> Result<Held, Denied> {
        let channel = self.channel("webhook", name)?;
        let secret = self.secret(&channel, "secret").map_err(no_secret)?;
        let (at, signature) = webhook::verify(secret.expose(), headers, body)?;
        self.seen.once(&signature, at, now_us() / 1_000_000)?;
        let said: Result<webhook::Said, _> = serde_json::from_slice(body);
        let said = said.map_err(|error| Denied::Malformed(error.to_string()))?;
        let held = self.queue.show(said.approval).await?;
        let held = held.ok_or(Denied::Unknown(said.approval))?;
        if held.question["digest"].as_str() != Some(&said.digest) {
            return Err(Denied::Another);
        }
        let answer = Answer {
            id: said.approval,
            token: &said.token,
            called: &said.person,
            decision: said.decision.into(),
            reason: said.reason,
        };
        let decided = self.decide(&channel, answer).await;
        if let Err(denied) = &decided {
            tracing::warn!(channel = %channel.key, person = said.person, error = %denied, "a decision was not taken");
        }
        decided
    }

    fn channel(&self, kind: &str, name: &str) -> Result<std::sync::Arc<Channel>, Denied> {
        let policy = self.gate.policy();
        let channel = policy.model().channel(&format!("{kind}.{name}")).cloned();
        channel.ok_or(Denied::NoChannel)
    }

    /// The channels that are one voice with this one: where nothing else than a secret that they share tells their
    /// people apart. Slack signs in each member, so a Slack channel is a voice of its own members; a webhook is one
    /// secret, with whatever stands behind it, and so is a Slack channel whose signing secret a webhook has too: the
    /// webhook's system could sign as Slack. A secret that cannot be had may be the same.
    fn voices(&self, model: &Model, channel: &Channel) -> Vec<String> {
        let own = self.keys(channel);
        let is_same = |other: &Channel| {
            let other_keys = self.keys(other);
            other.key == channel.key
                || own.is_empty()
                || other_keys.is_empty()
                || other_keys.iter().any(|key| own.contains(key))
        };
        let same = model
            .channels
            .iter()
            .filter(|other| decides(other) && is_same(other));
        let same: Vec<_> = same.collect();
        if !same.iter().any(|one| is_webhook(one)) {
            return Vec::new();
        }
        same.iter().map(|one| one.key.to_string()).collect()
    }

    /// The keys that a channel's secret stands for: as its text is used, and as it would be by a webhook. Empty where it
    /// cannot be had.
    fn keys(&self, channel: &Channel) -> Vec<zeroize::Zeroizing<Vec<u8>>> {
        let field = if is_webhook(channel) {
            "secret"
        } else {
            "signing_secret"
        };
        let Ok(secret) = self.secret(channel, field) else {
            return Vec::new();
        };
        let text = zeroize::Zeroizing::new(secret.expose().to_vec());
        webhook::key(secret.expose()).into_iter().chain([text]).collect()
    }

    /// The token goes first: two answers at once by one token are one answer.
    async fn decide(&self, channel: &Channel, answer: Answer<'_>) -> Result<Held, Denied> {
        let (id, key) = (answer.id, channel.key.to_string());
        let name = channel.person(answer.called).ok_or(Denied::NotListed)?;
        let held = self.queue.show(id).await?.ok_or(Denied::Unknown(id))?;
        let policy = self.gate.policy();
        if !channels_of(policy.model(), &held)
            .iter()
            .any(|own| own.key == channel.key)
        {
            return Err(Denied::Unknown(id));
        }
        if !self.queue.take_token(id, key.clone(), answer.token).await? {
            return Err(Denied::Another);
        }
        let decide = Decide {
            id,
            person: Voter::Through {
                channel: key.clone(),
                person: Box::new(voter(name)),
                voices: self.voices(policy.model(), channel),
            },
            decision: answer.decision,
            reason: answer.reason.map(|reason| self.known.scrub(&reason).into_owned()),
            grant: None,
        };
        match self.queue.decide(decide).await {
            Ok(held) => {
                tracing::info!(channel = key, id, person = name, decision = ?answer.decision, "decided by a channel");
                Ok(held)
            }
            Err(error) => {
                self.queue.return_token(id, key, answer.token).await?;
                Err(error.into())
            }
        }
    }
}

fn is_webhook(channel: &Channel) -> bool {
    matches!(channel.kind, ChannelKind::Webhook { .. })
}

/// Whether decisions come back from it.
fn decides(channel: &Channel) -> bool {
    is_webhook(channel) || matches!(channel.kind, ChannelKind::Slack { .. })
}

/// For a word to a member whose decision was not taken; Slack waits no longer than three seconds.
const SAYING: std::time::Duration = std::time::Duration::from_secs(2);

fn no_secret(problem: Failure) -> Denied {
    tracing::error!(?problem, "a channel's request cannot be checked");
    Denied::NoSecret
}

/// Whom the operator says that a member is. Nothing that a tailnet grants them is proved here.
fn voter(name: &str) -> Voter {
    match name.contains('@') {
        true => Voter::Login {
            login: name.to_owned(),
            grants: Vec::new(),
            is_guest: false,
        },
        false => Voter::Account(name.to_owned()),
    }
}
