//! `/v1/policy/…`: the policy's files, a draft of one of them checked and rehearsed, and written; what the
//! policy in force came to lately, and why it judges a record as it does.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, Query, State as Shared};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::api::{Failed, bad, broken, not_found};
use super::draft::{DraftError, Files, HeldBack, OnDisk, keeps_to_rules, name_of};
use super::openapi::Shown;
use super::record::{Diagnostic, Rehearsed};
use super::{Operator, Person};
use crate::audit::read::{Filter, Reader};
use crate::audit::replay::{self, Bounds, LeftOut};
use crate::policy::{CoveredRule, Policy, Step, source};
use crate::verdict::{Digest, Verdict};

/// Drafts, rehearsals and coverages that are worked on at a time: each may take a core for seconds.
pub const WORKS_MAX: usize = 1;
/// Files that are written at a time. A rehearsal keeps nobody from it.
pub(super) const WRITES_MAX: usize = 1;
/// Seconds that a rehearsal, or a coverage, looks back where nothing is said.
const LOOK_BACK_S: u64 = 86_400;
/// Seconds that it looks back at most.
const LOOK_BACK_S_MAX: u64 = 30 * 86_400;
/// What a rehearsal, or a coverage, looks at: people wait for it. The newest records are; the answer says what is left out.
const REHEARSAL: Bounds = Bounds {
    records: REHEARSAL_RECORDS_MAX,
    time: REHEARSAL_TIME_MAX,
};
/// Records that a rehearsal, or a coverage, looks at.
pub const REHEARSAL_RECORDS_MAX: u64 = 100_000;
/// How long it looks.
const REHEARSAL_TIME_MAX: Duration = Duration::from_secs(30);
/// How long one who wrote a policy waits until it is in force.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(10);

/// The policy's files as they are on the disk.
#[derive(Serialize, JsonSchema)]
pub(super) struct PolicyFiles {
    /// Whether the configuration lets them be written here (`dashboard_config_writes`).
    writable: bool,
    /// Whether there may be more.
    takes_new: bool,
    /// What a draft is of: it changes with every text.
    base: String,
    files: Vec<PolicyFile>,
}

#[derive(Serialize, JsonSchema)]
struct PolicyFile {
    name: String,
    /// Null of one that holds a secret.
    text: Option<String>,
}

/// One file with another text.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    file: String,
    text: String,
    /// For a rehearsal: seconds that it looks back.
    since_s: Option<u64>,
}

/// What a draft is worth.
#[derive(Serialize, JsonSchema)]
pub(super) struct Checked {
    /// What the policy's version would be; null of one that does not load.
    version: Option<String>,
    rules: Option<usize>,
    errors: Shown<Vec<Diagnostic>>,
    notes: Shown<Vec<Diagnostic>>,
    /// Why it could not be written by the page, though it loads.
    refused: Option<String>,
}

/// The text that is to stand in a file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    text: String,
    /// As it was when the draft was begun.
    base: String,
    /// What a rehearsal finds is meant, where `reload_guard` would hold it back.
    #[serde(default)]
    accept: bool,
}

