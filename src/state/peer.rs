//! WireGuard peers: a name with any number of keys, each with its own addresses.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::{Ipv4Net, Ipv6Net};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sha2::{Digest as _, Sha256};

use super::{State, StateError, now_us, random};

/// Keys that one peer may have.
pub const KEYS_PER_PEER_MAX: i64 = 64;
/// Bytes of a peer's name.
pub const NAME_BYTES_MAX: usize = 63;
/// Addresses that are tried before a range counts as full.
const ADDRESSES_MAX: u32 = 1 << 16;

/// The ranges that peers get addresses from; the gateway has the first host of each.
#[derive(Clone, Copy, Debug)]
pub struct Subnets {
    pub v4: Ipv4Net,
    pub v6: Ipv6Net,
}

/// One key of a peer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct PeerKey {
    pub peer: String,
    #[serde(serialize_with = "as_base64")]
    #[schemars(with = "String")]
    pub public_key: [u8; 32],
    /// The machine's own key, where this is the key of one of its runs.
    #[serde(skip)]
    pub machine: Option<[u8; 32]>,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// Unix time, microseconds.
    pub created_us: i64,
    pub seen_us: Option<i64>,
    /// Enrolled, and not approved yet: it cannot connect.
    pub held: bool,
}

/// An enrolment that waits to be used.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Enrolment {
    pub peer: String,
    pub created_us: i64,
    pub expires_us: i64,
}

fn as_base64<S: serde::Serializer>(key: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(key))
}

