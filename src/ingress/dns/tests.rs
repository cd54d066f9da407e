//! Messages in, messages out: names, absences, what is malformed, what is forwarded.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::wire::{UDP_BYTES_MAX, UDP_BYTES_MIN};
use super::*;
use crate::identity::Transport;
use crate::policy::place::place;
use crate::policy::{Policy, Source};

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const HTTPS: u16 = 65;
const ANY: u16 = 255;

fn policy(unknown: &str) -> Policy {
    let text = format!(
        "defaults {{ unknown_host = \"{unknown}\" }}\n\
         endpoint \"https\" \"api\" {{ hosts = [\"api.prod.test\", \"*.cdn.test\", \"10.0.0.0/8\"] }}\n\
         endpoint \"https\" \"hidden\" {{ hosts = [\"hidden.test\"] }}\n"
    );
    load(text)
}

fn load(text: String) -> Policy {
    let path = "policy.hcl".into();
    Policy::load(vec![Source { path, text }], &|_| {
        Err(std::io::ErrorKind::NotFound.into())
    })
    .unwrap()
}

fn names(file: Option<&Path>) -> Arc<Names> {
    Arc::new(
        Names::open(
            "10.78.0.0/24".parse().unwrap(),
            "fd7a::/64".parse().unwrap(),
            file,
        )
        .unwrap(),
    )
}

fn zone(unknown: &str) -> Zone {
    Zone::new(policy(unknown).model(), Arc::new(|_, name| name != "hidden.test"))
}

fn identity(node: &str) -> Identity {
    Identity::new(Transport::Wireguard, IpAddr::from([10, 77, 0, 2]), node)
}

fn nowhere() -> Resolver {
    Arc::new(|_, _| Box::pin(async { panic!("a query left the gateway") }))
}

fn answerer(unknown: &str) -> Answerer {
    Answerer::new(names(None), zone(unknown), nowhere()).unwrap()
}

fn query(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        bytes.push(0);
        bytes.extend_from_slice(&OPT.to_be_bytes());
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&[0; 6]);
    }
    bytes
}

/// What an answer says: its code, addresses, and for how many seconds its absence may be kept.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    code: u8,
    addresses: Vec<IpAddr>,
    absent_s: Option<u32>,
    truncated: bool,
}

