//! An upstream that sends the secret back in ways that a server of HTTP does not by itself: in pieces, with pauses, coded.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::agent::Raw;
use crate::world::{Dialled, World, until};

const ASK: &str = "GET / HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer {{pat}}\r\n\r\n";

/// An upstream that says what it is given, piece by piece, once it was asked.
async fn upstream() -> (SocketAddr, mpsc::UnboundedSender<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (say, mut said) = mpsc::unbounded_channel::<String>();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 8192];
        let length = stream.read(&mut head).await.unwrap();
        assert!(String::from_utf8_lossy(&head[..length]).contains("Bearer s3cr3t-of-pat"));
        while let Some(piece) = said.recv().await {
            if stream.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    (address, say)
}

async fn world(upstream: SocketAddr) -> (World, SocketAddr) {
    let world = World::new(&format!(
        r#"
endpoint "http" "api" {{
  hosts    = ["api.test"]
  upstream = "{upstream}"
}}
credential "bearer_token" "pat" {{
  endpoint = http.api
}}
profile "dev" {{
  peers       = ["laptop"]
  credentials = [bearer_token.pat]
  rule "all" {{
    endpoint = http.api
    verdict  = "allow"
  }}
}}
"#
    ));
    let dialled = Dialled {
        endpoint: "http.api",
        name: Some("api.test"),
        destination: "10.78.0.9:80",
    };
    let gateway = world.listen(dialled).await;
    (world, gateway)
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// What begins as the secret does comes to the agent like everything else: were it kept back, an agent whose own bytes
/// come back to it could ask for the secret byte by byte. What turns out to be the secret ends the response.
#[tokio::test]
async fn a_stream_that_pauses_within_a_secret_tells_nothing_and_ends_with_it() {
    let (address, say) = upstream().await;
    let (world, gateway) = world(address).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(ASK).await;
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    say.send(format!("{head}{}", chunk("one s3cr3t-of-"))).unwrap();
    assert!(raw.until(b"s3cr3t-of-").await);
    say.send(chunk("other, s3cr3t-of-")).unwrap();
    assert!(raw.until(b"other, s3cr3t-of-").await);
    say.send(chunk("pat and more")).unwrap();
    let rest = String::from_utf8_lossy(&raw.rest().await).into_owned();
    assert!(!rest.contains("-pat") && !rest.contains("more"), "{rest}");
    until("the connection ends", || world.open() == 0).await;
    let story = world.story().await.join("\n");
    assert!(story.contains("ended: a secret stood in the stream"), "{story}");
}

/// A response that says its length has no need to be let go in parts.
#[tokio::test]
async fn a_response_with_a_length_waits_for_the_rest_of_a_secret() {
    let (address, say) = upstream().await;
    let (_world, gateway) = world(address).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(ASK).await;
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n";
    say.send(format!("{head}a\ns3cr3t-of")).unwrap();
    assert!(raw.until(b"a\n").await);
    tokio::time::sleep(tailkeep::proxy::http::download::HOLD * 2).await;
    say.send("-pat, and b".to_owned()).unwrap();
    assert!(raw.until(b"{{pat}}, and b").await);
}

/// A coding below the chunks would hide the secret.
#[tokio::test]
async fn a_response_in_another_transfer_coding_does_not_pass() {
    let (address, say) = upstream().await;
    let (_world, gateway) = world(address).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(ASK).await;
    say.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n".to_owned())
        .unwrap();
    let answer = raw.hear().await.unwrap();
    assert_eq!(answer.status, 502);
    assert!(!answer.text().contains("xyz"));
}
