use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::accept::{AcceptError, AgentTls, HELLO_BYTES_MAX, accept, greet};
use super::authority::{AuthorityError, CERTIFICATE_FILE, KEY_FILE, fingerprint};
use super::client::ConnectError;
use super::*;
use crate::bad_input::{Reader, counted};
use crate::facts::Family;
use crate::policy::{Claim, Endpoint, HostPattern, Protocol, SslMode};

const SOON: Duration = Duration::from_secs(5);

fn leaves() -> (Arc<Authority>, Leaves) {
    let authority = Arc::new(Authority::ephemeral().unwrap());
    (authority.clone(), Leaves::new(authority).unwrap())
}

fn name(name: &str) -> LeafName {
    LeafName::Name(name.to_owned())
}

fn endpoint() -> Endpoint {
    let claim = |host, port| Claim { host, port };
    Endpoint {
        key: "https.api".into(),
        protocol: Protocol::Https,
        family: Family::Http,
        claims: vec![
            claim(HostPattern::Name("api.test".into()), 443),
            claim(HostPattern::Suffix("cdn.test".into()), 443),
            claim(HostPattern::Name("other.test".into()), 8443),
            claim(HostPattern::Net("10.20.0.0/16".parse().unwrap()), 443),
        ],
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

/// Whether a name is one that the endpoint claims at a port.
fn claims(endpoint: &Endpoint, port: u16) -> impl Fn(&str) -> bool + Sync {
    move |name| {
        let mut claims = endpoint.claims.iter();
        claims.any(|claim| claim.port == port && claim.host.matches_name(name))
    }
}

fn expected(leads: &(dyn Fn(&str) -> bool + Sync)) -> Expected<'_> {
    Expected {
        leads,
        name: Some("api.test"),
        destination: "10.78.0.9:443".parse().unwrap(),
    }
}

/// What a rustls client that trusts the CA would send first.
fn hello(authority: &Authority, host: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let mut client = client(authority, host, alpn);
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn client(authority: &Authority, host: &str, alpn: &[&[u8]]) -> rustls::ClientConnection {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    rustls::ClientConnection::new(client_config(authority, alpn), name).unwrap()
}

fn client_config(authority: &Authority, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    Arc::new(config)
}

/// Cuts the handshake record of a ClientHello into records of `size` bytes each.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let (head, body) = hello.split_at(5);
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        out.extend_from_slice(&head[..3]);
        out.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        out.extend_from_slice(piece);
    }
    out
}

async fn handshake(
    offer: Offer,
    host: &'static str,
    alpn: &[&[u8]],
) -> (
    Result<AgentTls<DuplexStream>, AcceptError>,
    std::io::Result<TlsUpstream<DuplexStream>>,
) {
    let (authority, leaves) = leaves();
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    let connector = tokio_rustls::TlsConnector::from(client_config(&authority, alpn));
    let endpoint = endpoint();
    let leads = claims(&endpoint, 443);
    tokio::join!(
        accept(ours, &leaves, expected(&leads), offer, SOON),
        connector.connect(ServerName::try_from(host).unwrap(), theirs),
    )
}

#[test]
fn the_authority_is_made_once_and_loaded_afterwards() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let made = Authority::open(folder.path()).unwrap();
    let key = folder.path().join(KEY_FILE);
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let loaded = Authority::open(folder.path()).unwrap();
    assert_eq!(made.fingerprint(), loaded.fingerprint());
    assert_eq!(made.fingerprint().len(), 64);
    // A leaf of the loaded CA chains to the certificate that agents have.
    let leaves = Leaves::new(Arc::new(loaded)).unwrap();
    let leaf = leaves.get(&name("api.test")).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf.der()).unwrap();
    let (_, ca) = x509_parser::parse_x509_certificate(made.der()).unwrap();
    assert_eq!(parsed.issuer(), ca.subject());
    let validity = ca.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(life, 10 * 365 * 86_400 + 3600);
    assert!(validity.not_before.timestamp() <= chrono::Utc::now().timestamp() - 3600);
    assert_eq!(
        ca.basic_constraints().unwrap().unwrap().value.path_len_constraint,
        Some(0)
    );

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        Authority::open(folder.path()),
        Err(AuthorityError::Exposed(_))
    ));
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(
        Authority::open(folder.path()),
        Err(AuthorityError::KeyMissing(_))
    ));
}

