//! What the command finds in its environment: placeholders, CA variables that add to the
//! system's roots, and a kubeconfig.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::kubeconfig;
use super::store::{Enrolment, Store, StoreError};
use super::truststore;
use crate::identity::manifest::BUNDLE_VARIABLES;
pub use crate::identity::manifest::may_set;

/// Where distributions keep the system's roots, as one PEM file.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Names roots that Node adds to those that it was built with.
const NODE_VARIABLE: &str = "NODE_EXTRA_CA_CERTS";
/// The roots for Node, in the store.
pub(super) const NODE_ROOTS: &str = "node.pem";
/// The roots for a JVM, in the store.
const JAVA_STORE: &str = "truststore.jks";
/// Where our own options begin.
const JAVA_MARK: &str = "-Djavax.net.ssl.trustStoreType=";
/// Largest file of roots that is read, in bytes.
pub const ROOTS_BYTES_MAX: u64 = 8 << 20;

/// Writes the CA files into the store and returns every variable to set.
pub fn variables(store: &Store, enrolment: &Enrolment) -> Result<BTreeMap<String, String>, StoreError> {
    let assigned = &enrolment.assigned;
    let mut set: BTreeMap<String, String> = assigned
        .placeholders
        .iter()
        .filter(|(name, _)| may_set(name))
        .map(|(name, text)| (name.clone(), text.clone()))
        .collect();

    let system = SYSTEM_ROOTS.iter().find_map(|path| read(Path::new(path)));
    // Beside its own roots, Node takes the system's from here alone.
    let node = [
        system.clone(),
        extend(NODE_VARIABLE, store),
        Some(assigned.ca_pem.clone()),
    ];
    store.write(NODE_ROOTS, join(node).as_bytes())?;
    let own = BUNDLE_VARIABLES.iter().map(|variable| extend(variable, store));
    let parts = std::iter::once(system)
        .chain(own)
        .chain([Some(assigned.ca_pem.clone())]);
    let bundle = join(parts);
    store.write("bundle.pem", bundle.as_bytes())?;
    store.write(JAVA_STORE, &truststore::jks(&bundle))?;

    let path = |name: &str| store.folder().join(name).to_string_lossy().into_owned();
    for name in BUNDLE_VARIABLES {
        set.insert(name.to_owned(), path("bundle.pem"));
    }
    if let Some(list) = kubeconfig::variable(store, &assigned.clusters, &path("bundle.pem"))? {
        set.insert("KUBECONFIG".to_owned(), list);
    }
    set.insert(NODE_VARIABLE.to_owned(), path(NODE_ROOTS));
    set.insert("PGSSLROOTCERT".to_owned(), path("bundle.pem"));
    let own = std::env::var("JAVA_TOOL_OPTIONS").unwrap_or_default();
    set.insert(
        "JAVA_TOOL_OPTIONS".to_owned(),
        java_options(&own, &path(JAVA_STORE)),
    );
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
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(ROOTS_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    let is_whole = bytes.len() as u64 <= ROOTS_BYTES_MAX;
    is_whole.then(|| String::from_utf8(bytes).ok()).flatten()
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

/// The user's options and our truststore; theirs, where they name one. A JVM says on stderr that it
/// picked them up.
fn java_options(own: &str, store: &str) -> String {
    if own.contains("-Djavax.net.ssl.trustStore=") && !own.contains(JAVA_STORE) {
        return own.to_owned();
    }
    // Of an outer run, they are ours already.
    let own = own
        .find(JAVA_MARK)
        .map_or(own, |at| own.get(..at).unwrap_or_default());
    // The JVM takes one kind of quote at a time, and no escapes.
    let quote = match store.contains(char::is_whitespace) {
        true if store.contains('\'') => "\"",
        true => "'",
        false => "",
    };
    let space = if own.is_empty() || own.ends_with(' ') {
        ""
    } else {
        " "
    };
    format!(
        "{own}{space}{JAVA_MARK}JKS -Djavax.net.ssl.trustStorePassword={} \
         {quote}-Djavax.net.ssl.trustStore={store}{quote}",
        truststore::PASSWORD
    )
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
    fn a_file_of_roots_has_a_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        let most = usize::try_from(ROOTS_BYTES_MAX).unwrap();
        std::fs::write(&path, vec![b'x'; most]).unwrap();
        assert_eq!(read(&path).map(|text| text.len()), Some(most));
        std::fs::write(&path, vec![b'x'; most + 1]).unwrap();
        assert_eq!(read(&path), None, "one byte more");
        assert_eq!(read(Path::new("/dev/zero")), None, "without an end");
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
    fn java_keeps_the_users_options() {
        let ours = "-Djavax.net.ssl.trustStoreType=JKS -Djavax.net.ssl.trustStorePassword=changeit ";
        let store = |folder: &str| format!("-Djavax.net.ssl.trustStore={folder}/truststore.jks");
        for (own, folder, want) in [
            ("", "/h", format!("{ours}{}", store("/h"))),
            ("-Xmx1g", "/h", format!("-Xmx1g {ours}{}", store("/h"))),
            ("", "/my home", format!("{ours}'{}'", store("/my home"))),
            ("", "/it's a", format!("{ours}\"{}\"", store("/it's a"))),
            (
                "-Djavax.net.ssl.trustStore=/own",
                "/h",
                "-Djavax.net.ssl.trustStore=/own".to_owned(),
            ),
        ] {
            let got = java_options(own, &format!("{folder}/truststore.jks"));
            assert_eq!(got, want);
            assert_eq!(
                java_options(&got, &format!("{folder}/truststore.jks")),
                want,
                "twice"
            );
        }
    }

    #[test]
    fn quotes_for_a_shell() {
        let set = BTreeMap::from([("A".to_owned(), "it's $x".to_owned())]);
        assert_eq!(exports(&set), "export A='it'\\''s $x'\n");
    }
}
