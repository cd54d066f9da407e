//! Requests of an enrolled machine: what it may reach now, a key for a further run, its leave.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519::{PublicKey, StaticSecret};
use serde::{Deserialize, Serialize};

use super::enrol::{EnrolError, check, exchange, pin_of};
use super::proof::{self, Claim};
use super::store::{Assigned, Enrolment};
use crate::identity::manifest::Manifest;

/// What the machine's profile reaches, as [`Assigned`].
pub const MANIFEST: &str = "/v1/manifest";
/// A key for a further run: [`RunKey`] to [`Assigned`].
pub const RUN: &str = "/v1/run";
/// What the machine's agents are told, as [`Manifest`].
pub const WHOAMI: &str = "/v1/whoami";
/// The end of such a key.
pub const RUN_END: &str = "/v1/run/end";
/// The machine's own key goes, with all that hang on it.
pub const LEAVE: &str = "/v1/leave";

/// The body of [`RUN`] and [`RUN_END`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunKey {
    /// WireGuard public key, base64.
    pub public_key: String,
}

fn key(text: &str) -> Result<[u8; 32], EnrolError> {
    let bytes = STANDARD.decode(text).ok();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| EnrolError::Answer("a stored key is not 32 bytes of base64".to_owned()))
}

async fn send(enrolment: &Enrolment, path: &str, body: Vec<u8>) -> Result<Vec<u8>, EnrolError> {
    let bad = |text: &str| EnrolError::Answer(text.to_owned());
    let assigned = &enrolment.assigned;
    let pin = pin_of(&assigned.ca_pem).ok_or_else(|| bad("the stored CA is none"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let claim = Claim {
        path,
        body: &body,
        at_s: now.map_or(0, |since| since.as_secs()),
    };
    let private = zeroize::Zeroizing::new(key(&enrolment.private_key)?);
    let header = proof::header(&private, &key(&assigned.gateway_public_key)?, &claim)
        .ok_or_else(|| bad("the gateway's stored key is none"))?;
    exchange(&enrolment.authority, pin, path, (&header, body)).await
}

fn assigned(enrolment: &Enrolment, told: &[u8]) -> Result<Assigned, EnrolError> {
    let assigned: Assigned =
        serde_json::from_slice(told).map_err(|error| EnrolError::Answer(error.to_string()))?;
    let pin = pin_of(&enrolment.assigned.ca_pem);
    check(
        &assigned,
        &pin.ok_or_else(|| EnrolError::Answer("the stored CA is none".to_owned()))?,
    )?;
    Ok(assigned)
}

/// What the gateway assigns this machine now: its policy may have changed since it joined.
///
/// # Errors
/// The gateway cannot be reached, refuses, or says what it may not.
pub async fn manifest(enrolment: &Enrolment) -> Result<Assigned, EnrolError> {
    assigned(enrolment, &send(enrolment, MANIFEST, Vec::new()).await?)
}

/// What the gateway tells this machine's agents of themselves.
///
/// # Errors
/// As [`manifest`]; no profile is for the machine.
pub async fn whoami(enrolment: &Enrolment) -> Result<Manifest, EnrolError> {
    let told = send(enrolment, WHOAMI, Vec::new()).await?;
    serde_json::from_slice(&told).map_err(|error| EnrolError::Answer(error.to_string()))
}

/// An enrolment of its own for a further run, until [`end_run`].
///
/// # Errors
/// As [`manifest`]; no randomness.
pub async fn begin_run(enrolment: &Enrolment) -> Result<Enrolment, EnrolError> {
    let mut seed = zeroize::Zeroizing::new([0_u8; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| EnrolError::Entropy(e.to_string()))?;
    let secret = StaticSecret::from(*seed);
    let told = send(enrolment, RUN, run_key(&secret)?).await?;
    Ok(Enrolment {
        private_key: STANDARD.encode(secret.to_bytes()),
        authority: enrolment.authority.clone(),
        assigned: assigned(enrolment, &told)?,
    })
}

/// Gives the key of a run back. The gateway forgets it by itself after a while.
///
/// # Errors
/// As [`manifest`].
pub async fn end_run(enrolment: &Enrolment, run: &Enrolment) -> Result<(), EnrolError> {
    let secret = StaticSecret::from(key(&run.private_key)?);
    send(enrolment, RUN_END, run_key(&secret)?).await.map(|_| ())
}

/// Tells the gateway to forget this machine.
///
/// # Errors
/// As [`manifest`].
pub async fn leave(enrolment: &Enrolment) -> Result<(), EnrolError> {
    send(enrolment, LEAVE, Vec::new()).await.map(|_| ())
}

fn run_key(secret: &StaticSecret) -> Result<Vec<u8>, EnrolError> {
    let public_key = STANDARD.encode(PublicKey::from(secret).as_bytes());
    serde_json::to_vec(&RunKey { public_key }).map_err(|error| EnrolError::Answer(error.to_string()))
}
