//! Reloads: by SIGHUP, and when the contents of the configuration change, or of a file that it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;

use crate::admin::{Guard, HeldBack};
use crate::audit::replay::replay;
use crate::bad_input;
use crate::policy::{Named, Policy, Source, source, version_of};

/// How often the files are read for changed contents. Times and notifications are not enough: an
/// editor may keep the time, and a network file system notifies nobody.
///
/// A file may be looked at while it is written, and a part of a policy can be a policy: contents
/// count once two looks have found them, and the times of their files, the same.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The second look of one that SIGHUP asked for.
const ASKED_LOOK_AFTER: Duration = Duration::from_millis(50);

/// Whether `new` may take the place of `old`: where `old` has a `reload_guard`, the record of that
/// time must not come out otherwise by `new`, nor ask others, or the change must have been accepted.
pub(super) fn guard(old: &Policy, new: &Policy) -> Result<(), HeldBack> {
    let gateway = &old.model().gateway;
    let Some(back) = gateway.reload_guard else {
        return Ok(());
    };
    if source::is_accepted(&gateway.state_dir, new.version()) {
        return Ok(());
    }
    let back_us = i64::try_from(back.as_micros()).unwrap_or(i64::MAX);
    let since = crate::state::now_us().saturating_sub(back_us);
    let log = gateway.state_dir.join("audit.db");
    let found = replay(&log, since, Some(old), new).map_err(|error| HeldBack::Changes(error.to_string()))?;
    match found.changed {
        0 => Ok(()),
        _ => Err(HeldBack::Changes(crate::cli::replay::text(&found))),
    }
}

/// Calls `apply` with every whole new policy that `guard` lets through. A policy that does not load is reported once and
/// changes nothing.
pub(super) async fn watch(
    path: PathBuf,
    (first, mut files): (u64, Vec<PathBuf>),
    (mut hangup, guard): (Signal, Guard),
    apply: impl Fn(Arc<Policy>),
) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut seen = first;
    let mut broken = None;
    // Where the acceptance of a policy that waits will be.
    let mut held: Option<PathBuf> = None;
    let mut asked = false;
    let mut last_look = (first, Vec::new());
    loop {
        tokio::select! {
            _ = hangup.recv() => asked = true,
            _ = ticks.tick() => {}
        }
        let (read_path, named) = (path.clone(), files.clone());
        let read = tokio::task::spawn_blocking(move || look(&read_path, &named)).await;
        let (sources, this_look) = match read {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                if asked || broken != Some(0) {
                    tracing::error!(%error, "the configuration cannot be read; the old one stays in force");
                }
                if broken != Some(0) {
                    bad_input::count(bad_input::Reader::Policy, &"unread");
                }
                broken = Some(0);
                continue;
            }
            Err(_) => return,
        };
        // Compiled only if the text changed: the version is a hash of it.
        let version = this_look.0;
        let settled = last_look == this_look;
        last_look = this_look;
        if !settled {
            ticks.reset_after(if asked { ASKED_LOOK_AFTER } else { LOOK_EVERY });
            continue;
        }
        let asked = std::mem::take(&mut asked);
        let accepted = held
            .take_if(|folder| source::is_accepted(folder, version))
            .is_some();
        if version == seen || (!asked && !accepted && broken == Some(version)) {
            if asked {
                tracing::info!("the configuration is unchanged");
            }
            continue;
        }
        let named = Named::default();
        let loaded = Policy::load(sources.clone(), &|path| named.read(path, &source::read_file));
        // One that does not load may do so once a file that it names is there.
        files = named.paths();
        match loaded {
            Ok(policy) => {
                let version = policy.version();
                let policy = Arc::new(policy);
                let (judge, judged) = (guard.clone(), policy.clone());
                match tokio::task::spawn_blocking(move || judge(&judged)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(HeldBack::Round(why))) => {
                        broken = Some(version);
                        tracing::error!("the new policy does not come into force; the old one stays: {why}");
                        continue;
                    }
                    Ok(Err(HeldBack::Changes(changes))) => {
                        broken = Some(version);
                        held = Some(policy.model().gateway.state_dir.clone());
                        tracing::error!(
                            "the new policy would change verdicts and waits; the old one stays in force. \
                             `tailkeep replay … --accept` lets it in\n{changes}"
                        );
                        continue;
                    }
                    Err(_) => return,
                }
                seen = version;
                broken = None;
                apply(policy);
                tracing::info!(version = format!("{version:016x}"), "a new policy is in force");
            }
            Err(errors) => {
                bad_input::count(bad_input::Reader::Policy, &"invalid");
                // By the files that it was found to name: they are what is looked at from now on.
                broken = Some(version_of(&sources, &named));
                tracing::error!(
                    "the new policy does not load; the old one stays in force\n{}",
                    errors.render()
                );
            }
        }
    }
}

/// A policy's version, and when each of its files was changed.
type Look = (u64, Vec<Option<SystemTime>>);

fn look(path: &Path, named: &[PathBuf]) -> Result<(Vec<Source>, Look), source::ReadError> {
    let sources = source::read(path)?;
    let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let paths = sources.iter().map(|source| &source.path).chain(named);
    let changed = paths.map(changed).collect();
    let version = version_of(&sources, &Named::of(named, &source::read_file));
    Ok((sources, (version, changed)))
}
