//! The operator's token for the TCP listener: one file, mode 0600, made at the first start.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::AdminError;

/// The file's name in the state folder.
pub const TOKEN: &str = "operator.token";
/// Characters that a token has at least; ours have 64 (32 random bytes in hex).
pub const TOKEN_CHARS_MIN: usize = 32;
/// Bytes of the file at most.
const FILE_BYTES_MAX: u64 = 4096;

/// The token in force.
pub(super) struct OperatorToken {
    path: PathBuf,
    value: RwLock<Zeroizing<String>>,
}

impl OperatorToken {
    /// Reads the token, or makes one.
    ///
    /// # Errors
    /// The file is open to others, too short to be a token, or cannot be read or made.
    pub(super) fn open(dir: &Path) -> Result<OperatorToken, AdminError> {
        let path = dir.join(TOKEN);
        let value = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => {
                let shown = path.display().to_string();
                if metadata.permissions().mode() & 0o077 != 0 || !metadata.is_file() {
                    return Err(AdminError::Token(shown, "it must be a file with mode 0600"));
                }
                if metadata.len() > FILE_BYTES_MAX {
                    return Err(AdminError::Token(shown, "it is too long"));
                }
                let text = std::fs::read_to_string(&path).map(Zeroizing::new);
                let text = text.map_err(|error| AdminError::Listen(shown.clone(), error))?;
                let token = Zeroizing::new(text.trim().to_owned());
                // An empty file would let everybody in.
                if token.len() < TOKEN_CHARS_MIN {
                    return Err(AdminError::Token(
                        shown,
                        "it is too short; remove it, and one is made",
                    ));
                }
                token
            }
            Err(_) => make(&path)?,
        };
        Ok(OperatorToken {
            path,
            value: RwLock::new(value),
        })
    }

    /// Whether `given` is the token; takes the same time for every wrong one of its length.
    pub(super) fn is(&self, given: &str) -> bool {
        let value = self.value.read().unwrap_or_else(PoisonError::into_inner);
        bool::from(given.as_bytes().ct_eq(value.as_bytes()))
    }

    /// Replaces the token; the old one is worth nothing from now on.
    ///
    /// # Errors
    /// The file cannot be written; then the old one stays.
    pub(super) fn rotate(&self) -> Result<&Path, AdminError> {
        let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
        *value = make(&self.path)?;
        Ok(&self.path)
    }
}

/// Writes a fresh token in the file's place, whole or not at all.
fn make(path: &Path) -> Result<Zeroizing<String>, AdminError> {
    let random = crate::state::random().map_err(|error| AdminError::Random(error.to_string()))?;
    let mut token = Zeroizing::new(String::with_capacity(2 * random.len()));
    for byte in random.iter() {
        use std::fmt::Write as _;
        let _ = write!(token, "{byte:02x}");
    }
    let failed = |error| AdminError::Listen(path.display().to_string(), error);
    let line = Zeroizing::new(format!("{}\n", *token));
    crate::sys::file::replace(path, line.as_bytes(), 0o600).map_err(failed)?;
    Ok(token)
}
