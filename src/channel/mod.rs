//! Telling people of held actions beside the page, and taking their decisions where a channel proves who they are.
//!
//! One task follows the queue: each channel of a question's approver is told of it, and where the channel can be told
//! again, of each vote and of the end; where others may decide too after a while, of that. What was told is kept beside the question, so a restart goes on where it was.
//! The queue, the gate and the page know nothing of services; this reads the queue and decides by it as the page does.
//!
//! Invariants: a channel that fails changes nothing but what is said of it, on the page and in the log; nobody decides
//! by a channel but a `person` of it whom the approver lets decide, by a request signed by the channel's secret, with
//! a token of that very question, once; where a channel cannot show the whole action, it takes no decision.

mod decide;
pub mod email;
pub mod notice;
pub mod ntfy;
pub mod pace;
pub mod post;
pub mod short;
pub mod sign;
pub mod slack;
pub mod visible;
pub mod webhook;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::credential::store::read;
use crate::credential::{KnownSecrets, Secret};
use crate::policy::{ApproverKind, Channel, ChannelKind, Gateway, Model};
use crate::state::{StateError, now_us};
use crate::verdict::approval::{Begun, Held, QuestionState, Queue, Telling, ToldState};
use crate::verdict::gate::Gate;

pub use decide::Denied;
use notice::Notice;
use pace::{Key, Pace};
use post::{Failure, Tries, answer};
use sign::Seen;

/// Tries that are made at once; the next waits. Between its tries a telling has no place.
pub const SENDING_MAX: usize = 16;
/// Seconds after which a channel that could not be told of a question is tried anew, as long as the question is open.
pub const FAILED_AGAIN_S: i64 = 60;
/// How often the list is looked at though nothing said that it changed: time-outs that nobody waits for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tells channels, and takes what they say. Shared.
pub struct Channels {
    queue: Queue,
    gate: Arc<Gate>,
    known: KnownSecrets,
    client: reqwest::Client,
    places: Semaphore,
    pace: Mutex<Pace>,
    again: Notify,
    seen: Seen,
}

impl Channels {
    /// # Errors
    /// The HTTP client could not be made.
    pub fn new(queue: Queue, gate: Arc<Gate>, known: KnownSecrets) -> Result<Arc<Self>, reqwest::Error> {
        Ok(Arc::new(Channels {
            queue,
            gate,
            known,
            client: post::client()?,
            places: Semaphore::new(SENDING_MAX),
            pace: Mutex::default(),
            again: Notify::new(),
            seen: Seen::default(),
        }))
    }

