//! The people of the admin page: accounts with a password, invitations, sessions.
//!
//! Invariants: a password is here as its argon2 text alone, tokens as SHA-256; an invitation is used
//! once; removing an account, or giving it a new password, ends its sessions.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest as _, Sha256};

use super::{State, StateError, now_us, random};

/// Bytes of an account's name; a tailnet login is the longest of them.
pub const PERSON_BYTES_MAX: usize = 128;
/// Accounts with a password.
pub const OPERATORS_MAX: i64 = 256;
/// Sessions of one person; beyond them the oldest ends.
pub const SESSIONS_PER_PERSON_MAX: i64 = 16;
/// Seconds that a session lasts without being used.
pub const SESSION_IDLE_S: i64 = 12 * 3600;
/// Seconds that a session lasts at most.
pub const SESSION_S_MAX: i64 = 7 * 86_400;
/// Microseconds between two notes of when a session was used.
const SEEN_EVERY_US: i64 = 30 * 1_000_000;

/// An account, or one that is invited.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Account {
    pub name: String,
    /// The same person's on the tailnet, as which they count in a quorum.
    pub login: Option<String>,
    /// Unix time, microseconds; `None` until the invitation is used.
    pub created_us: Option<i64>,
    /// Until when an invitation can be used.
    pub invited_until_us: Option<i64>,
}

/// How a person proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    Password,
    Tailnet,
}

impl Via {
    fn name(self) -> &'static str {
        match self {
            Via::Password => "password",
            Via::Tailnet => "tailnet",
        }
    }

    fn read(name: &str) -> Via {
        match name {
            "tailnet" => Via::Tailnet,
            _ => Via::Password,
        }
    }
}

/// One session, without what would open it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Session {
    pub id: i64,
    pub person: String,
    pub via: Via,
    /// Where it was opened from.
    pub address: String,
    /// What the browser called itself.
    pub browser: String,
    /// Unix time, microseconds.
    pub created_us: i64,
    pub seen_us: i64,
    pub expires_us: i64,
}

/// What a new session's holder is given, once.
pub struct Opened {
    pub id: i64,
    /// For the cookie.
    pub token: String,
    /// For the header that the page itself sends.
    pub guard: String,
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn token() -> Result<String, StateError> {
    Ok(URL_SAFE_NO_PAD.encode(random()?.as_slice()))
}

/// The login that an account names as its person's.
pub(crate) fn login(connection: &Connection, name: &str) -> Result<Option<String>, StateError> {
    let query = "SELECT login FROM operator WHERE name = ?";
    let found = connection.query_row(query, [name], |row| row.get(0));
    Ok(found.optional()?.flatten())
}

/// Whether a name can be an account's: an e-mail address or a short name.
fn check(name: &str) -> Result<(), StateError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
    let is_good = !name.is_empty() && name.len() <= PERSON_BYTES_MAX && name.bytes().all(good);
    // What the token's holder is called in the records.
    match is_good && name != "operator" {
        true => Ok(()),
        false => Err(StateError::Refused(format!(
            "an operator's name is 1 to {PERSON_BYTES_MAX} of a-z A-Z 0-9 - _ . @ +, and not `operator`"
        ))),
    }
}

