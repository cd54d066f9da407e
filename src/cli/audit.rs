//! `tailkeep audit`: what was asked, and what became of it.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::Format;
use crate::admin::client::{ApiError, Reach};
use crate::audit::read::{self, Reader};

/// How long `tail -f` waits before it looks for a gateway that went away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Records of one page of `export`.
const PAGE: usize = 500;
/// Columns of an export as CSV; `facts`, `approvers` and `shadow` are JSON texts.
const COLUMNS: &[&str] = &[
    "id",
    "at_us",
    "step",
    "transport",
    "node",
    "login",
    "address",
    "profile",
    "endpoint",
    "credential",
    "summary",
    "facts",
    "digest",
    "verdict",
    "cause",
    "rule",
    "reason",
    "detail",
    "approvers",
    "shadow",
    "judge_us",
    "wait_us",
    "policy",
    "hash",
];
/// Columns that follow, of the outcome.
const OUTCOME: &[&str] = &["status", "bytes_up", "bytes_down", "took_us"];

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    reach: Reach,
}

/// How an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum ExportFormat {
    /// One JSON object a line.
    #[default]
    #[value(alias = "json")]
    Jsonl,
    /// RFC 4180, with a line of names.
    Csv,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print the newest records.
    Tail {
        /// Go on as records come.
        #[arg(short, long)]
        follow: bool,
        /// How many.
        #[arg(short = 'n', short_alias = 'l', long, default_value_t = 20)]
        lines: u32,
        #[command(flatten)]
        filter: Filter,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print every record, oldest first.
    Export {
        #[command(flatten)]
        filter: Filter,
        /// A log's file, instead of the running gateway's.
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: ExportFormat,
    },
    /// Check the chain of hashes; exit status 1 where it is broken.
    Verify {
        /// A log's file, instead of the running gateway's: a copy, or one whose gateway is down.
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// What was noted elsewhere, `NUMBER:HASH` of an earlier check: the log must still hold it.
        #[arg(long, value_name = "NUMBER:HASH")]
        noted: Option<String>,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
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
    /// Only records of the last time: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = ago)]
    since: Option<i64>,
}

/// Unix time, microseconds, of as long ago as the text says.
pub(super) fn ago(text: &str) -> Result<i64, String> {
    let seconds = super::seconds(text)?;
    Ok(crate::state::now_us().saturating_sub(seconds * 1_000_000))
}

impl Filter {
    /// The same, for a log that is read here.
    fn read(self) -> read::Filter {
        read::Filter {
            node: self.node,
            endpoint: self.endpoint,
            verdict: self.verdict,
            rule: self.rule,
            since_us: self.since,
            ..read::Filter::default()
        }
    }

    fn query(&self) -> String {
        let since = self.since.map(|since| since.to_string());
        let fields = [
            ("node", &self.node),
            ("endpoint", &self.endpoint),
            ("verdict", &self.verdict),
            ("rule", &self.rule),
            ("since_us", &since),
        ];
        let set = fields
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)));
        set.map(|(name, value)| format!("&{name}={}", super::segment(value)))
            .collect()
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Tail {
            follow,
            lines,
            filter,
            format,
        } => tail(&args.reach, follow, lines, &filter.query(), format),
        Command::Export {
            filter,
            file: None,
            format,
        } => export(format, |after| {
            let query = filter.query();
            let rows = args
                .reach
                .get(&format!("/v1/audit?after={after}&limit={PAGE}{query}"))?;
            Ok(rows.as_array().cloned().unwrap_or_default())
        }),
        Command::Export {
            filter,
            file: Some(file),
            format,
        } => {
            let reader = Reader::open(&file)?;
            let mut filter = filter.read();
            export(format, |after| {
                filter.after = after;
                Ok(reader.select(&filter)?)
            })
        }
        Command::Verify { file, noted, format } => {
            let query = noted
                .as_deref()
                .map(|noted| format!("?noted={}", super::segment(noted)));
            let verified = match file {
                Some(file) => serde_json::to_value(Reader::open(&file)?.verify_with(noted.as_deref())?)?,
                None => args
                    .reach
                    .get(&format!("/v1/audit/verify{}", query.unwrap_or_default()))?,
            };
            match (format, verified["fault"].as_str()) {
                (Format::Json, _) => println!("{verified}"),
                (_, Some(fault)) => println!("the log is broken: {}", super::printable(fault)),
                (_, None) => println!(
                    "{} records hold; head {}:{}",
                    verified["records"],
                    verified["last"],
                    verified["head"].as_str().unwrap_or_default()
                ),
            }
            let whole = verified["fault"].is_null();
            Ok(if whole {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            })
        }
    }
}

