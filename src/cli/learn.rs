//! `tailkeep learn`: the smallest set of allow rules that covers what a profile was seen to do.
//!
//! What is written is HCL that stands beside the policy; it is loaded with it, and every action
//! that it was learned from is judged by it, before it is printed.

mod cover;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Format;
use crate::audit::replay::{agent, each};
use crate::facts::Family;
use crate::policy::{Policy, RecordedFacts, Source, source};
use crate::verdict::Verdict;
use cover::{Learned, Seen, cover};

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
    let (mut seen, mut lacking) = (Vec::new(), 0u64);
    each(&log, args.since, |record| match look(&policy, &args, record) {
        Some(Ok(one)) => seen.push(one),
        Some(Err(())) => lacking += 1,
        None => {}
    })
    .with_context(|| log.display().to_string())?;
    let learned = cover(&args.profile, &seen);
    check(sources, &learned, &seen)?;
    match args.format {
        Format::Json => {
            let rules = learned.iter().map(|rule| {
                serde_json::json!({
                    "name": rule.name, "endpoint": &*rule.endpoint, "condition": rule.condition, "count": rule.count,
                })
            });
            let document = serde_json::json!({
                "rules": rules.collect::<Vec<_>>(), "actions": seen.len(), "not_learned": lacking,
            });
            println!("{document}");
        }
        Format::Text => {
            println!(
                "# {} actions of profile {}; {lacking} more were not recorded well enough.",
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

/// One record, if it is one to learn from; `Err` where its facts are not all there.
fn look(policy: &Policy, args: &Args, record: &Value) -> Option<Result<Seen, ()>> {
    let is = |name: &str, wanted: &str| record[name].as_str() == Some(wanted);
    let wanted = is("verdict", "allow") || (args.denied && is("cause", "no_rule"));
    if !is("step", "request") || !is("profile", &args.profile) || !wanted {
        return None;
    }
    let endpoint = policy.model().endpoint(record["endpoint"].as_str()?)?;
    Some(Seen::read(endpoint.family, &endpoint.key, record).ok_or(()))
}

/// Loads what was learned beside the policy, and has every action judged by it alone.
fn check(mut sources: Vec<Source>, learned: &[Learned], seen: &[Seen]) -> anyhow::Result<()> {
    let text: String = learned
        .iter()
        .map(|rule| format!("{}\n", rule.to_hcl()))
        .collect();
    sources.push(Source {
        path: PathBuf::from("learned.hcl"),
        text,
    });
    let policy = Policy::load(sources, &source::read_file)
        .map_err(|errors| anyhow::anyhow!("what was learned does not load:\n{}", errors.render()))?;
    for one in seen {
        let facts = RecordedFacts::read(one.family, &one.record["facts"]);
        let profile = one.record["profile"].as_str().unwrap_or_default();
        let who = RecordedFacts::read(Family::Agent, &agent(&one.record, profile));
        let at = one.record["at_us"]
            .as_i64()
            .and_then(chrono::DateTime::from_timestamp_micros);
        let judgement = policy.evaluate_recorded(
            (profile, &who),
            &one.endpoint,
            one.record["credential"].as_str(),
            &facts,
            at.unwrap_or_default(),
        );
        let allowed =
            matches!(&judgement.verdict, Verdict::Allow { rule: Some(rule) } if rule.starts_with("learned-"));
        if !allowed {
            bail!(
                "record {} is not covered by what was learned from it",
                one.record["id"]
            );
        }
    }
    Ok(())
}