impl State {
    /// Makes an invitation, which lets its holder set the password of `name`, once. An earlier one
    /// for the same name is worth nothing from then on. `login` is the same person's on the tailnet;
    /// without one, an account keeps the one that it has.
    ///
    /// # Errors
    /// The name is none, or there are [`OPERATORS_MAX`]; the database.
    pub fn invite_operator(
        &self,
        name: &str,
        login: Option<&str>,
        lasts: Duration,
    ) -> Result<String, StateError> {
        check(name)?;
        if login.is_some_and(|login| check(login).is_err()) {
            return Err(StateError::Refused("that is no login of a tailnet".to_owned()));
        }
        let login = login.map(str::to_ascii_lowercase);
        let invitation = token()?;
        let lasts = i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX);
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let now = now_us();
            transaction.execute(
                "DELETE FROM operator_invite WHERE expires_us < ? OR name = ?",
                params![now, name],
            )?;
            let query =
                "SELECT count(*) FROM (SELECT name FROM operator UNION SELECT name FROM operator_invite)
                         WHERE name <> ?";
            if transaction.query_row(query, [name], |row| row.get::<_, i64>(0))? >= OPERATORS_MAX {
                let text = format!("there are {OPERATORS_MAX} operators already");
                return Err(StateError::Refused(text));
            }
            transaction.execute(
                "INSERT INTO operator_invite VALUES (?, ?, ?, ?)",
                params![hash(&invitation), name, now.saturating_add(lasts), login],
            )?;
            Ok(transaction.commit()?)
        })?;
        Ok(invitation)
    }

    /// Whom an invitation is for, while it can be used.
    ///
    /// # Errors
    /// The database.
    pub fn invited(&self, invitation: &str) -> Result<Option<String>, StateError> {
        self.with(|connection| {
            let query = "SELECT name FROM operator_invite WHERE hash = ? AND expires_us > ?";
            let found = connection.query_row(query, params![hash(invitation), now_us()], |row| row.get(0));
            Ok(found.optional()?)
        })
    }

    /// Uses an invitation up: its person has this password, and no session.
    ///
    /// # Errors
    /// The database.
    pub fn accept_invitation(&self, invitation: &str, password: &str) -> Result<Option<String>, StateError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let now = now_us();
            let query = "DELETE FROM operator_invite WHERE hash = ? AND expires_us > ? RETURNING name, login";
            let both = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let found = transaction.query_row(query, params![hash(invitation), now], both);
            let found: Option<(String, Option<String>)> = found.optional()?;
            let Some((name, login)) = found else {
                return Ok(None);
            };
            transaction.execute("DELETE FROM session WHERE person = ?", [&name])?;
            transaction.execute(
                "INSERT INTO operator VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET password = ?2, login = coalesce(?4, login)",
                params![name, password, now, login],
            )?;
            transaction.commit()?;
            Ok(Some(name))
        })
    }

    /// The argon2 text of a person's password.
    ///
    /// # Errors
    /// The database.
    pub fn operator_password(&self, name: &str) -> Result<Option<String>, StateError> {
        self.with(|connection| {
            let query = "SELECT password FROM operator WHERE name = ?";
            Ok(connection.query_row(query, [name], |row| row.get(0)).optional()?)
        })
    }

    /// Every account, and every one that is invited.
    ///
    /// # Errors
    /// The database.
    pub fn operators(&self) -> Result<Vec<Account>, StateError> {
        self.with(|connection| {
            let query = "SELECT name, max(created_us), max(expires_us), max(login) FROM (
                           SELECT name, created_us, NULL AS expires_us, login FROM operator UNION ALL
                           SELECT name, NULL, expires_us, NULL FROM operator_invite WHERE expires_us > ?)
                         GROUP BY name ORDER BY name";
            let mut statement = connection.prepare(query)?;
            let rows = statement.query_map([now_us()], |row| {
                Ok(Account {
                    name: row.get(0)?,
                    created_us: row.get(1)?,
                    invited_until_us: row.get(2)?,
                    login: row.get(3)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Removes an account with its invitation and its sessions; whether it was there.
    ///
    /// # Errors
    /// The database.
    pub fn remove_operator(&self, name: &str) -> Result<bool, StateError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let mut gone = 0;
            for query in [
                "DELETE FROM operator WHERE name = ?",
                "DELETE FROM operator_invite WHERE name = ?",
            ] {
                gone += transaction.execute(query, [name])?;
            }
            transaction.execute(
                "DELETE FROM session WHERE person = ? AND via = 'password'",
                [name],
            )?;
            transaction.commit()?;
            Ok(gone > 0)
        })
    }

    /// Opens a session.
    ///
    /// # Errors
    /// The database.
    pub fn open_session(
        &self,
        person: &str,
        via: Via,
        address: &str,
        browser: &str,
    ) -> Result<Opened, StateError> {
        let (token, guard) = (token()?, token()?);
        let id = self.with(|connection| {
            let transaction = connection.transaction()?;
            let now = now_us();
            forget(&transaction, now)?;
            transaction.execute(
                "DELETE FROM session WHERE person = ?1 AND id NOT IN
                   (SELECT id FROM session WHERE person = ?1 ORDER BY id DESC LIMIT ?2)",
                params![person, SESSIONS_PER_PERSON_MAX - 1],
            )?;
            transaction.execute(
                "INSERT INTO session (hash, guard, person, via, address, browser, created_us, seen_us, expires_us)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)",
                params![
                    hash(&token),
                    hash(&guard),
                    person,
                    via.name(),
                    address,
                    browser,
                    now,
                    now.saturating_add(SESSION_S_MAX * 1_000_000)
                ],
            )?;
            let id = transaction.last_insert_rowid();
            transaction.commit()?;
            Ok(id)
        })?;
        Ok(Opened { id, token, guard })
    }

    /// The session that both secrets open, which counts as used now.
    ///
    /// # Errors
    /// The database.
    pub fn session(&self, token: &str, guard: &str) -> Result<Option<Session>, StateError> {
        self.with(|connection| {
            let now = now_us();
            let query = format!(
                "SELECT {COLUMNS} FROM session WHERE hash = ?1 AND guard = ?2 AND expires_us > ?3 AND seen_us > ?4"
            );
            let (token, guard) = (hash(token), hash(guard));
            let found = connection.query_row(&query, params![token, guard, now, idle(now)], read);
            let found = found.optional()?;
            if let Some(session) = &found
                && session.seen_us < now.saturating_sub(SEEN_EVERY_US)
            {
                let update = "UPDATE session SET seen_us = ? WHERE id = ?";
                connection.execute(update, params![now, session.id])?;
            }
            Ok(found)
        })
    }

    /// Every session that is open, newest first.
    ///
    /// # Errors
    /// The database.
    pub fn sessions(&self) -> Result<Vec<Session>, StateError> {
        self.with(|connection| {
            forget(connection, now_us())?;
            let query = format!("SELECT {COLUMNS} FROM session ORDER BY id DESC");
            let mut statement = connection.prepare(&query)?;
            let rows = statement.query_map([], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Whether a session is open.
    ///
    /// # Errors
    /// The database.
    pub fn is_open_session(&self, id: i64) -> Result<bool, StateError> {
        self.with(|connection| {
            let query = "SELECT 1 FROM session WHERE id = ? AND expires_us > ?";
            let found = connection.query_row(query, params![id, now_us()], |_| Ok(()));
            Ok(found.optional()?.is_some())
        })
    }

    /// Ends a session; whether it was open.
    ///
    /// # Errors
    /// The database.
    pub fn end_session(&self, id: i64) -> Result<bool, StateError> {
        self.with(|connection| Ok(connection.execute("DELETE FROM session WHERE id = ?", [id])? > 0))
    }
}

const COLUMNS: &str = "id, person, via, address, browser, created_us, seen_us, expires_us";

fn idle(now: i64) -> i64 {
    now.saturating_sub(SESSION_IDLE_S * 1_000_000)
}

fn forget(connection: &Connection, now: i64) -> Result<(), StateError> {
    let query = "DELETE FROM session WHERE expires_us < ? OR seen_us < ?";
    connection.execute(query, params![now, idle(now)])?;
    Ok(())
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        id: row.get(0)?,
        person: row.get(1)?,
        via: Via::read(&row.get::<_, String>(2)?),
        address: row.get(3)?,
        browser: row.get(4)?,
        created_us: row.get(5)?,
        seen_us: row.get(6)?,
        expires_us: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, State) {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state")).unwrap();
        (folder, state)
    }

    #[test]
    fn an_invitation_is_used_once_and_the_newest_counts() {
        let (_folder, state) = state();
        let first = state
            .invite_operator("ann", None, Duration::from_secs(60))
            .unwrap();
        let second = state
            .invite_operator("ann", None, Duration::from_secs(60))
            .unwrap();
        assert_eq!(state.invited(&first).unwrap(), None);
        assert_eq!(state.invited(&second).unwrap().as_deref(), Some("ann"));
        assert_eq!(state.operators().unwrap()[0].created_us, None);
        assert_eq!(
            state.accept_invitation(&second, "hash").unwrap().as_deref(),
            Some("ann")
        );
        assert_eq!(state.accept_invitation(&second, "other").unwrap(), None);
        assert_eq!(state.operator_password("ann").unwrap().as_deref(), Some("hash"));
        let late = state.invite_operator("bob", None, Duration::ZERO).unwrap();
        assert_eq!(state.accept_invitation(&late, "hash").unwrap(), None);
        for name in ["", "a b", "operator", &"x".repeat(PERSON_BYTES_MAX + 1), "a\nb"] {
            assert!(
                state.invite_operator(name, None, Duration::ZERO).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_session_wants_both_secrets_and_ends() {
        let (_folder, state) = state();
        let open = |person: &str| state.open_session(person, Via::Password, "a", "b").unwrap();
        let ann = open("ann");
        let found = |opened: &Opened| state.session(&opened.token, &opened.guard).unwrap();
        assert_eq!(found(&ann).unwrap().person, "ann");
        assert_eq!(state.session(&ann.token, &ann.token).unwrap(), None);
        assert_eq!(state.session(&ann.guard, &ann.guard).unwrap(), None);
        assert!(state.end_session(ann.id).unwrap() && !state.end_session(ann.id).unwrap());
        assert_eq!(found(&ann), None);
        // Too old, and too long unused.
        for column in ["expires_us", "seen_us"] {
            let session = open("ann");
            let age = |connection: &mut Connection| {
                Ok(connection.execute(&format!("UPDATE session SET {column} = 1"), [])?)
            };
            assert_eq!(state.with(age).unwrap(), 1);
            assert_eq!(found(&session), None, "{column}");
            assert!(state.sessions().unwrap().is_empty());
        }
        // To the minute.
        for (column, lasts_s) in [("seen_us", SESSION_IDLE_S), ("expires_us", SESSION_S_MAX)] {
            for (age_s, is_good) in [(lasts_s - 60, true), (lasts_s + 60, false)] {
                let session = open("ann");
                let set = format!("UPDATE session SET {column} = {column} - {age_s} * 1000000");
                state
                    .with(|connection| Ok(connection.execute(&set, [])?))
                    .unwrap();
                assert_eq!(found(&session).is_some(), is_good, "{column} {age_s}");
                state.end_session(session.id).unwrap();
            }
        }
        // Another password, and no account.
        let session = open("ann");
        let invitation = state
            .invite_operator("ann", None, Duration::from_secs(60))
            .unwrap();
        assert!(found(&session).is_some());
        state.accept_invitation(&invitation, "hash").unwrap();
        assert_eq!(found(&session), None);
        let session = open("ann");
        assert!(state.remove_operator("ann").unwrap() && !state.remove_operator("ann").unwrap());
        assert_eq!(found(&session), None);
    }

    #[test]
    fn sessions_and_operators_are_bounded() {
        let (_folder, state) = state();
        let open = |person: &str| state.open_session(person, Via::Tailnet, "a", "b").unwrap();
        let (first, other) = (open("ann"), open("bob"));
        for _ in 0..SESSIONS_PER_PERSON_MAX {
            open("ann");
        }
        assert!(!state.is_open_session(first.id).unwrap() && state.is_open_session(other.id).unwrap());
        assert_eq!(
            state.sessions().unwrap().len() as i64,
            SESSIONS_PER_PERSON_MAX + 1
        );
        for n in 0..OPERATORS_MAX {
            state
                .invite_operator(&format!("p{n}"), None, Duration::from_secs(60))
                .unwrap();
        }
        assert!(
            state
                .invite_operator("more", None, Duration::from_secs(60))
                .is_err()
        );
        state
            .invite_operator("p0", None, Duration::from_secs(60))
            .unwrap();
    }
}
