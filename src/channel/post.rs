//! Requests to a channel's service, tried again within bounds.

use std::time::Duration;

use http::header::RETRY_AFTER;
use serde_json::Value;

/// Times that a channel is tried for one telling.
pub const TRIES_MAX: u32 = 5;
/// Before the second try; each wait is twice the one before.
const WAIT: Duration = Duration::from_millis(500);
/// Seconds that a service may ask to be waited for; it fails if it wants more.
pub const RETRY_AFTER_S_MAX: u64 = 60;
/// Bytes of one answer.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// For one try, connection and answer.
const TRY_TIME: Duration = Duration::from_secs(10);

/// A channel was not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may be later; the service may say when.
    Later(String, Option<Duration>),
    Final(String),
}

/// The tries of one telling.
pub struct Tries {
    made: u32,
    wait: Duration,
}

impl Default for Tries {
    fn default() -> Self {
        Tries { made: 0, wait: WAIT }
    }
}

impl Tries {
    /// How long to wait before the next try.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn after(&mut self, failure: Failure) -> Result<Duration, String> {
        self.made += 1;
        let (why, asked) = match failure {
            Failure::Final(why) => return Err(why),
            Failure::Later(why, asked) => (why, asked),
        };
        let is_long = asked.is_some_and(|asked| asked > Duration::from_secs(RETRY_AFTER_S_MAX));
        if self.made == TRIES_MAX || is_long {
            return Err(format!("{why} ({} tries)", self.made));
        }
        let wait = asked.unwrap_or(self.wait);
        self.wait *= 2;
        Ok(wait)
    }
}

/// A client that follows nobody elsewhere: what is sent holds secrets.
///
/// # Errors
/// It could not be made.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TRY_TIME)
        .build()
}

/// The answer to one request, as JSON; null where it is none.
///
/// # Errors
/// The service did not take it.
pub async fn answer(request: reqwest::RequestBuilder) -> Result<Value, Failure> {
    // The URL may hold a secret of its own.
    let failed = |error: reqwest::Error| {
        let mut text = error.without_url().to_string();
        text.truncate(text.floor_char_boundary(200));
        Failure::Later(format!("it cannot be reached: {text}"), None)
    };
    let mut answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    let asked = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Final(format!(
                "its answer is longer than {ANSWER_BYTES_MAX} bytes"
            )));
        }
        body.extend_from_slice(&piece);
    }
    let said = || format!("it answered with status {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Ok(serde_json::from_slice(&body).unwrap_or_default()),
        408 | 425 | 429 | 500..=599 => Err(Failure::Later(said(), asked.map(Duration::from_secs))),
        _ => Err(Failure::Final(said())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_have_an_end() {
        let later = |asked: Option<u64>| Failure::Later("no".to_owned(), asked.map(Duration::from_secs));
        let mut tries = Tries::default();
        let waits: Vec<_> = (1..TRIES_MAX)
            .map(|_| tries.after(later(None)).unwrap())
            .collect();
        assert_eq!(waits, [WAIT, WAIT * 2, WAIT * 4, WAIT * 8]);
        assert_eq!(tries.after(later(None)), Err("no (5 tries)".to_owned()));
        let mut tries = Tries::default();
        assert_eq!(
            tries.after(later(Some(RETRY_AFTER_S_MAX))),
            Ok(Duration::from_secs(RETRY_AFTER_S_MAX))
        );
        assert!(
            tries.after(later(Some(RETRY_AFTER_S_MAX + 1))).is_err(),
            "nobody waits so long"
        );
        assert!(Tries::default().after(Failure::Final("no".to_owned())).is_err());
    }
}
