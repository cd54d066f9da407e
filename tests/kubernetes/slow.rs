//! API servers that say nothing, too much or something else, where a held request is tried and looked at again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tailkeep::proxy::http::trial::{ANSWER_BYTES_MAX, LOOK_MAX, TRIAL_MAX};
use tailkeep::verdict::approval::{Decide, Decision, LODGED_PER_AGENT_MAX};
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

fn version(minor: &str) -> Option<(u16, String)> {
    Some((200, json!({ "major": "1", "minor": minor }).to_string()))
}

fn too_late() -> Option<(u16, String)> {
    None
}

const VERSION: &str = "GET /version ";
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
    let now = || version("32");
    let fine = deleted(vec![
        now(),
        padded(ANSWER_BYTES_MAX),
        pod("1"),
        pod("1"),
        pod("1"),
    ]);
    // Where it was not shown, nothing is looked at again.
    let silent = deleted(vec![now(), too_late(), pod("1")]);
    let silent_later = deleted(vec![now(), pod("1"), pod("1"), too_late()]);
    let long = deleted(vec![now(), padded(ANSWER_BYTES_MAX + 1), pod("1")]);
    let down_later = deleted(vec![now(), pod("1"), pod("1"), down()]);
    let other = deleted(vec![now(), pod("1"), pod("1"), pod("2")]);
    let (fine, silent, silent_later, long, down_later, other) =
        tokio::join!(fine, silent, silent_later, long, down_later, other);

    let (preview, answer, came) = fine;
    assert_eq!(
        (&preview["does"]["uid"], &preview["diff"][0]),
        (&json!("u"), &json!("- kind: \"Pod\""))
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(came, [VERSION, GET, DRY, GET, DELETE]);

    for ((preview, answer, came), none) in [
        (silent, "the API server takes too long"),
        (long, "the API server's answer is too long, or broke off"),
    ] {
        assert_eq!(preview, json!({ "none": none }));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(came, [VERSION, GET, DELETE]);
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
        assert_eq!(came, [VERSION, GET, DRY, GET]);
    }
}