fn read(bytes: &[u8]) -> Said {
    let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    assert_eq!(bytes[..2], [0xab, 0xcd]);
    assert!(bytes[2] & 0x80 != 0, "not an answer");
    let mut said = Said {
        code: bytes[3] & 15,
        truncated: bytes[2] & 2 != 0,
        ..Said::default()
    };
    if u16_at(4) == 0 {
        return said;
    }
    let mut at = 12 + bytes[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    for _ in 0..u16_at(6) + u16_at(8) + u16_at(10) {
        at += if bytes[at] == 0 { 1 } else { 2 };
        let (kind, length) = (u16_at(at), usize::from(u16_at(at + 8)));
        let ttl = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        let data = &bytes[at + 10..at + 10 + length];
        match kind {
            A => said
                .addresses
                .push(IpAddr::from(<[u8; 4]>::try_from(data).unwrap())),
            AAAA => said
                .addresses
                .push(IpAddr::from(<[u8; 16]>::try_from(data).unwrap())),
            SOA => {
                let minimum = u32::from_be_bytes(data[data.len() - 4..].try_into().unwrap());
                said.absent_s = Some(ttl.min(minimum));
            }
            OPT => {}
            other => panic!("a record of type {other}"),
        }
        at += 10 + length;
    }
    assert_eq!(at, bytes.len(), "bytes behind the last record");
    said
}

async fn ask(answerer: &Answerer, name: &str, kind: u16) -> Said {
    let bytes = answerer
        .answer(&identity("laptop"), query(name, kind, None), false)
        .await;
    read(&bytes.unwrap())
}

fn address(text: &str) -> Said {
    Said {
        addresses: vec![text.parse().unwrap()],
        ..Said::default()
    }
}

fn absent(code: u8) -> Said {
    Said {
        code,
        absent_s: Some(30),
        ..Said::default()
    }
}

#[tokio::test]
async fn each_question_has_its_answer() {
    let answerer = answerer("deny");
    let refused = |code| Said {
        code,
        ..Said::default()
    };
    for (name, kind, want) in [
        ("api.prod.test", A, address("10.78.0.40")),
        ("api.prod.test.", A, address("10.78.0.40")),
        ("aPi.PrOd.TeSt", A, address("10.78.0.40")),
        ("api.prod.test", AAAA, address("fd7a::28")),
        // The name is there, and has no such record: no client may wait for one.
        ("api.prod.test", HTTPS, absent(0)),
        ("api.prod.test", ANY, absent(0)),
        ("api.prod.test", NS, absent(0)),
        ("prod.test", A, absent(0)),
        ("x.cdn.test", A, address("10.78.0.112")),
        ("x.cdn.test", AAAA, address("fd7a::70")),
        ("y.cdn.test", A, address("10.78.0.210")),
        ("cdn.test", A, absent(3)),
        // The gateway's own, which nobody's policy names.
        ("tailkeep.internal", A, address("10.78.0.13")),
        ("Tailkeep.Internal", AAAA, address("fd7a::d")),
        ("internal", A, absent(3)),
        // Another's name does not exist.
        ("hidden.test", A, absent(3)),
        ("example.org", A, absent(3)),
        ("1.0.78.10.in-addr.arpa", 12, absent(3)),
        ("", NS, absent(3)),
        ("a b.test", A, refused(1)),
    ] {
        assert_eq!(ask(&answerer, name, kind).await, want, "{name} {kind}");
    }
}

#[test]
fn names_have_a_number_however_large_the_ranges() {
    let wide = Names::open("10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap(), None).unwrap();
    for number in 0..super::names::NAMES_MAX {
        wide.assign(&format!("{number}.test")).unwrap();
    }
    assert!(matches!(wide.assign("more.test"), Err(NamesError::Full)));
    assert!(wide.assign("0.test").is_ok(), "it has its address");
}

#[test]
fn agents_leave_places_to_the_names_of_policies() {
    let names = names(None);
    let made = (0..254).filter(|number| names.assign_made(&format!("{number}.cdn.test")).is_ok());
    assert_eq!(made.count(), 254 - 254 / 16);
    assert!(names.assign("api.test").is_ok());
}

#[tokio::test]
async fn an_agent_that_is_renamed_makes_no_more_names() {
    let answerer = answerer("deny");
    let called = |node: &str| identity(node).proved_by("node:n1".to_owned());
    let agent = |node: &str| Identity {
        transport: Transport::Tailnet,
        ..called(node)
    };
    let keys = [agent("one").agent_key(), agent("two").agent_key()];
    assert_eq!(keys[0], keys[1]);
    for number in 0..SUFFIX_NAMES_PER_AGENT_MAX {
        answerer.made.lock().unwrap().insert(keys[0].clone(), number + 1);
    }
    let query = query("late.cdn.test", A, None);
    let answer = answerer.answer(&agent("two"), query, false).await;
    assert_eq!(read(&answer.unwrap()).code, 5);
}

#[tokio::test]
async fn malformed_messages_get_the_refusal_that_is_due() {
    let answerer = answerer("deny");
    let good = query("api.prod.test", A, Some(1400));
    let bend = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (what, message, code) in [
        ("nothing", Vec::new(), None),
        ("an answer", bend(2, 0x81), None),
        ("a status request", bend(2, 0x10), Some(4)),
        ("an update", bend(2, 0x28), Some(4)),
        ("no question", bend(5, 0), Some(1)),
        ("two questions", bend(5, 2), Some(1)),
        ("a compressed question", bend(12, 0xc0), Some(1)),
        ("another class", bend(good.len() - 12, 3), Some(5)),
        (
            "a name that is too long",
            query(&["a234567890"; 30].join("."), A, None),
            Some(1),
        ),
    ] {
        let answer = answerer.answer(&identity("laptop"), message, false).await;
        assert_eq!(answer.map(|bytes| read(&bytes).code), code, "{what}");
    }
    let counted = || crate::bad_input::counted(crate::bad_input::Reader::Dns, "malformed");
    let before = counted();
    for end in 0..good.len() {
        if let Some(bytes) = answerer
            .answer(&identity("laptop"), good[..end].to_vec(), false)
            .await
        {
            assert!(bytes.len() <= UDP_BYTES_MIN);
        }
    }
    assert!(counted() > before + 12);
}

/// What a resolver that passthrough asks says beside an answer.
#[tokio::test]
async fn what_a_resolver_says_beside_the_answer_is_counted_and_harms_no_question() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let counted = |reason: &str| crate::bad_input::counted(crate::bad_input::Reader::DnsServer, reason);
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tcp.local_addr().unwrap();
    let udp = tokio::net::UdpSocket::bind(at).await.unwrap();
    let resolver = forward_to(at);
    let asked = query("a.example.org", A, None);
    let other = |asked: &[u8]| [&[!asked[0]], &asked[1..]].concat();
    let before = (counted("unasked"), counted("malformed"));
    let answers = async {
        let mut buffer = [0; 512];
        let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
        for said in [&b"short"[..], &other(&buffer[..length]), &buffer[..length]] {
            udp.send_to(said, from).await.unwrap();
        }
    };
    let (found, ()) = tokio::join!(resolver(asked.clone(), false), answers);
    assert_eq!(found.as_deref(), Some(&asked[..]));
    assert!(counted("unasked") >= before.0 + 2);
    for (said, is_taken) in [
        (b"short".to_vec(), false),
        (other(&asked), false),
        (asked.clone(), true),
    ] {
        let answers = async {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let _ = stream.read(&mut [0; 512]).await.unwrap();
            let length = u16::try_from(said.len()).unwrap().to_be_bytes();
            stream
                .write_all(&[&length[..], &said[..]].concat())
                .await
                .unwrap();
        };
        let (found, ()) = tokio::join!(resolver(asked.clone(), true), answers);
        assert_eq!(found.is_some(), is_taken, "{said:?}");
    }
    assert!(counted("malformed") >= before.1 + 2);
}

#[tokio::test]
async fn addresses_stay_over_a_restart_and_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names");
    let first = Answerer::new(names(Some(&file)), zone("deny"), nowhere()).unwrap();
    let before = ask(&first, "late.cdn.test", A).await;
    assert_eq!(before, address("10.78.0.24"));
    drop(first);
    // A crash in the middle of a line: that name was never answered with.
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("torn.cdn.te");
    std::fs::write(&file, text).unwrap();
    let again = Answerer::new(names(Some(&file)), zone("deny"), nowhere()).unwrap();
    assert_eq!(ask(&again, "other.cdn.test", A).await, address("10.78.0.200"));
    assert_eq!(ask(&again, "late.cdn.test", A).await, before);
    again.swap(zone("deny")).unwrap();
    assert_eq!(ask(&again, "late.cdn.test", A).await, before);
    let table = names(Some(&file));
    assert_eq!(
        table.lookup("10.78.0.24".parse().unwrap()).as_deref(),
        Some("late.cdn.test")
    );
    assert_eq!(
        table.lookup("fd7a::18".parse().unwrap()).as_deref(),
        Some("late.cdn.test")
    );
    for outside in ["10.78.0.0", "10.78.0.201", "10.79.0.1", "fd7a::", "fd7b::1"] {
        assert_eq!(table.lookup(outside.parse().unwrap()), None, "{outside}");
    }
    let ranges = ("10.78.0.0/24".parse().unwrap(), "fd7a::/64".parse().unwrap());
    for bad in [
        "a.test\na.test\n",
        "a.test 7\na.test 7\n",
        "a.test 7\nb.test 7\n",
        "a.test 0\n",
        "a.test x\n",
    ] {
        std::fs::write(&file, bad).unwrap();
        let opened = Names::open(ranges.0, ranges.1, Some(&file));
        assert!(matches!(opened, Err(NamesError::Twice(_))), "{bad}");
    }
    assert!(matches!(
        Names::open(ranges.1, ranges.0, None),
        Err(NamesError::Ranges)
    ));
}

