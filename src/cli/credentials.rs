//! `tailkeep credentials`: which secrets are there; setting one. Values are never printed, and never
//! stand in an argument, which other accounts of the machine could read.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::Format;
use crate::admin::client::Reach;
use crate::credential::store::SECRET_BYTES_MAX;

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
    /// List credentials, and whether their secrets can be had.
    List,
    /// Set a secret; its value is read from standard input.
    Set(Slot),
    /// Replace a secret that is there; the next request uses the new value.
    Rotate(Slot),
    /// Replace the operator's token of the TCP listener; the old one is refused at once.
    RotateToken,
}

#[derive(clap::Args)]
struct Slot {
    /// The credential's name, without its type.
    name: String,
    /// The slot, for credentials with several: cert, key, ca.
    #[arg(long, default_value = "")]
    slot: String,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.format == Format::Json;
    match args.command.unwrap_or(Command::List) {
        Command::List => list(&args.reach, json)?,
        Command::Set(slot) => set(&args.reach, json, &slot, false)?,
        Command::Rotate(slot) => set(&args.reach, json, &slot, true)?,
        Command::RotateToken => {
            let path = "/v1/operator-token/rotate";
            let rotated = args.reach.ask(reqwest::Method::POST, path, None)?;
            if json {
                println!("{rotated}");
            } else {
                println!(
                    "the new token is in {}",
                    rotated["rotated"].as_str().unwrap_or("-")
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(reach: &Reach, json: bool) -> anyhow::Result<()> {
    let listed = reach.get("/v1/credentials")?;
    if json {
        println!("{listed}");
        return Ok(());
    }
    for row in listed.as_array().into_iter().flatten() {
        for slot in row["slots"].as_array().into_iter().flatten() {
            let text = |field: &str| slot[field].as_str().unwrap_or_default();
            let name = row["credential"].as_str().unwrap_or("-");
            let name = match text("slot") {
                "" => name.to_owned(),
                slot => format!("{name} ({slot})"),
            };
            let state = slot["missing"].as_str().unwrap_or("ready");
            println!("{name:<40} {:<24} {state}", text("source"));
        }
    }
    Ok(())
}

fn set(reach: &Reach, json: bool, slot: &Slot, must_be_there: bool) -> anyhow::Result<()> {
    let query = format!("?slot={}&replace={must_be_there}", super::segment(&slot.slot));
    let path = format!("/v1/credentials/{}{query}", super::segment(&slot.name));
    let value = read(&slot.name)?;
    let set = reach.ask(reqwest::Method::PUT, &path, Some(value.to_vec()))?;
    let done = if must_be_there { "rotated" } else { "set" };
    println!(
        "{}",
        if json {
            set.to_string()
        } else {
            format!("{} is {done}", slot.name)
        }
    );
    Ok(())
}

/// The value from standard input, without the line's end. A terminal does not show it.
fn read(name: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let stdin = std::io::stdin();
    let hidden = stdin.is_terminal().then(|| {
        eprint!("the secret of {name}, then Enter and Ctrl-D: ");
        Hidden::start()
    });
    // Room for all of it at once: a vector that grows would leave copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX as usize + 2));
    stdin.lock().take(SECRET_BYTES_MAX + 1).read_to_end(&mut value)?;
    if hidden.is_some() {
        eprintln!();
    }
    drop(hidden);
    anyhow::ensure!(
        value.len() as u64 <= SECRET_BYTES_MAX,
        "a secret has at most 1 MiB"
    );
    while value.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        value.pop();
    }
    Ok(value)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(Option<nix::sys::termios::Termios>);

impl Hidden {
    fn start() -> Hidden {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(mut quiet) = before.clone() {
            quiet.local_flags.remove(LocalFlags::ECHO);
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &quiet);
        }
        Hidden(before)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}