/// An API server of before 1.18 may not know the word `dryRun`, and delete the pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_may_know_no_dry_run_is_asked_for_none() {
    for (said, none) in [
        (
            version("17+"),
            "the API server is of Kubernetes 1.17, and may do it",
        ),
        (Some((200, "{}".to_owned())), "does not say which version it is"),
        (Some((404, "{}".to_owned())), "does not say which version it is"),
        (
            Some((403, r#"{"major":"1","minor":"32"}"#.to_owned())),
            "does not say which version it is",
        ),
        (
            Some((200, "v1.32".to_owned())),
            "does not say which version it is",
        ),
    ] {
        let (preview, answer, came) = deleted(vec![said, pod("1")]).await;
        let told = preview["none"].as_str().unwrap();
        assert!(told.contains(none), "{told}");
        assert!(preview.get("does").is_none());
        // Nothing but the agent's own request, and that after the yes.
        assert_eq!(came, [VERSION, DELETE]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Said so at every preview: behind one address another server may answer the next time.
    let older = vec![version("32"), pod("1"), pod("1"), version("17")];
    let (_, later, came) = deleted_later(older).await;
    let dry = "DELETE /api/v1/namespaces/a/pods/p?dryRun=All ";
    assert_eq!(came, [VERSION, GET, dry, VERSION]);
    assert!(later.starts_with("HTTP/1.1 403"), "{later}");
}

/// Whoever comes back with a token is shown nothing new: what was agreed to has to be so still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_back_with_its_token_has_to_do_what_was_shown() {
    let dry = "DELETE /api/v1/namespaces/a/pods/p?dryRun=All ";
    let delete = "DELETE /api/v1/namespaces/a/pods/p ";
    let now = || version("32");
    let same = vec![
        now(),
        pod("1"),
        pod("1"),
        now(),
        pod("1"),
        pod("1"),
        pod("1"),
        pod("1"),
    ];
    let (held, later, came) = deleted_later(same).await;
    assert!(held.starts_with("HTTP/1.1 202"), "{held}");
    assert!(later.starts_with("HTTP/1.1 200"), "{later}");
    assert_eq!(came, [VERSION, GET, dry, VERSION, GET, dry, GET, delete]);
    let changed = vec![now(), pod("1"), pod("1"), now(), pod("2"), pod("2")];
    let (_, later, came) = deleted_later(changed).await;
    assert!(
        later.starts_with("HTTP/1.1 403") && later.contains("is not as it was shown"),
        "{later}"
    );
    assert_eq!(came, [VERSION, GET, dry, VERSION, GET, dry]);
    // Between the retry's own preview and its going.
    let at_once = vec![now(), pod("1"), pod("1"), now(), pod("1"), pod("1"), pod("2")];
    let (_, later, came) = deleted_later(at_once).await;
    assert!(later.starts_with("HTTP/1.1 409"), "{later}");
    assert_eq!(came, [VERSION, GET, dry, VERSION, GET, dry, GET]);
}

/// Nothing is tried for a token that is no good, in quiet hours, or where an agent has as many questions as it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_tried_that_nobody_will_look_at() {
    let of_one = [version("32"), pod("1"), pod("1")];
    let taken = [
        version("32"),
        pod("1"),
        pod("1"),
        pod("1"),
        Some((200, "{}".to_owned())),
    ];
    let script: Script = taken
        .iter()
        .chain(of_one.iter().cycle().take(3 * LODGED_PER_AGENT_MAX as usize))
        .cloned()
        .collect();
    let (address, came) = server([of_one.to_vec(), script].concat()).await;
    let policy = POLICY.replace("UPSTREAM", &address);
    let world = World::new(&policy);
    let to = world.listen(DIALLED).await;
    let ask = async |name: &str, field: &str| {
        let mut agent = TcpStream::connect(to).await.unwrap();
        let head = format!("DELETE /api/v1/namespaces/a/pods/{name} HTTP/1.1\r\nHost: api.test:6443");
        let whole = format!("{head}\r\nConnection: close\r\n{field}\r\n\r\n");
        agent.write_all(whole.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(SOON, agent.read_to_string(&mut answer)).await;
        read.unwrap().unwrap();
        answer
    };
    let count = || came.lock().unwrap().len();
    let held = ask("p", "Tailkeep-Approval: async").await;
    let (_, body) = held.split_once("\r\n\r\n").unwrap();
    let ticket: Value = serde_json::from_str(body).unwrap();
    let token = ticket["approval"]["retry_token"].as_str().unwrap();
    let retry = format!("Tailkeep-Retry: {token}");
    assert_eq!(count(), 3);
    // Of another action, of nobody, and once it was used.
    for (name, field) in [
        ("q", retry.clone()),
        ("p", format!("Tailkeep-Retry: {}", "0".repeat(64))),
    ] {
        let answer = ask(name, &field).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("retry token"),
            "{answer}"
        );
        assert_eq!(count(), 3, "{name}");
    }
    let id = world.queue.list(false).await.unwrap()[0].id;
    world.queue.decide(yes(id)).await.unwrap();
    let done = ask("p", &retry).await;
    assert!(done.starts_with("HTTP/1.1 200"), "{done}");
    assert_eq!(count(), 8);
    let again = ask("p", &retry).await;
    assert!(again.starts_with("HTTP/1.1 403"), "{again}");
    assert_eq!(count(), 8);
    // As many as nobody waits for.
    for number in 0..LODGED_PER_AGENT_MAX {
        let held = ask(&format!("p{number}"), "Tailkeep-Approval: async").await;
        assert!(held.starts_with("HTTP/1.1 202"), "{held}");
    }
    let full = 8 + 3 * LODGED_PER_AGENT_MAX as usize;
    assert_eq!(count(), full);
    let refused = ask("more", "Tailkeep-Approval: async").await;
    assert!(refused.contains("cannot be judged right now"), "{refused}");
    assert_eq!(count(), full);
    let time = |hours: i64| {
        let then = chrono::Utc::now() + chrono::TimeDelta::hours(hours);
        then.format("%H:%M").to_string()
    };
    let quiet = format!("\"ops\" {{ quiet_hours = \"{}-{}\" }}", time(-2), time(2));
    world.reload(&policy.replace("\"ops\" {}", &quiet));
    let refused = ask("p", "X-Own: 1").await;
    assert!(refused.contains("nobody approved it in time"), "{refused}");
    assert_eq!(count(), full);
}
