//! `tailkeep audit`: what was asked, and what became of it.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::Format;
use crate::admin::client::Reach;

/// How often `tail --follow` asks.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Records of one page of `export`.
const PAGE: usize = 500;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    reach: Reach,
    /// How to print.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print the newest records.
    Tail {
        /// Go on as records come.
        #[arg(short, long)]
        follow: bool,
        /// How many.
        #[arg(short, long, default_value_t = 20)]
        lines: u32,
        #[command(flatten)]
        filter: Filter,
    },
    /// Print every record, one JSON object a line.
    Export {
        #[command(flatten)]
        filter: Filter,
    },
    /// Check the chain of hashes; exit status 1 where it is broken.
    Verify,
}

#[derive(clap::Args)]
struct Filter {
    /// Only this node or peer.
    #[arg(long)]
    node: Option<String>,
    /// Only this endpoint, `type.name`.
    #[arg(long)]
    endpoint: Option<String>,
    /// Only `allow` or `deny`.
    #[arg(long)]
    verdict: Option<String>,
    /// Only this rule.
    #[arg(long)]
    rule: Option<String>,
}

impl Filter {
    fn query(&self) -> String {
        let fields = [
            ("node", &self.node),
            ("endpoint", &self.endpoint),
            ("verdict", &self.verdict),
            ("rule", &self.rule),
        ];
        let set = fields
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)));
        set.map(|(name, value)| format!("&{name}={}", super::segment(value)))
            .collect()
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.format == Format::Json;
    let show = |row: &Value| println!("{}", if json { row.to_string() } else { line(row) });
    match args.command {
        Command::Tail {
            follow,
            lines,
            filter,
        } => {
            let query = filter.query();
            let mut after = 0;
            let rows = args
                .reach
                .get(&format!("/v1/audit?newest=true&limit={lines}{query}"))?;
            for row in rows.as_array().into_iter().flatten() {
                after = row["id"].as_u64().unwrap_or(after);
                show(row);
            }
            if !follow {
                return Ok(ExitCode::SUCCESS);
            }
            loop {
                std::thread::sleep(FOLLOW_EVERY);
                let rows = args.reach.get(&format!("/v1/audit?after={after}{query}"))?;
                for row in rows.as_array().into_iter().flatten() {
                    after = row["id"].as_u64().unwrap_or(after);
                    show(row);
                }
            }
        }
        Command::Export { filter } => {
            let query = filter.query();
            let mut after = 0;
            loop {
                let rows = args
                    .reach
                    .get(&format!("/v1/audit?after={after}&limit={PAGE}{query}"))?;
                let rows = rows.as_array().cloned().unwrap_or_default();
                for row in &rows {
                    after = row["id"].as_u64().unwrap_or(after);
                    println!("{row}");
                }
                if rows.len() < PAGE {
                    break;
                }
            }
        }
        Command::Verify => {
            let verified = args.reach.get("/v1/audit/verify")?;
            if json {
                println!("{verified}");
            } else {
                match verified["fault"].as_str() {
                    Some(fault) => println!("the log is broken: {fault}"),
                    None => println!("{} records hold; head {}", verified["records"], verified["head"]),
                }
            }
            if !verified["fault"].is_null() {
                return Ok(ExitCode::from(1));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `3 allow  agent → postgres.orders  SELECT …  reads  SELECT 1`.
fn line(row: &Value) -> String {
    let text = |field: &str| row[field].as_str().unwrap_or("-");
    let summary: String = text("summary")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(60)
        .collect();
    format!(
        "{:>5} {:<5} {} → {:<20} {summary:<60} {:<24} {}",
        row["id"],
        text("verdict"),
        text("node"),
        text("endpoint"),
        row["rule"].as_str().unwrap_or(text("cause")),
        row["outcome"]["status"].as_str().unwrap_or_default(),
    )
}
