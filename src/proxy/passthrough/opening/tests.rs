use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::policy::{Policy, Source};

const LIMIT: Duration = Duration::from_millis(200);

fn policy() -> Policy {
    let text = "endpoint \"https\" \"any\" { hosts = [\"*.example.com\", \"192.0.2.0/24\"] }\n\
                endpoint \"postgres\" \"db\" { host = \"db.test:5432\" }\n";
    let source = Source {
        path: "policy.hcl".into(),
        text: text.to_owned(),
    };
    Policy::load(vec![source], &|path| std::fs::read_to_string(path)).unwrap()
}

/// The first flight of a real client.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut out = Vec::new();
    client.write_tls(&mut out).unwrap();
    out
}

/// How often first words were refused that could not be read.
fn counted() -> u64 {
    let readers = [bad_input::Reader::Tls, bad_input::Reader::Http];
    readers
        .map(|reader| bad_input::counted(reader, "first_words"))
        .iter()
        .sum()
}

/// What goes on of an agent's words, sent so many bytes at a time, and why it was refused. The agent
/// says no more then, and does not close.
async fn passes(words: &[u8], at_once: usize) -> (Vec<u8>, Option<String>) {
    let policy = policy();
    let (mut agent, own) = tokio::io::duplex(1 << 20);
    let mut watched = Watched::new(own, policy.model(), LIMIT);
    for piece in words.chunks(at_once) {
        agent.write_all(piece).await.unwrap();
    }
    let mut passed = Vec::new();
    let mut piece = [0; 100];
    while passed.len() < words.len() {
        let read = tokio::time::timeout(LIMIT * 20, watched.read(&mut piece)).await;
        match read.expect("the watch has a limit") {
            Ok(length) => passed.extend_from_slice(&piece[..length]),
            Err(_) => break,
        }
    }
    let why = watched.refused().map(str::to_owned);
    (passed, why)
}

#[tokio::test]
async fn who_names_an_endpoint_does_not_pass() {
    let claimed = "it names www.example.com";
    let http = |text: &str| text.replace('\n', "\r\n").into_bytes();
    let cases = [
        (hello("www.example.com"), Some(claimed)),
        (hello("www.Example.com"), Some(claimed)),
        // At whatever port.
        (hello("db.test"), Some("it names db.test")),
        (hello("elsewhere.test"), None),
        (hello("example.com"), None),
        // A client sends no name for an address.
        (hello("198.51.100.7"), None),
        (
            http("GET / HTTP/1.1\nHost: WWW.example.com.:8080\n\n"),
            Some(claimed),
        ),
        (
            http("GET / HTTP/1.1\nA: b\nhOST : www.example.com\n\n"),
            Some(claimed),
        ),
        (
            b"GET / HTTP/1.1\nHost: www.example.com\n\n".to_vec(),
            Some(claimed),
        ),
        (
            http("GET / HTTP/1.1\nHost: elsewhere.test\nHost: www.example.com\n\n"),
            Some(claimed),
        ),
        (
            http("CONNECT www.example.com:443 HTTP/1.1\nHost: x\n\n"),
            Some(claimed),
        ),
        (
            http("GET http://u@www.example.com/ HTTP/1.1\nHost: x\n\n"),
            Some(claimed),
        ),
        (
            http("GET / HTTP/1.0\nHost: 192.0.2.9\n\n"),
            Some("it names 192.0.2.9"),
        ),
        (http("GET / HTTP/1.1\nHost: elsewhere.test\n\n"), None),
        // What servers put up with.
        (
            http("\n\n\nGET / HTTP/1.1\nHost: www.example.com\n\n"),
            Some(claimed),
        ),
        (
            http("M-Search / HTTP/1.1\nHost: www.example.com\n\n"),
            Some(claimed),
        ),
        (
            http("get\t/a b http/1.1\nHost: www.example.com\n\n"),
            Some(claimed),
        ),
        (http("GET / HTTP/3\nHost: www.example.com\n\n"), Some(claimed)),
        (http("\n\n"), Some("its first words do not end")),
        (http("GET / HTTP/1.0\n\n"), None),
        // Other protocols: nothing waits for an end that never comes.
        (b"SSH-2.0-x\r\n".to_vec(), None),
        (b"EHLO www.example.com\r\n".to_vec(), None),
        (b"PRI * HTTP/2.0\r\n".to_vec(), None),
        (b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(), None),
        // What begins like them and is not, and what does not end.
        (
            b"\x16\x03\x01\0\x05hello".to_vec(),
            Some("its first words cannot be read"),
        ),
        (
            hello("elsewhere.test")[..40].to_vec(),
            Some("its first words do not end"),
        ),
        (b"GET / HT".to_vec(), Some("its first words do not end")),
    ];
    for (words, want) in cases {
        for at_once in [1, 7, usize::MAX] {
            let before = counted();
            let (passed, why) = passes(&words, at_once).await;
            let is_counted = counted() > before;
            assert!(is_counted || want != Some("its first words cannot be read"));
            let shown = String::from_utf8_lossy(&words);
            assert_eq!(why.as_deref(), want, "{shown}");
            assert_eq!(passed, if want.is_some() { &[][..] } else { &words }, "{shown}");
        }
    }
}

