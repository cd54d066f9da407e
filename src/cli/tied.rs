//! A program that the kernel kills when the gateway that started it ends, however that ends.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::sys::signal::Signal;

#[derive(clap::Args)]
pub struct Args {
    /// The process that starts this one.
    parent: i32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // It stays set across the program's start.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Whose end came before that is not told any more.
    anyhow::ensure!(
        nix::unistd::getppid().as_raw() == args.parent,
        "the gateway is gone"
    );
    let (program, arguments) = args.command.split_first().unwrap_or_else(|| unreachable!());
    let error = Command::new(program).args(arguments).exec();
    anyhow::bail!("{}: {error}", program.to_string_lossy())
}
