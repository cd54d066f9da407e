use tokio::net::TcpListener;

use super::*;
use crate::facts::{Facts, Family};
use crate::policy::{Claim, HostPort, Protocol, SslMode};
use crate::verdict::{Action, Digest, Step};

fn endpoint(key: &str, claims: Vec<HostPattern>, port: u16) -> Endpoint {
    Endpoint {
        key: key.into(),
        protocol: Protocol::Https,
        family: Family::Http,
        claims: claims.into_iter().map(|host| Claim { host, port }).collect(),
        upstream: None,
        tls: true,
        ca_cert: None,
        sslmode: SslMode::Prefer,
        database: None,
        path: String::new(),
        preview: None,
        description: None,
    }
}

fn permit(key: &str) -> Permit {
    Permit::for_test(&Action {
        step: Step::Connect,
        endpoint: key.into(),
        credential: None,
        facts: Facts::None,
        digest: Digest::of(b""),
        whole: true,
        summary: String::new(),
        detail: String::new(),
    })
}

fn dialer() -> Dialer {
    Dialer::new(None, Closed::default(), 300)
}

fn name(text: &str) -> HostPattern {
    HostPattern::Name(text.to_owned())
}

#[test]
fn only_what_the_operator_names_is_unguarded() {
    let claims = vec![
        name("db.test"),
        HostPattern::Suffix("wild.test".to_owned()),
        HostPattern::Net("10.0.0.0/8".parse().unwrap()),
        HostPattern::Net("192.0.2.7/32".parse().unwrap()),
    ];
    let mut endpoint = endpoint("https.a", claims, 443);
    for (host, guarded) in [
        ("db.test", false),
        ("a.wild.test", true),
        ("10.1.2.3", true),
        ("192.0.2.7", false),
    ] {
        let target = Target::of(&endpoint, host, 443);
        assert_eq!(
            (target.host.as_str(), target.port, target.guarded),
            (host, 443, guarded)
        );
        assert!(
            Target::of(&endpoint, host, 80).guarded,
            "another port is another claim"
        );
    }
    endpoint.upstream = Some(HostPort {
        host: "127.0.0.1".to_owned(),
        port: 9,
    });
    let target = Target::of(&endpoint, "a.wild.test", 443);
    assert_eq!(
        (target.host.as_str(), target.port, target.guarded),
        ("127.0.0.1", 9, false)
    );
}

#[tokio::test]
async fn a_permit_for_another_endpoint_dials_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = endpoint("https.a", vec![name("127.0.0.1")], port);
    let target = Target {
        host: "127.0.0.1".to_owned(),
        port,
        guarded: false,
    };
    let other = dialer().dial(&permit("https.b"), &endpoint, &target).await;
    assert!(matches!(other, Err(DialError::NotPermitted(_))));
    assert!(
        dialer()
            .dial(&permit("https.a"), &endpoint, &target)
            .await
            .is_ok()
    );
}

/// A resolver on loopback that has one address for every name.
async fn resolver(address: [u8; 4]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let mut answer = buffer[..length].to_vec();
            answer[2] = 0x80;
            if answer[length - 3] == 1 {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(address);
            }
            let _ = socket.send_to(&answer, from).await;
        }
    });
    own
}

#[tokio::test]
async fn a_wildcard_name_that_resolves_to_a_closed_address_is_not_dialled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let claims = vec![name("own.test"), HostPattern::Suffix("wild.test".to_owned())];
    let endpoint = endpoint("https.a", claims, port);
    let dialer = Dialer::new(Some(resolver([127, 0, 0, 1]).await), Closed::default(), 1000);
    let dial = async |host: &str| {
        let target = Target::of(&endpoint, host, port);
        dialer.dial(&permit("https.a"), &endpoint, &target).await
    };
    assert!(dial("own.test").await.is_ok(), "the operator named it");
    let bent = dial("evil.wild.test").await;
    assert!(matches!(bent, Err(DialError::Closed { .. })), "{bent:?}");
    let metadata = Dialer::new(
        Some(resolver([169, 254, 169, 254]).await),
        Closed::default(),
        1000,
    );
    let target = Target::of(&endpoint, "evil.wild.test", port);
    let refused = metadata.dial(&permit("https.a"), &endpoint, &target).await;
    assert!(matches!(refused, Err(DialError::Closed { .. })), "{refused:?}");
}

