//! LLM judges: an approver that is asked over HTTP and answers at once.
//!
//! A judge sees the whole action or none of it. What it is sent is the question as the approvers of
//! flesh see it, credentials masked, as one JSON document between random marks. Its answer counts if
//! it is whole, of the form that was asked for and confident enough; everything else is a failure,
//! and a failure denies unless `fail_mode = "next"` leaves the action to the people behind it.
//!
//! A server that is busy or down is asked again ([`post`]), as often as both providers' own clients do, within
//! the judge's time.
//!
//! Invariants: no failure allows; a verdict is kept for the identical action of the same agent under
//! the same policy alone; the credential goes to the judge's own base URL.

mod budget;
pub mod post;
pub mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::Action;
use super::approval::Question;
use crate::credential::store::SecretStore;
use crate::identity::Agent;
use crate::policy::{Judge, Model, Policy};
use budget::Budget;
use wire::{Answered, NoAnswer, Opinion};

/// Opinions that are kept, of all judges.
pub const OPINIONS_KEPT_MAX: usize = 4096;

/// Bytes of one answer.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Questions that are out at once, of all judges; the next waits within its own time.
pub const ASKED_AT_ONCE_MAX: usize = 32;

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
    #[error("it answered with status {0}{1}")]
    Status(u16, String),
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
    budget: Budget,
    places: tokio::sync::Semaphore,
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
            budget: Budget::default(),
            places: tokio::sync::Semaphore::new(ASKED_AT_ONCE_MAX),
        })
    }

    /// What the judge says of an action.
    ///
    /// # Errors
    /// It says nothing that counts; see [`JudgeDown`].
    pub async fn ask(&self, model: &Model, judge: &Judge, question: &Question) -> Result<Opinion, JudgeDown> {
        let key = key(judge, question);
        if let Some((opinion, at)) = self.kept.get(&key)
            && at.elapsed() < judge.cache
        {
            return Ok(opinion);
        }
        let document = wire::document(question);
        if document.len() > judge.request_bytes_max {
            return Err(JudgeDown::Large(document.len(), judge.request_bytes_max));
        }
        let answered = self
            .answer((model, judge), &document, Some(&question.approver))
            .await?;
        let opinion = sure(judge, answered.opinion?)?;
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
        match self.answer((model, judge), &document, None).await {
            Ok(Answered { opinion, tokens }) => {
                let opinion = opinion.map_err(JudgeDown::from);
                (
                    opinion.and_then(|own| sure(judge, own)),
                    tokens.unwrap_or_default(),
                )
            }
            Err(down) => (Err(down), 0),
        }
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

/// What makes two questions the same: the bytes, who asks, by which policy, and the judge itself.
fn key(judge: &Judge, question: &Question) -> [u8; 32] {
    let mut hash = Sha256::new();
    let parts: [&[u8]; 10] = [
        question.approver.as_bytes(),
        &question.policy.to_be_bytes(),
        question.rule.as_bytes(),
        question.node.as_bytes(),
        question.login.as_deref().unwrap_or_default().as_bytes(),
        question.profile.as_bytes(),
        question.endpoint.as_bytes(),
        question.credential.as_deref().unwrap_or_default().as_bytes(),
        question.digest.as_bytes(),
        judge.policy.as_bytes(),
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
