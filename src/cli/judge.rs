//! `tailkeep judge test`: tries an LLM judge on recorded cases and says how often it was right.
//!
//! A case is a fixture of `tailkeep test` whose `match.verdict` is `allow` or `deny`; a file holds one
//! or a list of them. The judge is asked as the gateway would ask it: the same prompt, the same
//! document, the same limits of one request; opinions that are kept and budgets are left out. No
//! verdict is never a hit. Exit status: 0, or 1 below `--min-rate`; 2 if a case, the policy or the
//! judge's secret cannot be read.

mod score;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::Format;
use super::test::files;
use super::test::fixture::{self, Fixture};
use super::test::subject::{agent, endpoint};
use crate::credential::store::SecretStore;
use crate::policy::{ApproverKind, Judge, Policy, source};
use crate::verdict::approval::Question;
use crate::verdict::judge::{Judges, case, wire};
use crate::verdict::{Action, Step, Verdict};
use score::{Score, Trial};

/// Questions that are out at once.
const AT_ONCE: usize = 8;
/// Most cases, of all files.
const CASES_MAX: usize = 10_000;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Ask a judge about recorded cases, and print its hit rate.
    Test(Test),
}

#[derive(clap::Args)]
struct Test {
    /// A file, or a folder of `*.hcl`.
    path: PathBuf,
    /// A file of cases, or a folder of `*.json`.
    cases: PathBuf,
    /// The judge, `llm_approver.name`; may be left out where there is one.
    #[arg(long)]
    judge: Option<String>,
    /// How often each case is asked.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Percent of the answers that must be right.
    #[arg(long, default_value_t = 100.0, value_parser = percent)]
    min_rate: f64,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let fits = (0.0..=100.0).contains(&number);
    fits.then_some(number)
        .ok_or_else(|| "it is from 0 to 100".to_owned())
}

/// A case, ready to be asked.
struct Case {
    name: String,
    allow: bool,
    question: Question,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::Test(args) = args.command;
    let policy = match Policy::load(source::read(&args.path)?, &source::read_file) {
        Ok(policy) => Arc::new(policy),
        Err(errors) => {
            super::validate::print_errors(&errors, args.format);
            return Ok(ExitCode::from(2));
        }
    };
    let (key, judge) = chosen(&policy, args.judge.as_deref())?;
    let cases = cases(&policy, &args, &key)?;
    let judges = Judges::new(SecretStore::new(&policy.model().gateway.state_dir))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let trials = runtime.block_on(ask(&policy, judges, &judge, cases, args.repeat))?;
    let score = Score::of(&trials);
    match args.format {
        Format::Text => print!("{}", score.text(&key, &judge, &trials)),
        Format::Json => println!("{}", score.json(&key, &judge, &trials)),
    }
    Ok(ExitCode::from(u8::from(score.rate() < args.min_rate)))
}

/// The judge that was named, or the only one.
fn chosen(policy: &Policy, name: Option<&str>) -> anyhow::Result<(Arc<str>, Judge)> {
    let mut judges = policy.model().approvers.iter().filter_map(|own| match &own.kind {
        ApproverKind::Llm(judge) => Some((own, judge)),
        ApproverKind::Human { .. } => None,
    });
    let found = match name {
        Some(name) => judges
            .find(|(own, _)| *own.key == *name || own.name == name)
            .with_context(|| format!("there is no judge `{name}`"))?,
        None => match (judges.next(), judges.next()) {
            (Some(one), None) => one,
            (None, _) => bail!("the policy has no llm_approver"),
            _ => bail!("the policy has several judges: name one by --judge"),
        },
    };
    Ok((found.0.key.clone(), (**found.1).clone()))
}

