//! What an agent does to objects: allowed, held and denied.

use std::time::Duration;

use tailkeep::verdict::approval::{Decide, Decision, Held};

use crate::cluster::{Cluster, Gateway, POD, line};
use crate::world::SOON;

const RULES: &str = r#"
rule "no-secrets" {
  endpoint  = kubernetes.prod
  condition = "k8s.resource == 'secrets'"
  verdict   = "deny"
  reason    = "secrets stay in the cluster"
}
rule "keep" {
  endpoint  = kubernetes.prod
  condition = "k8s.resource == 'pods' && k8s.name == 'keep'"
  verdict   = "deny"
  reason    = "this pod is not yours"
}
rule "no-wipe" {
  endpoint  = kubernetes.prod
  condition = "k8s.verb == 'deletecollection'"
  verdict   = "deny"
  reason    = "one at a time"
}
rule "delete" {
  endpoint  = kubernetes.prod
  condition = "k8s.verb == 'delete'"
  approve   = [human_approver.ops]
  reason    = "a person looks at what goes"
}
rule "images" {
  endpoint  = kubernetes.prod
  condition = "k8s.resource == 'pods' && k8s.verb in ['create', 'update', 'patch'] && !k8s.body_json.spec.containers.all(c, c.image.startsWith('good/'))"
  verdict   = "deny"
  reason    = "only good images"
}
rule "rehearse" {
  endpoint  = kubernetes.prod
  condition = "k8s.namespace == 'prod' && k8s.verb in ['create', 'update', 'patch'] && !k8s.dry_run"
  verdict   = "deny"
  reason    = "prod is rehearsed only"
}
rule "rest" {
  endpoint = kubernetes.prod
  verdict  = "allow"
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_read_written_and_refused() {
    let cluster = Cluster::start().await;
    let gateway = cluster.gateway(RULES).await;
    cluster.admin(&["create", "namespace", "prod"], "").await;
    cluster.pod("default", "keep").await;
    reads(&cluster, &gateway).await;
    writes(&gateway).await;
    deletes(&cluster, &gateway).await;
    discovery_and_sizes(&cluster, &gateway).await;
}

async fn reads(cluster: &Cluster, gateway: &Gateway) {
    cluster.pod("default", "web").await;
    assert_eq!(
        gateway.allowed(&["get", "pod", "web", "-o", "name"], "").await,
        "pod/web\n"
    );
    let all = gateway.allowed(&["get", "pods", "-A", "-o", "name"], "").await;
    assert!(all.contains("pod/web"), "{all}");
    gateway
        .denied(&["get", "pod", "keep"], "", "this pod is not yours (rule keep)")
        .await;
    let printed = gateway.kubectl(&["get", "pod", "keep"]).await.errors;
    let wanted = "Error from server (Forbidden): this pod is not yours (rule keep)\n";
    assert_eq!(printed, wanted);
    // Naming one object by a selector is naming it.
    let selected = ["get", "pods", "--field-selector", "metadata.name=keep"];
    gateway.denied(&selected, "", "this pod is not yours").await;
    gateway
        .denied(
            &["get", "secrets"],
            "",
            "secrets stay in the cluster (rule no-secrets)",
        )
        .await;
    // The verb in the path, as old clients write it.
    for path in [
        "/api/v1/watch/namespaces/default/secrets",
        "/api/v1/namespaces/default/secrets?watch=1",
        "/api/v1/secrets/",
    ] {
        gateway
            .denied(&["get", "--raw", path], "", "secrets stay in the cluster")
            .await;
    }
    // Where two readers could differ, nothing passes.
    for path in [
        "/api/v1/namespaces/default//secrets",
        "/api/v1/namespaces/x/../default/secrets",
        "/api/v1/namespaces/default%2Fsecrets",
    ] {
        let done = gateway.kubectl(&["get", "--raw", path]).await;
        assert_eq!(done.code, 1, "{path}: {}", done.out);
    }
    watches(gateway, cluster).await;
}

/// Each event comes when it happens, and not when a buffer is full.
async fn watches(gateway: &Gateway, cluster: &Cluster) {
    let (mut child, mut lines) = gateway.spawn(&["get", "configmaps", "-w", "-o", "name"]);
    let legacy = ["get", "--raw", "/api/v1/watch/namespaces/default/configmaps"];
    let (mut old, mut events) = gateway.spawn(&legacy);
    for name in ["first", "second"] {
        cluster.admin(&["create", "configmap", name], "").await;
        while line(&mut lines).await != format!("configmap/{name}") {}
        while !line(&mut events).await.contains(&format!("\"name\":\"{name}\"")) {}
    }
    child.kill().await.unwrap();
    old.kill().await.unwrap();
}

async fn writes(gateway: &Gateway) {
    let good = POD.replace("NAME", "made");
    let evil = good.replace("good/", "evil/");
    for how in [
        &["create", "-f", "-"][..],
        &["apply", "-f", "-"],
        &["apply", "--server-side", "-f", "-"],
    ] {
        gateway.denied(how, &evil, "only good images (rule images)").await;
    }
    gateway.allowed(&["create", "-f", "-"], &good).await;
    let labelled = good.replace("\"name\":\"made\"", "\"name\":\"made\",\"labels\":{\"a\":\"b\"}");
    gateway
        .allowed(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            &labelled,
        )
        .await;
    let patch = r#"{"spec":{"containers":[{"name":"main","image":"IMAGE"}]}}"#;
    for kind in ["strategic", "merge"] {
        let of = |image: &str| patch.replace("IMAGE", image);
        let args = |image: &str| {
            ["patch", "pod", "made", "--type", kind, "-p"]
                .map(str::to_owned)
                .into_iter()
                .chain([of(image)])
                .collect::<Vec<_>>()
        };
        let good = args("good/other");
        gateway
            .allowed(&good.iter().map(String::as_str).collect::<Vec<_>>(), "")
            .await;
        let evil = args("evil/other");
        gateway
            .denied(
                &evil.iter().map(String::as_str).collect::<Vec<_>>(),
                "",
                "only good images",
            )
            .await;
    }
    // The rule cannot read a list of operations as a pod: what cannot be judged is denied.
    let operations = r#"[{"op":"replace","path":"/spec/containers/0/image","value":"evil/x"}]"#;
    gateway
        .denied(
            &["patch", "pod", "made", "--type", "json", "-p", operations],
            "",
            "",
        )
        .await;
    let image = gateway
        .allowed(
            &["get", "pod", "made", "-o", "jsonpath={.spec.containers[0].image}"],
            "",
        )
        .await;
    assert_eq!(image, "good/other");

    let rehearsal = [
        "-n",
        "prod",
        "create",
        "configmap",
        "c",
        "--dry-run=server",
        "-o",
        "name",
    ];
    assert_eq!(gateway.allowed(&rehearsal, "").await, "configmap/c\n");
    let real = ["-n", "prod", "create", "configmap", "c"];
    gateway
        .denied(&real, "", "prod is rehearsed only (rule rehearse)")
        .await;
    assert_eq!(
        gateway
            .allowed(&["-n", "prod", "get", "configmaps", "-o", "name"], "")
            .await,
        ""
    );
}

async fn deletes(cluster: &Cluster, gateway: &Gateway) {
    gateway
        .denied(&["delete", "pod", "keep"], "", "this pod is not yours")
        .await;
    // Through the API itself: kubectl deletes one by one.
    let wipe = ["delete", "--raw", "/api/v1/namespaces/default/configmaps"];
    gateway.denied(&wipe, "", "one at a time").await;
    for (decision, left) in [(Decision::Deny, "configmap/first\n"), (Decision::Allow, "")] {
        let (delete, ()) = tokio::join!(gateway.kubectl(&["delete", "configmap", "first"]), async {
            let held = held(gateway).await;
            // Nothing happens before the answer.
            let names = cluster
                .admin(&["get", "configmap", "first", "-o", "name"], "")
                .await;
            assert_eq!(names, "configmap/first\n");
            let decide = Decide {
                id: held.id,
                person: "ann".into(),
                decision,
                reason: None,
                grant: None,
            };
            gateway.world.queue.decide(decide).await.unwrap();
        });
        assert_eq!(delete.ok, decision == Decision::Allow, "{delete:?}");
        if decision == Decision::Deny {
            assert!(delete.errors.contains("Forbidden"), "{}", delete.errors);
        }
        let get = ["get", "configmap", "first", "--ignore-not-found", "-o", "name"];
        assert_eq!(cluster.admin(&get, "").await, left);
    }
}

async fn discovery_and_sizes(cluster: &Cluster, gateway: &Gateway) {
    let kinds = gateway.allowed(&["api-resources", "-o", "name"], "").await;
    assert!(kinds.contains("deployments.apps"), "{kinds}");
    gateway.allowed(&["explain", "pod.spec.containers"], "").await;
    // 400 objects of 8 KiB: the API server sends them compressed, and in pages if asked.
    let value = "x".repeat(8 << 10);
    let items: Vec<_> = (0..400)
        .map(|n| {
            serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": format!("big-{n}"), "namespace": "prod" }, "data": { "v": value } })
        })
        .collect();
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string();
    cluster.admin(&["create", "-f", "-"], &list).await;
    for size in ["0", "100"] {
        let args = [
            "-n",
            "prod",
            "get",
            "configmaps",
            "-o",
            "json",
            "--chunk-size",
            size,
        ];
        let all: serde_json::Value = serde_json::from_str(&gateway.allowed(&args, "").await).unwrap();
        let all = all["items"].as_array().unwrap();
        let whole = all
            .iter()
            .filter(|one| one["data"]["v"] == value.as_str())
            .count();
        assert_eq!(whole, 400);
    }
    // Where a secret could come back, answers are asked for uncompressed, to be searched.
    let (coding, size, length) = list_by_curl(gateway, "Bearer {{cluster}}").await;
    assert_eq!((coding.as_str(), size), ("", length));
    // A client certificate cannot.
    let held = "mtls_credential.cluster";
    let gateway = cluster.gateway_with("mtls_credential", held, "", RULES).await;
    gateway.world.set("cluster", "cert", &cluster.cert);
    gateway.world.set("cluster", "key", &cluster.key);
    let (coding, size, length) = list_by_curl(&gateway, "Bearer none").await;
    assert_eq!(
        (coding.as_str(), size < length / 10),
        ("gzip", true),
        "{size} of {length}"
    );
}

/// The large list, whole: its content coding, the bytes that came, the bytes that they are.
async fn list_by_curl(gateway: &Gateway, token: &str) -> (String, usize, usize) {
    let url = format!("https://{}/api/v1/namespaces/prod/configmaps", gateway.address);
    let ca = gateway.world.ca();
    let mut command = tokio::process::Command::new("curl");
    let write = "\n%{size_download} %header{content-encoding}";
    command.args(["-sS", "--compressed", "--cacert", &ca, "-w", write, &url]);
    command.args(["-H", &format!("Authorization: {token}")]);
    let output = tokio::time::timeout(SOON, command.output())
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, line) = text.rsplit_once('\n').unwrap();
    let list: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 400);
    let (size, coding) = line.split_once(' ').unwrap();
    (coding.to_owned(), size.parse().unwrap(), body.len())
}

/// The question that is asked, once it is.
pub async fn held(gateway: &Gateway) -> Held {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(held) = gateway.world.queue.list(false).await.unwrap().pop() {
            return held;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing was asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