impl State {
    /// Makes a single-use enrolment token for `peer`. The token is returned once and kept as a
    /// hash. With `hold`, the peer cannot connect until [`State::approve_peer`].
    ///
    /// # Errors
    /// The name is not 1 to [`NAME_BYTES_MAX`] of `a-z A-Z 0-9 - _ .`; `hold` for a peer that is
    /// there already, whose machines it would cut off; the database.
    pub fn add_enrolment(&self, peer: &str, lasts: Duration, hold: bool) -> Result<String, StateError> {
        check_name(peer)?;
        let token = URL_SAFE_NO_PAD.encode(random()?.as_slice());
        let now = now_us();
        let expires = now.saturating_add(i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX));
        self.with(|connection| {
            let transaction = connection.transaction()?;
            if hold {
                hold_new(&transaction, peer)?;
            }
            transaction.execute("DELETE FROM enrolment WHERE expires_us < ?", [now])?;
            transaction.execute(
                "INSERT INTO enrolment VALUES (?, ?, ?, ?, NULL)",
                params![hash(&token).as_slice(), peer, now, expires],
            )?;
            transaction.commit()?;
            Ok(())
        })?;
        Ok(token)
    }

    /// Enrolments that can still be used.
    ///
    /// # Errors
    /// The database.
    pub fn enrolments(&self) -> Result<Vec<Enrolment>, StateError> {
        self.with(|connection| {
            let mut statement = connection.prepare(
                "SELECT peer, created_us, expires_us FROM enrolment
                 WHERE used_us IS NULL AND expires_us > ? ORDER BY created_us",
            )?;
            let rows = statement.query_map([now_us()], |row| {
                Ok(Enrolment {
                    peer: row.get(0)?,
                    created_us: row.get(1)?,
                    expires_us: row.get(2)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Uses a token up and enrols a key under its peer's name, in one transaction.
    ///
    /// # Errors
    /// The token is unknown, used or expired; the key is another peer's; the range is full.
    pub fn enrol(&self, token: &str, key: &[u8; 32], subnets: &Subnets) -> Result<PeerKey, StateError> {
        let now = now_us();
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let peer: Option<String> = transaction
                .query_row(
                    "UPDATE enrolment SET used_us = ?2
                     WHERE hash = ?1 AND used_us IS NULL AND expires_us > ?2 RETURNING peer",
                    params![hash(token).as_slice(), now],
                    |row| row.get(0),
                )
                .optional()?;
            let Some(peer) = peer else {
                return Err(refused("the enrolment token is unknown, used or expired"));
            };
            let added = insert_key(&transaction, &peer, key, subnets)?;
            transaction.commit()?;
            self.publish_peers(connection)?;
            Ok(added)
        })
    }

    /// Adds a key that was made elsewhere under `peer`: a machine with a WireGuard of its own. With
    /// `hold`, the peer cannot connect until [`State::approve_peer`].
    ///
    /// # Errors
    /// As [`State::add_enrolment`] and [`State::enrol`].
    pub fn add_key(
        &self,
        peer: &str,
        key: &[u8; 32],
        subnets: &Subnets,
        hold: bool,
    ) -> Result<PeerKey, StateError> {
        check_name(peer)?;
        self.with(|connection| {
            let transaction = connection.transaction()?;
            if hold {
                hold_new(&transaction, peer)?;
            }
            let added = insert_key(&transaction, peer, key, subnets)?;
            transaction.commit()?;
            self.publish_peers(connection)?;
            Ok(added)
        })
    }

    /// Lets a held peer connect; `false` if there is no such peer. Approving one that is not held
    /// changes nothing.
    ///
    /// # Errors
    /// The database.
    pub fn approve_peer(&self, name: &str) -> Result<bool, StateError> {
        self.with(|connection| {
            let gone = connection.execute("DELETE FROM peer_hold WHERE peer = ?", [name])?;
            let query = "SELECT 1 FROM peer WHERE name = ?";
            let there = connection.query_row(query, [name], |_| Ok(())).optional()?;
            self.publish_peers(connection)?;
            Ok(gone > 0 || there.is_some())
        })
    }

    /// Removes one key; `false` if there was none.
    ///
    /// # Errors
    /// The database.
    pub fn remove_key(&self, key: &[u8; 32]) -> Result<bool, StateError> {
        self.with(|connection| {
            let gone = connection.execute("DELETE FROM peer_key WHERE public_key = ?", [key.as_slice()])?;
            self.publish_peers(connection)?;
            Ok(gone > 0)
        })
    }

    /// Removes a peer, its keys and its unused tokens; `false` if there was none.
    ///
    /// # Errors
    /// The database.
    pub fn remove_peer(&self, name: &str) -> Result<bool, StateError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let mut gone = transaction.execute("DELETE FROM peer WHERE name = ?", [name])?;
            gone += transaction.execute("DELETE FROM enrolment WHERE peer = ?", [name])?;
            transaction.execute("DELETE FROM peer_hold WHERE peer = ?", [name])?;
            transaction.commit()?;
            self.publish_peers(connection)?;
            Ok(gone > 0)
        })
    }

    /// Every key of every peer.
    ///
    /// # Errors
    /// The database.
    pub fn peers(&self) -> Result<Vec<PeerKey>, StateError> {
        self.with(|connection| all(connection))
    }

    /// Notes that a key made a handshake. The peer set is not published anew for it.
    ///
    /// # Errors
    /// The database.
    pub fn note_seen(&self, key: &[u8; 32], at_us: i64) -> Result<(), StateError> {
        self.with(|connection| {
            let update = "UPDATE peer_key SET seen_us = ? WHERE public_key = ?";
            connection.execute(update, params![at_us, key.as_slice()])?;
            Ok(())
        })
    }
}

/// Holds a peer that is not there yet.
fn hold_new(transaction: &Transaction<'_>, peer: &str) -> Result<(), StateError> {
    let query = "SELECT 1 FROM peer WHERE name = ?";
    let there = transaction.query_row(query, [peer], |_| Ok(())).optional()?;
    if there.is_some() {
        return Err(refused("this peer is there already; only a new one can be held"));
    }
    transaction.execute("INSERT OR IGNORE INTO peer_hold VALUES (?)", [peer])?;
    Ok(())
}

/// The keys that may connect.
pub(super) fn active(connection: &Connection) -> Result<Vec<PeerKey>, StateError> {
    let mut keys = all(connection)?;
    keys.retain(|key| !key.held);
    Ok(keys)
}

pub(super) fn is_held(connection: &Connection, peer: &str) -> Result<bool, StateError> {
    let query = "SELECT 1 FROM peer_hold WHERE peer = ?";
    Ok(connection
        .query_row(query, [peer], |_| Ok(()))
        .optional()?
        .is_some())
}

pub(super) fn all(connection: &Connection) -> Result<Vec<PeerKey>, StateError> {
    let mut statement = connection.prepare_cached(
        "SELECT peer, public_key, v4, v6, created_us, seen_us, peer IN (SELECT peer FROM peer_hold), parent
         FROM peer_key ORDER BY peer, created_us",
    )?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get::<_, String>(2)?,
            row.get::<_, String>(3)?,
            PeerKey {
                peer: row.get(0)?,
                public_key: row.get(1)?,
                machine: row.get(7)?,
                v4: Ipv4Addr::UNSPECIFIED,
                v6: Ipv6Addr::UNSPECIFIED,
                created_us: row.get(4)?,
                seen_us: row.get(5)?,
                held: row.get(6)?,
            },
        ))
    })?;
    let mut keys = Vec::new();
    for row in rows {
        let (v4, v6, mut key) = row?;
        let unreadable = || refused("a peer's address in the database is unreadable");
        key.v4 = v4.parse().map_err(|_| unreadable())?;
        key.v6 = v6.parse().map_err(|_| unreadable())?;
        keys.push(key);
    }
    Ok(keys)
}

