//! What came from outside and could not be taken, counted by what read it and why. *Pure.*
//!
//! A process has one count, since readers are many and stand everywhere; operators see it in `/v1/health` and,
//! as Prometheus reads it, in `/v1/metrics`. Reasons are the program's own words, so there are only so many of them.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What reads bytes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reader {
    Wireguard,
    Dns,
    Tls,
    Http,
    Kubernetes,
    Mcp,
    Postgres,
    Sql,
    Admin,
    Enrolment,
    Tailscaled,
    Policy,
    /// What servers of an endpoint's kind answer.
    HttpServer,
    KubernetesServer,
    McpServer,
    PostgresServer,
    /// Their TLS, whatever speaks in it.
    TlsServer,
    /// What a resolver answers to the gateway's own questions and to those that it passes on.
    DnsServer,
}

impl Reader {
    /// Its name in what is shown.
    pub fn name(self) -> &'static str {
        match self {
            Reader::Wireguard => "wireguard",
            Reader::Dns => "dns",
            Reader::Tls => "tls",
            Reader::Http => "http",
            Reader::Kubernetes => "kubernetes",
            Reader::Mcp => "mcp",
            Reader::Postgres => "postgres",
            Reader::Sql => "sql",
            Reader::Admin => "admin",
            Reader::Enrolment => "enrolment",
            Reader::Tailscaled => "tailscaled",
            Reader::Policy => "policy",
            Reader::HttpServer => "http_server",
            Reader::KubernetesServer => "kubernetes_server",
            Reader::McpServer => "mcp_server",
            Reader::PostgresServer => "postgres_server",
            Reader::TlsServer => "tls_server",
            Reader::DnsServer => "dns_server",
        }
    }
}

/// Counts by reader and reason.
pub type Counts = BTreeMap<(Reader, String), u64>;

static COUNTS: Mutex<Counts> = Mutex::new(Counts::new());

fn lock() -> MutexGuard<'static, Counts> {
    // Nothing that holds this lock can panic half way through a change.
    COUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts one that was refused for the reason that an error is: the name of its variant.
pub fn count(reader: Reader, why: &impl Debug) {
    let reason = reason(why);
    *lock().entry((reader, reason)).or_default() += 1;
}

/// All that was counted since the start of the process.
pub fn counts() -> Counts {
    lock().clone()
}

/// How many of one reader for one reason.
pub fn counted(reader: Reader, reason: &str) -> u64 {
    lock().get(&(reader, reason.to_owned())).copied().unwrap_or(0)
}

/// The counts as Prometheus reads them.
pub fn metrics() -> String {
    let name = "tailkeep_bad_input_total";
    let mut text = format!("# HELP {name} Input that was refused as malformed.\n# TYPE {name} counter\n");
    for ((reader, reason), count) in counts() {
        let reader = reader.name();
        let _ = writeln!(text, "{name}{{reader=\"{reader}\",reason=\"{reason}\"}} {count}");
    }
    text
}

/// `EncodedSeparator` and `ForbiddenHeader("te")` as `encoded_separator` and `forbidden_header`: nothing of what is in
/// an error, which may be the agent's words.
fn reason(why: &impl Debug) -> String {
    let shown = format!("{why:?}");
    let mut name = String::new();
    for letter in shown.trim_matches('"').chars() {
        match letter {
            'A'..='Z' if !name.is_empty() => name.extend(['_', letter.to_ascii_lowercase()]),
            'A'..='Z' => name.push(letter.to_ascii_lowercase()),
            'a'..='z' | '0'..='9' | '_' => name.push(letter),
            _ => break,
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[allow(dead_code, reason = "shown by Debug")]
    enum Why {
        TooLong,
        Word(&'static str),
        Of { text: &'static str },
    }

    #[test]
    fn each_reader_and_reason_has_its_count_and_says_nothing_of_the_input() {
        for why in [
            Why::TooLong,
            Why::TooLong,
            Why::Word("evil\"} 1"),
            Why::Of { text: "evil" },
        ] {
            count(Reader::Mcp, &why);
        }
        count(Reader::Mcp, &"late");
        let own = |reason: &str| counted(Reader::Mcp, reason);
        assert_eq!(
            (own("too_long"), own("word"), own("of"), own("late")),
            (2, 1, 1, 1)
        );
        let text = metrics();
        assert!(
            text.contains("tailkeep_bad_input_total{reader=\"mcp\",reason=\"too_long\"} 2\n"),
            "{text}"
        );
        assert!(!text.contains("evil"), "{text}");
    }
}
