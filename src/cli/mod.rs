//! The commands, one file each.
//!
//! Exit status: 0 done; 1 the answer is "no"; 2 wrong usage or unreadable input.

mod agents;
mod approvals;
mod audit;
mod credentials;
mod env;
mod eval;
mod gateway;
mod inspect;
mod join;
mod judge;
mod learn;
mod leave;
mod lsp;
mod openapi;
mod operators;
mod peers;
mod read;
mod replay;
mod run;
mod setup;
mod status;
mod tailnet;
mod test;
mod tied;
mod validate;
mod whoami;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::channel::visible::printable;

/// How a command prints data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One document, or one object a line for a stream.
    Json,
}

/// A firewall for AI agents that works on the wire.
#[derive(Parser)]
#[command(name = "tailkeep", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one a process")]
enum Command {
    /// Run the gateway.
    Gateway(gateway::Args),
    /// Load and compile a configuration, and print what was loaded or every error.
    Validate(validate::Args),
    /// Replay recorded actions and report each verdict that moved.
    Test(test::Args),
    /// Try LLM judges on recorded cases.
    Judge(judge::Args),
    /// Judge the recorded audit log by another policy, and print every verdict that would change.
    Replay(replay::Args),
    /// Write the smallest set of allow rules that covers what a profile was seen to do.
    Learn(learn::Args),
    /// Judge one action given on the command line.
    Eval(eval::Args),
    /// Print the facts of statements or requests, one JSON object a line.
    Inspect(inspect::Args),
    /// Serve editors: errors, completion and hover texts in policies, on standard input and output.
    Lsp(lsp::Args),
    /// Enrol this machine at a gateway.
    Join(join::Args),
    /// Run one command through the tunnel.
    ///
    /// The command finds what `tailkeep env` prints in its environment: placeholders, CA variables that add to
    /// the system's roots, and KUBECONFIG. That has a context for each cluster that the agent reaches, by the
    /// endpoint's name (`kubectl --context kubernetes.prod`), the first of them current. A KUBECONFIG that is set
    /// already comes first, with its current context; `~/.kube/config` comes behind.
    Run(run::Args),
    /// Print placeholders, CA variables and KUBECONFIG for a shell.
    Env(env::Args),
    /// Report how this machine is connected.
    Status(status::Args),
    /// Say what this machine's agents reach, and by which placeholders.
    Whoami(whoami::Args),
    /// Undo `join`.
    Leave(leave::Args),
    /// List, add, approve or remove peers.
    Peers(peers::Args),
    /// Invite people to the admin page, list or remove them, end their sessions.
    Operators(operators::Args),
    /// List agents, stop one at once, let one go again.
    Agents(agents::Args),
    /// List, show, approve, deny or watch held actions; list or revoke grants.
    Approvals(approvals::Args),
    /// List, set or rotate secrets.
    Credentials(credentials::Args),
    /// Give a gateway on a tailnet what only root may: the interception of real addresses, systemd units.
    Setup(setup::Args),
    /// Show the gateway's node of the tailnet, its routes, and what the tailnet's policy file lacks.
    Tailnet(tailnet::Args),
    /// Follow, export or verify the audit log.
    Audit(audit::Args),
    /// Print the gateway's JSON API as an OpenAPI document.
    Openapi,
    /// For the gateway itself: a program that ends with it.
    #[command(hide = true)]
    Tied(tied::Args),
}

/// The command line's entry point.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // rustls wants one provider for the process, HTTP clients even where they speak without TLS.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if only_prints(&cli.command)
        && let Err(error) = crate::sys::end_with_the_reader()
    {
        eprintln!("tailkeep: {error}");
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Gateway(args) => gateway::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Test(args) => test::run(args),
        Command::Judge(args) => judge::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Learn(args) => learn::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Lsp(args) => lsp::run(args),
        Command::Join(args) => join::run(args),
        Command::Run(args) => run::run(args),
        Command::Env(args) => env::run(args),
        Command::Status(args) => status::run(args),
        Command::Whoami(args) => whoami::run(args),
        Command::Leave(args) => leave::run(args),
        Command::Peers(args) => peers::run(args),
        Command::Operators(args) => operators::run(args),
        Command::Agents(args) => agents::run(args),
        Command::Approvals(args) => approvals::run(args),
        Command::Credentials(args) => credentials::run(args),
        Command::Tailnet(args) => tailnet::run(args),
        Command::Setup(args) => setup::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Openapi => openapi::run(),
        Command::Tied(args) => tied::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tailkeep: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether a command reads files and prints, and has no connection that it could end by.
fn only_prints(command: &Command) -> bool {
    matches!(
        command,
        Command::Validate(_)
            | Command::Test(_)
            | Command::Replay(_)
            | Command::Learn(_)
            | Command::Eval(_)
            | Command::Inspect(_)
            | Command::Openapi
    )
}

/// A time as people write it, in seconds: 90s, 15m, 2h, 7d.
fn seconds(text: &str) -> Result<i64, String> {
    let wrong = || "a number with s, m, h or d, such as 15m".to_owned();
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(i64::from(number) * unit)
}

/// A text as one segment of a path, or one value of a query.
fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
