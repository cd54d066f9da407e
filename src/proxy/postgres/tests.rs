//! The driver before a real PostgreSQL, with psql and psycopg-shaped raw streams as the agent.

#[path = "../../../tests/support/postgres.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::process::Output as Ran;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::*;
use crate::facts::{Fact, Facts, Family};
use crate::identity::{Identity, Transport};
use crate::policy::{Protocol, SslMode};
use crate::protocol::postgres::Statement;
use crate::verdict::Cause;

/// Cuts with PostgreSQL's own grammar; the judge reads the text.
struct Cutter;

impl Grammar for Cutter {
    fn read(&self, text: &str) -> Vec<Statement> {
        let cut = pg_query::split_with_parser(text).unwrap_or_else(|_| vec![text]);
        let cut = cut.into_iter().map(str::trim).filter(|one| !one.is_empty());
        cut.map(|one| {
            let effect = crate::protocol::postgres::statement::effect(one);
            let (text, facts) = (
                one.to_owned(),
                Facts::Sql(Box::new(crate::facts::sql::SqlFacts::new(
                    Arc::new(crate::facts::sql::Statement::opaque(one)),
                    "",
                    "",
                ))),
            );
            Statement { text, facts, effect }
        })
        .collect()
    }

    fn bound(&self, facts: &Facts, _: Fact<serde_json::Value>) -> Facts {
        facts.clone()
    }

    fn opaque(&self, _: &str) -> Facts {
        Facts::None
    }
}

struct Desk {
    port: u16,
    judged: Mutex<Vec<String>>,
    finished: Mutex<Vec<String>>,
}

impl Gateway for Desk {
    fn judge<'a>(&'a self, action: &'a Action) -> Wait<'a, Result<Permit, Refusal>> {
        self.judged.lock().unwrap().push(action.detail.clone());
        Box::pin(async move {
            if action.detail.contains("hold") {
                std::future::pending::<()>().await;
            }
            match action.detail.to_lowercase().contains("drop") {
                true => Err(Refusal::new(Cause::NoRule, "no drops here")),
                false => Ok(Permit::for_test(action)),
            }
        })
    }

    fn finish(&self, _: RecordId, outcome: Outcome) {
        self.finished.lock().unwrap().push(outcome.status);
    }

    fn refused<'a>(&'a self, _: &'a str, _: Refusal) -> Wait<'a, ()> {
        Box::pin(async {})
    }

    fn dial<'a>(&'a self, _: &'a Permit) -> Wait<'a, io::Result<Box<dyn Wire>>> {
        Box::pin(async { Ok(Box::new(TcpStream::connect(("127.0.0.1", self.port)).await?) as Box<dyn Wire>) })
    }

    fn secret<'a>(&'a self, _: &'a Permit) -> Wait<'a, Result<Secret, Refusal>> {
        Box::pin(async { Ok(Secret::new(support::PASSWORD.as_bytes().to_vec())) })
    }

    fn accept_tls<'a>(&'a self, _: Box<dyn Wire>) -> Option<Wait<'a, io::Result<Box<dyn Wire>>>> {
        None
    }

    fn grammar(&self, _: &str, _: &str) -> Arc<dyn Grammar> {
        Arc::new(Cutter)
    }

    fn offers_tls(&self) -> bool {
        false
    }
}

struct Stage {
    server: support::Server,
    desk: Arc<Desk>,
    port: u16,
}

async fn stage() -> Stage {
    let server = tokio::task::spawn_blocking(|| support::Server::start(&[]))
        .await
        .unwrap();
    let desk = Arc::new(Desk {
        port: server.port,
        judged: Mutex::default(),
        finished: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cancels: &'static Cancels = Box::leak(Box::default());
    let connectors: &'static Connectors = Box::leak(Box::default());
    let gateway = desk.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let gateway = gateway.clone();
            tokio::spawn(async move { serve_one(stream, &*gateway, cancels, connectors).await });
        }
    });
    Stage { server, desk, port }
}

