//! From a request to its actions and their permits. A batch has several: it is sent where all of
//! them are permitted.

use std::sync::Arc;

use http::request::Parts;

use super::judge::Judge;
use super::request::{Exchange, GONE, Stop, Taken, as_held, trailers};
use super::trial::still;
use crate::audit::Outcome;
use crate::credential::{in_trailers, select};
use crate::facts::http::HeldBody;
use crate::facts::mcp::Messages;
use crate::facts::{FactSet, Facts};
use crate::policy::Credential;
use crate::protocol::admit;
use crate::protocol::http::{detail, digest, is_shown_whole, summary};
use crate::verdict::gate::How;
use crate::verdict::{Action, Cause, Permit, Preview, Refusal, Step};

impl<J: Judge> Exchange<'_, J> {
    /// The actions of a request: one, or one for each message or operation of a batch.
    pub(super) fn actions(
        &mut self,
        parts: &Parts,
        taken: &Taken,
        needs: FactSet,
    ) -> Result<(Vec<Action>, Option<Arc<Credential>>), Stop> {
        self.facts_room = None;
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
        let (each, messages, is_read) = self.facts_of(parts, body, needs)?;
        self.messages = messages;
        let digest = digest(parts, body, taken.trailers());
        let whole = is_read && is_shown_whole(&parts.headers, body);
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
            // Written when somebody is to see it.
            detail: String::new(),
        };
        Ok((each.into_iter().map(action).collect(), credential))
    }

    /// The facts, if there is room for what they take; else as of a body that is too long, and `false`.
    fn facts_of(
        &mut self,
        parts: &Parts,
        body: HeldBody<'_>,
        needs: FactSet,
    ) -> Result<(Vec<Facts>, Option<Messages>, bool), Stop> {
        let decoded_max = self.limits.decoded_bytes_max;
        let read = |body| {
            let read = admit::facts(parts, &self.host, body, &self.endpoint, needs, decoded_max);
            read.map_err(Stop::Malformed)
        };
        let (each, messages) = read(body)?;
        let (shared, agent) = (&self.connection.shared, &self.connection.claimed.agent);
        let room = shared
            .facts
            .take(&agent.identity, each.iter().map(Facts::bytes).sum());
        if room.is_none() {
            drop((each, messages));
            let (each, messages) = read(HeldBody::Over)?;
            return Ok((each, messages, false));
        }
        self.facts_room = room;
        Ok((each, messages, true))
    }

    /// Asks for each action of the request in turn. One that is refused takes all with it.
    pub(super) async fn judged(
        &mut self,
        (parts, credential): (&Parts, Option<&Arc<Credential>>),
        actions: &[Action],
        taken: &mut Taken,
    ) -> Result<Vec<Permit>, Stop> {
        let connection = self.connection;
        let judge = connection.shared.judge.clone();
        let reloads = judge.reloads();
        let waiting = connection.activity.hold();
        let mut permits: Vec<Permit> = Vec::with_capacity(actions.len());
        let (held, is_over) = (taken.held().cloned(), matches!(taken, Taken::Over(_)));
        let detail = || detail(parts, as_held(held.as_ref(), is_over), trailers(held.as_ref()));
        // Of a batch, one answer cannot speak for all: it waits.
        let later = self.later.as_ref().filter(|_| actions.len() == 1);
        for (at, action) in actions.iter().enumerate() {
            let offer = self.offer((parts, credential), action, taken);
            let how = How {
                preview: offer.as_ref().map(|offer| offer as &dyn Preview),
                later,
                detail: Some(&detail),
            };
            let ruling = tokio::select! {
                biased;
                ruling = judge.judge(&connection.claimed.agent, action, how) => ruling,
                () = taken.broken(self.awaits_continue) => {
                    permits.iter().for_each(|permit| self.finish(permit, "NOT SENT"));
                    return Err(Stop::Gone);
                }
            };
            let stop = match ruling {
                Ok(permit) if permit.covers(&action.digest) => {
                    let still = match &offer {
                        Some(offer) => Box::pin(still(offer, &permit)).await,
                        None => Ok(()),
                    };
                    match still {
                        Ok(()) => {
                            permits.push(permit);
                            continue;
                        }
                        Err(refusal) => Stop::Refused(refusal),
                    }
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
        // The first was permitted while the last waited for people, or while it was looked at again: what was stopped,
        // taken back or forbidden since goes nowhere.
        if reloads.has_changed().unwrap_or(true) {
            self.all_still(actions, &permits)?;
        }
        Ok(permits)
    }

    fn all_still(&mut self, actions: &[Action], permits: &[Permit]) -> Result<(), Stop> {
        let (judge, agent) = (&self.connection.shared.judge, &self.connection.claimed.agent);
        let mut each = actions.iter().zip(permits).enumerate();
        let ended = each.find_map(|(at, (action, permit))| {
            let still = judge.still(agent, action, permit.approved_by());
            still.err().map(|refusal| (at, refusal))
        });
        let Some((at, refusal)) = ended else { return Ok(()) };
        self.refused = at;
        permits.iter().for_each(|permit| self.finish(permit, "NOT SENT"));
        Err(Stop::Refused(refusal))
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
