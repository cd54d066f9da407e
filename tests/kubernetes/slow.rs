//! API servers that say nothing, too much or something else, where a held request is tried and looked at again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tailkeep::proxy::http::trial::{ANSWER_BYTES_MAX, LOOK_MAX, TRIAL_MAX};
use tailkeep::verdict::approval::{Decide, Decision};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Dialled, SOON, World};

const POLICY: &str = r#"
endpoint "kubernetes" "prod" {
  server   = "https://api.test:6443"
  upstream = "UPSTREAM"
  tls      = false
  preview  = true
}
approver "human_approver" "ops" {}
profile "dev" {
  peers     = ["laptop"]
  endpoints = [kubernetes.prod]
}
rule "all" {
  endpoint = kubernetes.prod
  approve  = [human_approver.ops]
}
"#;

const DIALLED: Dialled = Dialled {
    endpoint: "kubernetes.prod",
    name: Some("api.test"),
    destination: "10.78.0.9:6443",
};

fn yes(id: i64) -> Decide {
    Decide {
        id,
        person: "ann".into(),
        decision: Decision::Allow,
        reason: None,
        grant: None,
    }
}

/// What the server says to one request after the other; `None`: nothing.
type Script = Vec<Option<(u16, String)>>;

/// A server, and the requests that came with their bodies.
async fn server(script: Script) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (came, script) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(Mutex::new(script.into_iter())),
    );
    let seen = came.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, script) = (seen.clone(), script.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(request) = request(&mut stream).await {
                    seen.lock().unwrap().push(request);
                    let next = script.lock().unwrap().next().expect("more requests than answers");
                    let Some((status, body)) = next else {
                        std::future::pending().await
                    };
                    let head = format!(
                        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                }
            });
        }
    });
    (address, came)
}

/// The line and the body of a request.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if first.is_empty() {
            first = line.trim_end_matches(" HTTP/1.1").to_owned();
        } else if let Some(count) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = count.parse().unwrap();
        } else if line.is_empty() {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            return Some(format!("{first} {}", String::from_utf8(body).unwrap()));
        }
    }
}

