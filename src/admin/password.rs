//! Passwords of the admin page: argon2id, and how often one may be tried.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::facts::escape;

/// Characters that a password has at least.
pub const PASSWORD_CHARS_MIN: usize = 12;
/// Bytes that a password has at most.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Passwords that are looked at at once; each takes [`MEMORY_KIB`] of memory and some 30 ms.
pub const HASHINGS_MAX: usize = 2;
/// Failures in a row that cost nothing; each further one doubles the wait, from one second.
pub const FAILURES_FREE: u32 = 5;
/// Longest wait after a failure.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long until failures are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Memory of one argon2id, KiB (OWASP's recommendation of 2023, with two passes and one lane).
const MEMORY_KIB: u32 = 19_456;

/// A password is not taken, or not looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum PasswordError {
    #[error("a password has at least {PASSWORD_CHARS_MIN} characters")]
    Short,
    #[error("a password has at most {PASSWORD_BYTES_MAX} bytes")]
    Long,
    #[error("too many wrong passwords; try again in {} s", .0.as_secs().max(1))]
    Wait(Duration),
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// Looks at passwords, not too many and not too often.
pub(super) struct Passwords {
    places: Semaphore,
    failures: Mutex<HashMap<String, Failures>>,
    /// What a name without an account is compared with, so that it takes as long.
    nobody: String,
}

struct Failures {
    count: u32,
    last: Instant,
    /// No password is looked at before.
    next: Instant,
}

impl Passwords {
    /// # Errors
    /// No random bytes.
    pub(super) fn new() -> Result<Arc<Passwords>, PasswordError> {
        let random = crate::state::random().map_err(|error| PasswordError::Hash(error.to_string()))?;
        let unknowable = escape::hex(&*random);
        Ok(Arc::new(Passwords {
            places: Semaphore::new(HASHINGS_MAX),
            failures: Mutex::default(),
            nobody: hash(&unknowable)?,
        }))
    }

