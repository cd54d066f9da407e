//! The login to the server: every method, every `sslmode`, and what the agent learns.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::sync::LazyLock;

use tailkeep::policy::SslMode;
use tailkeep::protocol::postgres::wire::message;
use tailkeep::tls::Connectors;
use tailkeep::upstream::postgres::{Login, LoginError, Wire, secure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;

use crate::server::{PASSWORD, Server};
use crate::world::{SETUP, Setup, World, said, server};

/// The id of `nobody`, as whom the server runs.
const NOBODY: u32 = 65534;

const HBA: &str = "host all md5er all md5\nhost all clear all password\nhost all trusted all trust\n\
                   host all all all scram-sha-256\n";

struct Made {
    folder: tempfile::TempDir,
    pem: String,
}

/// Files of a server whose certificate is for `name`.
fn made(name: &str) -> Made {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let pem = made.cert.pem();
    let key = made.signing_key.serialize_pem();
    for (file, text) in [("cert", &pem), ("key", &key), ("hba", &HBA.to_owned())] {
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(NOBODY), None).unwrap();
    }
    Made { folder, pem }
}

impl Made {
    async fn server(&self, tls: bool) -> Server {
        let path = |file| self.folder.path().join(file).display().to_string();
        let mut settings = vec![format!("hba_file={}", path("hba"))];
        if tls {
            settings.push("ssl=on".to_owned());
            settings.push(format!("ssl_cert_file={}", path("cert")));
            settings.push(format!("ssl_key_file={}", path("key")));
        }
        let server = server(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(server.sql(&format!(
            "create role agent login password '{PASSWORD}'; create role trusted login;
             set password_encryption = 'md5'; create role md5er login password '{PASSWORD}';
             create role clear login password '{PASSWORD}'",
        )));
        server
    }
}

static OTHER: LazyLock<String> = LazyLock::new(|| made("orders.test").pem);

/// `mode`, a PEM as `ca_cert`, and a role; what `select current_user` says, and the Connect's outcome.
async fn check(port: u16, mode: &str, pem: Option<&str>, role: &str, want: Result<&str, &str>) {
    let roots = pem.map_or_else(String::new, |pem| format!("ca_cert = <<EOT\n{pem}EOT\n"));
    let endpoint = format!("sslmode = \"{mode}\"\n{roots}");
    let credential = format!("user = \"{role}\"");
    let setup = Setup {
        endpoint: &endpoint,
        credential: &credential,
        ..SETUP
    };
    let world = World::new(port, setup).await;
    let said = world.said(&["select current_user"]).await;
    let records = world.records().await;
    let status = records[0]["outcome"]["status"].as_str().unwrap().to_owned();
    let told = format!("{mode} {role}: {said} {status}");
    match want {
        Ok(user) => assert_eq!(
            (said.as_str(), status.as_str()),
            (format!("{user} | ").as_str(), "closed"),
            "{told}"
        ),
        Err(why) => {
            assert!(said.contains("FATAL:  the server cannot be reached"), "{told}");
            assert!(status.contains(why) && !said.contains(why), "{told}");
        }
    }
}

#[tokio::test]
async fn every_sslmode_is_what_libpq_makes_of_it() {
    let own = made("orders.test");
    let server = own.server(true).await;
    let (right, wrong) = (Some(own.pem.as_str()), Some(OTHER.as_str()));
    let bad = "TLS handshake failed";
    for (mode, pem, want) in [
        ("disable", None, Ok("app")),
        ("prefer", None, Ok("app")),
        ("require", None, Ok("app")),
        ("require", right, Ok("app")),
        ("verify-ca", right, Ok("app")),
        ("verify-full", right, Ok("app")),
        ("require", wrong, Err(bad)),
        ("verify-ca", wrong, Err(bad)),
        ("verify-full", wrong, Err(bad)),
        // The system's roots know nothing of it.
        ("verify-full", None, Err("no login")),
    ] {
        check(server.port, mode, pem, "app", want).await;
    }
    assert_eq!(server.says("show ssl"), "on");
    let elsewhere = made("elsewhere.test");
    let server = elsewhere.server(true).await;
    let right = Some(elsewhere.pem.as_str());
    check(server.port, "verify-ca", right, "app", Ok("app")).await;
    check(server.port, "verify-full", right, "app", Err(bad)).await;
}

#[tokio::test]
async fn every_method_as_far_as_the_channel_can_be_trusted() {
    let own = made("orders.test");
    let right = Some(own.pem.as_str());
    let (clear, unproved) = ("clear-text password", "without proving");
    let md5 = "MD5 password outside verified TLS";
    let server = own.server(true).await;
    for (mode, pem, role, want) in [
        ("disable", None, "md5er", Ok("md5er")),
        ("verify-full", right, "md5er", Ok("md5er")),
        ("prefer", None, "md5er", Err(md5)),
        ("require", None, "md5er", Err(md5)),
        ("disable", None, "clear", Err(clear)),
        ("require", None, "clear", Err(clear)),
        ("verify-ca", right, "clear", Ok("clear")),
        ("disable", None, "trusted", Err(unproved)),
        ("prefer", None, "trusted", Err(unproved)),
        ("verify-full", right, "trusted", Ok("trusted")),
    ] {
        check(server.port, mode, pem, role, want).await;
    }
    let plain = own.server(false).await;
    check(plain.port, "prefer", None, "app", Ok("app")).await;
    check(plain.port, "prefer", None, "md5er", Err(md5)).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        check(plain.port, mode, right, "app", Err("speaks no TLS")).await;
    }
}

