//! What the command finds in its environment: placeholders, and CA variables that add to the
//! system's roots.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::store::{Enrolment, Store, StoreError};

/// Where distributions keep the system's roots, as one PEM file.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Variables that name the only file of roots: they get the system's roots and the gateway's CA.
const BUNDLE_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "PIP_CERT",
    "DENO_CERT",
];
/// Largest file of roots that is read, in bytes.
pub const ROOTS_BYTES_MAX: u64 = 8 << 20;

/// Whether the gateway may set a variable: a hostile one must not reach `PATH` or `LD_PRELOAD`.
pub fn may_set(name: &str) -> bool {
    let shape = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.len() <= 128
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let loads_code = [
        "LD_", "DYLD_", "GIT_", "BASH_", "PYTHON", "NODE_", "JAVA_", "_JAVA", "PERL", "RUBY",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix));
    let shell = [
        "PATH",
        "HOME",
        "SHELL",
        "ENV",
        "IFS",
        "EDITOR",
        "PAGER",
        "JDK_JAVA_OPTIONS",
    ]
    .contains(&name);
    shape && !loads_code && !shell && !BUNDLE_VARIABLES.contains(&name)
}

/// Writes the CA files into the store and returns every variable to set.
pub fn variables(store: &Store, enrolment: &Enrolment) -> Result<BTreeMap<String, String>, StoreError> {
    let assigned = &enrolment.assigned;
    let mut set: BTreeMap<String, String> = assigned
        .placeholders
        .iter()
        .filter(|(name, _)| may_set(name))
        .map(|(name, text)| (name.clone(), text.clone()))
        .collect();

    let node = extend("NODE_EXTRA_CA_CERTS", store);
    store.write("ca.pem", join([node, Some(assigned.ca_pem.clone())]).as_bytes())?;
    let system = SYSTEM_ROOTS.iter().find_map(|path| read(Path::new(path)));
    let own = BUNDLE_VARIABLES.iter().map(|variable| extend(variable, store));
    let parts = std::iter::once(system)
        .chain(own)
        .chain([Some(assigned.ca_pem.clone())]);
    store.write("bundle.pem", join(parts).as_bytes())?;

    let path = |name: &str| store.folder().join(name).to_string_lossy().into_owned();
    for name in BUNDLE_VARIABLES {
        set.insert(name.to_owned(), path("bundle.pem"));
    }
    set.insert("NODE_EXTRA_CA_CERTS".to_owned(), path("ca.pem"));
    set.insert("PGSSLROOTCERT".to_owned(), path("bundle.pem"));
    Ok(set)
}

/// The file that a variable names already, unless it is one of ours.
fn extend(variable: &str, store: &Store) -> Option<String> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    if path.starts_with(store.folder()) || SYSTEM_ROOTS.iter().any(|known| path == Path::new(known)) {
        return None;
    }
    read(&path)
}

fn read(path: &Path) -> Option<String> {
    let size = std::fs::metadata(path).ok()?.len();
    (size <= ROOTS_BYTES_MAX)
        .then(|| std::fs::read_to_string(path).ok())
        .flatten()
}

/// All parts, each once: one file may be what several variables name.
fn join(parts: impl IntoIterator<Item = Option<String>>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for part in parts.into_iter().flatten() {
        let part = format!("{}\n", part.trim_end());
        if !seen.contains(&part) {
            seen.push(part);
        }
    }
    seen.concat()
}

/// One `export` line a variable, quoted for a POSIX shell.
pub fn exports(variables: &BTreeMap<String, String>) -> String {
    variables
        .iter()
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_sets_no_variable_that_loads_code() {
        for name in [
            "PATH",
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "SSL_CERT_FILE",
            "lower",
            "A B",
            "",
            "GIT_SSH_COMMAND",
        ] {
            assert!(!may_set(name), "{name}");
        }
        assert!(may_set("GITHUB_TOKEN") && may_set("GITHUB_PAT"));
    }

    #[test]
    fn roots_that_the_user_named_stay_and_stand_once() {
        let part = |text: &str| Some(text.to_owned());
        let whole = join([
            part("system\n"),
            part("company"),
            None,
            part("company\n\n"),
            part("gateway"),
        ]);
        assert_eq!(whole, "system\ncompany\ngateway\n");
    }

    #[test]
    fn quotes_for_a_shell() {
        let set = BTreeMap::from([("A".to_owned(), "it's $x".to_owned())]);
        assert_eq!(exports(&set), "export A='it'\\''s $x'\n");
    }
}
