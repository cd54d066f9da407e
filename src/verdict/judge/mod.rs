//! LLM judges: an approver that is asked over HTTP and answers at once.
//!
//! A judge sees the whole action or none of it. What it is sent is the question as the approvers of
//! flesh see it, credentials masked, as one JSON document between random marks. Its answer counts if
//! it is whole, of the form that was asked for and confident enough; everything else is a failure,
//! and a failure denies unless `fail_mode = "next"` leaves the action to the people behind it.
//!
//! Invariants: no failure allows; a verdict is kept for the identical action of the same agent under
//! the same policy alone; the credential goes to the judge's own base URL.

mod spent;
pub mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::Action;
use super::approval::Question;
use crate::credential::store::SecretStore;
use crate::identity::Agent;
use crate::policy::{Judge, Model, Policy};
use spent::Spending;
use wire::{Answered, NoAnswer, Opinion};

/// Opinions that are kept, of all judges.
pub const OPINIONS_KEPT_MAX: usize = 4096;

/// Bytes of one answer.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Questions that are out at once, of all judges; the next waits within its own time.
pub const ASKED_AT_ONCE_MAX: usize = 32;

/// Those of one agent: none can take the others' places.
pub const ASKED_PER_AGENT_MAX: usize = 8;

/// A judge could not be asked, or its answer does not count.
#[derive(Debug, thiserror::Error)]
pub enum JudgeDown {
    #[error("the action is {0} bytes; the judge sees at most {1}, and never a part")]
    Large(usize, usize),
    #[error("it was asked {0} times in this hour")]
    Requests(u64),
    #[error("it has used {0} tokens today")]
    Tokens(u64),
    #[error("{0}")]
    Credential(String),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("its answer is longer than {ANSWER_BYTES_MAX} bytes")]
    Long,
    #[error(transparent)]
    Answer(#[from] NoAnswer),
    #[error("it is only {0:.2} sure of `allow`")]
    Unsure(f64),
    #[error("no randomness from the system")]
    Random,
}

