//! The cluster, the gateway before it, and kubectl as the agent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tailkeep::proxy::http::{Claimed, serve};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::world::{World, agent};

/// How long the cluster may take to be ready, and any one command.
const LATE: Duration = Duration::from_secs(100);

/// A pod of the cluster's one node. What it runs are this machine's processes.
pub const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"NAME"},
  "spec":{"nodeName":"node","automountServiceAccountToken":false,
    "containers":[{"name":"main","image":"good/image"}]}}"#;

/// The endpoint with the profile and the agent's own credential; rules come behind it.
const POLICY: &str = r#"
endpoint "kubernetes" "prod" {
  server   = "https://GATEWAY"
  upstream = "CLUSTER"
  ca_cert  = <<EOT
CA
EOT
}
credential "KIND" "cluster" {
  endpoint = kubernetes.prod
}
approver "human_approver" "ops" {}
profile "dev" {
  peers       = ["laptop"]
  credentials = [HELD]
}
"#;

pub struct Cluster {
    /// Holds the cluster: it ends when its standard input does.
    _process: Child,
    folder: tempfile::TempDir,
    server: String,
    pub token: String,
    pub cert: String,
    pub key: String,
    ca: String,
}

/// The gateway before the cluster, and the agent's kubeconfig.
pub struct Gateway {
    pub world: World,
    pub address: SocketAddr,
    /// The policy in force at first, for a reload.
    pub policy: String,
    config: PathBuf,
}

/// What a command printed.
#[derive(Debug)]
pub struct Done {
    pub ok: bool,
    pub code: i32,
    pub out: String,
    pub errors: String,
}

fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/kubernetes")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: scripts/test builds it",
        path.display()
    );
    path
}

impl Cluster {
    pub async fn start() -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let errors = std::fs::File::create(folder.path().join("errors")).unwrap();
        let mut process = Command::new(built("cluster"))
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = timeout(LATE, lines.next_line()).await.unwrap().unwrap();
        let line = line.unwrap_or_else(|| {
            let errors = std::fs::read_to_string(folder.path().join("errors")).unwrap();
            panic!("the cluster did not start: {errors}")
        });
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let file = |name: &str| std::fs::read_to_string(text(name)).unwrap();
        Cluster {
            server: text("server"),
            token: text("token"),
            ca: file("ca"),
            cert: file("cert"),
            key: file("key"),
            folder,
            _process: process,
        }
    }

    /// A gateway with these rules that holds the cluster's token behind `{{cluster}}`.
    pub async fn gateway(&self, rules: &str) -> Gateway {
        let held = r#"{ placeholder = "{{cluster}}", credential = bearer_token.cluster }"#;
        let gateway = self
            .gateway_with("bearer_token", held, "{{cluster}}", rules)
            .await;
        gateway.world.set("cluster", "", &self.token);
        gateway
    }

    /// A gateway with a credential of this kind; the agent's kubeconfig has `token`.
    pub async fn gateway_with(&self, kind: &str, held: &str, token: &str, rules: &str) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let policy = POLICY
            .replace("GATEWAY", &address.to_string())
            .replace("CLUSTER", self.server.trim_start_matches("https://"))
            .replace("KIND", kind)
            .replace("HELD", held)
            .replace("CA\n", &format!("{}\n", self.ca.trim_end()));
        let policy = format!("{policy}{rules}");
        let world = World::new(&policy);
        let shared = world.shared.clone();
        let claimed = Claimed {
            help: "http://tailkeep.internal/".to_owned(),
            agent: agent(),
            endpoint: "kubernetes.prod".into(),
            name: None,
            destination: address,
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, claimed) = (Arc::clone(&shared), claimed.clone());
                tokio::spawn(async move { serve(stream, shared, claimed).await });
            }
        });
        let config = world.folder.path().join("kubeconfig");
        let text = kubeconfig(&format!("https://{address}"), &world.ca(), token);
        std::fs::write(&config, text).unwrap();
        Gateway {
            world,
            address,
            policy,
            config,
        }
    }

    /// kubectl as the cluster's own administrator, past the gateway. Fails the test if it fails.
    pub async fn admin(&self, args: &[&str], input: &str) -> String {
        let done = self.past(&self.token, args, input).await;
        assert!(done.ok, "{args:?}: {}", done.errors);
        done.out
    }

    /// kubectl with this token, past the gateway.
    pub async fn past(&self, token: &str, args: &[&str], input: &str) -> Done {
        let config = self.folder.path().join("past");
        let ca = self.folder.path().join("ca.crt");
        std::fs::write(&config, kubeconfig(&self.server, ca.to_str().unwrap(), token)).unwrap();
        finish(kubectl(&config, args), input).await
    }

    /// A running pod in `namespace`.
    pub async fn pod(&self, namespace: &str, name: &str) {
        let pod = POD.replace("NAME", name);
        self.admin(&["-n", namespace, "create", "-f", "-"], &pod).await;
        let wait = ["-n", namespace, "wait", "--for=condition=Ready", "pod", name];
        self.admin(&wait, "").await;
    }
}