async fn serve_one(stream: TcpStream, gateway: &dyn Gateway, cancels: &Cancels, connectors: &Connectors) {
    let identity = Identity {
        transport: Transport::Wireguard,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        node: "laptop".to_owned(),
        login: None,
        tags: vec![],
        grants: vec![],
    };
    let agent = Agent::new(Arc::new(identity), Arc::from("ci"));
    let endpoint = Endpoint {
        key: Arc::from("postgres.orders"),
        protocol: Protocol::Postgres,
        family: Family::Sql,
        claims: vec![],
        upstream: None,
        tls: false,
        ca_cert: None,
        sslmode: SslMode::Disable,
        database: None,
        description: None,
    };
    let held = vec![Candidate {
        key: Arc::from("postgres_credential.orders"),
        user: Some("app".to_owned()),
        placeholders: vec!["{{orders}}".to_owned()],
        fallback: true,
    }];
    let context = Context {
        gateway,
        agent: &agent,
        endpoint: &endpoint,
        host: "localhost",
        held,
        limits: &Limits::default(),
        connectors,
        cancels,
    };
    // Refusals and closed clients end a connection with an error, as they should.
    let _ = serve(Box::new(stream), &context).await;
}

impl Stage {
    /// Starts a statement on a session of its own, and cancels it once it was judged.
    async fn cancelled(&self, sql: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        use crate::protocol::postgres::{startup, wire};

        let mut io = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        io.write_all(&startup::to_server("x", "postgres", &[]))
            .await
            .unwrap();
        let (mut got, mut key) = (Vec::new(), None);
        while !got.ends_with(b"Z\0\0\0\x05I") {
            assert!(io.read_buf(&mut got).await.unwrap() > 0);
        }
        let mut rest = &got[..];
        while let Ok(Some((tag, total))) = wire::head(rest) {
            if tag == b'K' {
                key = Some(rest[5..total].to_vec());
            }
            rest = &rest[total..];
        }
        let query = wire::message(b'Q', format!("{sql}\0").as_bytes());
        io.write_all(&query).await.unwrap();
        while !self.desk.judged.lock().unwrap().iter().any(|text| text == sql) {
            tokio::task::yield_now().await;
        }
        let mut packet = vec![0, 0, 0, 16, 4, 210, 22, 46];
        packet.extend_from_slice(&key.unwrap());
        got.clear();
        // The server may get the cancel before the statement, so it is sent until one lands.
        while !got.ends_with(b"Z\0\0\0\x05I") {
            let mut other = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
            other.write_all(&packet).await.unwrap();
            let _ = tokio::time::timeout(Duration::from_millis(300), io.read_buf(&mut got)).await;
        }
        String::from_utf8_lossy(&got).into_owned()
    }

    async fn psql(&self, args: &[&str]) -> Ran {
        let url = format!(
            "postgresql://agent@127.0.0.1:{}/postgres?sslmode=prefer",
            self.port
        );
        let run = Command::new("psql")
            .arg("-XAtq")
            .arg(&url)
            .args(args)
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(Duration::from_secs(20), run)
            .await
            .expect("psql hangs")
            .unwrap()
    }

