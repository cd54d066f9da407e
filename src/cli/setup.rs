//! `tailkeep setup`: what only root may give a gateway: the table that turns the tailnet's
//! connections to it, the local routes of the virtual ranges, the systemd units.
//!
//! Everything is shown before it is done, what is there already is left alone, and `--remove` takes
//! all of it away again.

mod change;
mod table;
mod unit;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::ingress::tailnet::Plan;
use crate::policy::{Model, Policy, source};
use change::Change;

#[derive(clap::Args)]
pub struct Args {
    /// The gateway's configuration: a file, or a folder of `*.hcl`.
    #[arg(short, long, value_name = "PATH", default_value = "/etc/tailkeep/policies")]
    config: PathBuf,
    /// The account that the gateway runs as; made if it is not there.
    #[arg(long, default_value = "tailkeep")]
    user: String,
    /// tailscaled's network device.
    #[arg(long, default_value = "tailscale0")]
    device: String,
    /// Take away what an earlier run has written.
    #[arg(long)]
    remove: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// What files and commands are made of.
struct Wanted {
    plan: Plan,
    /// The virtual ranges, for the local routes.
    names: Vec<ipnet::IpNet>,
    port: u16,
    device: String,
    user: String,
    config: PathBuf,
    program: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let is_name = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !text.is_empty() && text.len() < 32 && text.bytes().all(plain)
    };
    anyhow::ensure!(
        is_name(&args.user),
        "`--user {}` is no name of an account",
        args.user
    );
    anyhow::ensure!(
        is_name(&args.device),
        "`--device {}` is no network device",
        args.device
    );
    let changes = if args.remove {
        change::removal()
    } else {
        let policy = match Policy::load(source::read(&args.config)?, &source::read_file) {
            Ok(policy) => policy,
            Err(errors) => {
                super::validate::print_errors(&errors, super::Format::Text);
                return Ok(ExitCode::from(1));
            }
        };
        change::setting_up(&wanted(&args, policy.model())?)
    };
    if changes.is_empty() {
        println!("nothing is to be done: everything is as it should be");
        return Ok(ExitCode::SUCCESS);
    }
    changes.iter().for_each(Change::show);
    if !nix::unistd::geteuid().is_root() {
        anyhow::ensure!(!args.yes, "this takes root: run it with sudo");
        println!("\nThis is what would be done; run it as root to do it.");
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !asked()? {
        println!("nothing was done");
        return Ok(ExitCode::from(1));
    }
    for change in &changes {
        change.make()?;
    }
    if !args.remove {
        println!("\nThen:");
        println!(
            "  tailscale set --operator={}      # lets the gateway declare its routes",
            args.user
        );
        println!("  systemctl enable --now tailkeep.service");
        println!("  tailkeep tailnet                    # what the policy file of the tailnet lacks");
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(args: &Args, model: &Model) -> anyhow::Result<Wanted> {
    let gateway = &model.gateway;
    let tailscale = gateway.tailscale.as_ref().context(
        "the configuration has no `gateway { tailscale { … } }`: a gateway without a tailnet needs no setup",
    )?;
    let program = std::env::current_exe().context("where this program lies cannot be found out")?;
    Ok(Wanted {
        plan: Plan::of(model),
        names: vec![gateway.virtual_v4, gateway.virtual_v6],
        port: tailscale.redirect_port,
        device: args.device.clone(),
        user: args.user.clone(),
        config: std::path::absolute(&args.config)?,
        program,
    })
}

fn asked() -> anyhow::Result<bool> {
    anyhow::ensure!(
        std::io::stdin().is_terminal(),
        "nobody is there to be asked; --yes does it without"
    );
    print!("\nDo this? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
