//! kubectl's way to the clusters that the agent reaches: a kubeconfig beside the enrolment, and KUBECONFIG.
//!
//! kubectl takes the first file's word for each thing. What the user named in KUBECONFIG was chosen, and
//! comes first; `~/.kube/config` is only where kubectl looks by itself, and comes behind ours, so that a
//! bare `kubectl get pods` asks a cluster that the tunnel leads to. Contexts of both can be named.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::store::{Store, StoreError};
use crate::identity::cluster::{Cluster, kubeconfig};

/// The file in the store.
pub(super) const FILE: &str = "kubeconfig";

/// Writes the file, whose roots are those in `roots`, and returns what KUBECONFIG is to be; `None` where
/// there is no cluster.
pub(super) fn variable(
    store: &Store,
    clusters: &[Cluster],
    roots: &str,
) -> Result<Option<String>, StoreError> {
    let ours = store.folder().join(FILE);
    if clusters.is_empty() {
        return Ok(None);
    }
    let text = format!("{:#}\n", kubeconfig(clusters, roots));
    store.write(FILE, text.as_bytes())?;
    let by_itself = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let by_itself = by_itself.filter(|path| path.exists());
    let named = std::env::var_os("KUBECONFIG").unwrap_or_default();
    Ok(Some(
        list(&named, by_itself.as_deref(), &ours)
            .to_string_lossy()
            .into_owned(),
    ))
}

fn list(named: &OsStr, by_itself: Option<&Path>, ours: &Path) -> OsString {
    // Of an outer run, or of an `env` before.
    if std::env::split_paths(named).any(|path| path == ours) {
        return named.to_owned();
    }
    let (mut list, behind) = match named.is_empty() {
        true => (ours.as_os_str().to_owned(), by_itself),
        false => (named.to_owned(), Some(ours)),
    };
    if let Some(behind) = behind {
        list.push(":");
        list.push(behind);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_comes_first_and_what_is_looked_for_last() {
        let ours = Path::new("/t/kubeconfig");
        let home = Some(Path::new("/h/.kube/config"));
        for (named, by_itself, want) in [
            ("", None, "/t/kubeconfig"),
            ("", home, "/t/kubeconfig:/h/.kube/config"),
            ("/a:/b", home, "/a:/b:/t/kubeconfig"),
            (
                "/t/kubeconfig:/h/.kube/config",
                home,
                "/t/kubeconfig:/h/.kube/config",
            ),
            ("/a:/t/kubeconfig", None, "/a:/t/kubeconfig"),
        ] {
            assert_eq!(list(OsStr::new(named), by_itself, ours), want, "{named}");
        }
    }
}