#[test]
fn a_foreign_or_broken_authority_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    Authority::open(folder.path()).unwrap();
    Authority::open(other.path()).unwrap();
    let certificate = folder.path().join(CERTIFICATE_FILE);
    for bad in [
        std::fs::read(other.path().join(CERTIFICATE_FILE)).unwrap(),
        b"not PEM".to_vec(),
    ] {
        std::fs::write(&certificate, &bad).unwrap();
        assert!(matches!(
            Authority::open(folder.path()),
            Err(AuthorityError::Unusable { .. })
        ));
        assert_eq!(std::fs::read(&certificate).unwrap(), bad);
    }
}

#[test]
fn a_leaf_has_one_name_and_a_short_life() {
    let (_, leaves) = leaves();
    for (wanted, shown) in [
        (name("api.test"), "DNSName(api.test)"),
        (
            LeafName::Address("10.0.0.1".parse().unwrap()),
            "IPAddress(0a:00:00:01)",
        ),
        (
            LeafName::Address("fd00::1".parse().unwrap()),
            "IPAddress(fd:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01)",
        ),
    ] {
        let leaf = leaves.get(&wanted).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf.der()).unwrap();
        assert_eq!(parsed.subject().iter().count(), 0);
        let curve = parsed.public_key().algorithm.parameters.as_ref().unwrap();
        assert_eq!(
            curve.as_oid().unwrap().to_id_string(),
            "1.2.840.10045.3.1.7",
            "P-256"
        );
        let san = parsed.subject_alternative_name().unwrap().unwrap();
        assert!(
            san.critical,
            "RFC 5280 4.2.1.6: an empty subject makes it critical"
        );
        let names = &san.value.general_names;
        assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), [shown]);
        let validity = parsed.validity();
        let life = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(life, 25 * 3600);
        assert!(validity.is_valid());
    }
}

#[test]
fn leaves_are_kept_up_to_a_limit_and_minted_anew_before_they_run_out() {
    let authority = Arc::new(Authority::ephemeral().unwrap());
    let kept = Leaves::with_bounds(authority.clone(), 8, super::leaf::LEAF_LIFETIME).unwrap();
    for number in 0..100 {
        kept.get(&name(&format!("host-{number}.test"))).unwrap();
    }
    assert!(kept.cached() <= 8, "{}", kept.cached());
    let one = kept.get(&name("again.test")).unwrap();
    let two = kept.get(&name("again.test")).unwrap();
    assert_eq!(one.der(), two.der());

    // Some hours before its end.
    let left = one.renew_at.duration_since(std::time::Instant::now());
    assert!(
        left <= Duration::from_secs(18 * 3600) && left > Duration::from_secs(17 * 3600),
        "{left:?}"
    );

    let stale = Leaves::with_bounds(authority, 8, Duration::ZERO).unwrap();
    let one = stale.get(&name("again.test")).unwrap();
    let two = stale.get(&name("again.test")).unwrap();
    assert_ne!(one.der(), two.der());
}

#[test]
fn the_caches_of_leaves_and_of_configurations_have_an_end() {
    let (authority, leaves) = leaves();
    for number in 0..super::leaf::LEAVES_MAX + 100 {
        leaves.get(&name(&format!("host-{number}.test"))).unwrap();
    }
    assert!(leaves.cached() <= super::leaf::LEAVES_MAX, "{}", leaves.cached());
    let connectors = Connectors::default();
    for number in 0..super::client::CONFIGS_MAX + 50 {
        let protocol = number.to_string();
        let wanted = Wanted {
            host: "api.test",
            ca_cert: Some(authority.ca_pem()),
            verify: Verify::Full,
            alpn: &[protocol.as_bytes()],
            identity: None,
        };
        connectors.config(wanted).unwrap();
    }
    assert!(
        connectors.kept() <= super::client::CONFIGS_MAX,
        "{}",
        connectors.kept()
    );
}

