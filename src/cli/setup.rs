//! `tailkeep setup`: what only root may give a gateway: the table that turns the tailnet's
//! connections to it, the local routes of the virtual ranges, the systemd units.
//!
//! Everything is shown before it is done, what is there already is left alone, and `--remove` takes
//! all of it away again. `--watch` keeps the table as it was written.

mod change;
mod table;
mod unit;
mod watch;

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
    /// Load the table anew whenever it was changed or taken away; tailkeep-watch.service runs this.
    #[arg(long, conflicts_with = "remove")]
    watch: bool,
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
    if args.watch {
        return watch::run();
    }
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
    let mut is_attached = false;
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
        let tailscale = policy.model().gateway.tailscale.as_ref();
        is_attached = tailscale.is_some_and(|own| own.socket.is_some());
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
        // A tailscaled of the gateway's own lets its account.
        if is_attached {
            println!(
                "  tailscale set --operator={}      # lets the gateway declare its routes",
                args.user
            );
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Via;

    #[test]
    fn the_examples_are_what_is_written() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let names = nets(&["10.78.0.0/16", "fd7a:7461:696c:78::/64"]);
        let wanted = Wanted {
            plan: Plan {
                names: names.clone(),
                real: nets(&["10.20.0.0/16"]),
                via: vec![Via {
                    site: 7,
                    cidr: "10.1.0.0/16".parse().unwrap(),
                }],
            },
            names,
            port: 8739,
            device: "tailscale0".to_owned(),
            user: "tailkeep".to_owned(),
            config: "/etc/tailkeep/policies".into(),
            program: "/usr/local/bin/tailkeep".into(),
        };
        let pairs = [
            (
                unit::gateway(&wanted),
                include_str!("../../tailscale/tailkeep.service"),
            ),
            (
                unit::intercept(&wanted),
                include_str!("../../tailscale/tailkeep-intercept.service"),
            ),
            (
                unit::watch(&wanted),
                include_str!("../../tailscale/tailkeep-watch.service"),
            ),
            (
                table::text(&wanted),
                include_str!("../../tailscale/intercept.nft"),
            ),
        ];
        for (written, example) in pairs {
            assert_eq!(written, example);
        }
    }

    #[test]
    fn a_word_of_a_unit_means_itself() {
        assert_eq!(change::quoted("/etc/tailkeep"), "/etc/tailkeep");
        assert_eq!(change::quoted("/a b/100%$x\"y\\"), "\"/a b/100%%$$x\\\"y\\\\\"");
    }
}
