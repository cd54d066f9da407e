//! `tailkeep whoami`: what this machine's agents reach, and what they write in the place of secrets.

use std::process::ExitCode;

use super::{Format, printable};
use crate::client::enrol::EnrolError;
use crate::client::store::Store;
use crate::client::whoami::WhoamiError;
use crate::client::{signed, whoami};
use crate::identity::manifest::Manifest;

#[derive(clap::Args)]
pub struct Args {
    /// Ask the gateway at this name or address, inside the tunnel. By default an enrolled machine asks
    /// the gateway that it enrolled at, any other `tailkeep.internal`.
    #[arg(long, value_name = "HOST")]
    gateway: Option<String>,
    /// Print the text for an agent's system prompt alone.
    #[arg(long, conflicts_with = "format")]
    prompt: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let manifest = match runtime.block_on(ask(args.gateway.as_deref())) {
        Ok(manifest) => manifest,
        Err(WhoamiError::Refused(reason)) => {
            match args.format {
                Format::Json => println!("{}", serde_json::json!({ "error": reason })),
                Format::Text => eprintln!("tailkeep: the gateway says: {}", printable(&reason)),
            }
            return Ok(ExitCode::from(1));
        }
        Err(error) => return Err(error.into()),
    };
    match args.format {
        _ if args.prompt => print!("{}", lines(&manifest.text)),
        Format::Json => println!("{}", serde_json::to_string(&manifest)?),
        Format::Text => print(&manifest),
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(gateway: Option<&str>) -> Result<Manifest, WhoamiError> {
    let enrolment = Store::from_env().and_then(|store| store.load()).ok();
    match enrolment.filter(|_| gateway.is_none()) {
        None => whoami::ask(gateway).await,
        Some(enrolment) => match signed::whoami(&enrolment).await {
            Ok(manifest) => Ok(manifest),
            Err(EnrolError::Refused(reason)) => Err(WhoamiError::Refused(reason)),
            // Inside of `tailkeep run` there is no way but the tunnel.
            Err(EnrolError::Unreachable(..)) => whoami::ask(None).await,
            Err(error) => Err(WhoamiError::Answer(error.to_string())),
        },
    }
}

fn print(manifest: &Manifest) {
    let transport = manifest.transport.name();
    println!(
        "you are    {} ({transport} {})",
        printable(&manifest.name),
        manifest.address
    );
    println!("profile    {}", printable(&manifest.profile));
    if let Some(gateway) = &manifest.gateway {
        println!("gateway    {}", printable(gateway));
    }
    for endpoint in &manifest.endpoints {
        println!("\n{}", printable(&endpoint.name));
        for place in &endpoint.hosts {
            let addresses: Vec<String> = place.addresses.iter().map(ToString::to_string).collect();
            let line = format!("  {} port {}  {}", place.host, place.port, addresses.join(" "));
            println!("{}", printable(line.trim_end()));
        }
        for credential in &endpoint.credentials {
            let placeholders = credential.placeholders.join(" or ");
            println!(
                "  {}",
                printable(&format!("{placeholders} in {}", credential.place))
            );
        }
    }
    if manifest.endpoints.is_empty() {
        println!("\nyou reach nothing");
    }
}

/// The gateway's text, which is not to drive a terminal.
fn lines(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", printable(line)))
        .collect()
}
