//! A temporary folder that is gone once it is dropped, though what a test began may still be writing into it.

use std::path::Path;

/// Removed when dropped.
pub struct Folder(tempfile::TempDir);

impl Folder {
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    /// A session that ends with its world still writes its outcome, and the audit log its head, by its path: in a
    /// folder of another name it finds none. What was on its way before is removed by another round.
    fn drop(&mut self) {
        let gone = self.0.path().with_extension("gone");
        if std::fs::rename(self.0.path(), &gone).is_err() {
            return;
        }
        let is_full = |error: std::io::Error| error.kind() == std::io::ErrorKind::DirectoryNotEmpty;
        while std::fs::remove_dir_all(&gone).is_err_and(is_full) {}
    }
}
