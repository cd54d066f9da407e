//! A draft of the policy: one of its files with another text, beside the others as they are on the disk.
//!
//! Invariants: a file is replaced whole or not at all, and by nobody who has not seen what stands there; a
//! draft changes neither the gateway itself nor where secrets come from, and reads no file of the machine
//! that the policy in force does not name: whoever may write rules is not thereby at the machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::policy::{Diagnostics, Model, Named, Policy, Source, source, version_of};

/// Bytes of a file's name.
const NAME_BYTES_MAX: usize = 64;

/// Whether a policy may come into force; it may block.
pub type Guard = Arc<dyn Fn(&Policy) -> Result<(), HeldBack> + Send + Sync>;

/// Why a policy that loads does not come into force, in words.
pub enum HeldBack {
    /// What was recorded would come out otherwise; it may be accepted.
    Changes(String),
    /// Agents would get round the gateway.
    Round(String),
}

/// Where the policy is written, and what lets a new one in.
#[derive(Clone)]
pub struct Files {
    /// A file, or a folder of `*.hcl`.
    pub path: PathBuf,
    pub guard: Guard,
}

/// A draft cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum DraftError {
    #[error("the policy cannot be read: {0}")]
    Read(#[from] source::ReadError),
    #[error("{0}: {1}")]
    Name(String, &'static str),
    #[error("the files have changed since; load them again")]
    Changed,
    #[error("{}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Beyond(String),
}

/// The policy's files as they are on the disk.
pub(super) struct OnDisk {
    path: PathBuf,
    is_folder: bool,
    pub(super) sources: Vec<Source>,
}

impl OnDisk {
    pub(super) fn read(path: &Path) -> Result<OnDisk, DraftError> {
        Ok(OnDisk {
            path: path.to_owned(),
            is_folder: path.is_dir(),
            sources: source::read(path)?,
        })
    }

    /// A number that changes with every text.
    pub(super) fn version(&self) -> String {
        format!("{:016x}", version_of(&self.sources, &Named::default()))
    }

    /// Whether there may be other files than those that are there.
    pub(super) fn takes_new(&self) -> bool {
        self.is_folder
    }

    /// With this text in the place of a file's, or as one more.
    pub(super) fn with(mut self, name: &str, text: &str) -> Result<Draft, DraftError> {
        let wrong = |why| DraftError::Name(name.to_owned(), why);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) || name.starts_with('.') {
            return Err(wrong("a name has letters, digits, `-`, `_` and `.`, up to 64"));
        }
        let known = self.sources.iter_mut().find(|own| name_of(&own.path) == name);
        let path = match known {
            Some(own) => {
                own.text = text.to_owned();
                own.path.clone()
            }
            None if !self.is_folder => return Err(wrong("the configuration is another file")),
            None if !name.ends_with(".hcl") => return Err(wrong("a policy's name ends in .hcl")),
            None => {
                let path = self.path.join(name);
                let text = text.to_owned();
                self.sources.push(Source {
                    path: path.clone(),
                    text,
                });
                self.sources.sort_by(|a, b| a.path.cmp(&b.path));
                path
            }
        };
        let folder = match self.is_folder {
            true => self.path,
            false => path.parent().map(Path::to_owned).unwrap_or_default(),
        };
        Ok(Draft {
            folder,
            path,
            text: text.to_owned(),
            sources: self.sources,
        })
    }
}

/// What a file is called.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The files with one text changed.
pub(super) struct Draft {
    folder: PathBuf,
    path: PathBuf,
    text: String,
    sources: Vec<Source>,
}

impl Draft {
    /// Compiles it. It may name the files that `old` names, and no others: one might hold a secret.
    pub(super) fn load(&self, old: &Policy) -> Result<Policy, Diagnostics> {
        let read = |path: &Path| match old.files().iter().any(|own| own == path) {
            true => source::read_file(path),
            false => Err(io::Error::other(
                "a draft reads only the files that the policy in force names",
            )),
        };
        Policy::load(self.sources.clone(), &read)
    }

    /// Replaces the file: nobody ever reads a part of it.
    pub(super) fn write(&self, base: &str, config: &Path) -> Result<(), DraftError> {
        let failed = |error| DraftError::Write {
            path: self.path.clone(),
            error,
        };
        let old = match fs::symlink_metadata(&self.path) {
            Ok(old) if old.is_file() => Some(old),
            Ok(_) => {
                let why = io::Error::other("it is a link, and kept elsewhere: change it there");
                return Err(failed(why));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        // No name that the gateway reads.
        let beside = self.path.with_file_name(format!(".{}.new", name_of(&self.path)));
        let _ = fs::remove_file(&beside);
        let written = self.fill(&beside, old.as_ref()).map_err(failed);
        let written = written.and_then(|()| match OnDisk::read(config)?.version() == base {
            true => fs::rename(&beside, &self.path).map_err(failed),
            false => Err(DraftError::Changed),
        });
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written?;
        // The name is on the disk once the folder is.
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)
    }

    fn fill(&self, beside: &Path, old: Option<&fs::Metadata>) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(beside)?;
        file.write_all(self.text.as_bytes())?;
        if let Some(old) = old {
            // Whoever could read it can.
            let _ = chown(beside, Some(old.uid()), Some(old.gid()));
            file.set_permissions(old.permissions())?;
        }
        file.sync_all()
    }
}

/// Whether `new` keeps to what may be changed by the page: who is allowed what. Where secrets come from and go, and who
/// approves, is changed at the gateway, or whoever edits could have the one and be the other.
pub(super) fn keeps_to_rules(old: &Model, new: &Model) -> Result<(), DraftError> {
    let held = |model: &Model| {
        [
            ("the gateway block", format!("{:?}", model.gateway)),
            ("what endpoints there are", format!("{:?}", model.endpoints)),
            ("what credentials there are", format!("{:?}", model.credentials)),
            ("what channels there are", format!("{:?}", model.channels)),
            ("who approves", format!("{:?}", model.approvers)),
        ]
    };
    let changed = held(old).into_iter().zip(held(new)).find(|(was, is)| was != is);
    match changed {
        Some(((what, _), _)) => Err(DraftError::Beyond(format!(
            "{what} is changed at the gateway and not by the page, which changes rules and profiles"
        ))),
        None => Ok(()),
    }
}
