//! `tailkeep status`.

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Format;
use crate::client::store::{Store, StoreError};
use crate::client::tunnel::Tunnel;

#[derive(clap::Args)]
pub struct Args {
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let store = Store::from_env()?;
    let mut enrolment = match store.load() {
        Err(error @ StoreError::NotEnrolled) => {
            match args.format {
                Format::Text => eprintln!("tailkeep: {error}"),
                Format::Json => println!("{}", serde_json::json!({"enrolled": false})),
            }
            return Ok(ExitCode::from(1));
        }
        other => other?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    super::run::refresh(&store, &mut enrolment, &runtime);
    // A second handshake would take the session from a run that is live.
    let lock = store.lock()?;
    let started = Instant::now();
    let failure = if lock.is_some() {
        runtime
            .block_on(Tunnel::connect(&enrolment))
            .err()
            .map(|e| e.to_string())
    } else {
        None
    };
    let handshake_ms = (lock.is_some() && failure.is_none()).then(|| started.elapsed().as_millis());
    let handshake_age_s = lock
        .is_none()
        .then(|| store.noted_handshake())
        .flatten()
        .map(|at_s| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_secs().saturating_sub(at_s)
        });
    let assigned = &enrolment.assigned;
    match args.format {
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "enrolled": true, "running": lock.is_none(), "reachable": handshake_ms.is_some(),
                "handshake_ms": handshake_ms, "handshake_age_s": handshake_age_s, "error": failure, "name": assigned.name,
                "gateway": assigned.wireguard_endpoint, "address_v4": assigned.address_v4,
                "address_v6": assigned.address_v6, "endpoints": assigned.endpoints,
            })
        ),
        Format::Text => {
            println!("name       {}", assigned.name);
            println!("gateway    {}", assigned.wireguard_endpoint);
            let v4 = assigned.address_v4.map(|a| a.to_string()).unwrap_or_default();
            let v6 = assigned.address_v6.map(|a| a.to_string()).unwrap_or_default();
            println!("addresses  {v4} {v6}");
            println!("endpoints  {}", assigned.endpoints.join(" "));
            match (&failure, handshake_ms) {
                (Some(error), _) => println!("tunnel     {error}"),
                (None, Some(ms)) => println!("tunnel     handshake in {ms} ms"),
                (None, None) => match handshake_age_s {
                    Some(age) => println!("tunnel     in use by a run, handshake {age} s ago"),
                    None => println!("tunnel     in use by a run, no handshake yet"),
                },
            }
        }
    }
    Ok(ExitCode::from(u8::from(failure.is_some())))
}