    /// The text under which a new password is kept.
    ///
    /// # Errors
    /// It is too short or too long; no random bytes.
    pub(super) async fn hash(&self, password: String) -> Result<String, PasswordError> {
        if password.chars().count() < PASSWORD_CHARS_MIN {
            return Err(PasswordError::Short);
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::Long);
        }
        // Never closed.
        let _place = self.places.acquire().await;
        let hashed = tokio::task::spawn_blocking(move || hash(&password)).await;
        hashed.map_err(|error| PasswordError::Hash(error.to_string()))?
    }

    /// Whether `password` is the one that `kept` is of; for a name without one, `false` after the
    /// same time.
    ///
    /// # Errors
    /// It was tried too often.
    pub(super) async fn is(
        &self,
        name: &str,
        kept: Option<String>,
        password: String,
    ) -> Result<bool, PasswordError> {
        // Names that nobody has share one count: they cannot fill the table.
        let key = kept.as_ref().map_or("", |_| name).to_owned();
        self.enter(&key)?;
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let is_known = kept.is_some();
        let kept = kept.unwrap_or_else(|| self.nobody.clone());
        let _place = self.places.acquire().await;
        let is = tokio::task::spawn_blocking(move || {
            PasswordHash::new(&kept)
                .is_ok_and(|kept| argon2().verify_password(password.as_bytes(), &kept).is_ok())
        });
        let is = is.await.unwrap_or(false) && is_known;
        if is {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.remove(&key);
        }
        Ok(is)
    }

    /// Counts a failure before it is one, so that tries at once count, too.
    fn enter(&self, key: &str) -> Result<(), PasswordError> {
        let now = Instant::now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, failed| now.duration_since(failed.last) < FORGET_AFTER);
        let failed = failures.entry(key.to_owned()).or_insert(Failures {
            count: 0,
            last: now,
            next: now,
        });
        if now < failed.next {
            return Err(PasswordError::Wait(failed.next - now));
        }
        failed.count = failed.count.saturating_add(1);
        failed.last = now;
        if let Some(beyond) = failed.count.checked_sub(FAILURES_FREE) {
            failed.next = now + WAIT_MAX.min(Duration::from_secs(1 << beyond.min(16)));
        }
        Ok(())
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, 2, 1, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &str) -> Result<String, PasswordError> {
    let failed = |error: &dyn std::fmt::Display| PasswordError::Hash(error.to_string());
    let random = crate::state::random().map_err(|error| failed(&error))?;
    let salt = SaltString::encode_b64(random.get(..16).unwrap_or_default());
    let salt = salt.map_err(|error| failed(&error))?;
    let hashed = argon2().hash_password(password.as_bytes(), &salt);
    hashed
        .map(|hash| hash.to_string())
        .map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_kept_as_argon2id_and_is_itself_alone() {
        let passwords = Passwords::new().unwrap();
        let kept = passwords.hash("correct horse battery".to_owned()).await.unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        let again = passwords.hash("correct horse battery".to_owned()).await.unwrap();
        assert_ne!(kept, again, "no salt");
        let is = |kept: Option<&str>, given: &str| {
            let (kept, given, passwords) = (kept.map(str::to_owned), given.to_owned(), passwords.clone());
            async move { passwords.is("ann", kept, given).await.unwrap() }
        };
        assert!(is(Some(&kept), "correct horse battery").await);
        assert!(!is(Some(&kept), "correct horse batterY").await);
        assert!(!is(Some("no hash"), "correct horse battery").await);
        assert!(!is(None, "correct horse battery").await);
        assert!(!is(Some(&kept), &"x".repeat(PASSWORD_BYTES_MAX + 1)).await);
        let error = passwords.hash("x".repeat(PASSWORD_BYTES_MAX + 1)).await;
        assert!(matches!(error, Err(PasswordError::Long)));
        let error = passwords.hash("x".repeat(PASSWORD_CHARS_MIN - 1)).await;
        assert!(matches!(error, Err(PasswordError::Short)));
    }

    #[test]
    fn failures_cost_more_and_more_and_each_name_its_own() {
        let passwords = Passwords::new().unwrap();
        for _ in 0..FAILURES_FREE {
            passwords.enter("ann").unwrap();
        }
        let wait = passwords.enter("ann");
        assert!(matches!(wait, Err(PasswordError::Wait(wait)) if wait <= Duration::from_secs(1)));
        passwords.enter("bob").unwrap();
        let longest = |passwords: &Passwords| {
            let mut failures = passwords.failures.lock().unwrap();
            let failed = failures.get_mut("ann").unwrap();
            (failed.count, failed.next) = (failed.count + 20, Instant::now());
        };
        longest(&passwords);
        passwords.enter("ann").unwrap();
        let Err(PasswordError::Wait(wait)) = passwords.enter("ann") else {
            panic!("no wait");
        };
        assert!(wait <= WAIT_MAX && wait > WAIT_MAX / 2, "{wait:?}");
        // Forgotten after a while, and not before.
        let ages = |age: Duration| {
            let mut failures = passwords.failures.lock().unwrap();
            failures.get_mut("ann").unwrap().last -= age;
        };
        ages(FORGET_AFTER / 2);
        assert!(passwords.enter("ann").is_err());
        ages(FORGET_AFTER / 2);
        passwords.enter("ann").unwrap();
    }

    #[tokio::test]
    async fn so_many_are_looked_at_at_once() {
        let passwords = Passwords::new().unwrap();
        let hash = || Box::pin(passwords.hash("correct horse battery".to_owned()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut begun: Vec<_> = (0..HASHINGS_MAX).map(|_| hash()).collect();
        for one in &mut begun {
            // It has its place until it is asked again.
            assert!(one.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(passwords.places.available_permits(), 0);
        let mut next = hash();
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(begun);
        assert!(next.await.is_ok());
    }
}