pub(super) fn insert_key(
    transaction: &Transaction<'_>,
    peer: &str,
    key: &[u8; 32],
    subnets: &Subnets,
) -> Result<PeerKey, StateError> {
    let now = now_us();
    transaction.execute("INSERT OR IGNORE INTO peer VALUES (?, ?)", params![peer, now])?;
    let held: i64 = transaction.query_row("SELECT count(*) FROM peer_key WHERE peer = ?", [peer], |row| {
        row.get(0)
    })?;
    if held >= KEYS_PER_PEER_MAX {
        return Err(refused("the peer has too many keys"));
    }
    let known = transaction
        .query_row(
            "SELECT 1 FROM peer_key WHERE public_key = ?",
            [key.as_slice()],
            |_| Ok(()),
        )
        .optional()?;
    if known.is_some() {
        return Err(refused("this key is enrolled already"));
    }
    let (v4, v6) = free_addresses(transaction, subnets)?;
    transaction.execute(
        "INSERT INTO peer_key (public_key, peer, v4, v6, created_us) VALUES (?, ?, ?, ?, ?)",
        params![key.as_slice(), peer, v4.to_string(), v6.to_string(), now],
    )?;
    Ok(PeerKey {
        peer: peer.to_owned(),
        public_key: *key,
        machine: None,
        v4,
        v6,
        created_us: now,
        seen_us: None,
        held: is_held(transaction, peer)?,
    })
}

/// The lowest pair of addresses with the same number that nobody has; the first is the gateway's.
fn free_addresses(
    transaction: &Transaction<'_>,
    subnets: &Subnets,
) -> Result<(Ipv4Addr, Ipv6Addr), StateError> {
    let mut taken = transaction.prepare_cached("SELECT 1 FROM peer_key WHERE v4 = ? OR v6 = ?")?;
    let (v4_base, v6_base) = (u32::from(subnets.v4.network()), u128::from(subnets.v6.network()));
    for number in 2..ADDRESSES_MAX {
        let (Some(v4), Some(v6)) = (v4_base.checked_add(number), v6_base.checked_add(number.into())) else {
            break;
        };
        let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
        if !subnets.v4.contains(&v4) || v4 == subnets.v4.broadcast() || !subnets.v6.contains(&v6) {
            break;
        }
        if !taken.exists(params![v4.to_string(), v6.to_string()])? {
            return Ok((v4, v6));
        }
    }
    Err(refused("no address is left for a peer"))
}

fn check_name(name: &str) -> Result<(), StateError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits {
        Ok(())
    } else {
        Err(refused(
            "a peer's name is 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.'",
        ))
    }
}

pub(super) fn refused(text: &str) -> StateError {
    StateError::Refused(text.to_owned())
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