/// Deletes a pod by a server with this script, with a yes: what people were shown, what the agent was answered, and
/// what came to the server.
async fn deleted(script: Script) -> (Value, String, Vec<String>) {
    let (address, came) = server(script).await;
    let world = World::new(&POLICY.replace("UPSTREAM", &address));
    let mut agent = TcpStream::connect(world.listen(DIALLED).await).await.unwrap();
    let body = r#"{"gracePeriodSeconds": 0}"#;
    let head = "DELETE /api/v1/namespaces/a/pods/p HTTP/1.1\r\nHost: api.test:6443\r\nConnection: close\r\nContent-Type: application/json";
    let whole = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    agent.write_all(whole.as_bytes()).await.unwrap();
    let deadline = tokio::time::Instant::now() + TRIAL_MAX + Duration::from_secs(20);
    let held = loop {
        if let Some(held) = world.queue.list(false).await.unwrap().pop() {
            break held;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing was asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    world.queue.decide(yes(held.id)).await.unwrap();
    let mut answer = String::new();
    let read = agent.read_to_string(&mut answer);
    tokio::time::timeout(LOOK_MAX + Duration::from_secs(20), read)
        .await
        .unwrap()
        .unwrap();
    let came = came.lock().unwrap().clone();
    (held.question["preview"].clone(), answer, came)
}

/// The same by an agent that does not wait: its answer, and that to the request once people said yes.
async fn deleted_later(script: Script) -> (String, String, Vec<String>) {
    let (address, came) = server(script).await;
    let world = World::new(&POLICY.replace("UPSTREAM", &address));
    let to = world.listen(DIALLED).await;
    let ask = async |field: &str| {
        let mut agent = TcpStream::connect(to).await.unwrap();
        let head = "DELETE /api/v1/namespaces/a/pods/p HTTP/1.1\r\nHost: api.test:6443\r\nConnection: close";
        let whole = format!("{head}\r\n{field}\r\n\r\n");
        agent.write_all(whole.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(SOON, agent.read_to_string(&mut answer)).await;
        read.unwrap().unwrap();
        answer
    };
    let held = ask("Tailkeep-Approval: async").await;
    let (_, body) = held.split_once("\r\n\r\n").unwrap();
    let ticket: Value = serde_json::from_str(body).unwrap();
    let id = world.queue.list(false).await.unwrap()[0].id;
    world.queue.decide(yes(id)).await.unwrap();
    let token = ticket["approval"]["retry_token"].as_str().unwrap();
    let later = ask(&format!("Tailkeep-Retry: {token}")).await;
    let came = came.lock().unwrap().clone();
    (held, later, came)
}

fn pod(version: &str) -> Option<(u16, String)> {
    let pod = json!({ "kind": "Pod", "metadata": { "name": "p", "uid": "u", "resourceVersion": version } });
    Some((200, pod.to_string()))
}

fn too_late() -> Option<(u16, String)> {
    None
}

const GET: &str = "GET /api/v1/namespaces/a/pods/p ";
const DRY: &str = r#"DELETE /api/v1/namespaces/a/pods/p {"gracePeriodSeconds":0,"dryRun":["All"]}"#;
const DELETE: &str = r#"DELETE /api/v1/namespaces/a/pods/p {"gracePeriodSeconds": 0}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_does_not_say_stops_the_preview_and_then_the_request() {
    let padded = |bytes: usize| {
        pod("1").map(|(status, body)| (status, format!("{body}{}", " ".repeat(bytes - body.len()))))
    };
    let down = || Some((500, "{}".to_owned()));
    // The agent's own bytes, once it was seen that nothing changed.
    let fine = deleted(vec![padded(ANSWER_BYTES_MAX), pod("1"), pod("1"), pod("1")]);
    // Where it was not shown, nothing is looked at again.
    let silent = deleted(vec![too_late(), pod("1")]);
    let silent_later = deleted(vec![pod("1"), pod("1"), too_late()]);
    let long = deleted(vec![padded(ANSWER_BYTES_MAX + 1), pod("1")]);
    let down_later = deleted(vec![pod("1"), pod("1"), down()]);
    let other = deleted(vec![pod("1"), pod("1"), pod("2")]);
    let (fine, silent, silent_later, long, down_later, other) =
        tokio::join!(fine, silent, silent_later, long, down_later, other);

    let (preview, answer, came) = fine;
    assert_eq!(
        (&preview["does"]["uid"], &preview["diff"][0]),
        (&json!("u"), &json!("- kind: \"Pod\""))
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(came, [GET, DRY, GET, DELETE]);

    for ((preview, answer, came), none) in [
        (silent, "the API server takes too long"),
        (long, "the API server's answer is too long, or broke off"),
    ] {
        assert_eq!(preview, json!({ "none": none }));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(came, [GET, DELETE]);
    }
    for ((preview, answer, came), reason) in [
        (silent_later, "it could not be seen whether"),
        (down_later, "it could not be seen whether"),
        (other, "what it changes is no longer as it was shown"),
    ] {
        assert_eq!(preview["does"]["resource_version"], "1");
        assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&status["kind"], &status["reason"], &status["code"]),
            (&json!("Status"), &json!("Conflict"), &json!(409))
        );
        assert!(
            status["message"].as_str().unwrap().starts_with(reason),
            "{status}"
        );
        assert_eq!(came, [GET, DRY, GET]);
    }
}

/// Whoever comes back with a token is shown nothing new: what was agreed to has to be so still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_back_with_its_token_has_to_do_what_was_shown() {
    let dry = "DELETE /api/v1/namespaces/a/pods/p?dryRun=All ";
    let delete = "DELETE /api/v1/namespaces/a/pods/p ";
    let same = vec![pod("1"), pod("1"), pod("1"), pod("1"), pod("1"), pod("1")];
    let (held, later, came) = deleted_later(same).await;
    assert!(held.starts_with("HTTP/1.1 202"), "{held}");
    assert!(later.starts_with("HTTP/1.1 200"), "{later}");
    assert_eq!(came, [GET, dry, GET, dry, GET, delete]);
    let changed = vec![pod("1"), pod("1"), pod("2"), pod("2")];
    let (_, later, came) = deleted_later(changed).await;
    assert!(
        later.starts_with("HTTP/1.1 403") && later.contains("is not as it was shown"),
        "{later}"
    );
    assert_eq!(came, [GET, dry, GET, dry]);
    // Between the retry's own preview and its going.
    let at_once = vec![pod("1"), pod("1"), pod("1"), pod("1"), pod("2")];
    let (_, later, came) = deleted_later(at_once).await;
    assert!(later.starts_with("HTTP/1.1 409"), "{later}");
    assert_eq!(came, [GET, dry, GET, dry, GET]);
}
