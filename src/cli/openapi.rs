//! `tailkeep openapi`: the JSON API as an OpenAPI document; no gateway is asked.

use std::process::ExitCode;

pub fn run() -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&crate::admin::described())?);
    Ok(ExitCode::SUCCESS)
}
