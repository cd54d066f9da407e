//! What arrives below the protocols: DNS messages and ClientHellos.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use tailkeep::identity::{Identity, Transport};
use tailkeep::ingress::dns::{Answerer, Names, Zone};
use tailkeep::policy::{Policy, Source};
use tailkeep::tls::accept::greet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};

use crate::{fuzz, pieces};

/// Longest answer over UDP that a client which says nothing of its buffer takes, bytes (RFC 1035 §4.2.1).
const UDP_BYTES_MAX: usize = 512;

/// A panic ends the target, so nothing is seen half changed after one.
pub fn runtime() -> AssertUnwindSafe<Runtime> {
    AssertUnwindSafe(Builder::new_current_thread().enable_all().build().unwrap())
}

#[test]
fn a_dns_message() {
    let source = Source {
        path: "policy.hcl".into(),
        text: "endpoint \"https\" \"a\" { hosts = [\"a.test\", \"*.b.test\"] }".to_owned(),
    };
    let policy = Policy::load(vec![source], &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
    let names = Names::open(
        "10.78.0.0/24".parse().unwrap(),
        "fd7a::/64".parse().unwrap(),
        None,
    )
    .unwrap();
    let zone = Zone::new(policy.model(), Arc::new(|_, _| true));
    let answerer = Answerer::new(Arc::new(names), zone, Arc::new(|_, _| Box::pin(async { None }))).unwrap();
    let answerer = AssertUnwindSafe(answerer);
    let identity = Identity::new(Transport::Wireguard, IpAddr::from([10, 77, 0, 2]), "laptop");
    let runtime = runtime();
    fuzz!((Vec<u8>, u8, u8), |(bytes, kind, name)| {
        let names: [&[u8]; 4] = [
            b"\x01a\x04test\0",
            b"\x01x\x01b\x04test\0",
            b"\x05other\0",
            b"\xc0\x0c",
        ];
        let question = [
            &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            names[usize::from(*name) % names.len()],
            &[0, *kind, 0, 1],
            &bytes[..],
        ];
        for message in [bytes.clone(), question.concat()] {
            let id = message.get(..2).map(<[u8]>::to_vec);
            if let Some(answer) = runtime.block_on(answerer.answer(&identity, message, false)) {
                assert_eq!(
                    answer.get(..2),
                    id.as_deref(),
                    "an answer bears its question's id"
                );
                assert!(answer.get(2).is_some_and(|flags| flags & 0x80 != 0));
                assert!(answer.len() <= UDP_BYTES_MAX);
            }
        }
    });
}

#[test]
fn a_client_hello() {
    let runtime = runtime();
    fuzz!((Vec<u8>, Vec<u8>), |(bytes, cuts)| {
        runtime.block_on(async {
            // As a handshake record with a ClientHello in it, so that more than the first byte is read.
            let length = u16::try_from(bytes.len() + 4).unwrap_or(u16::MAX).to_be_bytes();
            let inner = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
            let hello = [
                &[22, 3, 1, length[0], length[1], 1, 0, inner[0], inner[1]],
                &bytes[..],
            ]
            .concat();
            for stream in [bytes, &hello] {
                let (mut agent, gateway) = tokio::io::duplex(1 << 16);
                for piece in pieces(stream, cuts) {
                    agent.write_all(piece).await.unwrap();
                }
                agent.shutdown().await.unwrap();
                let _ = greet(gateway, Duration::from_secs(5)).await;
                let mut answer = Vec::new();
                agent.read_to_end(&mut answer).await.unwrap();
                assert!(answer.is_empty() || answer[0] == 21, "nothing but an alert");
            }
        });
    });
}
