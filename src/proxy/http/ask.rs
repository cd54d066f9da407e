//! From a request to its actions and their permits. A batch has several: it is sent where all of
//! them are permitted.

use std::sync::Arc;

use http::request::Parts;

use super::judge::Judge;
use super::request::{Exchange, GONE, Stop, Taken};
use crate::audit::Outcome;
use crate::credential::{in_trailers, select};
use crate::facts::http::{HeldBody, HttpFacts, path};
use crate::facts::k8s::K8sFacts;
use crate::facts::{FactSet, Facts, Family, mcp};
use crate::policy::Credential;
use crate::protocol::http::{Malformed, detail, digest, is_shown_whole, summary};
use crate::verdict::{Action, Cause, Permit, Refusal, Step};

impl<J: Judge> Exchange<'_, J> {
    /// The actions of a request: one, or one for each message or operation of a batch.
    pub(super) fn actions(
        &mut self,
        parts: &Parts,
        taken: &Taken,
        needs: FactSet,
    ) -> Result<(Vec<Action>, Option<Arc<Credential>>), Stop> {
        let body = taken.as_held();
        let claimed = &self.connection.claimed;
        let credential = self
            .connection
            .shared
            .judge
            .with_model(|model| match model.profile(&claimed.agent.profile) {
                Some(profile) => match taken.trailers().and_then(|own| in_trailers(model, profile, own)) {
                    Some(refusal) => Err(refusal),
                    None => select(model, profile, &self.endpoint, parts, body),
                },
                None => Err(Refusal::new(Cause::NoProfile, GONE)),
            })
            .map_err(Stop::Refused)?;
        let each = self.facts_of(parts, body, needs).map_err(Stop::Malformed)?;
        let digest = digest(parts, body, taken.trailers());
        let detail = detail(parts, body, taken.trailers());
        let whole = is_shown_whole(body);
        let action = |facts: Facts| Action {
            step: Step::Request,
            endpoint: claimed.endpoint.clone(),
            credential: credential.as_ref().map(|own| own.key.clone()),
            summary: match &facts {
                Facts::Mcp(message) => message.summary(),
                _ => summary(parts),
            },
            facts,
            digest,
            whole,
            detail: detail.clone(),
        };
        Ok((each.into_iter().map(action).collect(), credential))
    }

    /// The facts of each action of a request.
    fn facts_of(
        &mut self,
        parts: &Parts,
        body: HeldBody<'_>,
        needs: FactSet,
    ) -> Result<Vec<Facts>, Malformed> {
        let (host, decoded_max) = (&self.host, self.limits.decoded_bytes_max);
        match self.endpoint.family {
            Family::K8s => {
                let facts = K8sFacts::read(parts, host, body, needs, decoded_max)?;
                Ok(vec![Facts::K8s(Box::new(facts))])
            }
            Family::Mcp => {
                let path = path::normalize(parts.uri.path())?;
                if path.strip_suffix('/').unwrap_or(&path) != self.endpoint.path {
                    return Err(Malformed::OtherPath);
                }
                let read = mcp::read(parts, body, decoded_max)?;
                let each = read.messages.iter();
                let facts = each.map(|one| Facts::Mcp(Box::new(one.clone()))).collect();
                self.messages = Some(read);
                Ok(facts)
            }
            _ => {
                let each = HttpFacts::read_each(parts, host, body, needs, decoded_max)?;
                Ok(each
                    .into_iter()
                    .map(|facts| Facts::Http(Box::new(facts)))
                    .collect())
            }
        }
    }

    /// Asks for each action of the request in turn. One that is refused takes all with it.
    pub(super) async fn judged(
        &mut self,
        actions: &[Action],
        taken: &mut Taken,
    ) -> Result<Vec<Permit>, Stop> {
        let connection = self.connection;
        let judge = connection.shared.judge.clone();
        let waiting = connection.activity.hold();
        let mut permits: Vec<Permit> = Vec::with_capacity(actions.len());
        // Of a batch, one answer cannot speak for all: it waits.
        let later = self.later.as_ref().filter(|_| actions.len() == 1);
        for (at, action) in actions.iter().enumerate() {
            let ruling = tokio::select! {
                biased;
                ruling = judge.judge(&connection.claimed.agent, action, later) => ruling,
                () = taken.broken(self.awaits_continue) => {
                    permits.iter().for_each(|permit| self.finish(permit, "NOT SENT"));
                    return Err(Stop::Gone);
                }
            };
            let stop = match ruling {
                Ok(permit) if permit.covers(&action.digest) => {
                    permits.push(permit);
                    continue;
                }
                Ok(_) => Stop::Refused(Refusal::new(Cause::Malformed, "the request changed")),
                Err(refusal) => Stop::Denied(refusal),
            };
            self.refused = at;
            for permit in &permits {
                self.finish(permit, "NOT SENT");
            }
            return Err(stop);
        }
        drop(waiting);
        Ok(permits)
    }

    /// What became of an action that was permitted beside others.
    pub(super) fn finish(&self, permit: &Permit, status: &str) {
        let outcome = Outcome {
            status: status.to_owned(),
            bytes_up: 0,
            bytes_down: 0,
            took_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        let judge = &self.connection.shared.judge;
        judge.finish(permit.record(), outcome);
    }
}
