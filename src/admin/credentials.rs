//! `/v1/credentials`: which secrets are there, and setting one. No answer has a value.

use axum::Json;
use axum::extract::{Extension, Path, Query, State as Shared};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::api::{Failed, bad, broken, not_found};
use super::{Operator, Person};
use crate::policy::SecretSource;

/// A credential, and whether its secrets are there.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Credential")]
pub(super) struct State {
    credential: String,
    ready: bool,
    /// Why not.
    missing: Vec<String>,
    slots: Vec<Slot>,
}

/// One secret, without its value.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CredentialSlot")]
struct Slot {
    slot: String,
    /// As it is written in a policy, or `store`.
    source: String,
    ready: bool,
    missing: Option<String>,
}

pub(super) async fn list(Shared(operator): Shared<Operator>) -> Result<Json<Vec<State>>, Failed> {
    let policy = operator.gate.policy();
    let secrets = operator.secrets.clone();
    // Files are read.
    let listed = tokio::task::spawn_blocking(move || {
        let rows = policy.model().credentials.iter().map(|credential| {
            let slots = credential.secrets.iter().map(|(slot, source)| {
                let missing = secrets.get(credential, slot).err().map(|missing| missing.cause);
                Slot {
                    slot: slot.clone(),
                    source: shown(source),
                    ready: missing.is_none(),
                    missing,
                }
            });
            let slots: Vec<Slot> = slots.collect();
            let missing: Vec<String> = slots.iter().filter_map(|slot| slot.missing.clone()).collect();
            State {
                credential: credential.key.to_string(),
                ready: missing.is_empty(),
                missing,
                slots,
            }
        });
        Json(rows.collect())
    });
    listed.await.map_err(broken)
}

/// A source as it is written in a policy, or `store`.
fn shown(source: &SecretSource) -> String {
    match source {
        SecretSource::Env(name) => format!("env(\"{name}\")"),
        SecretSource::File(path) => format!("file(\"{}\")", path.display()),
        SecretSource::Vault(path) => format!("vault(\"{path}\")"),
        SecretSource::Store => "store".to_owned(),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetCredential {
    #[serde(default)]
    slot: String,
    /// Only where there is a value already.
    #[serde(default)]
    replace: bool,
}

/// What is set.
#[derive(Serialize, JsonSchema)]
pub(super) struct Set {
    set: String,
    slot: String,
}

pub(super) async fn set(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
    Extension(Person(person)): Extension<Person>,
    Query(SetCredential { slot, replace }): Query<SetCredential>,
    value: axum::body::Bytes,
) -> Result<Json<Set>, Failed> {
    let value = Zeroizing::new(Vec::from(value));
    let policy = operator.gate.policy();
    let mut all = policy.model().credentials.iter();
    let credential = all.find(|credential| credential.name == name).cloned();
    let credential = credential.ok_or_else(|| not_found(format!("the policy has no credential {name}")))?;
    let source = credential.secrets.iter().find(|(own, _)| *own == slot);
    match source {
        Some((_, SecretSource::Store)) => {}
        Some((_, source)) => {
            let text = format!(
                "the policy takes it from {}: change it there, or remove that from the policy",
                shown(source)
            );
            return Err(Failed(StatusCode::CONFLICT, text));
        }
        None => {
            let slots: Vec<&str> = credential.secrets.iter().map(|(own, _)| own.as_str()).collect();
            return Err(bad(format!(
                "{name} has no slot \"{slot}\"; there are: {slots:?}"
            )));
        }
    }
    let secrets = operator.secrets.clone();
    if replace && let Err(missing) = secrets.get(&credential, &slot) {
        return Err(Failed(StatusCode::CONFLICT, missing.to_string()));
    }
    let (set_name, set_slot) = (name.clone(), slot.clone());
    let set = tokio::task::spawn_blocking(move || {
        secrets.set(&set_name, &set_slot, &value)?;
        // Known from now on, not only from its first use.
        secrets.known().learn(&credential.key, &set_slot, &value);
        Ok::<_, std::io::Error>(())
    });
    set.await.map_err(broken)?.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => bad(error.to_string()),
        _ => broken(error),
    })?;
    tracing::info!(credential = name, slot, person, "a secret is set");
    Ok(Json(Set { set: name, slot }))
}