fn cases(policy: &Policy, args: &Test, key: &Arc<str>) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for file in files(&args.cases)? {
        let name = file.display().to_string();
        let text = source::read_file(&file).with_context(|| name.clone())?;
        let list = text.trim_start().starts_with('[');
        let fixtures: Vec<Fixture> = match list {
            true => serde_json::from_str(&text).with_context(|| name.clone())?,
            false => vec![serde_json::from_str(&text).with_context(|| name.clone())?],
        };
        for (at, fixture) in fixtures.into_iter().enumerate() {
            let name = match list {
                true => format!("{name}#{}", at + 1),
                false => name.clone(),
            };
            cases.push(read(policy, fixture, key, &name).with_context(|| name)?);
            if cases.len() > CASES_MAX {
                bail!("more than {CASES_MAX} cases");
            }
        }
    }
    if cases.is_empty() {
        bail!("there are no cases");
    }
    Ok(cases)
}

fn read(policy: &Policy, fixture: Fixture, key: &Arc<str>, name: &str) -> anyhow::Result<Case> {
    let allow = match fixture.wanted.verdict.as_str() {
        "allow" => true,
        "deny" => false,
        other => bail!("a judge says `allow` or `deny`, never `{other}`"),
    };
    let endpoint = endpoint(policy, &fixture)?;
    let agent = agent(policy, &fixture.action, endpoint)?;
    let read = fixture::read(policy, &fixture.action, &agent, endpoint)?;
    let (credential, all) = match read {
        Ok(read) => read,
        Err(refusal) => bail!("refused before any rule, so no judge sees it: {}", refusal.reason),
    };
    let now = fixture.action.at.unwrap_or_else(chrono::Utc::now);
    // The rule that would ask; of several statements or messages, those of the first that is asked about.
    let mut asked = (Arc::from(fixture.wanted.rule.as_str()), String::new());
    let mut chosen = None;
    for facts in all {
        let judgement = policy.evaluate(&agent, &endpoint.key, credential.as_deref(), &facts, now);
        if let Verdict::Ask { rule, reason, .. } = judgement.verdict {
            asked = (rule, reason);
            chosen = Some(facts);
            break;
        }
        chosen.get_or_insert(facts);
    }
    let (summary, detail, digest) = fixture::described(&fixture.action)?;
    let action = Action {
        step: Step::Request,
        endpoint: endpoint.key.clone(),
        credential,
        facts: chosen.context("there is nothing to judge")?,
        digest,
        whole: true,
        summary,
        detail,
    };
    let question = case(policy, &agent, &action, (&asked.0, &asked.1), key).map_err(anyhow::Error::msg)?;
    Ok(Case {
        name: name.to_owned(),
        allow,
        question,
    })
}

/// Every case so many times, in the order of the cases.
async fn ask(
    policy: &Arc<Policy>,
    judges: Judges,
    judge: &Judge,
    cases: Vec<Case>,
    repeat: u32,
) -> anyhow::Result<Vec<Trial>> {
    let (judges, judge) = (Arc::new(judges), Arc::new(judge.clone()));
    let mut waiting = cases
        .into_iter()
        .flat_map(|case| {
            let case = Arc::new(case);
            (0..repeat).map(move |_| case.clone())
        })
        .enumerate();
    let mut running = tokio::task::JoinSet::new();
    let mut trials = Vec::new();
    loop {
        while running.len() < AT_ONCE {
            let Some((at, case)) = waiting.next() else {
                break;
            };
            let (policy, judges, judge) = (policy.clone(), judges.clone(), judge.clone());
            running.spawn(async move {
                let (said, tokens) = judges.try_case(policy.model(), &judge, &case.question).await;
                let trial = Trial {
                    case: case.name.clone(),
                    allow: case.allow,
                    said: said.map_err(|down| down.to_string()),
                    tokens,
                };
                (at, trial)
            });
        }
        match running.join_next().await {
            Some(trial) => trials.push(trial?),
            None => break,
        }
    }
    trials.sort_by_key(|(at, _)| *at);
    Ok(trials.into_iter().map(|(_, trial)| trial).collect())
}

/// The judge's model and prompt, as the record names them.
fn named(judge: &Judge) -> (String, String) {
    (judge.model.clone(), wire::prompt_version(&judge.policy))
}
