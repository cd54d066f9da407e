//! Kubernetes requests that were read as something else than what the API server does.

use crate::server::{BOTH, Service};
use crate::world::{Sent, World, can_run};

fn policy(service: &Service) -> String {
    format!(
        "endpoint \"kubernetes\" \"prod\" {{\n  server = \"https://api.test:6443\"\n  upstream = \"{}\"\n  ca_cert = <<EOT\n{}EOT\n}}\n{}",
        service.address,
        service.ca,
        r#"
profile "dev" {
  peers     = ["agent"]
  endpoints = [kubernetes.prod]
  rule "reads" {
    endpoint  = kubernetes.prod
    condition = "k8s.resource == 'pods' && k8s.verb in ['get', 'list']"
    verdict   = "allow"
  }
}
"#
    )
}

fn request(line: &str, more: &str) -> Sent {
    let connection = if more.starts_with("Upgrade") {
        "close, upgrade"
    } else {
        "close"
    };
    Sent {
        host: "api.test",
        port: 6443,
        tls: true,
        bytes: format!("{line} HTTP/1.1\r\nHost: api.test:6443\r\nConnection: {connection}\r\n{more}\r\n")
            .into_bytes(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_what_the_api_server_takes_it_for() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&policy(&service));
    let stream =
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // The line, further headers, and the verb and resource by which it must be refused.
    let cases = [
        ("DELETE /api/v1/namespaces/prod", "", "delete", "namespaces"),
        ("GET /api/v1/watch/pods", "", "watch", "pods"),
        ("GET /api/v1/pods?watch=1", "", "watch", "pods"),
        (
            "GET /api/v1/namespaces/a/pods/p/exec?command=sh",
            stream,
            "get",
            "pods/exec",
        ),
        (
            "POST /api/v1/namespaces/a/pods/p/exec?command=sh",
            "Content-Length: 0\r\n",
            "create",
            "pods/exec",
        ),
        ("GET /api/v1/namespaces/a/pods/p/proxy/x", "", "get", "pods/proxy"),
        ("DELETE /api/v1/namespaces/a/pods", "", "deletecollection", "pods"),
        ("GET /api/v1/namespaces/a/secrets/s", "", "get", "secrets"),
        (
            "PUT /api/v1/namespaces/a/pods/p",
            "Content-Length: 0\r\n",
            "update",
            "pods",
        ),
    ];
    let sent: Vec<Sent> = cases.iter().map(|(line, more, ..)| request(line, more)).collect();
    let answers = world.exchange(&sent);
    let audit = world.audit();
    for ((line, _, verb, resource), answer) in cases.iter().zip(&answers) {
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{line}: {answer}"));
        assert!(head.starts_with("HTTP/1.1 403"), "{line}: {answer}");
        let status: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
        assert_eq!(
            (&status["kind"], &status["code"]),
            (&"Status".into(), &403.into()),
            "{line}"
        );
        let path = line.split(['?', ' ']).nth(1).unwrap();
        let row = audit.iter().find(|row| {
            row["summary"].as_str().is_some_and(|own| own.contains(path)) && row["facts"]["verb"] == *verb
        });
        assert_eq!(
            row.unwrap_or_else(|| panic!("{line}: {audit:#?}"))["facts"]["resource"],
            *resource,
            "{line}"
        );
    }
    // Nobody acts as another, whatever a rule says.
    let answers = world.exchange(&[
        request(
            "GET /api/v1/namespaces/a/pods/p",
            "Impersonate-User: system:admin\r\n",
        ),
        request(
            "GET /api/v1/namespaces/a/pods/p",
            "Impersonate-Group: system:masters\r\n",
        ),
    ]);
    assert!(
        answers.iter().all(|answer| answer.starts_with("HTTP/1.1 403")),
        "{answers:?}"
    );
    assert_eq!(service.lines(), [""; 0]);
    let [fine] = &world.exchange(&[request("GET /api/v1/namespaces/a/pods/p", "")])[..] else {
        panic!()
    };
    assert!(fine.starts_with("HTTP/1.1 200"), "{fine}");
}