#[tokio::test]
async fn scram_is_bound_to_the_channel() {
    let own = made("orders.test");
    let server = own.server(true).await;
    let connectors = Connectors::default();
    let wanted = Login {
        user: "app",
        password: Some(PASSWORD.as_bytes()),
        database: "postgres",
        settings: &[],
    };
    let open = async || {
        let io = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        secure(Box::new(io), SslMode::Require, "orders.test", None, &connectors)
            .await
            .unwrap()
    };
    let (mut io, trust) = open().await;
    assert!(trust.tls && !trust.verified && trust.binding.is_some());
    assert!(
        tailkeep::upstream::postgres::login(&mut *io, &wanted, &trust)
            .await
            .is_ok()
    );
    // A binding of another certificate is a man in the middle, and the server says so.
    let (mut io, mut trust) = open().await;
    trust.binding = Some(vec![0; 32]);
    let refused = tailkeep::upstream::postgres::login(&mut *io, &wanted, &trust).await;
    assert!(matches!(refused, Err(LoginError::Server { .. })), "{refused:?}");
    // To say that we could bind, and were not offered it, is a downgrade to a server that offers it.
    let (mut io, mut trust) = open().await;
    trust.binding = None;
    assert!(
        tailkeep::upstream::postgres::login(&mut *io, &wanted, &trust)
            .await
            .is_ok()
    );
}

/// A login is read however it is cut. Who stands in between and takes -PLUS out of the offer is found out by the server: it is told that we could
/// have bound, and saw no offer (`y`, RFC 5802 section 6).
#[tokio::test]
async fn an_offer_that_was_thinned_out_on_the_way_is_a_downgrade() {
    let own = made("orders.test");
    let server = own.server(true).await;
    let connectors = Connectors::default();
    let wanted = Login {
        user: "app",
        password: Some(PASSWORD.as_bytes()),
        database: "postgres",
        settings: &[],
    };
    for (is_thinned, want) in [(false, None), (true, Some("28000"))] {
        let io = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        let (io, trust) = secure(Box::new(io), SslMode::Require, "orders.test", None, &connectors)
            .await
            .unwrap();
        let mut between = between(io, is_thinned);
        let entered = tailkeep::upstream::postgres::login(&mut between, &wanted, &trust).await;
        let code = match &entered {
            Ok(_) => None,
            Err(LoginError::Server { code }) => Some(code.as_str()),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(code, want, "{entered:?}");
    }
}

/// A stream to the server by way of somebody who passes on all, byte by byte, but for a part of the server's first
/// message.
fn between(io: Box<dyn Wire>, is_thinned: bool) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1);
    tokio::spawn(async move {
        let (mut from_server, mut to_server) = tokio::io::split(io);
        let (mut from_us, mut to_us) = tokio::io::split(theirs);
        let down = async {
            let mut head = [0; 5];
            from_server.read_exact(&mut head).await?;
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let mut offer = vec![0; length - 4];
            from_server.read_exact(&mut offer).await?;
            assert_eq!(offer[4..], *b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
            if is_thinned {
                offer.splice(4..4 + "SCRAM-SHA-256-PLUS\0".len(), []);
            }
            to_us.write_all(&message(b'R', &offer)).await?;
            tokio::io::copy(&mut from_server, &mut to_us).await
        };
        tokio::join!(tokio::io::copy(&mut from_us, &mut to_server), down)
    });
    ours
}

