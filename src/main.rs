//! The `tailkeep` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tailkeep::cli::main()
}
