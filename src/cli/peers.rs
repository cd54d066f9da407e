//! `tailkeep peers`: who may connect.

use std::process::ExitCode;

use super::Format;
use crate::admin::client::Reach;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    reach: Reach,
    /// How to print.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List peers, and enrolment links that wait to be used.
    List,
    /// Print an enrolment link for a new machine, good for one use; or, with its key, the
    /// configuration of a machine that has a WireGuard of its own.
    Add {
        name: String,
        /// Seconds that the link lasts.
        #[arg(long, value_name = "SECONDS", conflicts_with = "public_key")]
        expires: Option<u64>,
        /// The WireGuard public key of a machine that will not run `tailkeep join`.
        #[arg(long, value_name = "KEY")]
        public_key: Option<String>,
        /// The machine reaches nothing until `tailkeep peers approve`.
        #[arg(long)]
        hold: bool,
    },
    /// Let a held peer connect; compare its key with the one that its machine shows.
    Approve { name: String },
    /// Remove a peer and end its connections.
    Remove { name: String },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.format == Format::Json;
    match args.command.unwrap_or(Command::List) {
        Command::List => {
            let listed = args.reach.get("/v1/peers")?;
            if json {
                println!("{listed}");
                return Ok(ExitCode::SUCCESS);
            }
            let rows = |name: &str| listed[name].as_array().cloned().unwrap_or_default();
            for peer in rows("peers") {
                let text = |field: &str| peer[field].as_str().unwrap_or("-").to_owned();
                let state = if peer["held"] == true {
                    format!("waits for `tailkeep peers approve`, key {}", text("public_key"))
                } else {
                    String::new()
                };
                let line = format!(
                    "{:<24} {:<16} {:<40} {state}",
                    text("peer"),
                    text("v4"),
                    text("v6")
                );
                println!("{}", line.trim_end());
            }
            for waiting in rows("waiting") {
                println!(
                    "{:<24} waits for `tailkeep join`",
                    waiting["peer"].as_str().unwrap_or("-")
                );
            }
        }
        Command::Add {
            name,
            expires,
            public_key,
            hold,
        } => {
            let body = serde_json::json!({ "name": name, "expires_s": expires, "public_key": public_key, "hold": hold });
            let body = body.to_string();
            let added = args
                .reach
                .ask(reqwest::Method::POST, "/v1/peers", Some(body.into_bytes()))?;
            if json {
                println!("{added}");
            } else if public_key.is_some() {
                print!("{}", wg_quick(&added));
            } else {
                println!("On the agent's machine, within {} seconds:", added["expires_s"]);
                println!("  tailkeep join '{}'", added["url"].as_str().unwrap_or_default());
            }
        }
        Command::Approve { name } => {
            let path = format!("/v1/peers/{}/approve", super::segment(&name));
            let approved = args.reach.ask(reqwest::Method::POST, &path, None)?;
            if json {
                println!("{approved}");
            } else {
                println!("{name} may connect");
            }
        }
        Command::Remove { name } => {
            let path = format!("/v1/peers/{}", super::segment(&name));
            let removed = args.reach.ask(reqwest::Method::DELETE, &path, None)?;
            if json {
                println!("{removed}");
            } else {
                println!("removed {name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration as wg-quick(8) reads it. It trusts the gateway's CA by nobody's doing but its owner's.
fn wg_quick(added: &serde_json::Value) -> String {
    let text = |field: &str| added[field].as_str().unwrap_or_default().to_owned();
    let dns = added["dns"].as_array().into_iter().flatten();
    let dns: Vec<_> = dns.filter_map(|address| address.as_str()).collect();
    format!(
        "[Interface]\nPrivateKey = # the machine's own\nAddress = {}/32, {}/128\nDNS = {}\nMTU = {}\n\n\
         [Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 25\n\n\
         # The gateway's CA, to be trusted by the machine's programs:\n{}",
        text("address_v4"),
        text("address_v6"),
        dns.join(", "),
        added["mtu"],
        text("gateway_public_key"),
        text("wireguard_endpoint"),
        text("ca_pem")
            .lines()
            .map(|line| format!("# {line}\n"))
            .collect::<String>(),
    )
}
