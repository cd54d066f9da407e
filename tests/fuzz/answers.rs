//! What servers and daemons answer that the gateway asks: a Postgres server at the login, tailscaled.

use chrono::Utc;
use tailkeep::ingress::tailnet::localapi::{Prefs, Status, WhoIs};
use tailkeep::ingress::tailnet::whois;
use tailkeep::protocol::postgres::wire;
use tailkeep::upstream::postgres::{Login, Trust, login};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fuzz;
use crate::transport::runtime;

/// Messages of a login, some of them right in form.
const MESSAGES: &[(u8, &[u8])] = &[
    (b'R', b"\0\0\0\x0a" as &[u8]),
    (b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
    (b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
    (b'R', b"\0\0\0\x0br=abc,s=AAAA,i=4096"),
    (b'R', b"\0\0\0\x0cv=AAAA"),
    (b'R', b"\0\0\0\x05abcd"),
    (b'R', b"\0\0\0\x03"),
    (b'R', b"\0\0\0\0"),
    (b'S', b"client_encoding\0UTF8\0"),
    (b'S', b"standard_conforming_strings\0on\0"),
    (b'K', b"\0\0\0\x01\0\0\0\x02"),
    (b'N', b"SNOTICE\0\0"),
    (b'E', b"SFATAL\0C28P01\0\0"),
    (b'Z', b"I"),
];

#[test]
fn a_server_that_proves_nothing_lets_nobody_in_and_learns_no_password() {
    const PASSWORD: &[u8] = b"pa55word-of-prod";
    let runtime = runtime();
    fuzz!((Vec<(u8, Vec<u8>)>, bool), |(messages, is_raw)| {
        let mut stream = Vec::new();
        for (number, own) in messages {
            let (tag, payload) = MESSAGES[usize::from(*number) % MESSAGES.len()];
            match own.len() % 4 {
                _ if *is_raw => stream.extend_from_slice(own),
                3 => stream.extend_from_slice(&wire::message(tag, own)),
                _ => stream.extend_from_slice(&wire::message(tag, payload)),
            }
        }
        runtime.block_on(async {
            let (mut server, mut own) = tokio::io::duplex(1 << 20);
            server.write_all(&stream).await.unwrap();
            server.shutdown().await.unwrap();
            let wanted = Login {
                user: "app",
                password: Some(PASSWORD),
                database: "app",
                settings: &[],
            };
            let entered = login(&mut own, &wanted, &Trust::default()).await;
            assert!(entered.is_err(), "{entered:?}");
            drop(own);
            let mut said = Vec::new();
            server.read_to_end(&mut said).await.unwrap();
            assert!(
                memchr::memmem::find(&said, PASSWORD).is_none(),
                "the password in clear text"
            );
        });
    });
}

#[test]
fn a_node_of_another_tailnet_has_no_tags_whatever_it_is_called() {
    const NAMES: [&str; 8] = [
        "ci.lab.ts.net.",
        "ci.lab.ts.net",
        "ci.other.ts.net.",
        "lab.ts.net.",
        ".lab.ts.net.",
        "ci.evil-lab.ts.net.",
        "CI.LAB.TS.NET.",
        "",
    ];
    fuzz!((u8, Vec<u8>, Vec<String>, Vec<u8>), |(
        name,
        addresses,
        texts,
        bytes,
    )| {
        let name = NAMES[usize::from(*name) % NAMES.len()];
        let addresses: Vec<String> = addresses
            .iter()
            .map(|byte| format!("100.64.0.{byte}/32"))
            .collect();
        let grants: Vec<_> = texts
            .iter()
            .map(|text| serde_json::json!({ "profiles": [text], "x": text }))
            .collect();
        let answer = serde_json::json!({
            "Node": { "StableID": "n1", "Name": name, "Tags": ["tag:ci"], "Addresses": addresses },
            "UserProfile": { "LoginName": texts.first().map_or("tagged-devices", String::as_str) },
            "CapMap": { whois::CAPABILITY: grants, whois::APPROVER: grants },
        });
        let found: WhoIs = serde_json::from_value(answer).unwrap();
        if let Ok(known) = whois::read(&found, "lab.ts.net", Utc::now()) {
            assert!(known.addresses.contains(&known.identity.address));
            let is_ours = name
                .to_ascii_lowercase()
                .trim_end_matches('.')
                .ends_with(".lab.ts.net");
            assert!(is_ours || known.identity.tags.is_empty(), "{name}");
            // A grant with a field that is not known grants nothing.
            assert!(known.identity.grants.is_empty() && known.identity.approves.is_empty());
        }
        let _ = serde_json::from_slice::<WhoIs>(bytes);
        let _ = serde_json::from_slice::<Status>(bytes);
        let _ = serde_json::from_slice::<Prefs>(bytes);
    });
}
