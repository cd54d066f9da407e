//! Reloads: by SIGHUP, and when the contents of the configuration change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};

use crate::policy::{Policy, Source, source};

/// How often the files are read for changed contents. Times and notifications are not enough: an
/// editor may keep the time, and a network file system notifies nobody.
///
/// A file may be looked at while it is written, and a part of a policy can be a policy: contents
/// count once two looks have found them, and the times of their files, the same.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The second look of one that SIGHUP asked for.
const ASKED_LOOK_AFTER: Duration = Duration::from_millis(50);

/// Calls `apply` with every whole new policy. A policy that does not load is reported once and
/// changes nothing.
pub(super) async fn watch(path: PathBuf, first: u64, apply: impl Fn(Arc<Policy>)) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut seen = first;
    let mut broken = None;
    let mut asked = false;
    let mut last_look = (first, Vec::new());
    loop {
        tokio::select! {
            _ = hangup.recv() => asked = true,
            _ = ticks.tick() => {}
        }
        let read_path = path.clone();
        let read = tokio::task::spawn_blocking(move || look(&read_path)).await;
        let (sources, changed) = match read {
            Ok(Ok(found)) => found,
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
        let this_look = (version, changed);
        let settled = last_look == this_look;
        last_look = this_look;
        if !settled {
            ticks.reset_after(if asked { ASKED_LOOK_AFTER } else { LOOK_EVERY });
            continue;
        }
        let asked = std::mem::take(&mut asked);
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

/// The files, and when each was changed.
fn look(path: &Path) -> Result<(Vec<Source>, Vec<Option<SystemTime>>), source::ReadError> {
    let sources = source::read(path)?;
    let changed = |source: &Source| {
        std::fs::metadata(&source.path)
            .and_then(|file| file.modified())
            .ok()
    };
    let changed = sources.iter().map(changed).collect();
    Ok((sources, changed))
}
