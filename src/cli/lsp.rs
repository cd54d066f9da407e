//! `tailkeep lsp`: the language server for policies, on standard input and output.

use std::process::ExitCode;

use crate::lsp;

#[derive(clap::Args)]
pub struct Args {
    /// Speak on standard input and output; the only way there is, and what editors like to say.
    #[arg(long)]
    stdio: bool,
}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    let ended = lsp::serve(std::io::stdin(), &mut std::io::stdout())?;
    Ok(match ended {
        lsp::Ended::AsAsked => ExitCode::SUCCESS,
        lsp::Ended::Unasked => ExitCode::from(1),
    })
}