#[test]
fn callers_at_once_share_one_minting() {
    let (_, leaves) = leaves();
    let seen: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| leaves.get(&name("api.test")).unwrap().der().to_vec()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|der| *der == seen[0]));
}

#[test]
fn sni_must_name_what_was_dialled() {
    let endpoint = endpoint();
    let address = Some(LeafName::Address("10.20.3.4".parse().unwrap()));
    type Case = (
        Option<&'static str>,
        &'static str,
        Option<&'static str>,
        Option<LeafName>,
    );
    let cases: [Case; 11] = [
        (
            Some("api.test"),
            "10.78.0.9:443",
            Some("api.test"),
            Some(name("api.test")),
        ),
        (
            Some("api.test"),
            "10.78.0.9:443",
            Some("API.Test."),
            Some(name("api.test")),
        ),
        (Some("api.test"), "10.78.0.9:443", None, Some(name("api.test"))),
        (Some("api.test"), "10.78.0.9:443", Some("evil.test"), None),
        (Some("api.test"), "10.78.0.9:443", Some("other.test"), None),
        (
            Some("api.test"),
            "10.78.0.9:443",
            Some("a.cdn.test"),
            Some(name("a.cdn.test")),
        ),
        (Some("api.test"), "10.78.0.9:443", Some("cdn.test"), None),
        (Some("api.test"), "10.78.0.9:443", Some(""), None),
        (None, "10.20.3.4:443", None, address),
        (None, "10.20.3.4:443", Some("api.test"), Some(name("api.test"))),
        (None, "10.20.3.4:443", Some("evil.test"), None),
    ];
    for (claimed, destination, sni, leaf) in cases {
        let destination: std::net::SocketAddr = destination.parse().unwrap();
        let expected = Expected {
            leads: &claims(&endpoint, destination.port()),
            name: claimed,
            destination,
        };
        assert_eq!(expected.leaf_name(sni), leaf, "{claimed:?} {destination} {sni:?}");
    }
}

