//! `/v1/approvals/{id}/asker`: what the agent of a question did of late, and how questions like it were decided.

use axum::Json;
use axum::extract::{Path, State as Shared};

use super::Operator;
use super::api::{Failed, broken, not_found};
use crate::verdict::gate::asker::Asker;

pub(super) async fn asker(
    Shared(operator): Shared<Operator>,
    Path(id): Path<i64>,
) -> Result<Json<Asker>, Failed> {
    let asker = operator.gate.asker(id).await.map_err(broken)?;
    let none = || not_found(format!("there is no approval {id}"));
    asker.map(Json).ok_or_else(none)
}
