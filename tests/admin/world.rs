//! An operator's API over a state folder of its own, and ways to ask it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tailkeep::admin::tailnet::Tailnet;
use tailkeep::admin::{Operator, serve};
use tailkeep::audit::Record;
use tailkeep::audit::log::Log;
use tailkeep::credential::store::SecretStore;
use tailkeep::facts::Facts;
use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::policy::{Policy, Source};
use tailkeep::state::State;
use tailkeep::tls::{Authority, Leaves};
use tailkeep::verdict::approval::{Answer, Held, Question, Queue};
use tailkeep::verdict::gate::Gate;
use tailkeep::verdict::{Action, Digest, Permit, Refusal, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::folder::Folder;

/// How long anything may take here before a test fails.
pub const SOON: Duration = Duration::from_secs(10);

pub const POLICY: &str = r#"
gateway {
  dashboard_listen = "127.0.0.1:0"
  enrol_listen     = "127.0.0.1:0"
  public_url       = "https://gw.test:8738"
  wireguard {}
}
endpoint "https" "api" {
  hosts       = ["api.test"]
  description = "the shop's API"
}
credential "bearer_token" "pat" { endpoint = https.api }
credential "bearer_token" "from_env" {
  endpoint = https.api
  secret   = env("TAILKEEP_TEST_UNSET")
}
credential "mtls_credential" "client" { endpoint = https.api }
approver "human_approver" "ops" { channel = "shop-ops" }
profile "dev" {
  peers       = ["laptop"]
  credentials = [bearer_token.pat]
}
rule "all" {
  endpoint = https.api
  verdict  = "allow"
}
"#;

pub struct World {
    pub folder: Folder,
    pub state: State,
    pub queue: Queue,
    pub gate: Arc<Gate>,
    pub log: Log,
    pub secrets: SecretStore,
    pub address: SocketAddr,
}

impl World {
    pub async fn new() -> World {
        World::with(POLICY).await
    }

    /// The same by another policy.
    pub async fn with(text: &str) -> World {
        World::beside(text, None).await
    }

    /// Beside a node of a tailnet.
    pub async fn beside(text: &str, tailnet: Option<Arc<Tailnet>>) -> World {
        let folder = Folder::new();
        let dir = folder.path().join("state");
        let state = State::open(&dir).unwrap();
        let log = Log::open(&dir.join("audit.db")).unwrap();
        let queue = Queue::new(state.clone());
        let authority = Arc::new(Authority::open(&dir).unwrap());
        let leaves = Arc::new(Leaves::new(authority.clone()).unwrap());
        let secrets = SecretStore::new(&dir);
        let policy = policy(text);
        let gate = Gate::new(policy.clone(), queue.clone(), log.clone()).hiding(secrets.known().clone());
        let gate = Arc::new(gate);
        let mut operator = Operator::new(
            state.clone(),
            queue.clone(),
            gate.clone(),
            secrets.clone(),
            authority,
        )
        .unwrap();
        if let Some(tailnet) = tailnet {
            operator = operator.beside(tailnet);
        }
        let address = serve(operator, &policy.model().gateway, leaves).await.unwrap();
        World {
            folder,
            state,
            queue,
            gate,
            log,
            secrets,
            address,
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir().join("admin.sock")
    }

    pub fn token(&self) -> String {
        let text = std::fs::read_to_string(self.dir().join("operator.token")).unwrap();
        text.trim().to_owned()
    }

    /// Runs one of the program's commands against this API.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
        command.args(args).env("TAILKEEP_SOCKET", self.socket());
        command.stdin(Stdio::null());
        command
    }

    /// Its output, which must have ended well.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args)).unwrap()
    }

    /// As [`World::run`], with a text on standard input.
    pub fn feed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// One request over TCP: `head` is everything up to the empty line, without it.
    pub async fn tcp(&self, head: &str, body: &str) -> (u16, Value) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        talk(stream, head, body).await
    }

    /// One request over the Unix socket.
    pub async fn unix(&self, line: &str, body: &str) -> (u16, Value) {
        ask(&self.socket(), line, body).await
    }

    /// Holds a question, as a waiting agent does.
    pub fn ask(&self, what: &str) -> tokio::task::JoinHandle<Answer> {
        let (queue, question) = (self.queue.clone(), question(what));
        tokio::spawn(async move { queue.ask(question).await.unwrap() })
    }

    /// The questions that are pending, once there are `count`.
    pub async fn pending(&self, count: usize) -> Vec<Held> {
        pending(&self.queue, count).await
    }

    /// Judges a request, which leaves a record.
    pub async fn judge(&self, summary: &str) -> Result<Permit, Refusal> {
        let action = Action {
            step: Step::Request,
            endpoint: "https.api".into(),
            credential: None,
            facts: Facts::None,
            digest: Digest::of(summary.as_bytes()),
            whole: true,
            summary: summary.to_owned(),
            detail: String::new(),
        };
        self.gate.judge(&agent(), &action).await
    }
}

