//! Reloads: by SIGHUP, and when the contents of the configuration change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::policy::{Policy, source};

/// How often the files are read for changed contents. Times and notifications are not enough: an
/// editor may keep the time, and a network file system notifies nobody.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Calls `apply` with every whole new policy. A policy that does not load is reported once and
/// changes nothing.
pub(super) async fn watch(path: PathBuf, first: u64, apply: impl Fn(Arc<Policy>)) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut seen = first;
    let mut broken = None;
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = ticks.tick() => false,
        };
        let read_path = path.clone();
        let read = tokio::task::spawn_blocking(move || source::read(&read_path)).await;
        let sources = match read {
            Ok(Ok(sources)) => sources,
            Ok(Err(error)) => {
                if asked || broken != Some(0) {
                    tracing::error!(%error, "the configuration cannot be read; the old one stays in force");
                }
                broken = Some(0);
                continue;
            }
            Err(_) => return Ok(()),
        };
        // Compiled only if the text changed: the version is a hash of it.
        let version = crate::policy::version_of(&sources);
        if version == seen || (!asked && broken == Some(version)) {
            if asked {
                tracing::info!("the configuration is unchanged");
            }
            continue;
        }
        match Policy::load(sources, &source::read_file) {
            Ok(policy) => {
                seen = version;
                broken = None;
                apply(Arc::new(policy));
                tracing::info!(version = format!("{version:016x}"), "a new policy is in force");
            }
            Err(errors) => {
                broken = Some(version);
                tracing::error!(
                    "the new policy does not load; the old one stays in force\n{}",
                    errors.render()
                );
            }
        }
    }
}
