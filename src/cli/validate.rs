//! `tailkeep validate`: loads and compiles a configuration, prints what it is or all its errors.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Format;
use crate::policy::{Diagnostics, Policy, source};

#[derive(clap::Args)]
pub struct Args {
    /// A file, or a folder of `*.hcl`.
    path: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match Policy::load(source::read(&args.path)?, &source::read_file) {
        Ok(policy) => {
            print(&policy, args.format);
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            print_errors(&errors, args.format);
            Ok(ExitCode::from(1))
        }
    }
}

/// Prints what keeps a policy from loading: data on standard output, text on standard error.
pub(super) fn print_errors(errors: &Diagnostics, format: Format) {
    let count = errors.items().len();
    match format {
        Format::Text => {
            eprint!("{}", errors.render());
            eprintln!("{count} error{}", if count == 1 { "" } else { "s" });
        }
        Format::Json => println!(
            "{}",
            serde_json::json!({ "valid": false, "errors": errors.to_json() })
        ),
    }
}

fn print(policy: &Policy, format: Format) {
    let model = policy.model();
    if format == Format::Json {
        let keys = |keys: Vec<&str>| serde_json::json!(keys);
        let document = serde_json::json!({
            "valid": true,
            "version": format!("{:016x}", policy.version()),
            "endpoints": keys(model.endpoints.iter().map(|one| &*one.key).collect()),
            "credentials": keys(model.credentials.iter().map(|one| &*one.key).collect()),
            "approvers": keys(model.approvers.iter().map(|one| &*one.key).collect()),
            "profiles": keys(model.profiles.iter().map(|one| &*one.name).collect()),
            "rules": policy.rule_count(),
            "notes": policy.notes().to_json(),
        });
        println!("{document}");
        return;
    }
    for endpoint in &model.endpoints {
        println!(
            "endpoint {}: {} destinations",
            endpoint.key,
            endpoint.claims.len()
        );
    }
    for profile in &model.profiles {
        println!(
            "profile {}: {} endpoints, {} credentials",
            profile.name,
            profile.endpoints.len(),
            profile.credentials.len()
        );
    }
    for note in policy.notes().items() {
        let place = note.at.and_then(|at| policy.notes().place(at));
        let place = place.map_or(String::new(), |place| format!("{place}: "));
        println!("note: {place}{}", note.message);
        if let Some(help) = &note.help {
            println!("      {help}");
        }
    }
    println!(
        "valid: {} endpoints, {} credentials, {} approvers, {} rules, {} profiles; version {:016x}",
        model.endpoints.len(),
        model.credentials.len(),
        model.approvers.len(),
        policy.rule_count(),
        model.profiles.len(),
        policy.version()
    );
}
