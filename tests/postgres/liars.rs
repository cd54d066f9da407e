//! Servers that break the protocol or lie, and those that never answer.

use base64::Engine as _;
use tailkeep::bad_input::{Reader::PostgresServer, counted};
use tailkeep::protocol::postgres::wire::message;
use tailkeep::upstream::postgres::{LOGIN_MESSAGE_BYTES_MAX, LOGIN_MESSAGES_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::raw::Raw;
use crate::world::{SETUP, Setup, World};

fn request(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), rest].concat()).to_vec()
}

fn settings(encoding: &str) -> Vec<u8> {
    let strings = message(b'S', b"standard_conforming_strings\0on\0");
    let encoding = message(b'S', format!("client_encoding\0{encoding}\0").as_bytes());
    [&strings[..], &encoding, &message(b'Z', b"I")].concat()
}

/// The SCRAM exchange of a server that does not know the password: its nonce begins with
/// `prefix` in the place of the client's, and `last` follows the client's proof.
async fn scram(io: &mut TcpStream, own: Option<&str>, iterations: &str, last: &[u8]) {
    let mut first = vec![0; 5];
    io.read_exact(&mut first).await.unwrap();
    let length = u32::from_be_bytes(first[1..5].try_into().unwrap()) as usize;
    let mut body = vec![0; length - 4];
    io.read_exact(&mut body).await.unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    let nonce = own.unwrap_or(text.split("r=").nth(1).unwrap());
    let salt = base64::engine::general_purpose::STANDARD.encode([7; 16]);
    let challenge = format!("r={nonce}more,s={salt},i={iterations}");
    io.write_all(&request(11, challenge.as_bytes())).await.unwrap();
    if io.read_u8().await.is_ok() {
        let mut rest = [0; 1024];
        let _ = io.read(&mut rest).await;
        let _ = io.write_all(last).await;
    }
    let _ = io.read(&mut [0]).await;
}