impl Gateway {
    pub async fn kubectl(&self, args: &[&str]) -> Done {
        self.kubectl_with(args, "").await
    }

    pub async fn kubectl_with(&self, args: &[&str], input: &str) -> Done {
        finish(kubectl(&self.config, args), input).await
    }

    /// kubectl that must be done.
    pub async fn allowed(&self, args: &[&str], input: &str) -> String {
        let done = self.kubectl_with(args, input).await;
        assert!(done.ok, "{args:?}: {}", done.errors);
        done.out
    }

    /// kubectl that must fail and print `reason`.
    pub async fn denied(&self, args: &[&str], input: &str, reason: &str) {
        let done = self.kubectl_with(args, input).await;
        assert_eq!(done.code, 1, "{args:?}: {done:?}");
        assert!(done.errors.contains(reason), "{args:?}: {}", done.errors);
    }

    /// A command that goes on, with its output line by line.
    pub fn spawn(&self, args: &[&str]) -> (Child, tokio::io::Lines<BufReader<ChildStdout>>) {
        let mut child = kubectl(&self.config, args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        (child, BufReader::new(out).lines())
    }
}

/// The next line of a command that goes on.
pub async fn line(lines: &mut tokio::io::Lines<BufReader<ChildStdout>>) -> String {
    let next = timeout(Duration::from_secs(20), lines.next_line()).await;
    next.expect("no line came").unwrap().expect("it ended")
}

fn kubeconfig(server: &str, ca: &str, token: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": server, "certificate-authority": ca } }],
        "users": [{ "name": "u", "user": { "token": token } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    })
    .to_string()
}

fn kubectl(config: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(built("kubectl"));
    // Its cache of the API's groups lies beside the kubeconfig.
    let home = config.parent().unwrap();
    command
        .env_clear()
        .env("HOME", home)
        .env("KUBECONFIG", config)
        .args(args)
        .kill_on_drop(true);
    command
}

async fn finish(mut command: Command, input: &str) -> Done {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that refuses early reads nothing.
    tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    let output = timeout(LATE, child.wait_with_output()).await.unwrap().unwrap();
    Done {
        ok: output.status.success(),
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// kubectl with a variable set, through the gateway.
pub async fn kubectl_env(gateway: &Gateway, variable: (&str, &str), args: &[&str], input: &str) -> Done {
    let mut command = kubectl(&gateway.config, args);
    command.env(variable.0, variable.1);
    finish(command, input).await
}

/// A command that goes on with a variable set; its output line by line.
pub fn spawn_env(
    gateway: &Gateway,
    variable: (&str, &str),
    args: &[&str],
) -> (Child, tokio::io::Lines<BufReader<ChildStdout>>) {
    let mut command = kubectl(&gateway.config, args);
    command.env(variable.0, variable.1);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    (child, BufReader::new(out).lines())
}