#[tokio::test]
async fn users_databases_and_passwords() {
    let own = made("orders.test");
    let server = own.server(false).await;
    assert!(server.sql("create database orders"));
    let check =
        async |endpoint: &str, credential: &str, password: &str, named: &str, want: &str, status: &str| {
            let endpoint = format!("sslmode = \"disable\"\n{endpoint}");
            let setup = Setup {
                endpoint: &endpoint,
                credential,
                password,
                ..SETUP
            };
            let world = World::new(server.port, setup).await;
            let url = world
                .url("sslmode=disable")
                .replace("/postgres?", &format!("/{named}?"));
            let mut command = tokio::process::Command::new("psql");
            command.args(["-XAtqw", &url, "-c", "select current_user, current_database()"]);
            let said = said(&crate::world::run(&mut command).await);
            assert!(said.contains(want), "{endpoint} {credential} {named}: {said}");
            let got = world.records().await[0]["outcome"]["status"].clone();
            assert_eq!(
                got.as_str().unwrap_or("-"),
                status,
                "{endpoint} {credential} {named}: {said}"
            );
        };
    let refused = "FATAL:  this database is not one of yours";
    check("", "user = \"app\"", PASSWORD, "orders", "app|orders", "closed").await;
    check("", "", PASSWORD, "orders", "agent|orders", "closed").await;
    check(
        "database = \"orders\"",
        "user = \"app\"",
        PASSWORD,
        "orders",
        "app|orders",
        "closed",
    )
    .await;
    check(
        "database = \"orders\"",
        "user = \"app\"",
        PASSWORD,
        "postgres",
        refused,
        "-",
    )
    .await;
    check(
        "database = \"orders\"",
        "user = \"app\"",
        PASSWORD,
        "",
        "app|orders",
        "closed",
    )
    .await;
    check(
        "",
        "user = \"app\"\ndatabase = \"orders\"",
        PASSWORD,
        "",
        "app|orders",
        "closed",
    )
    .await;
    check(
        "",
        "user = \"app\"\ndatabase = \"orders\"",
        PASSWORD,
        "postgres",
        refused,
        "-",
    )
    .await;
    check(
        "database = \"postgres\"",
        "database = \"orders\"",
        PASSWORD,
        "orders",
        refused,
        "-",
    )
    .await;
    let login = "FATAL:  the server refused the login";
    check("", "user = \"app\"", "wrong", "orders", login, "ERROR 28P01").await;
    check("", "user = \"app\"", PASSWORD, "nosuch", login, "ERROR 3D000").await;
    // Without a secret nothing is dialled.
    check(
        "",
        "user = \"app\"",
        "",
        "orders",
        "the credential's secret is missing",
        "no secret",
    )
    .await;
}

#[tokio::test]
async fn a_placeholder_in_the_user_or_the_password_selects_the_credential() {
    let own = made("orders.test");
    let server = own.server(false).await;
    assert!(server.sql(&format!("create role reports login password '{PASSWORD}'")));
    let rules = format!(
        "credential \"postgres_credential\" \"reports\" {{\n  endpoint = postgres.orders\n  user = \"reports\"\n}}\n{}",
        crate::world::RULES
    );
    let setup = Setup {
        held: ", { placeholder = \"PH_reports\", credential = postgres_credential.reports }",
        rules: &rules,
        limits: "handshake_ms = 1000",
        ..SETUP
    };
    let world = World::new(server.port, setup).await;
    let check = async |user: &str, password: &str, want: &str| {
        let url = world
            .url("sslmode=disable")
            .replace("agent@", &format!("{user}@"));
        let mut command = tokio::process::Command::new("psql");
        command
            .args(["-XAtq", &url, "-c", "select current_user"])
            .env("PGPASSWORD", password);
        let said = said(&crate::world::run(&mut command).await);
        assert!(said.contains(want), "{user} {password}: {said}");
    };
    check("%7B%7Breports%7D%7D", "", "reports | ").await;
    check("%7B%7Borders%7D%7D", "", "app | ").await;
    check("agent", "{{reports}}", "reports | ").await;
    check("agent", "PH_reports", "reports | ").await;
    check("agent", "{{orders}}", "app | ").await;
    check("reports", "anything", "reports | ").await;
    // None is named: the one without a placeholder.
    check("agent", "anything", "app | ").await;
    check(
        "agent",
        "{{github}}",
        "the placeholder names no credential that you hold",
    )
    .await;
    check("%7B%7Borders%7D%7D", "{{reports}}", "app | ").await;
    check("agent", &"x".repeat(1025), "malformed").await;
    // Who is asked for a password and sends none is not waited for.
    let mut raw = crate::raw::Raw::new(Box::new(TcpStream::connect(world.address).await.unwrap()));
    raw.send(&tailkeep::protocol::postgres::startup::to_server(
        "agent",
        "postgres",
        &[],
    ))
    .await;
    let came = raw.until_ready(1).await;
    assert_eq!(came.tags, "RE", "{came:?}");
}