/// Whoever answers for the name of an endpoint does not choose the gateway's own page, or the machine's keys, for it.
#[tokio::test]
async fn a_written_name_that_is_bent_to_the_gateway_or_to_metadata_is_not_dialled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let claims = vec![name("partner.test")];
    let mut endpoint = endpoint("https.a", claims, own.port());
    for (answer, host) in [
        ([127, 0, 0, 1], "partner.test"),
        ([127, 0, 0, 1], "upstream.test"),
        ([169, 254, 169, 254], "partner.test"),
    ] {
        let closed = Closed::new(Vec::new(), vec![own]);
        let dialer = Dialer::new(Some(resolver(answer).await), closed, 1000);
        endpoint.upstream = (host == "upstream.test").then(|| HostPort {
            host: host.to_owned(),
            port: own.port(),
        });
        let target = Target::of(&endpoint, "partner.test", own.port());
        let bent = dialer.dial(&permit("https.a"), &endpoint, &target).await;
        assert!(
            matches!(bent, Err(DialError::Closed { .. })),
            "{host} {answer:?}: {bent:?}"
        );
    }
    // An address that the operator wrote is one that they meant.
    endpoint.upstream = Some(HostPort {
        host: own.ip().to_string(),
        port: own.port(),
    });
    let dialer = Dialer::new(None, Closed::new(Vec::new(), vec![own]), 1000);
    let target = Target::of(&endpoint, "partner.test", own.port());
    assert!(dialer.dial(&permit("https.a"), &endpoint, &target).await.is_ok());
}

#[tokio::test]
async fn a_passthrough_reaches_neither_closed_addresses_nor_this_machine() {
    let nets = vec!["203.0.113.0/24".parse().unwrap()];
    let dialer = Dialer::new(None, Closed::new(nets, Vec::new()), 100);
    let mut shut = vec!["127.0.0.1:1", "169.254.169.254:80", "[::1]:1", "203.0.113.5:80"];
    let own = own_address().await;
    shut.extend(own.as_deref());
    for address in shut {
        let result = dialer.pass(&permit("unknown"), address.parse().unwrap()).await;
        assert!(
            matches!(result, Err(DialError::Closed { .. })),
            "{address}: {result:?}"
        );
    }
}

/// An address of this machine that is not loopback, where it has one.
async fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").await.ok()?;
    socket.connect("192.0.2.1:9").await.ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified()).then(|| format!("{own}:1"))
}

/// A listener whose queue is full, and so answers no more; it is silent as long as all of it is kept.
async fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue never fills");
    }
    (address, listener, queued)
}

#[tokio::test]
async fn a_connect_is_given_up_in_time() {
    let (address, _listener, _queued) = silent().await;
    let endpoint = endpoint("https.a", vec![name("127.0.0.1")], address.port());
    let target = Target {
        host: "127.0.0.1".to_owned(),
        port: address.port(),
        guarded: false,
    };
    let began = std::time::Instant::now();
    let late = dialer().dial(&permit("https.a"), &endpoint, &target).await;
    assert!(
        matches!(late, Err(DialError::Late(limit)) if limit == Duration::from_millis(300)),
        "{late:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Nothing listens on the first.
    let addresses = vec![
        SocketAddr::from(([127, 9, 9, 9], port)),
        SocketAddr::from(([127, 0, 0, 1], port)),
    ];
    assert!(first_of(addresses).await.is_ok());
    assert!(first_of(Vec::new()).await.is_err());
    // The first neither answers nor refuses.
    let (silent, _listener, _queued) = silent().await;
    let addresses = vec![silent, listener.local_addr().unwrap()];
    let found = timeout(STAGGER * 20, first_of(addresses)).await;
    let found = found.expect("it waits for the first").unwrap();
    assert_eq!(found.peer_addr().unwrap().port(), port);
}

#[test]
fn families_take_turns_up_to_a_limit() {
    let v4 = |last| SocketAddr::from(([192, 0, 2, last], 1));
    let v6: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
    assert_eq!(in_turns(vec![v6, v4(1), v4(2)]), [v6, v4(1), v4(2)]);
    assert_eq!(in_turns(vec![v4(1), v4(2), v6]), [v4(1), v6, v4(2)]);
    let many = (0..20).map(v4).collect();
    assert_eq!(in_turns(many).len(), ADDRESSES_MAX);
}

#[tokio::test]
async fn where_a_wildcards_name_was_found_is_remembered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialer, port) = (dialer(), address.port());
    let endpoint = endpoint("https.a", vec![HostPattern::Suffix("wild.test".to_owned())], port);
    assert!(!dialer.has_dialled(address));
    let target = Target {
        host: "::ffff:127.0.0.1".to_owned(),
        port,
        guarded: false,
    };
    dialer.dial(&permit("https.a"), &endpoint, &target).await.unwrap();
    assert!(dialer.has_dialled(address), "canonical");
    assert!(!dialer.has_dialled(SocketAddr::new(address.ip(), port ^ 1)));
    // The oldest goes where there are too many.
    let others: Vec<_> = (0..u32::try_from(DIALLED_MAX).unwrap())
        .map(|host| SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + host).into(), 1))
        .collect();
    dialer.remember(&others[1..]);
    assert!(dialer.has_dialled(address));
    dialer.remember(&others[..1]);
    assert!(!dialer.has_dialled(address) && dialer.has_dialled(others[0]));
    assert_eq!(dialer.dialled().len(), DIALLED_MAX);
    // And so does what was dialled long ago.
    let ages = |age| *dialer.dialled().get_mut(&others[0]).unwrap() -= age;
    ages(DIALLED_FOR / 2);
    assert!(dialer.has_dialled(others[0]));
    ages(DIALLED_FOR / 2);
    assert!(!dialer.has_dialled(others[0]));
}
