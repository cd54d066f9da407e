//! `tailkeep learn`: the smallest set of allow rules that covers what a profile was seen to do.
//!
//! What is written is HCL that stands beside the policy, after every rule of it that denies or asks:
//! what a person allowed once, or the policy would not allow now, is not learned. It is loaded with
//! the policy before it is printed, and judges the log: it allows what it was learned from, and
//! nothing that was denied.

mod cover;
mod seen;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Format;
use crate::audit::replay::{agent, each};
use crate::facts::Family;
use crate::policy::{Policy, RecordedFacts, Source, source};
use crate::verdict::{Cause, Verdict};
use cover::{Learned, Paths, cover};
use seen::Seen;

#[derive(clap::Args)]
pub struct Args {
    /// The policy: a file, or a folder of `*.hcl`.
    path: PathBuf,
    /// Whose actions.
    #[arg(long)]
    profile: String,
    /// Only records of the last time: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = super::audit::ago)]
    since: i64,
    /// What was denied for want of a rule, too.
    #[arg(long)]
    denied: bool,
    /// The log; by default that of the policy's own `state_dir`.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sources = source::read(&args.path)?;
    let policy = match Policy::load(sources.clone(), &source::read_file) {
        Ok(policy) => policy,
        Err(errors) => {
            super::validate::print_errors(&errors, args.format);
            return Ok(ExitCode::from(1));
        }
    };
    if policy.model().profile(&args.profile).is_none() {
        bail!("there is no profile `{}`", args.profile);
    }
    let log = super::replay::log_of(&policy, args.log.clone());
    let (mut seen, mut denied, mut lacking) = (Vec::new(), Vec::new(), 0u64);
    each(&log, args.since, |record| match look(&policy, &args, record) {
        Some((Kind::Wanted, Ok(one))) => match judged(&policy, &one) {
            // As it stands, the policy wants it otherwise.
            Verdict::Ask { .. } => lacking += 1,
            Verdict::Deny(refusal) if refusal.cause != Cause::NoRule => lacking += 1,
            _ => seen.push(one),
        },
        Some((Kind::Wanted, Err(()))) => lacking += 1,
        Some((Kind::Denied, Ok(one))) => denied.push(one),
        Some((Kind::Denied, Err(()))) | None => {}
    })
    .with_context(|| log.display().to_string())?;
    let priority = behind(&policy)?;
    let mut learned = cover(&args.profile, &seen, priority, Paths::Patterns);
    if check(&sources, &learned, &seen, &denied).is_err() {
        learned = cover(&args.profile, &seen, priority, Paths::Exact);
        check(&sources, &learned, &seen, &denied)?;
    }
    match args.format {
        Format::Json => {
            let rules = learned.iter().map(|rule| {
                serde_json::json!({
                    "name": rule.name, "endpoint": &*rule.endpoint, "credential": rule.credential.as_deref(),
                    "condition": rule.condition, "priority": rule.priority, "count": rule.count,
                })
            });
            let document = serde_json::json!({
                "rules": rules.collect::<Vec<_>>(), "actions": seen.len(), "not_learned": lacking,
            });
            println!("{document}");
        }
        Format::Text => {
            println!(
                "# {} actions of profile {}; {lacking} more were not recorded well enough, carried no credential where the \
                 profile has one, or would not be allowed now.",
                seen.len(),
                args.profile
            );
            for rule in &learned {
                println!("{}", rule.to_hcl());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

enum Kind {
    Wanted,
    Denied,
}

/// One record, if it is one to learn from or to keep denied; `Err` where its facts are not all there.
fn look(policy: &Policy, args: &Args, record: &Value) -> Option<(Kind, Result<Seen, ()>)> {
    let is = |name: &str, wanted: &str| record[name].as_str() == Some(wanted);
    if !is("step", "request") || !is("profile", &args.profile) {
        return None;
    }
    let by_policy = is("cause", "rule") || is("cause", "unmatched");
    let kind = match (is("verdict", "allow"), is("verdict", "deny")) {
        // A yes of somebody was to one action, and is none to every other like it.
        (true, _) if by_policy => Kind::Wanted,
        (_, true) if is("cause", "no_rule") && args.denied => Kind::Wanted,
        (_, true) if by_policy || is("cause", "no_rule") => Kind::Denied,
        _ => return None,
    };
    let endpoint = policy.model().endpoint(record["endpoint"].as_str()?)?;
    let seen = Seen::read(endpoint.family, &endpoint.key, record);
    let held = |one: &Seen| match one.credential.as_deref() {
        Some(key) => policy.model().credential(key).is_some(),
        // A rule cannot say that there is none: it would hold for each that the profile has here.
        None => !has_credential(policy, args, &endpoint.key),
    };
    Some((kind, seen.filter(held).ok_or(())))
}

/// Whether the profile holds a credential of an endpoint.
fn has_credential(policy: &Policy, args: &Args, endpoint: &str) -> bool {
    let held = policy.model().profile(&args.profile);
    let mut keys = held.into_iter().flat_map(|profile| &profile.credentials);
    keys.any(|held| {
        let credential = policy.model().credential(&held.credential);
        credential.is_some_and(|own| own.endpoints.iter().any(|key| **key == *endpoint))
    })
}

/// The priority behind every rule that denies or asks, and behind every plain one.
fn behind(policy: &Policy) -> anyhow::Result<i64> {
    let rules = policy.shown_rules();
    let strict = rules.iter().filter(|rule| rule.verdict != "allow");
    let last = strict.map(|rule| rule.priority).min().unwrap_or(0).min(0);
    last.checked_sub(1)
        .context("a rule has the lowest priority that there is: what is learned cannot stand behind it")
}

/// What a policy says of an action that was recorded.
fn judged(policy: &Policy, one: &Seen) -> Verdict {
    let facts = RecordedFacts::read(one.family, &one.record["facts"]);
    let profile = one.record["profile"].as_str().unwrap_or_default();
    let who = RecordedFacts::read(Family::Agent, &agent(&one.record, profile));
    let at = one.record["at_us"]
        .as_i64()
        .and_then(chrono::DateTime::from_timestamp_micros);
    let judgement = policy.evaluate_recorded(
        (profile, &who),
        &one.endpoint,
        one.credential.as_deref(),
        &facts,
        at.unwrap_or_default(),
    );
    judgement.verdict
}

/// Loads what was learned beside the policy, and has every action judged by it.
fn check(sources: &[Source], learned: &[Learned], seen: &[Seen], denied: &[Seen]) -> anyhow::Result<()> {
    let text: String = learned
        .iter()
        .map(|rule| format!("{}\n", rule.to_hcl()))
        .collect();
    let mut sources = sources.to_vec();
    sources.push(Source {
        path: PathBuf::from("learned.hcl"),
        text,
    });
    let policy = Policy::load(sources, &source::read_file)
        .map_err(|errors| anyhow::anyhow!("what was learned does not load:\n{}", errors.render()))?;
    for one in seen {
        if !matches!(judged(&policy, one), Verdict::Allow { rule: Some(_) }) {
            bail!(
                "record {} is not covered by what was learned from it",
                one.record["id"]
            );
        }
    }
    for one in denied {
        if matches!(judged(&policy, one), Verdict::Allow { rule: Some(rule) } if rule.starts_with("learned-"))
        {
            bail!(
                "record {} was denied, and what was learned would allow it",
                one.record["id"]
            );
        }
    }
    Ok(())
}
