//! `tailkeep tailnet`: the gateway's node, which of its routes are approved, and what the tailnet's
//! policy file lacks; and how a person logs it in.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use super::Format;
use super::gateway::state_folder;
use crate::admin::Lock;
use crate::admin::client::Reach;
use crate::ingress::tailnet::routes::Routes;
use crate::ingress::tailnet::{LocalApi, LocalApiError, declared, login};
use crate::policy::{Policy, source};

#[derive(clap::Args)]
pub struct Args {
    /// Take the routes back that a gateway left declared which ended by a crash; its service runs this, so that
    /// the tailnet leads agents to another gateway.
    #[arg(long, requires = "config")]
    withdraw: bool,
    /// The ended gateway's configuration, for --withdraw: only to find its state, where the service manager's
    /// STATE_DIRECTORY does not say where that is.
    #[arg(short, long, value_name = "PATH", requires = "withdraw")]
    config: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// 0 if every route is advertised and approved, else 1.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(config) = &args.config {
        return withdraw(config);
    }
    let report = args.reach.get("/v1/tailnet")?;
    let lacks = |field: &str| report[field].as_array().is_none_or(|all| !all.is_empty());
    let is_well = report["state"] == "Running" && !lacks("waiting") && !lacks("not_advertised");
    match args.format {
        Format::Json => println!("{report}"),
        Format::Text => print(&report, is_well),
    }
    Ok(ExitCode::from(u8::from(!is_well)))
}

/// Takes back what ran has declared: the configuration may be another by now, or none that loads. It is read
/// where nobody else says where the state lies.
fn withdraw(config: &Path) -> anyhow::Result<ExitCode> {
    let folder = match state_folder() {
        Some(folder) => folder,
        None => match Policy::load(source::read(config)?, &source::read_file) {
            Ok(policy) => policy.model().gateway.state_dir.clone(),
            Err(errors) => {
                super::validate::print_errors(&errors, Format::Text);
                return Ok(ExitCode::from(1));
            }
        },
    };
    // A tailscaled of the gateway's own has ended with it, and nothing was written down.
    let left = declared::left(&folder).context("what the gateway declared cannot be read")?;
    let Some(left) = left else {
        return Ok(ExitCode::SUCCESS);
    };
    // A gateway that runs declares what it serves.
    let _ended = Lock::take(&left.state_dir)?;
    let mut routes = Routes::default();
    routes.replace(left.routes);
    routes.end();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let api = LocalApi::new(&left.socket)?;
        let there = api.prefs().await?.advertise_routes.unwrap_or_default();
        if let Some(rest) = routes.over(&there) {
            api.advertise(&rest).await?;
            println!("the routes that the gateway had declared are withdrawn");
        }
        Ok::<_, LocalApiError>(())
    })?;
    declared::taken_back(&folder);
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Value, is_well: bool) {
    let text = |field: &str| super::printable(report[field].as_str().unwrap_or("-"));
    let list = |value: &Value| {
        let all = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        super::printable(&all.collect::<Vec<_>>().join(" "))
    };
    let who = match report["own"] == true {
        true => "the gateway's own",
        false => "attached",
    };
    println!("tailscaled {who}");
    if report["problem"].is_string() {
        println!("problem    {}", text("problem"));
    }
    if report["heard"] != true {
        println!("tailscaled is not heard; nobody of the tailnet is let in");
        return;
    }
    println!("node       {} {}", text("name"), list(&report["addresses"]));
    println!("state      {}", text("state"));
    if let Some(url) = report["login_url"].as_str().filter(|url| !url.is_empty()) {
        println!("log in at  {}", text("login_url"));
        if std::io::stdout().is_terminal() {
            println!("{}", login::qr(url).unwrap_or_default());
        }
    }
    println!("tags       {}", list(&report["tags"]));
    match report["not_asked_at"].as_str() {
        Some(why) => println!("asked at   {}", super::printable(why)),
        None => println!("asked at   {}", text("asked_at")),
    }
    for route in report["routes"].as_array().into_iter().flatten() {
        let state = match (&route["advertised"], &route["approved"], &route["primary"]) {
            (Value::Bool(false), ..) => "not advertised",
            (_, Value::Bool(false), _) => "waits for approval",
            (.., Value::Bool(true)) => "approved, led here",
            _ => "approved, led to another gateway or to nobody yet",
        };
        let what = route["for"].as_str().unwrap_or_default();
        println!(
            "route      {:<40} {what}: {state}",
            route["route"].as_str().unwrap_or_default()
        );
    }
    for why in report["not_advertised"].as_array().into_iter().flatten() {
        println!("\n{}", super::printable(why.as_str().unwrap_or_default()));
    }
    if is_well {
        return;
    }
    println!("\nThe policy file of the tailnet needs these lines (Access controls):\n");
    println!("{}", report["policy_file"].as_str().unwrap_or_default());
    let domains = list(&report["split_dns"]["domains"]);
    if !domains.is_empty() {
        println!(
            "\nand its DNS settings a nameserver {} restricted to the domains of: {domains}",
            list(&report["split_dns"]["nameservers"])
        );
    }
}
