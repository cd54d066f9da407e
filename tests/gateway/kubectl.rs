//! kubectl in the tunnel with no set-up of its own, before a real API server (built by `scripts/test`).

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::world::{World, can_run};

const KUBECTL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/kubernetes/kubectl");
const CLUSTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/kubernetes/cluster");

/// A cluster, which ends when its standard input does, and what it says of itself.
fn cluster(folder: &Path) -> (Child, Value) {
    let mut child = Command::new(CLUSTER)
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("scripts/test builds it");
    let mut line = String::new();
    let out = child.stdout.as_mut().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

fn policy(ready: &Value, token: &Path) -> String {
    let server = ready["server"].as_str().unwrap().trim_start_matches("https://");
    let ca = std::fs::read_to_string(ready["ca"].as_str().unwrap()).unwrap();
    format!(
        "endpoint \"kubernetes\" \"prod\" {{\n  server = \"https://cluster.test:6443\"\n  \
         upstream = \"{server}\"\n  ca_cert = <<EOT\n{}\nEOT\n}}\n\
         endpoint \"kubernetes\" \"other\" {{ server = \"https://other.test\" }}\n\
         credential \"bearer_token\" \"cluster\" {{\n  endpoint = kubernetes.prod\n  secret = file(\"{}\")\n}}\n\
         profile \"dev\" {{\n  peers = [\"agent\"]\n  credentials = [bearer_token.cluster]\n  \
         endpoints = [kubernetes.prod, kubernetes.other]\n  rule \"reads\" {{\n    endpoint = kubernetes.prod\n    \
         condition = \"!k8s.is_resource || k8s.verb == 'list' && k8s.resource == 'namespaces'\"\n    \
         verdict = \"allow\"\n  }}\n}}\n",
        ca.trim_end(),
        token.display()
    )
}

#[test]
fn kubectl_works_in_a_run_with_no_further_set_up() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut process, ready) = cluster(folder.path());
    let secret = ready["token"].as_str().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, secret).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&token, private).unwrap();
    let world = World::start(&policy(&ready, &token));
    let home = world.folder.path().join("home");
    std::fs::create_dir_all(home.join(".kube")).unwrap();
    let kubectl = |own: Option<&Path>, args: &[&str]| {
        let mut command = world.agent("agent", &[&["timeout", "60", KUBECTL], args].concat());
        command.env("HOME", &home).env_remove("KUBECONFIG");
        if let Some(own) = own {
            command.env("KUBECONFIG", own);
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let said = kubectl(None, &["get", "namespaces", "-o", "name"]);
    assert!(said.lines().any(|line| line == "namespace/default"), "{said}");
    let said = kubectl(None, &["get", "pods"]);
    assert!(said.contains("Forbidden") || said.contains("forbidden"), "{said}");
    let shown = kubectl(None, &["config", "view", "--raw"]);
    assert!(
        shown.contains("{{cluster}}") && !shown.contains(secret),
        "{shown}"
    );
    let contexts = ["config", "get-contexts", "-o", "name"];
    assert_eq!(kubectl(None, &contexts), "kubernetes.other\nkubernetes.prod");

    // What the user has is kept: where kubectl looks by itself it comes behind, where it was named first.
    let mine = "{\"apiVersion\":\"v1\",\"kind\":\"Config\",\"current-context\":\"mine\",\
        \"contexts\":[{\"name\":\"mine\",\"context\":{\"cluster\":\"mine\",\"user\":\"me\"}}]}";
    std::fs::write(home.join(".kube/config"), mine).unwrap();
    assert_eq!(
        kubectl(None, &contexts),
        "kubernetes.other\nkubernetes.prod\nmine"
    );
    let current = ["config", "current-context"];
    assert_eq!(kubectl(None, &current), "kubernetes.prod");
    let named = world.folder.path().join("named");
    std::fs::write(&named, mine).unwrap();
    assert_eq!(kubectl(Some(&named), &current), "mine");
    let by_name = ["--context", "kubernetes.prod", "get", "namespaces", "-o", "name"];
    let said = kubectl(Some(&named), &by_name);
    assert!(said.lines().any(|line| line == "namespace/default"), "{said}");
    process.kill().unwrap();
    process.wait().unwrap();
}