fn tail(reach: &Reach, follow: bool, lines: u32, query: &str, format: Format) -> anyhow::Result<ExitCode> {
    let show = |row: &Value| {
        if format == Format::Json {
            row.to_string()
        } else {
            line(row)
        }
    };
    let mut out = std::io::stdout().lock();
    let mut after = 0;
    let rows = reach.get(&format!("/v1/audit?newest=true&limit={lines}{query}"))?;
    for row in rows.as_array().into_iter().flatten() {
        after = row["id"].as_u64().unwrap_or(after);
        writeln!(out, "{}", show(row))?;
    }
    out.flush()?;
    if !follow {
        return Ok(ExitCode::SUCCESS);
    }
    let mut connected = false;
    loop {
        let mut wrong = None;
        let path = format!("/v1/audit/follow?after={after}{query}");
        let ended = reach.follow(&path, |name, row| {
            if name == "open" {
                connected = true;
                return ControlFlow::Continue(());
            }
            if name == "error" {
                wrong = row["error"].as_str().map(str::to_owned);
                return ControlFlow::Break(());
            }
            after = row["id"].as_u64().unwrap_or(after);
            let written = writeln!(out, "{}", show(&row)).and_then(|()| out.flush());
            written.map_or_else(
                |error| {
                    wrong = Some(error.to_string());
                    ControlFlow::Break(())
                },
                ControlFlow::Continue,
            )
        });
        if let Some(text) = wrong {
            anyhow::bail!(text);
        }
        // A gateway that starts anew goes on with the same log.
        match ended {
            Ok(()) => {}
            Err(ApiError::Unreachable(..)) if connected => {}
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// Prints every page that `next` gives, from the record after the one it is told.
fn export(
    format: ExportFormat,
    mut next: impl FnMut(u64) -> anyhow::Result<Vec<Value>>,
) -> anyhow::Result<ExitCode> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if format == ExportFormat::Csv {
        let names: Vec<&str> = COLUMNS.iter().chain(OUTCOME).copied().collect();
        write!(out, "{}\r\n", names.join(","))?;
    }
    let mut after = 0;
    loop {
        let rows = next(after)?;
        // A page of large records is short; only an empty one is the last.
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            after = row["id"].as_u64().unwrap_or(after);
            match format {
                ExportFormat::Jsonl => writeln!(out, "{row}")?,
                ExportFormat::Csv => write!(out, "{}\r\n", csv(row))?,
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A record as a line of RFC 4180.
fn csv(row: &Value) -> String {
    let own = COLUMNS.iter().map(|name| &row[*name]);
    let outcome = OUTCOME.iter().map(|name| &row["outcome"][*name]);
    let cells = own.chain(outcome).map(|value| match value {
        Value::Null => String::new(),
        Value::String(text) => cell(text),
        Value::Number(number) => number.to_string(),
        value => cell(&value.to_string()),
    });
    cells.collect::<Vec<_>>().join(",")
}

/// A text as a quoted cell. What a spreadsheet would run as a formula, and an agent may have
/// written, is made text by an apostrophe before it.
fn cell(text: &str) -> String {
    let runs = text.trim_start().starts_with(['=', '+', '-', '@']);
    let guard = if runs { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

/// `3 allow  agent → postgres.orders  SELECT …  reads  SELECT 1`.
fn line(row: &Value) -> String {
    let text = |field: &str| super::printable(row[field].as_str().unwrap_or("-"));
    let summary: String = text("summary").chars().take(60).collect();
    format!(
        "{:>5} {:<5} {} → {:<20} {summary:<60} {:<24} {}",
        row["id"],
        text("verdict"),
        text("node"),
        text("endpoint"),
        row["rule"].as_str().unwrap_or(&text("cause")),
        super::printable(row["outcome"]["status"].as_str().unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now = crate::state::now_us();
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)] {
            let off = now - ago(text).unwrap() - seconds * 1_000_000;
            assert!(off.abs() < 5_000_000, "{text}: {off}");
        }
        for wrong in ["", "m", "15", "15 m", "-1h", "1w", "é", "99999999999d"] {
            assert!(ago(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cells() {
        for (text, want) in [
            ("plain", "\"plain\""),
            ("a \"b\", c\nd", "\"a \"\"b\"\", c\nd\""),
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            (" @SUM(1)", "\"' @SUM(1)\""),
            ("a=b", "\"a=b\""),
        ] {
            assert_eq!(cell(text), want);
        }
        let row = serde_json::json!({"id": 3, "facts": {"a": [1]}, "outcome": {"status": "HTTP 200"}});
        let line = csv(&row);
        assert!(
            line.starts_with("3,,")
                && line.contains("\"{\"\"a\"\":[1]}\"")
                && line.ends_with("\"HTTP 200\",,,")
        );
        assert_eq!(line.matches(',').count(), COLUMNS.len() + OUTCOME.len() - 1);
    }
}
