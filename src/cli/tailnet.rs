//! `tailkeep tailnet`: the gateway's node, and how a person logs it in.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use serde_json::Value;

use super::{Format, printable};
use crate::admin::client::Reach;
use crate::ingress::tailnet::login;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    reach: Reach,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// 0 where the node is of the tailnet, else 1.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let node = args.reach.get("/v1/tailnet")?;
    let runs = node["state"] == "Running";
    let code = ExitCode::from(u8::from(!runs));
    if args.format == Format::Json {
        println!("{node}");
        return Ok(code);
    }
    let list = |name: &str| {
        let all = node[name].as_array().into_iter().flatten();
        let all: Vec<&str> = all.filter_map(Value::as_str).collect();
        printable(&all.join(" "))
    };
    let text = |name: &str| printable(node[name].as_str().unwrap_or("-"));
    println!("state      {}", text("state"));
    println!("name       {}", text("name"));
    println!(
        "tailscaled {}",
        if node["own"] == true {
            "the gateway's own"
        } else {
            "attached"
        }
    );
    println!("addresses  {}", list("addresses"));
    println!("tags       {}", list("tags"));
    println!("routes     {}", list("routes"));
    println!("approved   {}", list("approved"));
    if let Some(problem) = node["problem"].as_str() {
        println!("problem    {}", printable(problem));
    }
    if let Some(url) = node["login_url"].as_str() {
        println!("log in at  {}", printable(url));
        if std::io::stdout().is_terminal() {
            println!("{}", login::qr(url).unwrap_or_default());
        }
    }
    Ok(code)
}
