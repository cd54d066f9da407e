//! `/v1/grants`: approvals that were given beforehand.

use axum::Json;
use axum::extract::{Extension, Path, Query, State as Shared};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::api::{Failed, broken, not_found};
use super::{Operator, Person};
use crate::verdict::approval::Grant;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// Also those that are over.
    #[serde(default)]
    all: bool,
}

/// Those in force and those that wait for more people; with `all`, those that are over too.
pub(super) async fn list(
    Shared(operator): Shared<Operator>,
    Query(asked): Query<Listed>,
) -> Result<Json<Vec<Grant>>, Failed> {
    operator.queue.grants(asked.all).await.map(Json).map_err(broken)
}

/// Whoever may use the API may take one back: that can only deny.
pub(super) async fn revoke(
    Shared(operator): Shared<Operator>,
    Path(id): Path<i64>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Grant>, Failed> {
    let grant = operator.gate.revoke_grant(id, &person).await.map_err(broken)?;
    let grant = grant.ok_or_else(|| not_found(format!("there is no grant {id}")))?;
    Ok(Json(grant))
}

/// Records that a grant came into force.
pub(super) async fn record(operator: &Operator, id: i64) -> Result<Grant, Failed> {
    let grant = operator.queue.grant(id).await.map_err(broken)?;
    let grant = grant.ok_or_else(|| not_found(format!("there is no grant {id}")))?;
    match operator.gate.record_grant(&grant).await {
        Ok(()) => Ok(grant),
        Err(down) => Err(Failed(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the grant cannot be recorded, and is taken back: {down}"),
        )),
    }
}