/// Asks judges. Shared by all actions.
pub struct Judges {
    secrets: SecretStore,
    client: reqwest::Client,
    kept: Cache<[u8; 32], (Opinion, Instant)>,
    spent: Mutex<Spending>,
    places: Semaphore,
    /// Places of each agent that asks now.
    agents: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Judges {
    /// # Errors
    /// The HTTP client could not be made.
    pub fn new(secrets: SecretStore) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Judges {
            secrets,
            client,
            kept: Cache::new(OPINIONS_KEPT_MAX),
            spent: Mutex::default(),
            places: Semaphore::new(ASKED_AT_ONCE_MAX),
            agents: Mutex::default(),
        })
    }

    /// What the judge says of an action.
    ///
    /// # Errors
    /// It says nothing that counts; see [`JudgeDown`].
    pub async fn ask(&self, model: &Model, judge: &Judge, question: &Question) -> Result<Opinion, JudgeDown> {
        let document = wire::document(question);
        let key = key(judge, question, &document);
        if let Some((opinion, at)) = self.kept.get(&key)
            && at.elapsed() < judge.cache
        {
            return Ok(opinion);
        }
        if document.len() > judge.request_bytes_max {
            return Err(JudgeDown::Large(document.len(), judge.request_bytes_max));
        }
        let agent = question.agent.as_str();
        self.spent()
            .spend((&question.approver, judge), agent, Instant::now())?;
        let answered = self.answer(model, judge, (&document, agent)).await?;
        self.spent().used(&question.approver, agent, answered.tokens);
        let opinion = sure(judge, answered.opinion)?;
        if !judge.cache.is_zero() {
            self.kept.insert(key, (opinion.clone(), Instant::now()));
        }
        Ok(opinion)
    }

    /// What the judge says of a case, and the tokens that it cost: nothing kept is used, and no budget counts.
    pub async fn try_case(
        &self,
        model: &Model,
        judge: &Judge,
        question: &Question,
    ) -> (Result<Opinion, JudgeDown>, u64) {
        let document = wire::document(question);
        if document.len() > judge.request_bytes_max {
            return (Err(JudgeDown::Large(document.len(), judge.request_bytes_max)), 0);
        }
        match self.answer(model, judge, (&document, &question.agent)).await {
            Ok(answered) => (sure(judge, answered.opinion), answered.tokens),
            Err(down) => (Err(down), 0),
        }
    }

    async fn answer(&self, model: &Model, judge: &Judge, asked: (&str, &str)) -> Result<Answered, JudgeDown> {
        let answer = tokio::time::timeout(judge.timeout, self.post(model, judge, asked)).await;
        let body = answer.map_err(|_| JudgeDown::Late(judge.timeout))??;
        Ok(wire::read(judge.provider, &body)?)
    }

    async fn post(
        &self,
        model: &Model,
        judge: &Judge,
        (document, agent): (&str, &str),
    ) -> Result<Vec<u8>, JudgeDown> {
        let own = self.own_places(agent);
        // Never closed. First among its own, so that none of them waits in front of another's.
        let _own = own.acquire().await;
        let _place = self.places.acquire().await;
        let mut mark = [0; 16];
        getrandom::fill(&mut mark).map_err(|_| JudgeDown::Random)?;
        let mark: String = mark.iter().map(|byte| format!("{byte:02x}")).collect();
        let asked = wire::ask(judge.provider, &judge.model, &judge.policy, document, &mark);
        let url = format!("{}{}", judge.base_url.trim_end_matches('/'), asked.path);
        let mut request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .body(asked.body);
        for (name, value) in asked.headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &judge.credential {
            let (name, prefix) = asked.key_header;
            request = request.header(name, self.key(model, key, prefix)?);
        }
        // The URL is the operator's own; what reqwest says of it holds no secret.
        let failed = |error: reqwest::Error| JudgeDown::Unreachable(error.without_url().to_string());
        let mut answer = request.send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(JudgeDown::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(JudgeDown::Long);
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn key(&self, model: &Model, key: &str, prefix: &str) -> Result<http::HeaderValue, JudgeDown> {
        let credential = model.credential(key);
        let credential =
            credential.ok_or_else(|| JudgeDown::Credential(format!("there is no credential {key}")))?;
        let slot = credential.secrets.first().map_or("", |(slot, _)| slot.as_str());
        let secret = self.secrets.get(credential, slot);
        let secret = secret.map_err(|missing| JudgeDown::Credential(missing.to_string()))?;
        let text = zeroize::Zeroizing::new([prefix.as_bytes(), secret.expose()].concat());
        let mut value = http::HeaderValue::from_bytes(&text)
            .map_err(|_| JudgeDown::Credential(format!("the secret of {key} cannot stand in a header")))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn own_places(&self, agent: &str) -> Arc<Semaphore> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.retain(|_, places| Arc::strong_count(places) > 1);
        let places = agents.entry(agent.to_owned());
        let places = places.or_insert_with(|| Arc::new(Semaphore::new(ASKED_PER_AGENT_MAX)));
        places.clone()
    }

    fn spent(&self) -> MutexGuard<'_, Spending> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a judge is asked about an action, as the gate would ask it: by the same rule, masked alike.
///
/// # Errors
/// The policy has no such approver.
pub fn case(
    policy: &Policy,
    agent: &Agent,
    action: &Action,
    (rule, reason): (&Arc<str>, &str),
    approver: &Arc<str>,
) -> Result<Question, String> {
    super::record::question(policy, agent, action, rule, reason, approver)
}

fn sure(judge: &Judge, opinion: Opinion) -> Result<Opinion, JudgeDown> {
    match opinion.allow && opinion.confidence < judge.confidence_min {
        true => Err(JudgeDown::Unsure(opinion.confidence)),
        false => Ok(opinion),
    }
}

/// What makes two questions the same: the bytes, who asks, by which policy, the judge itself, and all that it is shown. The
/// bytes alone would not do: they are those of a whole batch, or of a text with several statements, whose parts are asked
/// for one by one, and what a name in them means hangs on the session.
fn key(judge: &Judge, question: &Question, document: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    let parts: [&[u8]; 12] = [
        question.approver.as_bytes(),
        &question.policy.to_be_bytes(),
        question.rule.as_bytes(),
        question.agent.as_bytes(),
        question.node.as_bytes(),
        question.login.as_deref().unwrap_or_default().as_bytes(),
        question.profile.as_bytes(),
        question.endpoint.as_bytes(),
        question.credential.as_deref().unwrap_or_default().as_bytes(),
        question.digest.as_bytes(),
        judge.policy.as_bytes(),
        document.as_bytes(),
    ];
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_opinions_are_kept_and_no_more() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let judges = Judges::new(SecretStore::new("nowhere".as_ref())).unwrap();
        let opinion = Opinion {
            allow: true,
            reason: String::new(),
            confidence: 1.0,
        };
        for number in 0..2 * OPINIONS_KEPT_MAX as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            judges.kept.insert(key, (opinion.clone(), Instant::now()));
        }
        assert!((1..=OPINIONS_KEPT_MAX).contains(&judges.kept.len()));
    }
}
