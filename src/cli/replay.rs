//! `tailkeep replay`: judges the recorded audit log by another policy, and prints what would change.
//!
//! Exit status: 0 nothing would change; 1 a verdict would, or the policy does not load.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::Format;
use crate::audit::replay::{Replayed, Said, replay};
use crate::policy::{Policy, source};

#[derive(clap::Args)]
pub struct Args {
    /// The policy to judge by: a file, or a folder of `*.hcl`.
    path: PathBuf,
    /// Only records of the last time: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = super::audit::ago)]
    since: i64,
    /// The log; by default that of the policy's own `state_dir`.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write down that these changes are meant: a gateway whose `reload_guard` holds this policy back
    /// takes it then.
    #[arg(long)]
    accept: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The log of a policy's gateway, or the one that was named.
pub(super) fn log_of(policy: &Policy, named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| policy.model().gateway.state_dir.join("audit.db"))
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let policy = match Policy::load(source::read(&args.path)?, &source::read_file) {
        Ok(policy) => policy,
        Err(errors) => {
            super::validate::print_errors(&errors, args.format);
            return Ok(ExitCode::from(1));
        }
    };
    let log = log_of(&policy, args.log);
    let found = replay(&log, args.since, None, &policy).with_context(|| log.display().to_string())?;
    match args.format {
        Format::Json => println!("{}", found.to_json()),
        Format::Text => print!("{}", text(&found)),
    }
    if args.accept {
        let folder = log.parent().unwrap_or(Path::new("."));
        source::accept(folder, policy.version()).with_context(|| folder.display().to_string())?;
    }
    Ok(ExitCode::from(u8::from(found.changed > 0)))
}

fn said(said: &Said) -> String {
    let asks = match &said.approvers {
        Some(approvers) => format!(", asks {}", approvers.join(", ")),
        None => String::new(),
    };
    match &said.rule {
        Some(rule) => format!("{} by {rule}{asks}", said.verdict),
        None => format!("{} (no rule)", said.verdict),
    }
}

/// What was found, for people: one line a change.
pub(super) fn text(found: &Replayed) -> String {
    let mut out = String::new();
    for change in &found.changes {
        out.push_str(&format!(
            "{} × {} → {}  {}, {}  such as #{} {}\n",
            change.count,
            said(&change.was),
            said(&change.would),
            change.endpoint,
            change.profile,
            change.record,
            super::printable(&change.summary),
        ));
    }
    for (why, count) in &found.not_replayed {
        out.push_str(&format!("{count} × not replayed: {why}\n"));
    }
    let rest: u64 = found.not_replayed.values().sum();
    if found.assumed > 0 {
        out.push_str(&format!(
            "{} × judged by the profile that was recorded: their agents' tags were not\n",
            found.assumed
        ));
    }
    out.push_str(&format!(
        "{} verdicts judged anew, {} would change, {rest} cannot be replayed\n",
        found.judged, found.changed
    ));
    out
}
