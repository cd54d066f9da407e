//! Where real secrets are read from: the environment, files, and the operator's store.
//!
//! The operator's store is one file a slot in `state_dir/secrets`, mode 0600 in a 0700 folder:
//! as safe as the account the gateway runs as, and not encrypted, since the key would lie beside
//! it. Every read goes to the source, so a rotated file is used by the next request. What was read
//! is learnt by [`KnownSecrets`], in memory, to be kept out of records.

use std::fs::DirBuilder;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{KnownSecrets, Secret};
use crate::policy::{Credential, Model, SecretSource};

/// Bytes of one secret.
pub const SECRET_BYTES_MAX: u64 = 1 << 20;

/// A secret cannot be had. The text names the credential and the source, never a value.
#[derive(Debug, thiserror::Error)]
#[error("the secret of {credential} is missing: {cause}")]
pub struct Missing {
    pub credential: String,
    pub cause: String,
}

/// Reads secrets; cheap to clone.
#[derive(Clone)]
pub struct SecretStore {
    folder: PathBuf,
    known: KnownSecrets,
}

impl SecretStore {
    pub fn new(state_dir: &Path) -> SecretStore {
        SecretStore {
            folder: state_dir.join("secrets"),
            known: KnownSecrets::default(),
        }
    }

    /// Every value that was read so far.
    pub fn known(&self) -> &KnownSecrets {
        &self.known
    }

    /// Reads every secret of a configuration once, so that none is unknown. Reads files.
    pub fn learn(&self, model: &Model) {
        for credential in &model.credentials {
            for (slot, _) in &credential.secrets {
                let _ = self.get(credential, slot);
            }
        }
    }

    /// The secret in a credential's slot (`""` for the only one). Reads a file: short, but not
    /// for a loop.
    ///
    /// # Errors
    /// [`Missing`], also for an empty value and for one over [`SECRET_BYTES_MAX`].
    pub fn get(&self, credential: &Credential, slot: &str) -> Result<Secret, Missing> {
        let missing = |cause: String| Missing {
            credential: credential.key.to_string(),
            cause,
        };
        let source = credential.secrets.iter().find(|(name, _)| name == slot);
        let (_, source) = source.ok_or_else(|| missing(format!("it has no slot \"{slot}\"")))?;
        let read = match source {
            SecretSource::Store => self.stored(&credential.name, slot),
            elsewhere => from(elsewhere),
        };
        let bytes = read.map_err(missing)?;
        if bytes.is_empty() {
            return Err(missing("its source is empty".to_owned()));
        }
        // Certificates are public, and sent in the clear by many protocols.
        if !matches!(slot, "cert" | "ca") {
            self.known.learn(&credential.key, slot, &bytes);
        }
        Ok(Secret(bytes))
    }

    /// Sets or replaces the operator's value of a slot, durably.
    ///
    /// # Errors
    /// A name that is no file name, an empty or too long value, or the disk.
    pub fn set(&self, name: &str, slot: &str, value: &[u8]) -> std::io::Result<()> {
        let refused = |text: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, text);
        if value.is_empty() || value.len() as u64 > SECRET_BYTES_MAX {
            return Err(refused("a secret has between 1 byte and 1 MiB"));
        }
        let path = self
            .path(name, slot)
            .ok_or_else(|| refused("not a credential's name"))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        crate::sys::file::replace(&path, value, 0o600)
    }

    fn stored(&self, name: &str, slot: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        let path = self.path(name, slot).ok_or("its name is no file name")?;
        if path.exists() {
            return from_file(&path);
        }
        for prefix in ["TAILKEEP_SECRET_", "CLAWPATROL_SECRET_"] {
            let mut variable = format!("{prefix}{}", env_name(name));
            if !slot.is_empty() {
                variable = format!("{variable}_{}", env_name(slot));
            }
            let Some(found) = from_env(&variable) else {
                continue;
            };
            let value = found?;
            // `@path`: the variable names a file.
            return match value.strip_prefix(b"@") {
                Some(path) => from_file(Path::new(std::ffi::OsStr::from_bytes(path))),
                None => Ok(value),
            };
        }
        let variable = env_name(name);
        Err(format!(
            "not set; use `tailkeep credentials set {name}` or TAILKEEP_SECRET_{variable}"
        ))
    }

    /// Slots have no dot, so that no two pairs share a file.
    fn path(&self, name: &str, slot: &str) -> Option<PathBuf> {
        let plain = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let fits = !name.is_empty() && name.len() + slot.len() < 200 && plain(name) && plain(slot);
        fits.then(|| self.folder.join(format!("{name}.{slot}.secret")))
    }
}

/// A secret that is no credential's: the gateway's own. It is learnt under the name `of`.
///
/// # Errors
/// [`Missing`], as for [`SecretStore::get`].
pub fn read(of: &str, source: &SecretSource, known: &KnownSecrets) -> Result<Secret, Missing> {
    let missing = |cause: String| Missing {
        credential: of.to_owned(),
        cause,
    };
    let bytes = from(source).map_err(missing)?;
    if bytes.is_empty() {
        return Err(missing("its source is empty".to_owned()));
    }
    known.learn(of, "", &bytes);
    Ok(Secret(bytes))
}

fn from(source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, String> {
    match source {
        SecretSource::Env(name) => {
            from_env(name).unwrap_or_else(|| Err(format!("the environment variable {name} is not set")))
        }
        SecretSource::File(path) => from_file(path),
        SecretSource::Vault(path) => Err(format!("vault(\"{path}\") is not available in this gateway")),
        SecretSource::Store => Err("the operator's store holds credentials alone".to_owned()),
    }
}

fn env_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

fn from_env(name: &str) -> Option<Result<Zeroizing<Vec<u8>>, String>> {
    use std::os::unix::ffi::OsStringExt as _;
    let value = std::env::var_os(name)?;
    Some(Ok(Zeroizing::new(value.into_vec())))
}

/// A file's content without its trailing newline. Messages name the path and no content.
fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > SECRET_BYTES_MAX {
        return Err(format!("{} is no file of at most 1 MiB", path.display()));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "a secret's file can be read by other users");
    }
    // Room for all of it at once: a vector that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 64));
    file.take(metadata.len() + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    Ok(bytes)
}