/// A policy that is written.
#[derive(Serialize, JsonSchema)]
pub(super) struct Written {
    version: String,
    /// Whether it is in force; if not yet, the gateway's log says why.
    in_force: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Back {
    /// Seconds to look back; a day where nothing is said.
    since_s: Option<u64>,
}

/// What the rules in force came to on what was recorded.
#[derive(Serialize, JsonSchema)]
pub(super) struct Covered {
    version: String,
    /// Requests that were judged.
    judged: u64,
    rules: Vec<CoveredRule>,
    /// What was not looked at.
    left_out: Option<LeftOut>,
}

/// Why the policy in force judges a recorded action as it does.
#[derive(Serialize, JsonSchema)]
pub(super) struct Explained {
    /// The policy that this is by.
    version: String,
    /// Whether the action was judged by the same then.
    is_same: bool,
    /// Why it cannot be told.
    unknown: Option<String>,
    verdict: Option<&'static str>,
    rule: Option<String>,
    /// Every rule on the way to the verdict, in their order.
    steps: Vec<Step>,
}

impl From<DraftError> for Failed {
    fn from(error: DraftError) -> Failed {
        let status = match &error {
            DraftError::Name(..) => StatusCode::BAD_REQUEST,
            DraftError::Changed => StatusCode::CONFLICT,
            DraftError::Beyond(_) => StatusCode::FORBIDDEN,
            DraftError::Read(_) | DraftError::Write { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failed(status, error.to_string())
    }
}

fn files(operator: &Operator) -> Result<Files, Failed> {
    let files = operator.files.clone();
    files.ok_or_else(|| not_found("this gateway's policy is in no files".to_owned()))
}

/// Does what takes a core, one at a time.
async fn work<T: Send + 'static>(
    places: &Arc<Semaphore>,
    what: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    let place = places.clone().try_acquire_owned();
    let place = place.map_err(|_| {
        let text = "another draft is being looked at or written; try again in a moment";
        Failed(StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
    })?;
    let held = move |_place: OwnedSemaphorePermit| what();
    tokio::task::spawn_blocking(move || held(place))
        .await
        .map_err(broken)?
}

fn since_us(since_s: Option<u64>) -> Result<i64, Failed> {
    let back = since_s.unwrap_or(LOOK_BACK_S);
    if !(1..=LOOK_BACK_S_MAX).contains(&back) {
        return Err(bad(format!("since_s is between 1 and {LOOK_BACK_S_MAX}")));
    }
    Ok(crate::state::now_us() - i64::try_from(back).unwrap_or(i64::MAX) * 1_000_000)
}

fn hex(policy: &Policy) -> String {
    format!("{:016x}", policy.version())
}

pub(super) async fn read(Shared(operator): Shared<Operator>) -> Result<Json<PolicyFiles>, Failed> {
    let Files { path, .. } = files(&operator)?;
    let known = operator.secrets.known().clone();
    let on_disk = tokio::task::spawn_blocking(move || OnDisk::read(&path)).await;
    let on_disk = on_disk.map_err(broken)??;
    let shown = on_disk.sources.iter().map(|source| PolicyFile {
        name: name_of(&source.path),
        text: Some(source.text.clone()).filter(|text| known.scrub(text) == text.as_str()),
    });
    Ok(Json(PolicyFiles {
        writable: operator.gate.policy().model().gateway.config_writes,
        takes_new: on_disk.takes_new(),
        base: on_disk.version(),
        files: shown.collect(),
    }))
}

pub(super) async fn check(
    Shared(operator): Shared<Operator>,
    Json(asked): Json<Draft>,
) -> Result<Json<Checked>, Failed> {
    let (Files { path, .. }, old) = (files(&operator)?, operator.gate.policy());
    work(&operator.works, move || {
        let draft = OnDisk::read(&path)?.with(&asked.file, &asked.text)?;
        Ok(Json(match draft.load(&old) {
            Ok(new) => Checked {
                version: Some(hex(&new)),
                rules: Some(new.rule_count()),
                errors: Shown::new(json!([])),
                notes: Shown::new(new.notes().to_json()),
                refused: keeps_to_rules(old.model(), new.model())
                    .err()
                    .map(|why| why.to_string()),
            },
            Err(errors) => Checked {
                version: None,
                rules: None,
                errors: Shown::new(errors.to_json()),
                notes: Shown::new(json!([])),
                refused: None,
            },
        }))
    })
    .await
}

/// The draft's policy, or that it has errors.
fn loaded(draft: &super::draft::Draft, old: &Policy) -> Result<Policy, Failed> {
    draft.load(old).map_err(|errors| {
        let text = match errors.items().first() {
            Some(first) => format!("it does not load: {}", first.message),
            None => "it does not load".to_owned(),
        };
        Failed(StatusCode::UNPROCESSABLE_ENTITY, text)
    })
}

pub(super) async fn rehearse(
    Shared(operator): Shared<Operator>,
    Json(asked): Json<Draft>,
) -> Result<Json<Shown<Rehearsed>>, Failed> {
    let (Files { path, .. }, old) = (files(&operator)?, operator.gate.policy());
    let (since, log) = (since_us(asked.since_s)?, operator.audit().await);
    work(&operator.works, move || {
        let draft = OnDisk::read(&path)?.with(&asked.file, &asked.text)?;
        let new = loaded(&draft, &old)?;
        let found = replay::rehearse(&log, since, REHEARSAL, &old, &new).map_err(broken)?;
        Ok(Json(Shown::new(found.to_json())))
    })
    .await
}

/// Writes a file of the policy, and waits until what it makes is in force.
pub(super) async fn write(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
    Extension(Person(person)): Extension<Person>,
    Json(asked): Json<Write>,
) -> Result<Json<Written>, Failed> {
    let (Files { path, guard }, old) = (files(&operator)?, operator.gate.policy());
    if !old.model().gateway.config_writes {
        let text = "the policy's files are kept elsewhere: `gateway { dashboard_config_writes = true }` lets them be written here";
        return Err(Failed(StatusCode::FORBIDDEN, text.to_owned()));
    }
    let runtime = tokio::runtime::Handle::current();
    let gate = operator.gate.clone();
    let version = work(&operator.writes, move || {
        let on_disk = OnDisk::read(&path)?;
        if on_disk.version() != asked.base {
            return Err(DraftError::Changed.into());
        }
        let draft = on_disk.with(&name, &asked.text)?;
        let new = loaded(&draft, &old)?;
        keeps_to_rules(old.model(), new.model())?;
        let accepted = match guard(&new) {
            Ok(()) => false,
            Err(HeldBack::Changes(_)) if asked.accept => true,
            Err(HeldBack::Changes(changes)) => {
                let why = format!("it would change verdicts:\n{changes}");
                return Err(Failed(StatusCode::CONFLICT, why));
            }
            Err(HeldBack::Round(why)) => return Err(Failed(StatusCode::CONFLICT, why)),
        };
        let facts = json!({
            "person": person, "file": name, "before": hex(&old), "after": hex(&new), "accepted": accepted,
            "digest": Digest::of(asked.text.as_bytes()).to_string(), "bytes": asked.text.len(),
        });
        // First the record: what nobody answers for is not written.
        let recorded = runtime.block_on(gate.record_edit(&person, &name, facts));
        recorded.map_err(|down| {
            Failed(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("it cannot be recorded: {down}"),
            )
        })?;
        // Then what is accepted, which the reload asks for; and not for longer than what it is of is written.
        let state_dir = &old.model().gateway.state_dir;
        let noted = match accepted {
            true => source::accept(state_dir, new.version()).map_err(broken),
            false => Ok(()),
        };
        let written = noted.and_then(|()| draft.write(&asked.base, &path).map_err(Failed::from));
        if let Err(Failed(_, why)) = &written {
            if accepted {
                source::accept_no_more(state_dir, new.version());
            }
            runtime.block_on(gate.record_no_edit(&person, &name, why));
        }
        written?;
        tracing::info!(person, file = name, version = hex(&new), "the policy is written");
        Ok(new.version())
    })
    .await?;
    let mut reloads = operator.gate.reloads();
    let comes =
        async { while operator.gate.policy().version() != version && reloads.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(IN_FORCE_WITHIN, comes).await;
    Ok(Json(Written {
        version: format!("{version:016x}"),
        in_force: operator.gate.policy().version() == version,
    }))
}

pub(super) async fn coverage(
    Shared(operator): Shared<Operator>,
    Query(asked): Query<Back>,
) -> Result<Json<Covered>, Failed> {
    let (since, log, policy) = (
        since_us(asked.since_s)?,
        operator.audit().await,
        operator.gate.policy(),
    );
    work(&operator.works, move || {
        let (coverage, judged, left_out) = replay::cover(&log, since, REHEARSAL, &policy).map_err(broken)?;
        Ok(Json(Covered {
            version: hex(&policy),
            judged,
            rules: coverage.rules(),
            left_out,
        }))
    })
    .await
}

pub(super) async fn explain(
    Shared(operator): Shared<Operator>,
    Path(id): Path<u64>,
) -> Result<Json<Explained>, Failed> {
    let (log, policy): (_, Arc<Policy>) = (operator.audit().await, operator.gate.policy());
    let told = tokio::task::spawn_blocking(move || {
        let filter = Filter {
            after: id.saturating_sub(1),
            before: Some(id.saturating_add(1)),
            ..Filter::default()
        };
        let found = Reader::open(&log)
            .and_then(|log| log.select(&filter))
            .map_err(broken)?;
        let record = found
            .first()
            .ok_or_else(|| not_found(format!("there is no record {id}")))?;
        Ok::<_, Failed>(explained(&policy, record))
    });
    Ok(Json(told.await.map_err(broken)??))
}

fn explained(policy: &Policy, record: &Value) -> Explained {
    let mut told = Explained {
        version: hex(policy),
        // As a record keeps it.
        is_same: record["policy"].as_u64() == Some(policy.version() & i64::MAX as u64),
        unknown: None,
        verdict: None,
        rule: None,
        steps: Vec::new(),
    };
    match replay::explain(policy, record) {
        Err(why) => told.unknown = Some(why),
        Ok((judgement, steps)) => {
            let (verdict, rule) = match &judgement.verdict {
                Verdict::Allow { rule } => ("allow", rule.as_deref()),
                Verdict::Deny(refusal) => ("deny", refusal.rule().map(|rule| &**rule)),
                Verdict::Ask { rule, .. } => ("approve", Some(&**rule)),
            };
            (told.verdict, told.rule, told.steps) = (Some(verdict), rule.map(str::to_owned), steps);
        }
    }
    told
}
