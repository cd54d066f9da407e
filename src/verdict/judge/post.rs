//! One question put to a judge's server: once more where that is of use, and within the judge's own time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;

use super::budget::likely;
use super::wire::{self, Answered, Asked, Limit};
use super::{ANSWER_BYTES_MAX, JudgeDown, Judges};
use crate::facts::escape;
use crate::policy::{Judge, Model};

/// How often one question is asked at most; both providers' own clients ask as often.
pub const ATTEMPTS_MAX: u32 = 3;

/// Before the second time, where the server does not say how long; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(500);

/// Who pays for a question: a judge's budget, or nobody.
pub(super) type Payer<'a> = Option<&'a Arc<str>>;

/// What a server says that does not answer.
enum Trouble {
    /// To ask again is of no use.
    Final(JudgeDown),
    /// It may be of use, after so long.
    Later(JudgeDown, Option<Duration>),
    /// It does not know how the answer's tokens were limited.
    Limit(JudgeDown),
}

impl Judges {
    /// What the server answers within the judge's time.
    pub(super) async fn answer(
        &self,
        (model, judge): (&Model, &Judge),
        document: &str,
        payer: Payer<'_>,
    ) -> Result<Answered, JudgeDown> {
        let end = Instant::now() + judge.timeout;
        let answered = tokio::time::timeout(judge.timeout, self.tries((model, judge), document, payer, end));
        answered.await.unwrap_or(Err(JudgeDown::Late(judge.timeout)))
    }

    async fn tries(
        &self,
        (model, judge): (&Model, &Judge),
        document: &str,
        payer: Payer<'_>,
        end: Instant,
    ) -> Result<Answered, JudgeDown> {
        // Never closed.
        let _place = self.places.acquire().await;
        let (mut limit, mut pause) = (Limit::default(), PAUSE);
        let mut tries = 0..ATTEMPTS_MAX;
        loop {
            let asked = asked(judge, limit, document)?;
            // As many tokens as it may cost. One that comes too late, or whose agent leaves, has cost them.
            let paid = likely(asked.body.len());
            if let Some(key) = payer {
                self.budget.take(key, judge, paid)?;
            }
            let said = self.post(model, judge, asked).await;
            if let Some(key) = payer {
                let cost = match &said {
                    Ok((answered, bytes)) => answered.tokens.unwrap_or(paid + likely(*bytes)),
                    Err(_) => 0,
                };
                self.budget.settle(key, paid, cost);
            }
            let trouble = match said {
                Ok((answered, _)) => return Ok(answered),
                Err(trouble) => trouble,
            };
            tries.next();
            match trouble {
                Trouble::Limit(_) if limit == Limit::Completion && !tries.is_empty() => limit = Limit::Older,
                Trouble::Later(down, after) => {
                    let wait = after.unwrap_or(pause);
                    if tries.is_empty() || wait >= end.saturating_duration_since(Instant::now()) {
                        return Err(down);
                    }
                    tokio::time::sleep(wait).await;
                    pause *= 2;
                }
                Trouble::Limit(down) | Trouble::Final(down) => return Err(down),
            }
        }
    }

    /// Asks once: what was answered, and in how many bytes.
    async fn post(&self, model: &Model, judge: &Judge, asked: Asked) -> Result<(Answered, usize), Trouble> {
        let mut request = self
            .client
            .post(asked.url)
            .header("content-type", "application/json")
            .body(asked.body);
        for (name, value) in asked.headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &judge.credential {
            let (name, prefix) = asked.key_header;
            request = request.header(name, self.key(model, key, prefix).map_err(Trouble::Final)?);
        }
        // The URL is the operator's own; what reqwest says of it holds no secret.
        let failed = |error: reqwest::Error| {
            Trouble::Later(JudgeDown::Unreachable(error.without_url().to_string()), None)
        };
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER).and_then(seconds);
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(Trouble::Final(JudgeDown::Long));
            }
            body.extend_from_slice(&piece);
        }
        if status.is_success() {
            return Ok((wire::read(judge.provider, &body), body.len()));
        }
        let told = wire::troubled(&body);
        let down = JudgeDown::Status(
            status.as_u16(),
            told.name.map(|name| format!(" ({name})")).unwrap_or_default(),
        );
        Err(match status.as_u16() {
            400 | 422 if told.is_of_limit => Trouble::Limit(down),
            // Of a limit on money, which no waiting lifts, neither says how long.
            429 if told.is_spent || after.is_none() => Trouble::Final(down),
            408 | 409 | 429 | 500..=599 => Trouble::Later(down, after),
            _ => Trouble::Final(down),
        })
    }
}

/// How long the server wants to be left alone: both say seconds.
fn seconds(value: &http::HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// What is sent, with a mark that nobody knows before.
fn asked(judge: &Judge, limit: Limit, document: &str) -> Result<Asked, JudgeDown> {
    let mut mark = [0; 16];
    getrandom::fill(&mut mark).map_err(|_| JudgeDown::Random)?;
    Ok(wire::ask(judge, limit, document, &escape::hex(&mark)))
}
