//! The tree as CONTRIBUTING.md and the code map promise it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests say what they expect")]

mod fields;
mod limits;

use std::path::{Path, PathBuf};

/// Lines of a source file; tests may be longer.
const LINES_MAX: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn below(folder: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            let own = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            below(&own, found);
        } else {
            found.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

fn files(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in folders {
        below(folder, &mut found);
    }
    found
        .into_iter()
        .filter_map(|path| Some((path.clone(), std::fs::read_to_string(root().join(path)).ok()?)))
        .collect()
}

/// Whether a file has a test of this name, which is run; else why not.
fn is_a_test(file: &str, test: &str) -> Result<(), String> {
    let source = std::fs::read_to_string(root().join(file)).map_err(|error| format!("{file}: {error}"))?;
    // One that a list runs over both TCPs.
    let list = source
        .split_once("\nover_both! {")
        .map(|(_, rest)| rest.split('}').next());
    if list
        .flatten()
        .is_some_and(|list| list.contains(&format!("\n    {test},")))
    {
        return Ok(());
    }
    let at = source
        .find(&format!("fn {test}("))
        .ok_or_else(|| format!("{file} has no {test}"))?;
    // What stands between it and the function before it.
    let before = source.get(..at).unwrap_or_default();
    let own = before.rsplit("\n}\n").next().unwrap_or_default();
    if own.contains("#[ignore") || (own.contains("cfg_attr") && own.contains("ignore")) {
        return Err(format!("{test} of {file} is not run"));
    }
    match own.contains("test]") || own.contains("test(") {
        true => Ok(()),
        false => Err(format!("{test} of {file} is no test")),
    }
}

#[test]
fn a_proof_is_a_test_that_is_run() {
    let own = "a_proof_is_a_test_that_is_run";
    assert_eq!(is_a_test("tests/tidy/main.rs", own), Ok(()));
    for (file, name, why) in [
        ("tests/tidy/main.rs", "is_a_test", "is no test"),
        (
            "tests/tidy/main.rs",
            "nobody_wrote_this",
            "has no nobody_wrote_this",
        ),
        ("tests/tidy/none.rs", own, "No such file"),
        (
            "tests/http/bench.rs",
            "bench_keep_alive_get_of_1_kib",
            "is not run",
        ),
        ("tests/state/audit.rs", "child_that_writes", "is not run"),
    ] {
        let error = is_a_test(file, name).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

fn is_test(path: &Path) -> bool {
    path.to_str()
        .unwrap()
        .split('/')
        .any(|part| part == "tests" || part.ends_with("tests.rs"))
}

#[test]
fn source_files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for (path, text) in files(&["src"]) {
        if path.extension().is_none_or(|kind| kind != "rs") || is_test(&path) {
            continue;
        }
        // What follows a file's own tests is not counted.
        let own = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        if own.lines().count() > LINES_MAX {
            wrong.push(format!("{} has {} lines", path.display(), own.lines().count()));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not begin with //!", path.display()));
        }
        if text.contains("unsafe {") && !path.starts_with("src/sys") {
            wrong.push(format!("{} has unsafe", path.display()));
        }
        if text.matches("unsafe {").count() > text.matches("// SAFETY:").count() {
            wrong.push(format!("{}: an unsafe block without its SAFETY", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_about_the_machine_it_was_written_on() {
    let mut wrong = Vec::new();
    for (path, text) in files(&["src", "tests", "scripts", "policies", "benches"]) {
        if path.ends_with("tidy/main.rs") {
            continue;
        }
        for forbidden in ["/home/", "/root/", "/work/"] {
            if text.contains(forbidden) {
                wrong.push(format!("{} names {forbidden}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_code_map_names_every_folder_and_every_named_test_folder_exists() {
    let map = std::fs::read_to_string(root().join("src/README.md")).unwrap();
    for folder in ["src", "tests"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "support" {
                let named = if folder == "src" {
                    format!("`{name}/`")
                } else {
                    format!("`tests/{name}`")
                };
                assert!(map.contains(&named), "the code map does not name {folder}/{name}");
            }
        }
    }
    for named in map.split('`').filter(|part| part.starts_with("tests/")) {
        assert!(root().join(named).exists(), "the code map names {named}");
    }
}
