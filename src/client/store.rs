//! The enrolment on disk: one folder (0700) with one file (0600), replaced atomically.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::identity::cluster::Cluster;

const FILE: &str = "enrolment.json";
const LOCK: &str = "run.lock";

/// What the gateway answered at enrolment.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, schemars::JsonSchema)]
pub struct Assigned {
    /// The peer's name at the gateway.
    pub name: String,
    /// Tunnel address, IPv4.
    pub address_v4: Option<Ipv4Addr>,
    /// Tunnel address, IPv6.
    pub address_v6: Option<Ipv6Addr>,
    /// The gateway's WireGuard public key, base64.
    pub gateway_public_key: String,
    /// `host:port` of the WireGuard listener.
    pub wireguard_endpoint: String,
    /// Name servers inside the tunnel.
    pub dns: Vec<std::net::IpAddr>,
    /// Of the tunnel, in bytes.
    pub mtu: u16,
    /// The gateway's CA.
    pub ca_pem: String,
    /// Environment variable → placeholder text.
    pub placeholders: BTreeMap<String, String>,
    /// Names of the endpoints that the profile reaches.
    pub endpoints: Vec<String>,
    /// Those of them that are Kubernetes API servers.
    #[serde(default)]
    pub clusters: Vec<Cluster>,
}

/// A stored enrolment.
#[derive(Clone, Serialize, Deserialize)]
pub struct Enrolment {
    /// WireGuard private key, base64. Never sent.
    pub private_key: String,
    /// Host and port of the enrolment listener.
    pub authority: String,
    #[serde(flatten)]
    pub assigned: Assigned,
}

/// Why the enrolment could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("this machine is not enrolled; run `tailkeep join URL` with a URL from `tailkeep peers add`")]
    NotEnrolled,
    #[error("no home for the enrolment: set TAILKEEP_HOME or HOME")]
    NoHome,
    #[error("the enrolment file {0} is damaged; run `tailkeep join --force URL`")]
    Damaged(PathBuf),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// The folder that holds the enrolment.
pub struct Store(PathBuf);

impl Store {
    /// `$TAILKEEP_HOME`, else `$XDG_CONFIG_HOME/tailkeep`, else `~/.config/tailkeep`.
    pub fn from_env() -> Result<Self, StoreError> {
        let var = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        var("TAILKEEP_HOME")
            .or_else(|| var("XDG_CONFIG_HOME").map(|p| p.join("tailkeep")))
            .or_else(|| var("HOME").map(|p| p.join(".config/tailkeep")))
            .map(Self)
            .ok_or(StoreError::NoHome)
    }

    /// A store in `folder`.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Whether an enrolment is there.
    pub fn is_enrolled(&self) -> bool {
        self.0.join(FILE).exists()
    }

    /// Reads the enrolment.
    pub fn load(&self) -> Result<Enrolment, StoreError> {
        let path = self.0.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NotEnrolled),
            Err(error) => return Err(StoreError::Io(path, error)),
        };
        serde_json::from_slice(&text).map_err(|_| StoreError::Damaged(path))
    }

    /// Writes the enrolment; a reader sees the old one or the new one, whole.
    pub fn save(&self, enrolment: &Enrolment) -> Result<(), StoreError> {
        let text =
            serde_json::to_vec_pretty(enrolment).map_err(|_| StoreError::Damaged(self.0.join(FILE)))?;
        self.write(FILE, &text)
    }

    /// Writes one file of the folder atomically, 0600.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let fail = |error| StoreError::Io(self.0.join(name), error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(fail)?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700)).map_err(fail)?;
        let draft = self.0.join(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_file(&draft);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&draft, self.0.join(name)));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written.map_err(fail)
    }

    /// Takes the lock that one run holds; `None` while another run holds it.
    pub fn lock(&self) -> Result<Option<File>, StoreError> {
        let path = self.0.join(LOCK);
        let fail = |error| StoreError::Io(path.clone(), error);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {
                // What an earlier run noted.
                file.set_len(0).map_err(fail)?;
                Ok(Some(file))
            }
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(fail(error)),
        }
    }

    /// When the run that holds the lock agreed on its keys, seconds since 1970; see [`note_handshake`].
    pub fn noted_handshake(&self) -> Option<u64> {
        let text = fs::read_to_string(self.0.join(LOCK)).ok()?;
        text.trim().parse().ok()
    }

    /// Removes the enrolment and what was made from it. The key goes first.
    pub fn remove(&self) -> Result<(), StoreError> {
        for name in [
            FILE,
            // Node's roots, as they were called before.
            "ca.pem",
            super::environment::NODE_ROOTS,
            "bundle.pem",
            "truststore.jks",
            super::kubeconfig::FILE,
            LOCK,
        ] {
            let path = self.0.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Io(path, error));
                }
                _ => {}
            }
        }
        // Other files may be the user's own; an unempty folder stays.
        let _ = fs::remove_dir(&self.0);
        Ok(())
    }
}

/// Writes into a run's lock when its keys were agreed, seconds since 1970.
pub fn note_handshake(lock: &File, at_s: u64) -> io::Result<()> {
    // Always as long, so that a reader sees one number.
    lock.write_all_at(format!("{at_s:020}\n").as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn keeps_files_private_and_removes_them() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(temp.path().join("home"));
        assert!(matches!(store.load(), Err(StoreError::NotEnrolled)));
        store.write(FILE, b"{").unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged(_))));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.folder()), 0o700);
        assert_eq!(mode(&store.folder().join(FILE)), 0o600);
        let held = store.lock().unwrap();
        assert!(held.is_some() && store.lock().unwrap().is_none());
        assert_eq!(store.noted_handshake(), None);
        for at_s in [1_000_000, 7] {
            note_handshake(held.as_ref().unwrap(), at_s).unwrap();
            assert_eq!(store.noted_handshake(), Some(at_s));
        }
        drop(held);
        let _next = store.lock().unwrap();
        assert_eq!(store.noted_handshake(), None);
        store.remove().unwrap();
        assert!(!store.folder().exists());
    }
}
