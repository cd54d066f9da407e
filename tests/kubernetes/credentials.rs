//! Who the API server sees: never whom the agent asks to be.

use crate::cluster::Cluster;

const ALLOW: &str = r#"
rule "all" {
  endpoint = kubernetes.prod
  verdict  = "allow"
}
"#;
const WHO: [&str; 4] = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_holds_the_credential() {
    let cluster = Cluster::start().await;
    // The agent's own token is worth nothing past the gateway.
    let past = cluster.past("{{cluster}}", &WHO, "").await;
    assert!(!past.ok, "{past:?}");

    let gateway = cluster.gateway(ALLOW).await;
    assert_eq!(gateway.allowed(&WHO, "").await, "admin");
    // Neither is another token passed on.
    let config = gateway.world.folder.path().join("kubeconfig");
    let placed = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        placed.replace("{{cluster}}", &format!("x{}", cluster.token)),
    )
    .unwrap();
    let own = gateway.kubectl(&WHO).await;
    assert!(!own.ok || own.out == "admin", "{own:?}");
    std::fs::write(&config, placed).unwrap();

    impersonation(&gateway).await;
    the_secret_does_not_come_back(&cluster, &gateway).await;

    // mTLS: the API server sees the certificate's name, and the agent has no key. Without any
    // token kubectl would ask its person for a name.
    let held = "mtls_credential.cluster";
    let gateway = cluster
        .gateway_with("mtls_credential", held, "no-token", ALLOW)
        .await;
    gateway.world.set("cluster", "cert", &cluster.cert);
    gateway.world.set("cluster", "key", &cluster.key);
    assert_eq!(gateway.allowed(&WHO, "").await, "certified");
    let exec = ["exec", "web", "--", "echo", "by certificate"];
    cluster.pod("default", "web").await;
    assert_eq!(gateway.allowed(&exec, "").await, "by certificate\n");
}

async fn impersonation(gateway: &crate::cluster::Gateway) {
    // Where kubectl has to ask for the API's groups first, it prints no server's reason.
    let unread = gateway.kubectl(&["get", "pods", "--as", "system:admin"]).await;
    assert!(unread.errors.contains("(Forbidden)"), "{unread:?}");
    gateway.allowed(&["get", "pods"], "").await;
    for flags in [
        &["--as", "system:admin"][..],
        &["--as", "bob", "--as-group", "system:masters"],
        &["--as", "bob", "--as-uid", "7"],
    ] {
        let args = [&["get", "pods"][..], flags].concat();
        gateway.denied(&args, "", "Impersonate-").await;
    }
}

/// A secret that the API server stores as data is put back to its placeholder on its way out.
async fn the_secret_does_not_come_back(cluster: &Cluster, gateway: &crate::cluster::Gateway) {
    let literal = format!("--from-literal=token={}", cluster.token);
    cluster
        .admin(&["create", "configmap", "leak", &literal], "")
        .await;
    let read = gateway
        .allowed(&["get", "configmap", "leak", "-o", "json"], "")
        .await;
    assert!(!read.contains(&cluster.token), "{read}");
    assert!(read.contains("{{cluster}}"), "{read}");
}