#[test]
fn gateways_agree_whatever_they_saw_first() {
    let open = |v4: &str, file| Names::open(v4.parse().unwrap(), "fd7a::/64".parse().unwrap(), file).unwrap();
    let given = ["api.test", "orders.test", "tailkeep.internal", "x.cdn.test"];
    let (one, other) = (open("10.78.0.0/16", None), open("10.78.0.0/16", None));
    for name in given {
        one.assign(name).unwrap();
    }
    other.assign("only.here.test").unwrap();
    for name in given.iter().rev() {
        assert_eq!(other.assign(name).unwrap(), one.index(name).unwrap(), "{name}");
    }
    // For good: a gateway of another version may be the other one.
    assert_eq!(one.index("api.test"), Some(52_393));
    assert_eq!(one.index("orders.test"), Some(15_314));
}

#[test]
fn gateways_that_begin_with_one_policy_agree_on_names_that_want_one_place_and_keep_them() {
    let folder = tempfile::tempdir().unwrap();
    let open = |file: &str| {
        let names = Names::open(
            "10.78.0.0/28".parse().unwrap(),
            "fd7a::/64".parse().unwrap(),
            Some(&folder.path().join(file)),
        );
        Arc::new(names.unwrap())
    };
    let serve = |names: &Arc<Names>, order: &[u32]| {
        let hosts = order.iter().map(|number| format!("\"n{number}.test\""));
        let text = format!(
            "endpoint \"http\" \"e\" {{ hosts = [{}] }}\n",
            hosts.collect::<Vec<_>>().join(", ")
        );
        let zone = Zone::new(load(text).model(), Arc::new(|_, _| true));
        Answerer::new(names.clone(), zone, nowhere()).unwrap()
    };
    let given = |names: &Names| -> Vec<Option<u32>> {
        (0..9)
            .map(|number| names.index(&format!("n{number}.test")))
            .collect()
    };
    let (one, other) = (open("one"), open("other"));
    serve(&one, &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    serve(&other, &[8, 2, 6, 0, 4, 1, 7, 3, 5]);
    let first = given(&one);
    assert_eq!(first, given(&other));
    let wanted = |number: u32| Some(place(&format!("n{number}.test"), 14));
    assert!(
        (0..9).any(|number| first[number as usize] != wanted(number)),
        "none is contended"
    );
    // Names go and come, and the gateway starts anew: none ever leads elsewhere.
    drop(one);
    let one = open("one");
    serve(&one, &[9, 3]);
    serve(&one, &[8, 7, 6, 5, 4, 3, 2, 1, 0, 9]);
    assert_eq!(given(&one), first);
    // One that begins later is given the file.
    std::fs::copy(folder.path().join("one"), folder.path().join("third")).unwrap();
    let third = open("third");
    serve(&third, &[9, 8]);
    assert_eq!(
        (given(&third), third.index("n9.test")),
        (first, one.index("n9.test"))
    );
}

#[test]
fn who_wants_a_place_that_is_taken_gets_the_next_and_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names");
    let open = || {
        Names::open(
            "10.78.0.0/29".parse().unwrap(),
            "fd7a::/64".parse().unwrap(),
            Some(&file),
        )
        .unwrap()
    };
    // More names than places want: some collide, and every one has a place of its own.
    let names: Vec<String> = (0..6).map(|number| format!("n{number}.test")).collect();
    let first = open();
    let places: Vec<u32> = names.iter().map(|name| first.assign(name).unwrap()).collect();
    let distinct: std::collections::BTreeSet<u32> = places.iter().copied().collect();
    assert_eq!(distinct, (1..=6).collect());
    assert!(matches!(first.assign("n6.test"), Err(NamesError::Full)));
    // In another order they are where they were.
    let again = open();
    for (name, place) in names.iter().zip(&places).rev() {
        assert_eq!(again.assign(name).unwrap(), *place);
        let address = again.address(*place, true).unwrap();
        assert_eq!(again.lookup(address).as_deref(), Some(name.as_str()));
    }
}

