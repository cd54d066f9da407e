//! Destinations that nobody meant to be reached, and peers that nobody meant to let in.

use crate::http::{policy, request};
use crate::server::{BOTH, Service};
use crate::world::{Sent, World, can_run};

const ALL: &str = "rule \"all\" {\n endpoint = https.api\n verdict = \"allow\"\n}";

fn plain(host: &'static str, port: u16) -> Sent {
    Sent {
        host,
        port,
        tls: false,
        bytes: b"GET / HTTP/1.0\r\n\r\n".to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_gateways_own_is_reached_through_passthrough() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let open = format!(
        "{}\ndefaults {{ unknown_host = \"passthrough\" }}\n",
        policy(&service, ALL)
    );
    let world = World::start(&open);
    let answers = world.exchange(&[
        plain("169.254.169.254", 80),
        plain("fd00:ec2::254", 80),
        plain("100.100.100.200", 80),
        plain("10.91.0.1", world.admin_port),
        plain("fd91::1", world.admin_port),
        plain("0.0.0.1", world.admin_port),
        plain("::ffff:127.0.0.1", world.admin_port),
        plain("64:ff9b::7f00:1", world.admin_port),
        plain("fe80::1", world.admin_port),
        plain("224.0.0.1", 80),
    ]);
    for answer in &answers {
        assert!(!answer.contains("HTTP/1"), "{answers:?}");
    }
    assert_eq!(service.lines(), [""; 0]);
    assert!(
        world.audit().iter().all(|row| row["verdict"] != "allow"
            || row["outcome"]["status"]
                .as_str()
                .is_some_and(|own| own.contains("not dialled"))),
        "{:#?}",
        world.audit()
    );
}

/// A first packet as QUIC's, to an endpoint and past all of them.
const QUIC: &str = r#"
import socket
for host, port in (("api.test", 443), ("203.0.113.7", 443), ("2001:db8::7", 443), ("203.0.113.7", 53)):
    family, kind, _, _, to = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    s = socket.socket(family, kind); s.settimeout(10); s.connect(to); s.send(b"\xc0" * 1200)
    try: s.recv(1); print("answered")
    except ConnectionRefusedError: print("refused")
    except TimeoutError: print("silence")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn udp_is_refused_at_once_where_what_is_unclaimed_is_passed_through_too() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&format!(
        "{}\ndefaults {{ unknown_host = \"passthrough\" }}\n",
        policy(&service, ALL)
    ));
    assert_eq!(world.python(QUIC), "refused\nrefused\nrefused\nrefused\n");
    // What is passed through is TCP: it would have been dialled.
    world.exchange(&[plain("203.0.113.7", 80)]);
    let passed = world.audit();
    let passed: Vec<_> = passed.iter().filter(|row| row["verdict"] == "allow").collect();
    assert!(
        passed.len() == 1 && passed[0]["summary"].to_string().contains("203.0.113.7:80"),
        "{passed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_is_refused_at_once_and_what_is_unclaimed_is_closed() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&policy(&service, ALL));
    assert_eq!(world.python(QUIC), "refused\nrefused\nrefused\nrefused\n");
    let said = world.python(
        r#"
import socket
try: socket.getaddrinfo("other.test", 443); print("resolved")
except socket.gaierror: print("no such name")
"#,
    );
    assert_eq!(said, "no such name\n");
    let answers = world.exchange(&[
        plain("203.0.113.7", 80),
        plain("api.test", 8443),
        plain("api.test", 22),
    ]);
    assert!(
        answers.iter().all(|answer| !answer.contains("HTTP/1")),
        "{answers:?}"
    );
    assert!(
        world
            .denials("203.0.113.7:80")
            .contains(&"no_endpoint".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_profile_reaches_nothing() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&policy(&service, ALL));
    world.enrol("stranger");
    // To a stranger the name does not exist; its address leads nowhere.
    let mut by_address = request("GET /1k", "", b"");
    // That of api.test.
    by_address.host = "10.78.204.169";
    by_address.tls = false;
    let answers = world.exchange_as(
        "stranger",
        &[request("GET /1k", "", b""), by_address, plain("203.0.113.7", 80)],
    );
    assert!(answers[0].starts_with("gaierror"), "{answers:?}");
    assert!(
        answers.iter().all(|answer| !answer.contains("200")),
        "{answers:?}"
    );
    assert_eq!(service.lines(), [""; 0]);
    let stranger = world.audit().into_iter().find(|row| row["node"] == "stranger");
    assert_eq!(stranger.unwrap()["cause"], "no_profile");
    let [fine] = &world.exchange(&[request("GET /1k", "", b"")])[..] else {
        panic!()
    };
    assert!(fine.contains(" 200 "), "{fine}");
}
