//! What the gateway has declared at a tailscaled that outlives it, as a file. After a crash that is
//! taken back, and not what the configuration says by then.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

const FILE: &str = "declared.json";

/// What is in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The folder whose lock a running gateway holds.
    pub state_dir: PathBuf,
    /// tailscaled's.
    pub socket: PathBuf,
    /// What is ours there, and what was.
    pub routes: Vec<IpNet>,
}

/// The file, and what goes into it beside the routes.
#[derive(Debug)]
pub struct Declared {
    file: PathBuf,
    record: Record,
}

impl Declared {
    /// To be written in `folder`.
    ///
    /// # Errors
    /// A relative path has no working directory to be of.
    pub fn new(folder: &Path, state_dir: &Path, socket: &Path) -> io::Result<Self> {
        Ok(Declared {
            file: std::path::absolute(folder.join(FILE))?,
            record: Record {
                state_dir: std::path::absolute(state_dir)?,
                socket: std::path::absolute(socket)?,
                routes: Vec::new(),
            },
        })
    }

    /// Writes these routes down, whole or not at all. To be done before they are declared.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self, routes: Vec<IpNet>) -> io::Result<()> {
        let record = Record {
            routes,
            ..self.record.clone()
        };
        crate::sys::file::replace(&self.file, &serde_json::to_vec(&record)?, 0o644)
    }

    /// Nothing is declared any more.
    pub fn forget(&self) {
        forget(&self.file);
    }
}

/// What a gateway left declared; `None` where it left nothing.
///
/// # Errors
/// The file cannot be read, or is none.
pub fn left(folder: &Path) -> io::Result<Option<Record>> {
    match std::fs::read(folder.join(FILE)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What was left is taken back.
pub fn taken_back(folder: &Path) {
    forget(&folder.join(FILE));
}

fn forget(file: &Path) {
    // One that stays takes back what is not there.
    let _ = std::fs::remove_file(file);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_left() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(left(folder.path()).unwrap(), None);
        let declared = Declared::new(folder.path(), Path::new("/state"), Path::new("/run/ts.sock")).unwrap();
        for routes in ["10.0.0.0/8", "fd00::/64"] {
            declared.keep(vec![routes.parse().unwrap()]).unwrap();
            let record = left(folder.path()).unwrap().unwrap();
            assert_eq!(record.routes, [routes.parse::<IpNet>().unwrap()]);
            assert_eq!(
                (record.state_dir.as_path(), record.socket.as_path()),
                (Path::new("/state"), Path::new("/run/ts.sock"))
            );
        }
        declared.forget();
        assert_eq!(left(folder.path()).unwrap(), None);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(left(folder.path()).is_err());
    }
}
