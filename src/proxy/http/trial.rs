//! Shows people what a held Kubernetes request would do, and sees that it is still so before it goes.
//!
//! The gate asks through [`Offer`]: under the preview's permit, with the endpoint's credential, the object is
//! read and the agent's request tried by the API server ([`crate::protocol::kubernetes::trial`] says which may
//! be, and builds what is sent). After the yes, with the permit for the request itself, [`still`] reads the object
//! once more: another one, or another version of it, refuses, and so does a server that does not say. Between
//! that and the request lies the time of one way to the server and back; the agent's bytes stay as they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue,
    TRAILER, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri, Version as HttpVersion};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Connection;
use super::body::{Held, UpBody};
use super::faults::{count_answer, count_answer_part};
use super::judge::Judge;
use super::request::{Exchange, Taken};
use super::send::{ending, inject_all};
use crate::bad_input::{self, Reader};
use crate::facts::Facts;
use crate::policy::{Credential, Previews};
use crate::protocol::kubernetes::trial::{Hide, Stand, Trial, VERSION, knows_dry_runs};
use crate::upstream::{To, Version};
use crate::verdict::{Action, Cause, Permit, Preview, Refusal, preview};

/// For all that a preview asks of the API server, whose own checks of a request may take as long.
pub const TRIAL_MAX: Duration = Duration::from_secs(10);

/// For the look at the object right before the request.
pub const LOOK_MAX: Duration = Duration::from_secs(10);

/// Bytes of one answer: an object has 1.5 MiB at most, as etcd is set up by default.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;

const OBJECT: HeaderValue = HeaderValue::from_static("application/json");
/// Of many objects no more than what they are called.
const NAMES: HeaderValue = HeaderValue::from_static(
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
);

const LATE: &str = "the API server takes too long";
const CHANGED: &str = "what it changes is no longer as it was shown to who approved it; ask again";
const UNSEEN: &str =
    "it could not be seen whether what it changes is still as it was shown to who approved it; ask again";

/// What the gate is handed of one request.
pub(super) struct Offer<J> {
    connection: Arc<Connection<J>>,
    host: String,
    parts: Parts,
    body: Bytes,
    credential: Option<Arc<Credential>>,
    previews: Previews,
    /// Or why it is not tried.
    trial: Result<Trial, String>,
    /// What people were shown it as.
    shown: Mutex<Option<Stand>>,
}

impl<J: Judge> Exchange<'_, J> {
    /// What may be shown of a request; nothing where the endpoint wants none, or nobody will be asked.
    pub(super) fn offer(
        &self,
        (parts, credential): (&Parts, Option<&Arc<Credential>>),
        action: &Action,
        taken: &Taken,
    ) -> Option<Offer<J>> {
        let previews = self.endpoint.preview.clone()?;
        let connection = self.connection;
        let (Facts::K8s(facts), Taken::Whole(held)) = (&action.facts, taken) else {
            return None;
        };
        if !connection.shared.judge.asks(&connection.claimed.agent, action) {
            return None;
        }
        Some(Offer {
            connection: connection.clone(),
            host: self.host.clone(),
            parts: parts.clone(),
            body: held.data.clone(),
            credential: credential.cloned(),
            previews,
            trial: Trial::of(facts, parts, taken.as_held()),
            shown: Mutex::default(),
        })
    }
}

/// Whether what a permitted request changes is still what people were shown; so it is where they were shown
/// nothing.
pub(super) async fn still<J: Judge>(offer: &Offer<J>, permit: &Permit) -> Result<(), Refusal> {
    let shown = offer.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(shown), Ok(trial)) = (shown, &offer.trial) else {
        return Ok(());
    };
    let mut end = ending(&offer.connection.shared, permit, Instant::now(), Arc::default());
    let found = timeout(LOOK_MAX, offer.look(trial, permit)).await;
    let (reason, detail) = match found.unwrap_or_else(|_| Err(LATE.to_owned())) {
        Ok(Some((stand, _))) if stand == shown => {
            end.leave();
            return Ok(());
        }
        Ok(_) => (CHANGED, None),
        Err(why) => (UNSEEN, Some(why)),
    };
    end.status("refused: not as it was shown");
    end.whole();
    let rule = permit
        .approved_by()
        .map_or_else(|| "".into(), |by| by.rule.clone());
    let refusal = Refusal::new(Cause::Changed(rule), reason);
    Err(Refusal { detail, ..refusal })
}

impl<J: Judge> Preview for Offer<J> {
    fn without(&self) -> Option<Value> {
        self.trial.as_ref().err().map(|none| json!({ "none": none }))
    }

    fn run(&self, permit: Permit) -> preview::Wait<'_, Value> {
        Box::pin(async move {
            let mut end = ending(&self.connection.shared, &permit, Instant::now(), Arc::default());
            let tried = timeout(TRIAL_MAX, self.run_out(&permit)).await;
            let (status, shown) = match tried.unwrap_or_else(|_| Err(LATE.to_owned())) {
                Ok((status, shown)) => (format!("HTTP {}", status.as_u16()), shown),
                Err(none) => {
                    let none = self.connection.shared.judge.mask().text(&none).into_owned();
                    ("not tried".to_owned(), json!({ "none": none }))
                }
            };
            end.status(status);
            end.whole();
            shown
        })
    }
}

