//! `tailkeep gateway`: loads the policy, opens the state, and serves every ingress until it is told to end.

mod own_ports;
mod policy_watch;
mod routes;
mod start;
mod starter;
mod tailnet;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) use tailnet::state_folder;

use crate::policy::{Policy, source};

#[derive(clap::Args)]
pub struct Args {
    /// A file, or a folder of `*.hcl`.
    #[arg(short, long, value_name = "PATH", default_value = "policies")]
    config: PathBuf,
    /// Write a commented starting configuration into this folder, and end.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    init: Option<PathBuf>,
    /// Write this pack of rules, with its fixtures, in the place of the example; may be given again.
    #[arg(long, value_name = "NAME", requires = "init", value_parser = clap::builder::PossibleValuesParser::new(starter::names()))]
    pack: Vec<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(folder) = args.init {
        starter::write(&folder, &args.pack)?;
        return Ok(ExitCode::SUCCESS);
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,boringtun=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log file wants no colours.
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let sources = source::read(&args.config)?;
    let policy = match Policy::load(sources, &source::read_file) {
        Ok(policy) => policy,
        Err(errors) => {
            eprint!("{}", errors.render());
            return Ok(ExitCode::from(1));
        }
    };
    // What is freed goes back to the system also while the gateway has nothing to do. Only here: `run` makes namespaces,
    // for which a process may have one thread.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(%error, "memory that is free is given back late");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(start::serve(args.config, policy))?;
    Ok(ExitCode::SUCCESS)
}
