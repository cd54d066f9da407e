//! `tailkeep test`: replays recorded actions and reports each verdict that moved.
//!
//! The fixtures are those of Claw Patrol's `test` command: `match` says what is expected,
//! `action` what was done. Ours may have an `agent` in the action: `{"profile": …}`, or `tags`,
//! `login`, `node`, `peer` that a profile must claim; a `k8s` action may be the request itself,
//! with `method` and `path`, in the place of what it resolves to; a file may hold a list of
//! fixtures, each with a `name`; and comments may stand in it.
//!
//! The verdict is the live evaluator's. Which rules and which operands of their conditions came out
//! either way is counted beside it.
//!
//! Exit status: 1 if a verdict moved, or too little is covered; 2 if a fixture or the policy cannot
//! be read.

mod coverage;
pub(super) mod fixture;
mod rewrite;
pub(super) mod subject;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::Format;
use super::eval::summary;
use crate::policy::{Coverage, Policy, source};
use crate::verdict::Verdict;
use fixture::Fixture;
use rewrite::Document;

/// The verdicts that can be replayed, strictest last.
const VERDICTS: &[&str] = &["allow", "approve", "deny"];

#[derive(clap::Args)]
pub struct Args {
    /// A file, or a folder of `*.hcl`.
    path: PathBuf,
    /// A file of fixtures, or a folder of `*.json`.
    fixtures: PathBuf,
    /// Write the verdict that each fixture has now into it; the rest of the file stays as it is.
    #[arg(long)]
    update: bool,
    /// Print how often each rule, and each operand of its condition, came out which way.
    #[arg(long)]
    coverage: bool,
    /// Fail if less of the rules and of their conditions' branches is covered.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(..=100))]
    cover_min: Option<u64>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How the fixtures came out.
#[derive(Default)]
struct Tally {
    checked: usize,
    moved: usize,
    updated: usize,
    bad: usize,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let policy = match Policy::load(source::read(&args.path)?, &source::read_file) {
        Ok(policy) => policy,
        Err(errors) => {
            super::validate::print_errors(&errors, args.format);
            return Ok(ExitCode::from(2));
        }
    };
    let coverage = policy.coverage();
    let mut tally = Tally::default();
    for file in files(&args.fixtures)? {
        let report = |name: &str, problem: &str| report(args.format, name, problem);
        if let Err(error) = replay_file(&policy, &coverage, &file, args.update, &mut tally, &report) {
            tally.bad += 1;
            report(&file.display().to_string(), &format!("not replayed: {error:#}"));
        }
    }
    let covered = coverage::Covered::new(coverage.rules());
    let is_enough = covered.percent() >= args.cover_min.unwrap_or(0);
    match args.format {
        Format::Text => {
            covered.print(args.coverage);
            if !is_enough {
                println!(
                    "{} % are covered, and {} are asked for",
                    covered.percent(),
                    args.cover_min.unwrap_or(0)
                );
            }
            print_tally(&tally);
        }
        Format::Json if args.coverage || args.cover_min.is_some() => println!("{}", covered.to_json()),
        Format::Json => {}
    }
    Ok(ExitCode::from(match (tally.moved, tally.bad) {
        (0, 0) => u8::from(!is_enough),
        (_, 0) => 1,
        _ => 2,
    }))
}

fn report(format: Format, name: &str, problem: &str) {
    match format {
        Format::Text => println!("{name}: {problem}"),
        Format::Json => println!("{}", serde_json::json!({ "fixture": name, "problem": problem })),
    }
}

fn print_tally(tally: &Tally) {
    let mut line = format!("{} actions checked, {} mismatches", tally.checked, tally.moved);
    for (count, what) in [(tally.updated, "updated"), (tally.bad, "not replayed")] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    println!("{line}");
}

pub(super) fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || path.display().to_string();
    if !std::fs::metadata(path).with_context(context)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(context)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "json") {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("{}: no *.json in this folder", path.display());
    }
    files.sort();
    Ok(files)
}

