//! Every named number of the program has a line that says what it is: a limit with the test that fails if it is
//! ignored, or no limit, and why.
//!
//! The names are found in the sources: each `const` of a number or a duration, wherever it stands. So a new one
//! without a line in [`LIMITS`] fails here.

mod table;

use std::collections::BTreeMap;

use table::{LIMITS, Why};

/// Types whose constants may bound something.
const TYPES: &[&str] = &[
    "usize",
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "i32",
    "i64",
    "f32",
    "f64",
    "Duration",
    "std::time::Duration",
];

/// The name of a line's constant, if it is one of a type that may bound something.
fn constant(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        None => line,
        Some(rest) => match rest.strip_prefix('(') {
            Some(rest) => rest.split_once(") ")?.1,
            None => rest.trim_start(),
        },
    };
    let (name, rest) = line.strip_prefix("const ")?.split_once(": ")?;
    let (kind, _) = rest.split_once(" =")?;
    let is_name = name.bytes().all(|byte| !byte.is_ascii_lowercase()) && name != "_";
    (is_name && TYPES.contains(&kind)).then_some(name)
}

/// File, below `src`, and name of each constant, but for those of tests.
fn constants() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, text) in crate::files(&["src"]) {
        if path.extension().is_none_or(|kind| kind != "rs") || crate::is_test(&path) {
            continue;
        }
        let own = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let file = path.strip_prefix("src").unwrap().to_str().unwrap();
        let names = own.lines().filter_map(constant);
        found.extend(names.map(|name| (file.to_owned(), name.to_owned())));
    }
    found
}

#[test]
fn constants_are_found_however_they_are_written() {
    for line in [
        "const A_MAX: usize = 1;",
        "pub const A_MAX: Duration = Duration::from_secs(1);",
        "    pub(super) const A_MAX: u32 = 1;",
        "pub(in crate::policy) const A_MAX: std::time::Duration =",
    ] {
        assert_eq!(constant(line), Some("A_MAX"), "{line}");
    }
    for line in [
        "const A: &str = \"\";",
        "const fn a() -> usize {",
        "let a: usize = 1;",
    ] {
        assert_eq!(constant(line), None, "{line}");
    }
    assert!(constants().len() > 400);
}

#[test]
fn each_number_has_a_line_and_each_line_a_number() {
    let mut lines: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (file, names, _) in LIMITS {
        for name in *names {
            *lines.entry(((*file).to_owned(), (*name).to_owned())).or_default() += 1;
        }
    }
    let mut wrong = Vec::new();
    for key in constants() {
        match lines.remove(&key) {
            None => wrong.push(format!("{}: {} has no line", key.0, key.1)),
            Some(1) => {}
            Some(count) => wrong.push(format!("{}: {} has {count} lines", key.0, key.1)),
        }
    }
    wrong.extend(lines.keys().map(|(file, name)| format!("{file} has no {name}")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_tests_of_limits_are_there() {
    let wrong: Vec<String> = LIMITS
        .iter()
        .filter_map(|(file, names, why)| {
            let error = match why {
                Why::Test(own, test) => crate::is_a_test(own, test).err()?,
                Why::Own("") => "no reason".to_owned(),
                _ => return None,
            };
            Some(format!("{file} {names:?}: {error}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
