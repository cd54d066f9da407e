//! How much of a configuration is read.

use std::io::ErrorKind;

use tailkeep::policy::source::{ReadError, SOURCE_BYTES_MAX, SOURCE_FILES_MAX, read, read_file};

/// A comment of so many bytes.
fn comment(bytes: u64) -> Vec<u8> {
    let mut text = vec![b'x'; usize::try_from(bytes).unwrap()];
    text[0] = b'#';
    text
}

#[test]
fn a_file_has_a_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.hcl");
    std::fs::write(&path, comment(SOURCE_BYTES_MAX)).unwrap();
    assert_eq!(read_file(&path).unwrap().len() as u64, SOURCE_BYTES_MAX);
    assert_eq!(read(&path).unwrap().len(), 1);
    std::fs::write(&path, comment(SOURCE_BYTES_MAX + 1)).unwrap();
    let error = read_file(&path).unwrap_err().to_string();
    assert!(error.contains("larger than 4194304 bytes"), "{error}");
    assert!(matches!(read(folder.path()), Err(ReadError::Io { .. })));
    // What has no size of its own and no end.
    assert!(read_file("/dev/zero".as_ref()).is_err());
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(read_file(&path).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn a_folder_has_so_many_files() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..SOURCE_FILES_MAX {
        std::fs::write(folder.path().join(format!("{number}.hcl")), "").unwrap();
    }
    std::fs::write(folder.path().join("another.txt"), "").unwrap();
    assert_eq!(read(folder.path()).unwrap().len(), SOURCE_FILES_MAX);
    std::fs::write(folder.path().join("more.hcl"), "").unwrap();
    assert!(matches!(read(folder.path()), Err(ReadError::TooMany(_))));
}