#[tokio::test]
async fn first_words_have_a_limit() {
    let empty = [&[b'\n'; EMPTY_BYTES_MAX + 1][..], b"GET / HTTP/1.1\n\n"].concat();
    let (passed, why) = passes(&empty, usize::MAX).await;
    assert_eq!(
        (passed.len(), why.as_deref()),
        (0, Some("its first words cannot be read"))
    );
    let words = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; HELLO_BYTES_MAX]].concat();
    let (passed, why) = passes(&words, usize::MAX).await;
    assert_eq!(
        (passed.len(), why.as_deref()),
        (0, Some("its first words cannot be read"))
    );
    let line = [&b"GET "[..], &[b'x'; LINE_BYTES_MAX]].concat();
    let (passed, why) = passes(&line, usize::MAX).await;
    assert_eq!(
        (passed.len(), why),
        (line.len(), None),
        "no request line is so long"
    );
}

#[tokio::test]
async fn the_other_side_may_speak_first() {
    let policy = policy();
    let (mut agent, own) = tokio::io::duplex(1 << 10);
    let (mut upstream, mut far) = tokio::io::duplex(1 << 10);
    let task = tokio::spawn(async move {
        let mut watched = Watched::new(own, policy.model(), LIMIT);
        tokio::io::copy_bidirectional(&mut watched, &mut upstream).await
    });
    far.write_all(b"220 ready\r\n").await.unwrap();
    let mut greeting = [0; 11];
    agent.read_exact(&mut greeting).await.unwrap();
    // Longer than the limit: it counts from the agent's own first byte.
    tokio::time::sleep(LIMIT * 2).await;
    agent.write_all(b"EHLO x\r\n").await.unwrap();
    let mut came = [0; 8];
    far.read_exact(&mut came).await.unwrap();
    assert_eq!((&greeting, &came), (b"220 ready\r\n", b"EHLO x\r\n"));
    drop((agent, far));
    task.await.unwrap().unwrap();
}

/// What is said of the first words when they come so many bytes at a time.
fn named(words: &[u8], at_once: usize) -> Option<Named> {
    let mut reading = Reading::Fresh;
    let mut came = 0;
    words.chunks(at_once).find_map(|piece| {
        came += piece.len();
        reading.read(&words[..came], piece)
    })
}

/// A fuzz target, as those of `tests/fuzz`.
#[test]
fn first_words_of_any_bytes_are_read_alike_however_they_are_cut() {
    let parts: [&[u8]; 12] = [
        b"GET ",
        b"PRI * HTTP/2.0",
        b"http://u@a.test:1/ ",
        b"HTTP/1.1",
        b"\r\n",
        b"\n",
        b"Host",
        b": ",
        b"www.example.com.",
        b"[2001:db8::1]:80",
        b"\x16\x03\x01\x00\x05",
        b"\x01\x00\x00\x01",
    ];
    bolero::check!()
        .with_iterations(3_000)
        .with_max_len(2_048)
        .with_type::<(Vec<(u8, Vec<u8>)>, u8)>()
        .for_each(|(given, at_once)| {
            let mut words = Vec::new();
            for (part, own) in given {
                words.extend(parts[usize::from(*part) % parts.len()]);
                // Mostly words, so that heads come about that are whole.
                words.extend(own.get(..own.len() / 8).unwrap_or_default());
            }
            let whole = named(&words, usize::MAX);
            for at_once in [1, usize::from(*at_once).max(1)] {
                assert_eq!(named(&words, at_once), whole, "{}", words.escape_ascii());
            }
            if let Some(Named::Hosts(hosts)) = whole {
                assert!(hosts.iter().all(|host| *host == plain(host)));
            }
        });
}
