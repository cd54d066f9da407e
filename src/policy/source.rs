//! Reads the files of a configuration. Not pure: it stands behind the feature `daemon`.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The file in the state folder that names the version of a policy whose changes were accepted.
const ACCEPTED_FILE: &str = "reload-accepted";

use super::Source;

/// Most files that one configuration folder may hold.
pub const SOURCE_FILES_MAX: usize = 1_000;

/// Largest configuration file, or file that a configuration names, in bytes.
pub const SOURCE_BYTES_MAX: u64 = 4 << 20;

/// Why a configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: no *.hcl file in this folder", .0.display())]
    Empty(PathBuf),
    #[error("{}: more than {SOURCE_FILES_MAX} files", .0.display())]
    TooMany(PathBuf),
}

/// Reads one file, or every `*.hcl` of a folder in the order of their names.
///
/// # Errors
/// A path that is missing or unreadable, a folder without a policy, a file over
/// [`SOURCE_BYTES_MAX`].
pub fn read(path: &Path) -> Result<Vec<Source>, ReadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| ReadError::Io { path, error }
    };
    if !std::fs::metadata(path).map_err(failed(path))?.is_dir() {
        return Ok(vec![one(path)?]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed(path))? {
        let file = entry.map_err(failed(path))?.path();
        if file.extension().is_some_and(|extension| extension == "hcl") && file.is_file() {
            files.push(file);
        }
        if files.len() > SOURCE_FILES_MAX {
            return Err(ReadError::TooMany(path.to_owned()));
        }
    }
    if files.is_empty() {
        return Err(ReadError::Empty(path.to_owned()));
    }
    files.sort();
    files.iter().map(|file| one(file)).collect()
}

/// Reads a file that a policy names. Hand it to [`super::Policy::load`].
///
/// # Errors
/// Those of the file system, and a file over [`SOURCE_BYTES_MAX`].
pub fn read_file(path: &Path) -> io::Result<String> {
    // The size that the file system tells is not that of a device, nor of a file that grows meanwhile.
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(SOURCE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SOURCE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {SOURCE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn one(path: &Path) -> Result<Source, ReadError> {
    let text = read_file(path).map_err(|error| ReadError::Io {
        path: path.to_owned(),
        error,
    })?;
    Ok(Source {
        path: path.to_owned(),
        text,
    })
}

/// Writes down that a version of a policy is meant as it is.
///
/// # Errors
/// The folder cannot be written.
pub fn accept(state_dir: &Path, version: u64) -> io::Result<()> {
    std::fs::write(state_dir.join(ACCEPTED_FILE), format!("{version:016x}\n"))
}

/// Takes back that a version is meant, if it is the one that was written down last.
pub fn accept_no_more(state_dir: &Path, version: u64) {
    if is_accepted(state_dir, version) {
        let _ = std::fs::remove_file(state_dir.join(ACCEPTED_FILE));
    }
}

/// Whether `tailkeep replay --accept`, or who wrote it by the page, wrote down this version of a policy.
pub fn is_accepted(state_dir: &Path, version: u64) -> bool {
    let noted = std::fs::read_to_string(state_dir.join(ACCEPTED_FILE));
    noted.is_ok_and(|noted| noted.trim() == format!("{version:016x}"))
}