/// Replays every fixture of a file, and writes it anew where that is asked for.
fn replay_file(
    policy: &Policy,
    coverage: &Coverage<'_>,
    file: &Path,
    update: bool,
    tally: &mut Tally,
    report: &dyn Fn(&str, &str),
) -> anyhow::Result<()> {
    let mut document = Document::new(source::read_file(file)?);
    let items = document.items()?;
    let is_list = document.is_list();
    for (index, range) in items.iter().enumerate() {
        let mut name = file.display().to_string();
        if is_list {
            name.push_str(&format!("[{index}]"));
        }
        let fixture: anyhow::Result<Fixture> =
            serde_json::from_str(document.json(range)).map_err(anyhow::Error::from);
        let decided = fixture.and_then(|fixture| {
            if let Some(own) = &fixture.name {
                name.push_str(&format!(" ({own})"));
            }
            Ok((replay(policy, coverage, &fixture)?, fixture.wanted))
        });
        let (decided, wanted) = match decided {
            Ok(decided) => decided,
            Err(error) => {
                tally.bad += 1;
                report(&name, &format!("not replayed: {error:#}"));
                continue;
            }
        };
        tally.checked += 1;
        if (decided.verdict, &decided.rule) == (wanted.verdict.as_str(), &wanted.rule) {
            continue;
        }
        let moved = format!(
            "want {} by `{}`, got {} by `{}`",
            wanted.verdict, wanted.rule, decided.verdict, decided.rule
        );
        if update {
            tally.updated += 1;
            document.set(range, &decided)?;
            report(&name, &format!("updated: {moved}"));
        } else {
            tally.moved += 1;
            report(&name, &moved);
        }
    }
    document.save(file)
}

/// What the policy says of a fixture: what can be written into it.
struct Decided {
    verdict: &'static str,
    /// Empty where no rule decided.
    rule: String,
    /// Empty where the action is allowed.
    reason: String,
}

fn replay(policy: &Policy, coverage: &Coverage<'_>, fixture: &Fixture) -> anyhow::Result<Decided> {
    if !VERDICTS.contains(&fixture.wanted.verdict.as_str()) {
        bail!(
            "the verdict `{}` is none of {}",
            fixture.wanted.verdict,
            VERDICTS.join(", ")
        );
    }
    let endpoint = subject::endpoint(policy, fixture)?;
    let agent = subject::agent(policy, &fixture.action, endpoint)?;
    let now = fixture.action.at.unwrap_or_else(chrono::Utc::now);
    let (credential, all) = match fixture::read(policy, &fixture.action, &agent, endpoint)? {
        Ok(read) => read,
        Err(refusal) => return Ok(Decided::of(&Verdict::Deny(refusal))),
    };
    let credential = credential.as_deref();
    let mut decided: Option<Decided> = None;
    for facts in all {
        let judgement = policy.evaluate(&agent, &endpoint.key, credential, &facts, now);
        if coverage.judge(&agent, &endpoint.key, credential, &facts, now) != judgement {
            bail!("the walk of all rules and the walk of those that could match differ");
        }
        // Statements that are sent as one go as far as the strictest of them.
        let one = Decided::of(&judgement.verdict);
        if decided
            .as_ref()
            .is_none_or(|own| rank(one.verdict) > rank(own.verdict))
        {
            decided = Some(one);
        }
    }
    decided.context("there is nothing to judge")
}

impl Decided {
    fn of(verdict: &Verdict) -> Decided {
        let (name, rule) = summary(verdict);
        Decided {
            verdict: name,
            rule: rule.unwrap_or_default().to_owned(),
            reason: match verdict {
                Verdict::Allow { .. } => String::new(),
                Verdict::Deny(refusal) => refusal.reason.clone(),
                Verdict::Ask { reason, .. } => reason.clone(),
            },
        }
    }
}

/// How strict a verdict is: its place in [`VERDICTS`].
fn rank(verdict: &str) -> Option<usize> {
    VERDICTS.iter().position(|own| *own == verdict)
}