#[test]
fn what_older_gateways_kept_stays_and_a_smaller_range_moves_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names");
    std::fs::write(&file, "api.test\norders.test\n").unwrap();
    let open =
        |v4: &str| Names::open(v4.parse().unwrap(), "fd7a::/64".parse().unwrap(), Some(&file)).unwrap();
    let wide = open("10.78.0.0/16");
    assert_eq!(
        (wide.index("api.test"), wide.index("orders.test")),
        (Some(1), Some(2))
    );
    assert_eq!(wide.assign("tailkeep.internal").unwrap(), 15_189);
    drop(wide);
    let narrow = open("10.78.0.0/24");
    assert_eq!(
        (narrow.index("api.test"), narrow.index("tailkeep.internal")),
        (Some(1), None)
    );
    let place = narrow.assign("tailkeep.internal").unwrap();
    assert!(place <= 254);
    drop(narrow);
    // Wide again: what has an address keeps it.
    let wide = open("10.78.0.0/16");
    assert_eq!(wide.index("tailkeep.internal"), Some(place));
    let order: Vec<_> = wide.all().into_iter().map(|(_, name)| name.to_string()).collect();
    assert_eq!(order, ["api.test", "orders.test", "tailkeep.internal"]);
}

#[tokio::test]
async fn a_range_that_is_full_refuses_and_harms_no_name() {
    let names = Names::open(
        "10.78.0.0/29".parse().unwrap(),
        "fd7a::/64".parse().unwrap(),
        None,
    )
    .unwrap();
    let answerer = Answerer::new(Arc::new(names), zone("deny"), nowhere()).unwrap();
    // Six addresses, two of them the exact names', one the gateway's own.
    for number in 0..3 {
        assert_eq!(ask(&answerer, &format!("x{number}.cdn.test"), A).await.code, 0);
    }
    assert_eq!(ask(&answerer, "x3.cdn.test", A).await.code, 5);
    assert_eq!(ask(&answerer, "x0.cdn.test", A).await.code, 0);
}