#[tokio::test]
async fn alpn_is_what_the_offer_says() {
    type Case<'a> = (Offer, &'a [&'a [u8]], Option<&'a [u8]>);
    let cases: [Case<'_>; 5] = [
        (Offer::Http2, &[b"http/1.1", b"h2"], Some(b"h2")),
        (Offer::Http1, &[b"h2", b"http/1.1"], Some(b"http/1.1")),
        (Offer::Http2, &[], None),
        (Offer::Postgres, &[b"postgresql"], Some(b"postgresql")),
        (Offer::Nothing, &[b"h2"], None),
    ];
    for (offer, alpn, agreed) in cases {
        let (server, client) = handshake(offer, "api.test", alpn).await;
        let client = client.unwrap();
        assert_eq!(server.unwrap().get_ref().1.alpn_protocol(), agreed, "{offer:?}");
        assert_eq!(client.get_ref().1.alpn_protocol(), agreed, "{offer:?}");
    }
    let (server, client) = handshake(Offer::Http1, "api.test", &[b"h2"]).await;
    assert!(matches!(server, Err(AcceptError::Broken(_))));
    assert!(client.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn a_wrong_name_gets_an_alert_and_is_counted() {
    let named = || counted(Reader::Tls, "name");
    let before = named();
    let (server, client) = handshake(Offer::Http1, "evil.test", &[]).await;
    assert!(matches!(server, Err(AcceptError::Name)));
    assert!(client.unwrap_err().to_string().contains("UnrecognisedName"));
    assert!(named() > before);
}

#[tokio::test]
async fn a_hello_is_read_whole_however_it_comes() {
    let (authority, _) = leaves();
    let whole = hello(&authority, "api.test", &[b"h2"]);
    let mut ways = vec![
        (whole.clone(), 1),
        (in_records(&whole, 1), 7),
        (in_records(&whole, 3), 1),
    ];
    ways.extend((1..whole.len()).map(|split| (whole.clone(), split)));
    for (bytes, write) in ways {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let send = async {
            for piece in bytes.chunks(write) {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            theirs
        };
        let (greeting, _theirs) = tokio::join!(greet(ours, SOON), send);
        let greeting = greeting.unwrap();
        assert_eq!(greeting.sni().as_deref(), Some("api.test"));
        assert!(greeting.offers(b"h2"));
        assert!(!greeting.offers(b"http/1.1"));
    }
}

#[tokio::test]
async fn a_hello_that_never_ends_is_cut_off() {
    let before = counted(Reader::Tls, "long");
    // A handshake message that claims 64 KiB less one, in records of a byte.
    let mut endless = in_records(&[0x16, 3, 1, 0, 0, 1, 0, 0xff, 0xf0], 1);
    while endless.len() < HELLO_BYTES_MAX + 6 {
        endless.extend_from_slice(&[0x16, 3, 1, 0, 1, 0]);
    }
    let (ours, mut theirs) = tokio::io::duplex(endless.len());
    theirs.write_all(&endless).await.unwrap();
    let error = greet(ours, SOON).await.err().unwrap();
    assert!(matches!(error, AcceptError::Long), "{error:?}");
    assert!(counted(Reader::Tls, "long") > before);
}

#[tokio::test]
async fn a_slow_hello_is_late() {
    let (authority, _) = leaves();
    let whole = hello(&authority, "api.test", &[]);
    let (ours, mut theirs) = tokio::io::duplex(1024);
    theirs.write_all(&whole[..whole.len() / 2]).await.unwrap();
    let limit = Duration::from_millis(50);
    assert!(matches!(greet(ours, limit).await, Err(AcceptError::Late(late)) if late == limit));
}

#[tokio::test]
async fn what_is_no_hello_gets_an_alert() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    theirs
        .write_all(b"\x16\x03\x01\x00\x04\xff\xff\xff\xff")
        .await
        .unwrap();
    assert!(matches!(greet(ours, SOON).await, Err(AcceptError::Broken(_))));
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&0x15));
}