pub async fn pending(queue: &Queue, count: usize) -> Vec<Held> {
    let found = tokio::time::timeout(SOON, async {
        loop {
            let held = queue.list(false).await.unwrap();
            if held.len() == count {
                return held;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    found.await.expect("another number of questions is pending")
}

/// One request to a gateway by its socket, of JSON where there is a body.
pub async fn ask(socket: &std::path::Path, line: &str, body: &str) -> (u16, Value) {
    let stream = UnixStream::connect(socket).await.unwrap();
    let kind = match body {
        "" => "",
        _ => "\r\nContent-Type: application/json",
    };
    talk(stream, &format!("{line} HTTP/1.1\r\nHost: gateway{kind}"), body).await
}

async fn talk<S>(mut stream: S, head: &str, body: &str) -> (u16, Value)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let length = body.len();
    let text = format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    read.expect("no answer").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = "content-type: application/json";
    assert!(head.to_lowercase().contains(kind), "not JSON: {answer}");
    (status, serde_json::from_str(body).unwrap())
}

pub fn agent() -> Agent {
    let identity = Identity::new(Transport::Wireguard, "10.55.0.2".parse().unwrap(), "laptop");
    Agent::new(Arc::new(identity), "dev".into())
}

pub fn policy(text: &str) -> Arc<Policy> {
    let source = Source {
        path: "policy.hcl".into(),
        text: text.to_owned(),
    };
    match Policy::load(vec![source], &|path| std::fs::read_to_string(path)) {
        Ok(policy) => Arc::new(policy),
        Err(errors) => panic!("{errors}"),
    }
}

pub fn question(what: &str) -> Question {
    Question {
        preview: serde_json::Value::Null,
        approver: "human_approver.ops".into(),
        channel: Some("shop-ops".into()),
        rule: "writes".into(),
        reason: "writes are looked at".into(),
        node: "laptop".into(),
        login: Some("alice@example.com".into()),
        transport: Transport::Wireguard,
        tags: vec![],
        profile: "dev".into(),
        endpoint: "https.api".into(),
        description: Some("the shop's API".into()),
        credential: None,
        summary: format!("DELETE /{what}"),
        detail: format!("DELETE /{what}\nthe whole of it"),
        facts: serde_json::json!({ "method": "delete" }),
        digest: Digest::of(what.as_bytes()),
        required: 1,
        eligible: vec![],
        timeout: Duration::from_secs(60),
        policy: 1,
        agent: "peer:laptop".into(),
        scope: None,
        excluded: None,
        escalation: None,
        heeds_grants: true,
        chain: vec![],
        earlier: vec![],
    }
}

pub fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A record that nothing is wrong with.
pub fn record(summary: &str) -> Record {
    Record {
        at_us: 1,
        step: Step::Request,
        transport: "wireguard",
        node: "laptop".into(),
        login: None,
        address: "10.77.0.2".into(),
        agent: None,
        profile: Some("dev".into()),
        endpoint: "https.api".into(),
        credential: None,
        summary: summary.into(),
        facts: serde_json::json!({"method": "get"}).into(),
        digest: Digest::of(summary.as_bytes()),
        verdict: "allow",
        cause: "rule",
        rule: Some("all".into()),
        reason: String::new(),
        detail: None,
        approvers: vec![],
        shadow: vec![],
        judge_us: 3,
        wait_us: 0,
        policy: 1,
    }
}