async fn lie(io: &mut TcpStream, which: &str) {
    let mut start = vec![0; 1024];
    if io.read(&mut start).await.unwrap_or(0) == 0 {
        return;
    }
    let offer = request(10, b"SCRAM-SHA-256\0\0");
    let proof = |text: &str| [request(12, text.as_bytes()), request(0, &[]), settings("UTF8")].concat();
    let forged = base64::engine::general_purpose::STANDARD.encode([1; 32]);
    let send = match which {
        "forged proof" => {
            io.write_all(&offer).await.unwrap();
            return scram(io, None, "4096", &proof(&format!("v={forged}"))).await;
        }
        "no proof" => {
            io.write_all(&offer).await.unwrap();
            return scram(io, None, "4096", &[request(0, &[]), settings("UTF8")].concat()).await;
        }
        "own nonce" => {
            io.write_all(&offer).await.unwrap();
            return scram(io, Some("mine"), "4096", &proof("v=AA==")).await;
        }
        "endless hashing" => {
            io.write_all(&offer).await.unwrap();
            return scram(io, None, "4294967295", &proof("v=AA==")).await;
        }
        "a bit too much hashing" => {
            io.write_all(&offer).await.unwrap();
            return scram(io, None, "600001", &proof("v=AA==")).await;
        }
        "lets us in" => [request(0, &[]), settings("UTF8")].concat(),
        "clear text" => request(3, &[]),
        "kerberos" => request(7, &[]),
        "plus without tls" => request(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        "unknown scram" => request(10, b"SCRAM-SHA-1\0\0"),
        "short salt" => request(5, &[1, 2]),
        "no such message" => message(b'?', &[]).to_vec(),
        "no length" => b"R\0\0\0\x03".to_vec(),
        "too long" => {
            let mut head = vec![b'R'];
            head.extend_from_slice(&u32::try_from(LOGIN_MESSAGE_BYTES_MAX).unwrap().to_be_bytes());
            head
        }
        // MD5 proves nothing of the server, so that these come in.
        "another encoding" => [request(5, &[1; 4]), request(0, &[]), settings("LATIN1")].concat(),
        "notices without end" => {
            let notices = message(b'N', &[0]).repeat(LOGIN_MESSAGES_MAX);
            [request(5, &[1; 4]), request(0, &[]), notices, settings("UTF8")].concat()
        }
        "as many notices as may be" => {
            let notices = message(b'N', &[0]).repeat(LOGIN_MESSAGES_MAX - 3);
            [request(5, &[1; 4]), request(0, &[]), notices, settings("UTF8")].concat()
        }
        // Ready, and then what no server says.
        later => {
            let ready = [request(5, &[1; 4]), request(0, &[]), settings("UTF8")].concat();
            io.write_all(&ready).await.unwrap();
            // The first word, to its password; then true answers to whoever asks for no more.
            let _ = io.read(&mut start).await;
            let fine = [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat();
            loop {
                let count = io.read(&mut start).await.unwrap_or(0);
                if !start[..count].windows(4).any(|part| part == b"fine") {
                    break;
                }
                io.write_all(&fine).await.unwrap();
            }
            match later {
                "tag of nothing" => message(b'C', b"SELECT 1\0").to_vec(),
                "ready of nothing" => message(b'Z', b"I").repeat(2),
                "copy of nothing" => message(b'G', &[0, 0, 0]).to_vec(),
                "a long error" => [&b"E"[..], &u32::MAX.to_be_bytes()].concat(),
                "an error over the limit" => [&b"E"[..], &0x0010_0001_u32.to_be_bytes()].concat(),
                "a length of two" => b"C\0\0\0\x02".to_vec(),
                "an encoding that changes" => message(b'S', b"client_encoding\0LATIN1\0").to_vec(),
                "silence" => return std::future::pending().await,
                _ => panic!("{later}"),
            }
        }
    };
    let _ = io.write_all(&send).await;
    let _ = io.read(&mut [0; 64]).await;
    let _ = io.read(&mut [0; 64]).await;
}

async fn liar(which: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move { lie(&mut io, which).await });
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_lies_gets_no_session() {
    for (which, status) in [
        ("forged proof", "no login: the server broke the protocol: SCRAM"),
        ("no proof", "no login: the server broke the protocol: SASLFinal"),
        ("own nonce", "no login: the server broke the protocol: SCRAM"),
        (
            "endless hashing",
            "no login: the server broke the protocol: SCRAM iterations",
        ),
        (
            "a bit too much hashing",
            "no login: the server broke the protocol: SCRAM iterations",
        ),
        (
            "lets us in",
            "no login: the server let us in without proving that it knows the password",
        ),
        (
            "clear text",
            "no login: the server asks for a clear-text password outside verified TLS",
        ),
        (
            "kerberos",
            "no login: the server asks for an unknown kind of authentication (7)",
        ),
        (
            "plus without tls",
            "no login: the server broke the protocol: channel binding without a channel",
        ),
        (
            "unknown scram",
            "no login: the server broke the protocol: no SCRAM that we know",
        ),
        ("short salt", "no login: the server broke the protocol: salt"),
        (
            "no such message",
            "no login: the server broke the protocol: no authentication message",
        ),
        ("no length", "no login: the server broke the protocol: length"),
        ("too long", "no login: the server broke the protocol: length"),
        (
            "another encoding",
            "no login: the server does not read text as UTF-8 with standard strings",
        ),
        (
            "notices without end",
            "no login: the server broke the protocol: too many messages",
        ),
        ("as many notices as may be", "closed"),
    ] {
        let world = World::new(liar(which).await, SETUP).await;
        let before = (
            counted(PostgresServer, "login"),
            counted(PostgresServer, "unknown"),
        );
        let said = world.said(&["\\q"]).await;
        let after = (
            counted(PostgresServer, "login"),
            counted(PostgresServer, "unknown"),
        );
        let broke = status.contains("broke the protocol");
        assert_eq!(after.0 > before.0, broke, "{which} is counted");
        assert_eq!(after.1 > before.1, which == "kerberos", "{which} is counted");
        assert_eq!(
            said.contains("cannot be reached"),
            status != "closed",
            "{which}: {said}"
        );
        assert_eq!(
            world.records().await[0]["outcome"]["status"],
            status,
            "{which}: {said}"
        );
    }
}

#[tokio::test]
async fn a_server_that_lies_later_loses_its_session() {
    for (which, says, reason) in [
        ("tag of nothing", "08P01", "message"),
        ("ready of nothing", "08P01", "message"),
        ("copy of nothing", "08P01", "message"),
        ("a long error", "08P01", "message"),
        ("a length of two", "08P01", "message"),
        ("an encoding that changes", "08P01", "setting"),
        ("an error over the limit", "54000", "long_answer"),
    ] {
        let world = World::new(liar(which).await, SETUP).await;
        let mut other = Raw::enter(world.address).await;
        assert!(
            other.query("select 'fine'").await.text().contains("SELECT 0"),
            "{which}"
        );
        let before = counted(PostgresServer, reason);
        let mut raw = Raw::enter(world.address).await;
        raw.send(&[crate::raw::parse("", "select 1"), crate::raw::sync()].concat())
            .await;
        let came = raw.until_ready(3).await;
        assert!(came.text().contains(says), "{which}: {came:?}");
        assert!(counted(PostgresServer, reason) > before, "{which} is counted");
        let came = other.query("select 'fine'").await;
        assert!(came.text().contains("SELECT 0"), "{which}: {came:?}");
        drop(other);
        let records = world.records().await;
        let of_broken = |record: &serde_json::Value| {
            let status = record["outcome"]["status"].as_str().unwrap_or_default();
            status.starts_with("broken: ")
        };
        assert_eq!(
            records.iter().filter(|one| of_broken(one)).count(),
            1,
            "{records:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let limits = "connect_ms = 300";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = World::new(port, Setup { limits, ..SETUP }).await;
    assert!(world.said(&["select 1"]).await.contains("cannot be reached"));
    assert_eq!(world.records().await[0]["outcome"]["status"], "timed out");
    drop(listener);
    let world = World::new(port, SETUP).await;
    assert!(world.said(&["select 1"]).await.contains("cannot be reached"));
    assert_eq!(world.records().await[0]["outcome"]["status"], "unreachable");
    // One that dies in the middle: what was under way is said to be lost.
    let world = World::new(
        liar("silence").await,
        Setup {
            limits: "idle_s = 1",
            ..SETUP
        },
    )
    .await;
    let mut raw = Raw::enter(world.address).await;
    let came = raw.query("select 1").await;
    assert!(came.text().contains("57P01"), "{came:?}");
    assert_eq!(world.story().await, ["select 1 | allow | LOST"]);
}