impl<J: Judge> Offer<J> {
    async fn run_out(&self, permit: &Permit) -> Result<(StatusCode, Value), String> {
        let trial = self.trial.as_ref().map_err(String::clone)?;
        // Each time: the next may be another server.
        let (status, answer) = self.ask(permit, (Method::GET, &VERSION), None, OBJECT).await?;
        knows_dry_runs(status, &answer)?;
        if let Some(served) = &trial.served {
            let (status, answer) = self.ask(permit, (Method::GET, served), None, OBJECT).await?;
            if !Trial::is_served_here(status, &answer) {
                return Err("another server may serve it, and do it where a dry run is asked for".to_owned());
            }
        }
        let (stand, before) = self.look(trial, permit).await?.unzip();
        let body = trial.body.clone().map_or_else(|| self.body.clone(), Bytes::from);
        let accept = if trial.is_of_many() { NAMES } else { OBJECT };
        let to = (self.parts.method.clone(), &trial.run);
        let (status, answer) = self.ask(permit, to, Some(body), accept).await?;
        let mask = self.connection.shared.judge.mask();
        let hide = Hide {
            mask: &mask,
            previews: &self.previews,
        };
        let before = before.unwrap_or_default();
        let shown = trial.shown(stand.as_ref(), &before, (status, &answer), hide);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = stand;
        Ok((status, shown))
    }

    /// What there is; `None` for a request that changes nothing that is there.
    async fn look(&self, trial: &Trial, permit: &Permit) -> Result<Option<(Stand, Value)>, String> {
        let Some(look) = &trial.look else { return Ok(None) };
        let accept = if trial.is_of_many() { NAMES } else { OBJECT };
        let (status, answer) = self.ask(permit, (Method::GET, look), None, accept).await?;
        Ok(Some((trial.stand(status, &answer)?, answer)))
    }

    /// Asks the API server as the agent asked it, with the credential; with the body of a change, or without.
    async fn ask(
        &self,
        permit: &Permit,
        (method, target): (Method, &PathAndQuery),
        body: Option<Bytes>,
        accept: HeaderValue,
    ) -> Result<(StatusCode, Value), String> {
        let claimed = &self.connection.claimed;
        let shared = &self.connection.shared;
        let (endpoint, limits) = shared.endpoint(&claimed.endpoint).ok_or("its endpoint is gone")?;
        let mut parts = self.parts.clone();
        (parts.method, parts.uri) = (method, at(&parts.uri, target)?);
        fit(&mut parts, body.as_ref(), accept);
        let credential = self.credential.as_deref();
        let (_, identity) =
            inject_all(shared, permit, &mut parts, credential).map_err(|refusal| refusal.reason)?;
        let dialled = claimed.destination.ip().to_string();
        let to = To {
            agent: &claimed.agent.identity,
            endpoint: &endpoint,
            dial: if claimed.name.is_some() {
                &self.host
            } else {
                &dialled
            },
            host: &self.host,
            port: claimed.destination.port(),
            identity: identity.as_ref(),
            version: match parts.version {
                HttpVersion::HTTP_2 => Version::Http2,
                _ => Version::Http1,
            },
            answer: Duration::from_secs(limits.idle_s),
        };
        let held = Held {
            data: body.unwrap_or_default(),
            trailers: None,
        };
        let request = Request::from_parts(parts, UpBody::held(held));
        let mut sent = shared.pool.send(permit, &to, request).await.map_err(|error| {
            count_answer(Reader::KubernetesServer, &error);
            tracing::warn!(endpoint = %claimed.endpoint, %error, "the API server could not be asked for a preview");
            "the API server could not be asked".to_owned()
        })?;
        sent.lease.let_go();
        let (head, incoming) = sent.response.into_parts();
        let read = Limited::new(incoming, ANSWER_BYTES_MAX).collect().await;
        let read = read
            .map_err(|error| {
                if let Some(error) = error.downcast_ref() {
                    count_answer_part(Reader::KubernetesServer, error);
                }
                "the API server's answer is too long, or broke off"
            })?
            .to_bytes();
        sent.lease.done();
        let answer = serde_json::from_slice(&read).unwrap_or_else(|_| {
            bad_input::count(Reader::KubernetesServer, &"json");
            Value::Null
        });
        Ok((head.status, answer))
    }
}

fn at(uri: &Uri, target: &PathAndQuery) -> Result<Uri, String> {
    let mut own = uri.clone().into_parts();
    own.path_and_query = Some(target.clone());
    Uri::from_parts(own).map_err(|_| "its target cannot be written anew".to_owned())
}

/// The head of what the gateway asks: of the agent's, without what is of another body or another answer.
fn fit(parts: &mut Parts, body: Option<&Bytes>, accept: HeaderValue) {
    const BODY: [HeaderName; 2] = [CONTENT_ENCODING, CONTENT_TYPE];
    let headers = &mut parts.headers;
    for name in [ACCEPT_ENCODING, CONTENT_LENGTH, EXPECT, TRAILER, UPGRADE] {
        headers.remove(name);
    }
    headers.insert(ACCEPT, accept);
    match body.filter(|body| !body.is_empty()) {
        Some(body) => _ = headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len())),
        None => BODY.iter().for_each(|name| _ = headers.remove(name)),
    }
}
