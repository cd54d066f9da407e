//! Logs, exec, attach and port-forward: streams that are judged once and then pass both ways.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{Cluster, Gateway, kubectl_env, line, spawn_env};
use crate::world::SOON;

const RULES: &str = r#"
rule "prod-is-closed" {
  endpoint  = kubernetes.prod
  condition = "k8s.resource in ['pods/exec', 'pods/attach', 'pods/portforward', 'pods/log'] && k8s.namespace == 'prod'"
  verdict   = "deny"
  reason    = "nobody enters prod"
}
rule "no-shell" {
  endpoint  = kubernetes.prod
  condition = "k8s.resource == 'pods/exec' && 'command' in k8s.params && k8s.params.command == 'sh'"
  verdict   = "deny"
  reason    = "no shells"
}
rule "rest" {
  endpoint = kubernetes.prod
  verdict  = "allow"
}
"#;

/// How kubectl is told to stream by WebSocket or by SPDY.
const KINDS: [(&str, &str); 2] = [("WebSocket", "true"), ("SPDY", "false")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_pass_by_websocket_and_by_spdy() {
    let cluster = Cluster::start().await;
    let gateway = cluster.gateway(RULES).await;
    cluster.admin(&["create", "namespace", "prod"], "").await;
    cluster.pod("default", "web").await;
    cluster.pod("prod", "web").await;
    logs(&gateway).await;
    for (kind, on) in KINDS {
        exec(&gateway, kind, ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", on)).await;
        forward(&gateway, kind, ("KUBECTL_PORT_FORWARD_WEBSOCKETS", on)).await;
    }
    upgrades_are_what_they_say(&gateway).await;
}

async fn logs(gateway: &Gateway) {
    let all = gateway.allowed(&["logs", "web"], "").await;
    assert_eq!(
        all,
        "default/web main line 1\ndefault/web main line 2\ndefault/web main line 3\n"
    );
    let (mut child, mut lines) = gateway.spawn(&["logs", "-f", "web"]);
    // The kubelet writes one every 100 ms, without end: they come while it writes.
    for number in 1..=10 {
        assert_eq!(line(&mut lines).await, format!("default/web main line {number}"));
    }
    child.kill().await.unwrap();
    gateway
        .denied(&["-n", "prod", "logs", "web"], "", "nobody enters prod")
        .await;
    gateway
        .denied(&["-n", "prod", "logs", "-f", "web"], "", "nobody enters prod")
        .await;
}

async fn exec(gateway: &Gateway, kind: &str, variable: (&str, &str)) {
    let run = async |args: &[&str], input: &str| kubectl_env(gateway, variable, args, input).await;
    let done = run(&["exec", "web", "--", "echo", "hello"], "").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "hello\n"),
        "{kind}: {}",
        done.errors
    );
    let input = "a line\n".repeat(20_000);
    let done = run(&["exec", "-i", "web", "--", "cat"], &input).await;
    assert_eq!(
        (done.code, done.out == input),
        (0, true),
        "{kind}: {}",
        done.errors
    );
    let done = run(&["exec", "web", "--", "false"], "").await;
    assert_eq!(done.code, 1, "{kind}: {}", done.errors);
    assert!(done.errors.contains("exit code 1"), "{kind}: {}", done.errors);
    let done = run(&["attach", "-i", "web"], "to the process\n").await;
    assert!(
        done.out.contains("attached") && done.out.contains("to the process"),
        "{kind}: {done:?}"
    );
    for (args, reason) in [
        (
            &["-n", "prod", "exec", "web", "--", "echo"][..],
            "nobody enters prod",
        ),
        (&["-n", "prod", "attach", "web"][..], "nobody enters prod"),
        (&["exec", "web", "--", "sh", "-c", "id"][..], "no shells"),
    ] {
        let done = run(args, "").await;
        assert_eq!(done.code, 1, "{kind}: {args:?}: {done:?}");
        assert!(done.errors.contains(reason), "{kind}: {args:?}: {}", done.errors);
        assert_eq!(done.out, "", "{kind}");
    }
    let summary = gateway.world.story().await;
    let method = if kind == "SPDY" { "POST" } else { "GET" };
    let wanted = format!("{method} /api/v1/namespaces/default/pods/web/exec");
    assert!(
        summary.iter().any(|line| line.starts_with(&wanted)),
        "{kind}: {summary:#?}"
    );
}

async fn forward(gateway: &Gateway, kind: &str, variable: (&str, &str)) {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let ports = format!(":{port}");
    let args = [
        "port-forward",
        "--address",
        "127.0.0.1",
        "pod/web",
        ports.as_str(),
    ];
    let (mut child, mut lines) = spawn_env(gateway, variable, &args);
    let first = line(&mut lines).await;
    let local = first
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split(' ').next());
    let local: std::net::SocketAddr = local.and_then(|text| text.parse().ok()).expect(&first);
    let mut message = vec![b'm'; 300_000];
    message.extend_from_slice(kind.as_bytes());
    for _ in 0..2 {
        let mut stream = TcpStream::connect(local).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut back = vec![0; message.len()];
        let both = async { tokio::try_join!(write.write_all(&message), read.read_exact(&mut back)) };
        tokio::time::timeout(SOON, both).await.expect(kind).unwrap();
        assert!(back == message, "{kind}");
    }
    child.kill().await.unwrap();
    let args = ["-n", "prod", "port-forward", "pod/web", ports.as_str()];
    let done = kubectl_env(gateway, variable, &args, "").await;
    assert_eq!(done.code, 1, "{kind}: {done:?}");
    assert!(
        done.errors.contains("nobody enters prod"),
        "{kind}: {}",
        done.errors
    );
}

/// A GET of `exec` without an upgrade is judged as exec, and the API server's own refusal passes.
async fn upgrades_are_what_they_say(gateway: &Gateway) {
    let path = "/api/v1/namespaces/prod/pods/web/exec?command=id&stdout=1";
    gateway
        .denied(&["get", "--raw", path], "", "nobody enters prod")
        .await;
    let path = path.replace("prod", "default");
    let done = gateway.kubectl(&["get", "--raw", &path]).await;
    assert!(!done.ok && done.errors.contains("pgrade"), "{done:?}");
    tokio::time::timeout(Duration::from_secs(10), async {
        while gateway
            .world
            .story()
            .await
            .iter()
            .all(|line| !line.contains("HTTP 101"))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("no stream was recorded");
}