    /// Follows the queue for as long as there is one.
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.queue.changes();
        loop {
            changes.borrow_and_update();
            if let Err(error) = self.look().await {
                tracing::error!(%error, "channels could not be told of held actions");
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.again.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Starts what is due.
    async fn look(self: &Arc<Self>) -> Result<(), StateError> {
        let policy = self.gate.policy();
        let model = policy.model();
        // What ends while the rest is read is looked at the next time.
        let busy = self.pace().sending();
        let told = self.queue.tellings().await?;
        if model.channels.is_empty() && told.is_empty() {
            return Ok(());
        }
        let open = self.queue.list(false).await?;
        let told_of: HashMap<(i64, &str), &Telling> = told
            .iter()
            .map(|told| ((told.approval, told.channel.as_str()), told))
            .collect();
        let mut due: Vec<Due> = Vec::new();
        for held in &open {
            for channel in channels_of(model, held) {
                let told = told_of.get(&(held.id, &*channel.key)).copied();
                if told.is_none_or(|told| is_due(told, held, channel)) {
                    let agent = held.question["agent"].as_str().unwrap_or_default();
                    due.push(Due {
                        key: (held.id, channel.key.to_string()),
                        agent: agent.to_owned(),
                        is_new: told.is_none(),
                        channel: channel.clone(),
                    });
                }
            }
        }
        let open: HashSet<i64> = open.iter().map(|held| held.id).collect();
        for told in told.iter().filter(|told| !open.contains(&told.approval)) {
            let key = (told.approval, told.channel.clone());
            if busy.contains(&key) {
                continue;
            }
            match model
                .channel(&told.channel)
                .filter(|channel| is_told_again(channel))
            {
                Some(channel) if told.place.is_some() => due.push(Due {
                    key,
                    agent: told.agent.clone(),
                    is_new: false,
                    channel: channel.clone(),
                }),
                _ => {
                    self.queue
                        .close_telling(told.approval, told.channel.clone())
                        .await?
                }
            }
        }
        for due in due {
            if !busy.contains(&due.key) {
                self.start(due);
            }
        }
        Ok(())
    }

    /// Tells one channel how a question stands, unless that is on its way, or its agent's share is used: a telling
    /// that ends leads to another look.
    fn start(self: &Arc<Self>, due: Due) {
        if !self.pace().begin(&due.key, &due.agent, due.is_new, now_us()) {
            return;
        }
        let own = self.clone();
        tokio::spawn(async move {
            let done = own.tell(due.key.0, &due.channel).await;
            own.pace().end(&due.key);
            match done {
                Ok(()) => own.again.notify_one(),
                Err(error) => {
                    let (id, channel) = &due.key;
                    tracing::error!(%error, channel, id, "a telling could not be noted");
                }
            }
        });
    }

    async fn tell(&self, id: i64, channel: &Channel) -> Result<(), StateError> {
        let place = self.place().await;
        let key = channel.key.to_string();
        let Some(held) = self.queue.show(id).await? else {
            return self.queue.close_telling(id, key).await;
        };
        let begun = self
            .queue
            .begin_telling(id, key.clone(), Notice::version(&held))
            .await?;
        let notice = self.notice(channel, &held).await;
        let went = self.send(channel, (&held, &notice, &begun), place).await;
        let went = went.map_err(|problem| self.known.scrub(&problem).into_owned());
        if let Err(problem) = &went {
            tracing::warn!(
                channel = key,
                id,
                problem,
                "a channel could not be told of a held action"
            );
        }
        let is_over = held.state != QuestionState::Pending;
        let went = self.queue.end_telling((id, key), went, (held.escalated, is_over));
        went.await
    }

    /// What a channel's people are told. Where they see the action itself, of who asks it too.
    async fn notice(&self, channel: &Channel, held: &Held) -> Notice {
        let page = page_of(&self.gate.policy().model().gateway);
        let mut notice = Notice::of(held, &page);
        let shows = matches!(channel.kind, ChannelKind::Slack { .. } | ChannelKind::Email(_));
        if shows && held.state == QuestionState::Pending {
            notice.asker = match self.gate.asker(held.id).await {
                Ok(asker) => asker.as_ref().map(short::asker).unwrap_or_default(),
                Err(error) => {
                    tracing::error!(%error, id = held.id, "what an agent did of late cannot be told");
                    vec!["What its agent did of late cannot be read.".to_owned()]
                }
            };
        }
        notice
    }

    /// The channel's name for its message, where it has one. Tried again within bounds.
    async fn send(
        &self,
        channel: &Channel,
        told: (&Held, &Notice, &Begun),
        mut place: Option<SemaphorePermit<'_>>,
    ) -> Result<Option<String>, String> {
        let mut tries = Tries::default();
        loop {
            match self.try_once(channel, told).await {
                Ok(said) => return Ok(said),
                Err(failure) => {
                    // A service that is down, or asks to be waited for, keeps nobody else's from theirs.
                    drop(place);
                    tokio::time::sleep(tries.after(failure)?).await;
                    place = self.place().await;
                }
            }
        }
    }

    /// One of [`SENDING_MAX`]. They are never closed.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    async fn try_once(
        &self,
        channel: &Channel,
        (held, notice, begun): (&Held, &Notice, &Begun),
    ) -> Result<Option<String>, Failure> {
        match &channel.kind {
            ChannelKind::Slack { room, base_url, .. } => {
                let token = self.text(channel, "token")?;
                let method = match begun.place {
                    Some(_) => "chat.update",
                    None => "chat.postMessage",
                };
                let message = slack::message(notice, room, begun.place.as_deref(), &begun.token);
                let request = self.client.post(format!("{base_url}/{method}"));
                let said = answer(request.bearer_auth(&*token).json(&message)).await?;
                let place = slack::posted(&said)?;
                // A message that is changed calls nobody.
                if begun.place.is_some()
                    && held.escalated
                    && !begun.called
                    && notice.state == QuestionState::Pending
                {
                    let request = self.client.post(format!("{base_url}/chat.postMessage"));
                    let reply = slack::reply(notice, &place);
                    if let Err(failure) = answer(request.bearer_auth(&*token).json(&reply)).await {
                        tracing::warn!(channel = %channel.key, id = held.id, ?failure, "nobody was called anew");
                    }
                }
                Ok(Some(place))
            }
            ChannelKind::Webhook { url, .. } => {
                let secret = self.secret(channel, "secret")?;
                let id = format!("msg_{}_{}", held.id, Notice::version(held).replace(' ', "_"));
                let body = webhook::body(held, &page_of(&self.gate.policy().model().gateway), &begun.token)
                    .to_string();
                let signed = webhook::sign(secret.expose(), &id, now_us() / 1_000_000, body.as_bytes());
                let mut request = self.client.post(url).header("content-type", "application/json");
                for (name, value) in signed.map_err(Failure::Final)? {
                    request = request.header(name, value);
                }
                answer(request.body(body)).await?;
                Ok(Some(id))
            }
            ChannelKind::Ntfy { url, topic } => {
                let mut request = self.client.post(url).json(&ntfy::message(notice, topic));
                if channel.secret("token").is_some() {
                    request = request.bearer_auth(&*self.text(channel, "token")?);
                }
                answer(request).await?;
                Ok(None)
            }
            ChannelKind::Email(mail) => {
                let password = channel.secret("password").map(|_| self.text(channel, "password"));
                let password = password.transpose()?;
                email::send(mail, password.as_ref().map(|own| own.as_str()), notice).await?;
                Ok(None)
            }
        }
    }

    fn secret(&self, channel: &Channel, field: &str) -> Result<Secret, Failure> {
        let source = channel.secret(field);
        let source = source.ok_or_else(|| Failure::Final(format!("it has no `{field}`")))?;
        let of = format!("{}.{field}", channel.key);
        read(&of, source, &self.known).map_err(|missing| Failure::Final(missing.to_string()))
    }

    fn text(&self, channel: &Channel, field: &str) -> Result<zeroize::Zeroizing<String>, Failure> {
        let secret = self.secret(channel, field)?;
        match std::str::from_utf8(secret.expose()) {
            Ok(text) if !text.chars().any(char::is_control) => Ok(text.to_owned().into()),
            _ => Err(Failure::Final(format!("its `{field}` is no line of text"))),
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A telling that is to be made.
struct Due {
    key: Key,
    agent: String,
    is_new: bool,
    channel: Arc<Channel>,
}

/// Whether a channel that was told of a pending question is to be told anew.
fn is_due(told: &Telling, held: &Held, channel: &Channel) -> bool {
    match told.state {
        // On its way, or of a gateway that ended meanwhile.
        ToldState::Sending => true,
        ToldState::Failed => now_us().saturating_sub(told.at_us) >= FAILED_AGAIN_S * 1_000_000,
        ToldState::Sent => {
            let is_later = held.escalated && !told.shown.ends_with(notice::ESCALATED);
            told.shown != Notice::version(held) && (is_told_again(channel) || is_later)
        }
    }
}

/// Where people open the page.
fn page_of(gateway: &Gateway) -> String {
    let own = || format!("http://{}", gateway.admin_listen);
    gateway.page_url.clone().unwrap_or_else(own)
}

/// The channels of a question's approver, by the policy in force.
fn channels_of<'a>(model: &'a Model, held: &Held) -> Vec<&'a Arc<Channel>> {
    let approver = held.question["approver"]
        .as_str()
        .and_then(|key| model.approver(key));
    match approver.map(|approver| &approver.kind) {
        Some(ApproverKind::Human { channels, .. }) => {
            channels.iter().filter_map(|key| model.channel(key)).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether votes and the end are told too; a push or a mail cannot be taken back.
fn is_told_again(channel: &Channel) -> bool {
    matches!(
        channel.kind,
        ChannelKind::Slack { .. } | ChannelKind::Webhook { .. }
    )
}
