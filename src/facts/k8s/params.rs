//! The query's parameters as the API server reads them. *Pure.*
//!
//! A parameter that is true or false has many spellings there: no value, `0` and `false` in any case
//! decide, and whatever else is given, even nothing, means true. A condition reads `true` or `false`, or
//! finds no such parameter; what was written is kept beside it.

/// The parameters that the API server reads as true or false: those of logs, exec and attach, of lists,
/// and of changes.
const BOOLEANS: &[&str] = &[
    "allowWatchBookmarks",
    "follow",
    "force",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "insecureSkipTLSVerifyBackend",
    "orphanDependents",
    "previous",
    "sendInitialEvents",
    "stderr",
    "stdin",
    "stdout",
    "timestamps",
    "tty",
    "watch",
];

/// Whether a parameter's value is true or false.
pub fn is_boolean(name: &str) -> bool {
    BOOLEANS.contains(&name)
}

/// What the API server makes of a value that is true or false.
pub fn is_true(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

/// The parameters with each that is true or false as one of these words.
pub fn canonical(mut params: Vec<(String, String)>) -> Vec<(String, String)> {
    for (name, value) in &mut params {
        if is_boolean(name) {
            *value = is_true(value).to_string();
        }
    }
    params
}
