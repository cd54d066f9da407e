//! The driver before a real PostgreSQL, with psql and psycopg-shaped raw streams as the agent.

#[path = "../../../tests/support/postgres.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::process::Output as Ran;
use std::sync::Mutex;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::*;
use crate::facts::{Fact, Facts, Family};
use crate::identity::{Identity, Transport};
use crate::policy::{Protocol, SslMode};
use crate::protocol::postgres::{Effect, Statement};
use crate::verdict::Cause;

/// Cuts with PostgreSQL's own grammar; the judge reads the text.
struct Cutter;

impl Grammar for Cutter {
    fn read(&self, text: &str) -> Vec<Statement> {
        let cut = pg_query::split_with_parser(text).unwrap_or_else(|_| vec![text]);
        let cut = cut.into_iter().map(str::trim).filter(|one| !one.is_empty());
        cut.map(|one| {
            let words: Vec<String> = one
                .to_lowercase()
                .split([' ', '=', ';'])
                .map(str::to_owned)
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let effect = match words.as_slice() {
                ["set", name, ..] => Effect::Set(Some((*name).to_owned())),
                ["prepare", name, ..] => Effect::Prepare((*name).to_owned()),
                ["execute", name, ..] => Effect::Execute((*name).to_owned()),
                ["deallocate", name, ..] => Effect::Deallocate(Some((*name).to_owned())),
                _ => Effect::None,
            };
            let (text, facts) = (
                one.to_owned(),
                Facts::Sql(Box::new(crate::facts::sql::SqlFacts {})),
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