#[tokio::test]
async fn an_agent_makes_so_many_names_and_no_more() {
    let names = Names::open(
        "10.78.0.0/16".parse().unwrap(),
        "fd7a::/64".parse().unwrap(),
        None,
    )
    .unwrap();
    let answerer = Answerer::new(Arc::new(names), zone("deny"), nowhere()).unwrap();
    let made = async |node: &str, number: usize| {
        let bytes = query(&format!("x{node}{number}.cdn.test"), A, None);
        read(&answerer.answer(&identity(node), bytes, false).await.unwrap()).code
    };
    for number in 0..SUFFIX_NAMES_PER_AGENT_MAX {
        assert_eq!(made("one", number).await, 0);
    }
    assert_eq!(made("one", SUFFIX_NAMES_PER_AGENT_MAX).await, 5);
    assert_eq!(made("two", 0).await, 0);
    // What is made already is had by all.
    assert_eq!(made("one", 0).await, 0);
}

#[tokio::test]
async fn passthrough_forwards_what_no_endpoint_claims_and_fits_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream: Resolver = Arc::new(move |mut message, tcp| {
        count.fetch_add(1, Ordering::Relaxed);
        message[2] |= 0x80;
        // As long as the first label says, so that one resolver serves every case.
        let length = message[13..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        Box::pin(async move {
            message.resize(message.len().max(length), u8::from(tcp));
            (length != 0).then_some(message)
        })
    });
    let answerer = Answerer::new(names(None), zone("passthrough"), upstream).unwrap();
    let length_of = async |name: &str, edns: Option<u16>, tcp: bool| {
        let message = query(name, A, edns);
        let bytes = answerer.answer(&identity("laptop"), message, tcp).await.unwrap();
        (bytes.len(), bytes[2] & 2 != 0, bytes[3] & 15)
    };
    assert_eq!(length_of("512.example.org", None, false).await, (512, false, 0));
    let (length, truncated, _) = length_of("513.example.org", None, false).await;
    assert!(truncated && length <= UDP_BYTES_MIN);
    assert_eq!(length_of("513.example.org", None, true).await, (513, false, 0));
    assert_eq!(
        length_of("1000.example.org", Some(1000), false).await,
        (1000, false, 0)
    );
    assert!(length_of("1001.example.org", Some(1000), false).await.1);
    let most = format!("{}.example.org", UDP_BYTES_MAX + 1);
    assert!(length_of(&most, Some(65_000), false).await.1);
    // A resolver that says nothing is a failure, at once.
    assert_eq!(length_of("0.example.org", None, false).await.2, 2);
    assert_eq!(asked.load(Ordering::Relaxed), 7);
    // A claimed name never leaves, nor one that is another's.
    assert_eq!(ask(&answerer, "hidden.test", A).await, absent(3));
    assert_eq!(ask(&answerer, "api.prod.test", HTTPS).await, absent(0));
    assert_eq!(asked.load(Ordering::Relaxed), 7);
}
