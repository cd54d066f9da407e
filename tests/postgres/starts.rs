//! How a connection begins: requests before the StartupMessage, TLS, limits, time.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tailkeep::protocol::postgres::startup::{STARTUP_BYTES_MAX, to_server};
use tailkeep::protocol::postgres::wire::message;
use tailkeep::proxy::postgres::AGENT_BYTES_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::raw::{Raw, query};
use crate::world::{SETUP, Setup, World, both, said, server, until};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

async fn dial(world: &World) -> TcpStream {
    TcpStream::connect(world.address).await.unwrap()
}

fn connector(world: &World, alpn: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for one in rustls::pki_types::CertificateDer::pem_file_iter(&world.ca).unwrap() {
        roots.add(one.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn tls_by_request_and_at_once() {
    let (_server, world) = both().await;
    let name = ServerName::try_from("orders.test").unwrap();
    // psql, which asks for it, verifying all that there is.
    let options = format!(
        "host=orders.test&hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}",
        world.ca
    );
    let ran = world.psql_with(&options, &["select 1", "drop table x"]).await;
    assert_eq!(
        said(&ran),
        "1 | ERROR:  no drops here HINT:  What you may reach: http://tailkeep.internal/"
    );
    // At once, with the ALPN that PostgreSQL 17's libpq sends; another one finds no server.
    let tls = connector(&world, b"postgresql")
        .connect(name.clone(), dial(&world).await)
        .await
        .unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
    let mut raw = Raw::over(Box::new(tls), &[]).await;
    assert_eq!(raw.query("select 1").await.tags, "TDCZ");
    assert!(
        connector(&world, b"http/1.1")
            .connect(name.clone(), dial(&world).await)
            .await
            .is_err()
    );
    // Asked for within TLS: not twice.
    let mut tls = connector(&world, b"postgresql")
        .connect(name, dial(&world).await)
        .await
        .unwrap();
    tls.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(tls.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn no_step_back_from_tls_and_no_gss() {
    let (_server, world) = both().await;
    let hello = to_server("agent", "postgres", &[]);
    // GSS is refused, TLS offered, and then only TLS is taken.
    for then in [
        &hello[..],
        &SSL_REQUEST,
        &GSSENC_REQUEST,
        b"\0\0\0\x10\x04\xd2\x16\x2e12345678",
    ] {
        let mut io = dial(&world).await;
        io.write_all(&GSSENC_REQUEST).await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), b'N');
        io.write_all(&SSL_REQUEST).await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), b'S');
        io.write_all(then).await.unwrap();
        let mut rest = Vec::new();
        let _ = io.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
    }
    // What is sent behind SSLRequest in the clear is not taken for what came through TLS.
    let mut io = dial(&world).await;
    io.write_all(&[&SSL_REQUEST[..], &hello].concat()).await.unwrap();
    let mut rest = Vec::new();
    let _ = io.read_to_end(&mut rest).await;
    assert!(rest.is_empty() || rest == b"S", "{rest:?}");
    // Without asking for TLS, none is needed: the tunnel encrypts.
    assert_eq!(
        Raw::enter(world.address).await.query("select 1").await.tags,
        "TDCZ"
    );
    // Requests without end.
    let mut io = dial(&world).await;
    for _ in 0..5 {
        let _ = io.write_all(&GSSENC_REQUEST).await;
    }
    let mut rest = Vec::new();
    let _ = io.read_to_end(&mut rest).await;
    assert_eq!(rest, b"NNNN");
}

#[tokio::test]
async fn a_start_is_read_however_it_is_cut() {
    let (_server, world) = both().await;
    let hello = to_server("agent", "postgres", &[]);
    let sent = [&GSSENC_REQUEST[..], &hello, &query("select 1")].concat();
    let cuts = (1..sent.len()).map(|at| vec![&sent[..at], &sent[at..]]);
    let bytewise = sent.chunks(1).collect::<Vec<_>>();
    for pieces in cuts.chain([bytewise]) {
        let mut io = dial(&world).await;
        io.set_nodelay(true).unwrap();
        let (mut reads, mut writes) = io.split();
        for piece in &pieces {
            writes.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(reads.read_u8().await.unwrap(), b'N');
        let came = Raw::new(Box::new(io)).until_ready(2).await;
        assert!(came.tags.ends_with("ZTDCZ"), "{}: {came:?}", pieces[0].len());
    }
}

#[tokio::test]
async fn packets_out_of_bounds_and_late_ones_are_refused() {
    let server = server(&[]).await;
    let limits = "handshake_ms = 300\n message_bytes_max = 4096\n statement_bytes_max = 512";
    let world = World::new(server.port, Setup { limits, ..SETUP }).await;
    for packet in [
        &b"\0\0\0\x07\0\0\0"[..],
        b"\0\0\x27\x11\0\x03\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
    ] {
        let mut io = dial(&world).await;
        io.write_all(packet).await.unwrap();
        let mut rest = Vec::new();
        let _ = io.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{packet:?}: {rest:?}");
    }
    // To the byte.
    let start = |padding: usize| {
        let name = ("application_name".to_owned(), "x".repeat(padding));
        to_server("agent", "postgres", &[name])
    };
    let room = STARTUP_BYTES_MAX - start(0).len();
    for (padding, is_read) in [(room, true), (room + 1, false)] {
        let mut raw = Raw::new(Box::new(dial(&world).await));
        raw.send(&start(padding)).await;
        let came = raw.until_ready(1).await;
        assert_eq!(came.tags.ends_with('Z'), is_read, "{padding}: {came:?}");
    }
    // Nothing, and half a packet: closed when the time is over.
    for half in [&b""[..], b"\0\0"] {
        let mut io = dial(&world).await;
        io.write_all(half).await.unwrap();
        let read = tokio::time::timeout(crate::world::SOON, io.read(&mut [0])).await;
        assert_eq!(read.expect("still open").unwrap_or(0), 0);
    }
    let mut raw = Raw::enter(world.address).await;
    let came = raw.query(&format!("select '{}'", "x".repeat(600))).await;
    assert!(
        came.tags == "EZ" && came.text().contains("statement_bytes_max"),
        "{came:?}"
    );
    let came = raw.query(&"x".repeat(5000)).await;
    assert!(came.text().contains("54000"), "{came:?}");
    let names = world.records().await;
    assert!(
        names
            .iter()
            .all(|one| one["step"] == "connect" || one["verdict"] == "deny")
    );
    for (reason, least) in [("malformed", 4), ("long", 1)] {
        let count = tailkeep::bad_input::counted(tailkeep::bad_input::Reader::Postgres, reason);
        assert!(count >= least, "{reason}: {count}");
    }
}

/// A query in another encoding gets the server's own error, is on record, and its connection lives on.
#[tokio::test]
async fn a_query_that_is_no_text_is_refused_and_counted() {
    use tailkeep::bad_input::{Reader, counted};

    let (_server, world) = both().await;
    let before = counted(Reader::Postgres, "forbidden");
    let mut raw = Raw::enter(world.address).await;
    let query = message(b'Q', b"select '\xff\xfe'\0").to_vec();
    let came = raw.ask(&[query]).await;
    assert_eq!(came.tags, "EZ", "{came:?}");
    assert!(came.text().contains("22021"), "{came:?}");
    assert_eq!(raw.query("select 1").await.tags, "TDCZ");
    assert!(counted(Reader::Postgres, "forbidden") > before);
    drop(raw);
    let story = world.story().await;
    assert_eq!(
        story,
        [
            "select '\u{fffd}\u{fffd}' | deny | -",
            "select 1 | allow | SELECT 1"
        ]
    );
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_held_one_is_not() {
    let server = server(&[]).await;
    let world = World::new(
        server.port,
        Setup {
            limits: "idle_s = 1",
            ..SETUP
        },
    )
    .await;
    let mut held = Raw::enter(world.address).await;
    held.send(&query("select 'hold'")).await;
    let mut idle = Raw::enter(world.address).await;
    let came = idle.until_ready(1).await;
    assert!(came.text().contains("57P01"), "{came:?}");
    assert_eq!(world.held().await, 1);
    assert_eq!(world.open(), 1);
}

#[tokio::test]
async fn a_newer_libpq_with_a_newer_protocol_and_tls_at_once() {
    let (_server, world) = both().await;
    let script = "
import os, psycopg
for options in ('max_protocol_version=latest', 'max_protocol_version=3.2', 'sslnegotiation=direct sslmode=verify-full host=orders.test hostaddr=127.0.0.1'):
    conn = psycopg.connect(os.environ['DSN'] + ' ' + options, autocommit=True)
    print(conn.execute('select %s::int', (1,)).fetchone()[0], conn.pgconn.ssl_in_use)
    conn.cancel_safe()
";
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    let mut command = tokio::process::Command::new(python);
    let dsn = format!(
        "host=127.0.0.1 port={} user=agent dbname=postgres sslmode=disable sslrootcert={}",
        world.address.port(),
        world.ca
    );
    command.args(["-c", script]).env("DSN", dsn);
    let ran = crate::world::run(&mut command).await;
    assert_eq!(said(&ran), "1 False 1 False 1 True | ");
}

#[tokio::test]
async fn prepared_statements_have_a_number_and_a_size() {
    use tailkeep::proxy::postgres::{PREPARED_BYTES_MAX, STATEMENTS_MAX};

    use crate::raw::{close, parse, sync};

    let (_server, world) = both().await;
    // In portions, so that neither side has to wait for the other to read.
    let prepare = async |raw: &mut Raw, names: std::ops::Range<usize>, text: &str| {
        let messages = names.map(|at| parse(&format!("s{at}"), text)).chain([sync()]);
        raw.ask(&messages.collect::<Vec<_>>()).await
    };
    let full = "too many prepared statements";
    let mut raw = Raw::enter(world.address).await;
    for at in (0..STATEMENTS_MAX).step_by(512) {
        let came = prepare(&mut raw, at..at + 512, "select 1").await;
        assert!(!came.tags.contains('E'), "{at}: {}", came.text());
    }
    let came = prepare(&mut raw, STATEMENTS_MAX..STATEMENTS_MAX + 1, "select 1").await;
    assert!(came.text().contains(full), "{came:?}");
    assert_eq!(raw.ask(&[close('S', "s7"), sync()]).await.tags, "3Z");
    assert_eq!(prepare(&mut raw, 7..8, "select 1").await.tags, "1Z");
    // By their bytes.
    let mut raw = Raw::enter(world.address).await;
    let text = format!("select '{}'", "x".repeat(120_000));
    let fit = PREPARED_BYTES_MAX / (text.len() + 600);
    let came = prepare(&mut raw, 0..fit, &text).await;
    assert!(!came.tags.contains('E'), "{}", came.text());
    let came = prepare(&mut raw, fit..fit + 3, &text).await;
    assert!(came.text().contains(full), "{came:?}");
}

#[tokio::test]
async fn last_words_are_not_waited_for_long() {
    let server = server(&[]).await;
    let world = World::new(
        server.port,
        Setup {
            limits: "idle_s = 1",
            ..SETUP
        },
    )
    .await;
    let mut raw = Raw::enter(world.address).await;
    // Nothing of this is read, and so nothing of what is said at the end.
    raw.send(&query("select repeat('z', 1000000) from generate_series(1, 200)"))
        .await;
    crate::world::until("it is given up", || world.open() == 0).await;
    let status = world.records().await[0]["outcome"]["status"].clone();
    assert_eq!(status, "broken: nothing came in time");
}

/// What an agent's connections hold together is bounded; the one that would hold more is closed.
#[tokio::test]
async fn the_connections_of_one_agent_hold_so_much_and_no_more() {
    let (_server, world) = both().await;
    // A message that is never whole.
    let part = 15 << 20;
    let mut message = vec![0; part];
    message[..5].copy_from_slice(&[b'Q', 0, 0xf0, 0, 0x20]);
    let mut open = Vec::new();
    let said = loop {
        let mut raw = Raw::enter(world.address).await;
        let (reads, mut writes) = tokio::io::split(raw.io);
        // It may be closed before all is taken.
        let _ = writes.write_all(&message).await;
        raw.io = Box::new(reads.unsplit(writes));
        // Held, or told why not.
        let told = tokio::time::timeout(std::time::Duration::from_millis(300), raw.next()).await;
        if let Ok(Some((tag, payload))) = told {
            break format!("{tag} {}", String::from_utf8_lossy(&payload));
        }
        open.push(raw);
        assert!(open.len() * part <= AGENT_BYTES_MAX, "{}", open.len());
    };
    assert!(said.starts_with('E') && said.contains("hold too much"), "{said}");
    assert!(open.len() >= 16, "{}", open.len());
    drop(open);
    until("every connection ends", || world.open() == 0).await;
    let mut raw = Raw::enter(world.address).await;
    assert_eq!(raw.query("select 1").await.tags, "TDCZ");
}