    #[track_caller]
    fn check(&self, ran: &Ran, out: &str, err: &str) {
        assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), out, "{ran:?}");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(err.is_empty(), said.is_empty(), "{said}");
        assert!(said.contains(err), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_is_served_and_refused() {
    let stage = stage().await;
    let ran = stage.psql(&["-c", "select current_user"]).await;
    stage.check(&ran, "app", "");
    // One refused of several refuses the whole; the connection lives on.
    let ran = stage
        .psql(&[
            "-c",
            "create table a (x int); drop table a",
            "-c",
            "select to_regclass('a') is null",
        ])
        .await;
    stage.check(&ran, "t", "no drops here");
    // A refusal inside a transaction fails it, as the server would.
    let ran = stage
        .psql(&[
            "-c",
            "create table t (x int)",
            "-c",
            "begin",
            "-c",
            "insert into t values (1)",
            "-c",
            "drop table t",
            "-c",
            "commit",
            "-c",
            "select count(*) from t",
        ])
        .await;
    stage.check(&ran, "0", "no drops here");
    let ran = stage
        .psql(&["-c", "set client_encoding = 'SJIS'", "-c", "select 1"])
        .await;
    stage.check(&ran, "1", "may not be changed");
    // The reference read these as one SELECT.
    for text in [
        "SELECT E'\\''; DROP TABLE t; --'",
        "SELECT 1 AS a$$; DROP TABLE t; --$$",
        "SELECT 1 --\r; DROP TABLE t",
    ] {
        let ran = stage.psql(&["-c", text, "-c", "select count(*) from t"]).await;
        stage.check(&ran, "0", "no drops here");
    }
    // Prepared by SQL: the refused one is never there.
    let ran = stage.psql(&["-c", "copy t from stdin", "-c", "select 1"]).await;
    assert!(ran.status.success(), "{ran:?}");
    let ran = stage
        .psql(&["-c", "copy (select generate_series(1,3)) to stdout"])
        .await;
    stage.check(&ran, "1\n2\n3", "");
    let ran = stage
        .psql(&[
            "-c",
            "select sum(length(repeat('x', 1000) || i)) from generate_series(1,2000) i",
            "-c",
            "select repeat('y', 3000000)",
        ])
        .await;
    assert!(ran.stdout.len() > 3_000_000);
    assert!(
        stage
            .desk
            .finished
            .lock()
            .unwrap()
            .iter()
            .any(|status| status == "SELECT 1")
    );
    drop(stage.server);
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_runs_in_every_mode() {
    let stage = stage().await;
    let url = |mode: &str| -> Vec<String> {
        [
            "-n",
            "-S",
            "-t",
            "50",
            "-c",
            "2",
            "-M",
            mode,
            "-h",
            "127.0.0.1",
            "-p",
            &stage.port.to_string(),
            "-U",
            "agent",
            "postgres",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    stage.server.pgbench_init();
    for mode in ["simple", "extended", "prepared"] {
        let run = Command::new("pgbench")
            .args(url(mode))
            .kill_on_drop(true)
            .output();
        let ran = tokio::time::timeout(Duration::from_secs(30), run)
            .await
            .expect("pgbench hangs")
            .unwrap();
        assert!(ran.status.success(), "{mode}: {ran:?}");
    }
    // Each Execute was judged, in the prepared mode too.
    let judged = stage.desk.judged.lock().unwrap();
    assert!(
        judged
            .iter()
            .filter(|text| text.contains("pgbench_accounts"))
            .count()
            >= 300
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_a_pipeline_rolls_back_and_skips() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use crate::protocol::postgres::wire::message;

    let stage = stage().await;
    assert!(stage.server.sql("create table t (x int); grant all on t to app"));
    let mut io = TcpStream::connect(("127.0.0.1", stage.port)).await.unwrap();
    let run = |sql: &str| {
        let mut bytes = message(b'P', format!("\0{sql}\0\0\0").as_bytes()).to_vec();
        bytes.extend_from_slice(&message(b'B', &[0; 8]));
        bytes.extend_from_slice(&message(b'E', &[0; 5]));
        bytes
    };
    let mut sent = crate::protocol::postgres::startup::to_server("x", "postgres", &[]).to_vec();
    sent.extend(run("insert into t values (1)"));
    sent.extend(run("drop table t"));
    sent.extend(run("insert into t values (2)"));
    sent.extend_from_slice(&message(b'S', &[]));
    sent.extend(run("insert into t values (3)"));
    sent.extend_from_slice(&message(b'S', &[]));
    // An unnamed statement that a skipped Parse did not replace is not run under its new name.
    sent.extend_from_slice(&message(b'P', b"\0drop table t\0\0\0"));
    sent.extend_from_slice(&message(b'S', &[]));
    sent.extend_from_slice(&message(b'P', b"x\0select nosuch\0\0\0"));
    sent.extend_from_slice(&message(b'P', b"\0select 1\0\0\0"));
    sent.extend_from_slice(&message(b'S', &[]));
    sent.extend_from_slice(&message(b'B', &[0; 8]));
    sent.extend_from_slice(&message(b'E', &[0; 5]));
    sent.extend_from_slice(&message(b'S', &[]));
    io.write_all(&sent).await.unwrap();
    // Leave only once everything is answered.
    let (mut got, mut tags) = (Vec::new(), String::new());
    let read = async {
        while tags.matches('Z').count() < 6 {
            assert!(io.read_buf(&mut got).await.unwrap() > 0, "{tags}");
            tags.clear();
            let mut rest = &got[..];
            while let Ok(Some((tag, total))) = crate::protocol::postgres::wire::head(rest) {
                let Some(behind) = rest.get(total..) else { break };
                tags.push(char::from(tag));
                rest = behind;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("an answer is missing");
    let session = tags.split_once('Z').map(|(_, rest)| rest);
    assert_eq!(session, Some("12C1EZ12CZ1ZEZEZ"), "{tags}");
    assert!(String::from_utf8_lossy(&got).contains("no drops here"));
    assert!(String::from_utf8_lossy(&got).contains("26000"));
    let ran = stage.psql(&["-c", "select x from t"]).await;
    stage.check(&ran, "3", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_what_runs_and_what_is_held() {
    let stage = stage().await;
    for sql in ["select pg_sleep(60)", "select 'hold'"] {
        let said = tokio::time::timeout(Duration::from_secs(20), stage.cancelled(sql)).await;
        assert!(said.expect("not cancelled").contains("57014"), "{sql}");
    }
    assert!(
        !stage
            .desk
            .finished
            .lock()
            .unwrap()
            .iter()
            .any(|status| status.starts_with("SELECT"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_proves_both_sides() {
    use crate::upstream::postgres::{Login, LoginError, Trust, login, secure};

    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(65534), None).unwrap();
        path.display().to_string()
    };
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", file("cert", made.cert.pem())),
        format!("ssl_key_file={}", file("key", made.signing_key.serialize_pem())),
    ];
    let server = tokio::task::spawn_blocking(move || {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        support::Server::start(&settings)
    });
    let server = server.await.unwrap();
    let pem = made.cert.pem();
    let connectors = Connectors::default();
    let open = async |mode, host: &str, ca: Option<&str>| {
        let io = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        secure(Box::new(io), mode, host, ca, &connectors).await
    };
    let enter = async |mut io: Box<dyn Wire>, trust: &Trust, password: &str| {
        let wanted = Login {
            user: "app",
            password: Some(password.as_bytes()),
            database: "postgres",
            settings: &[],
        };
        login(&mut *io, &wanted, trust).await.map(|ready| ready.status)
    };
    for mode in [
        SslMode::Disable,
        SslMode::Prefer,
        SslMode::Require,
        SslMode::VerifyCa,
        SslMode::VerifyFull,
    ] {
        let (io, trust) = open(mode, "localhost", Some(&pem)).await.unwrap();
        assert_eq!(trust.tls, mode != SslMode::Disable);
        assert_eq!(trust.binding.is_some(), trust.tls);
        assert_eq!(
            enter(io, &trust, support::PASSWORD).await.unwrap(),
            b'I',
            "{mode:?}"
        );
    }
    assert!(open(SslMode::VerifyFull, "elsewhere", Some(&pem)).await.is_err());
    // A binding of another certificate is a man in the middle, and the server says so.
    let (io, mut trust) = open(SslMode::Require, "localhost", None).await.unwrap();
    trust.binding = Some(vec![0; 32]);
    assert!(matches!(
        enter(io, &trust, support::PASSWORD).await,
        Err(LoginError::Server { .. })
    ));
    let (io, trust) = open(SslMode::Require, "localhost", None).await.unwrap();
    let wrong = enter(io, &trust, "wrong").await;
    assert!(matches!(wrong, Err(LoginError::Server { code }) if code == "28P01"));
}