#[tokio::test]
async fn agents_resume_and_never_send_early_data() {
    let (authority, leaves) = leaves();
    let config = client_config(&authority, &[]);
    let endpoint = endpoint();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        let leads = claims(&endpoint, 443);
        let (server, client) = tokio::join!(
            accept(ours, &leaves, expected(&leads), Offer::Nothing, SOON),
            connector.connect(ServerName::try_from("api.test").unwrap(), theirs),
        );
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        assert_eq!(
            server.get_ref().1.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
        kinds.push(server.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(
        kinds,
        [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]
    );
    let leaf = leaves.get(&name("api.test")).unwrap();
    assert_eq!(leaf.config(Offer::Http2).unwrap().max_early_data_size, 0);
}

/// A server of its own certificate, for the client's side.
struct Server {
    pem: String,
    config: Arc<rustls::ServerConfig>,
}

impl Server {
    fn self_signed(host: &str, ca: bool) -> Server {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        if ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let certificate = params.self_signed(&key).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        Server {
            pem: certificate.pem(),
            config: Arc::new(config),
        }
    }

    async fn connect(
        &self,
        connectors: &Connectors,
        wanted: Wanted<'_>,
    ) -> Result<TlsUpstream<DuplexStream>, ConnectError> {
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let acceptor = tokio_rustls::TlsAcceptor::from(self.config.clone());
        let (answer, _) = tokio::join!(connectors.connect(ours, wanted), acceptor.accept(theirs));
        answer
    }
}

#[tokio::test]
async fn an_upstream_is_verified_as_far_as_the_mode_says() {
    let connectors = Connectors::default();
    let server = Server::self_signed("db.test", true);
    let other = Server::self_signed("db.test", true);
    let pinned = Server::self_signed("db.test", false);
    let cases = [
        (&server, "db.test", Some(&server.pem), Verify::Full, true),
        (&server, "wrong.test", Some(&server.pem), Verify::Full, false),
        (&server, "wrong.test", Some(&server.pem), Verify::Chain, true),
        (&server, "db.test", Some(&other.pem), Verify::Full, false),
        (&server, "db.test", Some(&other.pem), Verify::Chain, false),
        (&server, "wrong.test", None, Verify::Nothing, true),
        (&server, "db.test", None, Verify::Full, false),
        (&pinned, "db.test", Some(&pinned.pem), Verify::Full, true),
        (&pinned, "wrong.test", Some(&pinned.pem), Verify::Full, false),
        (&pinned, "db.test", Some(&server.pem), Verify::Full, false),
    ];
    for (number, (server, host, roots, verify, good)) in cases.into_iter().enumerate() {
        let wanted = Wanted {
            host,
            ca_cert: roots.map(String::as_str),
            verify,
            alpn: &[],
            identity: None,
        };
        let result = server.connect(&connectors, wanted).await;
        assert_eq!(result.is_ok(), good, "case {number}: {:?}", result.err());
        if let Ok(stream) = result {
            let der = stream.get_ref().1.peer_certificates().unwrap()[0].as_ref();
            assert_eq!(binding::server_end_point(der).unwrap().len(), 32);
        }
    }
}

#[test]
fn sslmodes_verify_what_libpq_verifies() {
    let cases = [
        (SslMode::Disable, true, None),
        (SslMode::Prefer, true, Some(Verify::Nothing)),
        (SslMode::Require, false, Some(Verify::Nothing)),
        (SslMode::Require, true, Some(Verify::Chain)),
        (SslMode::VerifyCa, false, Some(Verify::Chain)),
        (SslMode::VerifyFull, true, Some(Verify::Full)),
    ];
    for (mode, has_ca_cert, verify) in cases {
        assert_eq!(
            Verify::for_sslmode(mode, has_ca_cert),
            verify,
            "{mode:?} {has_ca_cert}"
        );
    }
}

#[test]
fn a_fingerprint_is_sha256_in_hex() {
    // FIPS 180-2's "abc".
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(fingerprint(b"abc"), abc);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), tls in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            if tls {
                theirs.write_all(&[0x16, 3, 1, (bytes.len() >> 8) as u8, bytes.len() as u8, 1]).await.unwrap();
            }
            theirs.write_all(&bytes).await.unwrap();
            drop(theirs);
            let _ = greet(ours, SOON).await;
        });
        let _ = binding::server_end_point(&bytes);
    }
}

#[tokio::test]
async fn sessions_of_few_names_are_kept() {
    use rustls::HandshakeKind::{Full, Resumed};
    let connectors = Connectors::default();
    let config = Server::self_signed("a.test", false).config;
    let enter = async |number: usize| {
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        let host = format!("a{number}.test");
        let wanted = Wanted {
            host: &host,
            ca_cert: None,
            verify: Verify::Nothing,
            alpn: &[],
            identity: None,
        };
        // Tickets come before the first byte.
        let serve = async {
            let mut stream = acceptor.accept(theirs).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream
        };
        let (client, _server) = tokio::join!(connectors.connect(ours, wanted), serve);
        let mut client = client.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        client.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!((enter(0).await, enter(0).await), (Full, Resumed));
    // rustls keeps eight tickets for each name.
    for number in 1..=super::client::SESSIONS_MAX / 8 {
        assert_eq!(enter(number).await, Full);
    }
    assert_eq!(enter(super::client::SESSIONS_MAX / 8).await, Resumed);
    assert_eq!(enter(0).await, Full);
}
