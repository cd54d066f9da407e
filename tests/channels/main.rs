//! Channels, each against a local server that speaks its service's documented protocol.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests say what they expect")]

mod email;
#[path = "../support/folder.rs"]
mod folder;
mod program;
mod push;
mod server;
mod slack;
mod smtp;
mod webhook;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tailkeep::admin::channels::router;
use tailkeep::audit::log::Log;
use tailkeep::audit::read::{Filter, Reader};
use tailkeep::channel::{Channels, SENDING_MAX};
use tailkeep::credential::KnownSecrets;
use tailkeep::facts::http::{HeldBody, HttpFacts};
use tailkeep::facts::{FactSet, Facts};
use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::policy::{Policy, Source};
use tailkeep::state::State;
use tailkeep::verdict::approval::{Held, Queue};
use tailkeep::verdict::gate::Gate;
use tailkeep::verdict::{Action, Digest, Refusal, Step};
use tokio::task::JoinHandle;

use folder::Folder;

const TOKEN: &str = "xoxb-of-the-bot-0123456789";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PAGE: &str = "https://gateway.example.ts.net";
const SOON: Duration = Duration::from_secs(20);

/// A gate whose approver has a channel.
pub struct World {
    pub folder: Folder,
    pub queue: Queue,
    gate: Arc<Gate>,
    log: Log,
    channels: JoinHandle<()>,
    /// Where decisions come back.
    pub back: SocketAddr,
}

impl World {
    /// `channel` is the block's type, its name and its text, with the folder of its secrets as `@/`.
    pub async fn new(channel: (&str, &str), approver: &str) -> World {
        let folder = Folder::new();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        World::in_folder(folder, channel, approver).await
    }

    pub async fn in_folder(folder: Folder, channel: (&str, &str), approver: &str) -> World {
        World::with_more(folder, channel, approver, ("", "human_approver.ops")).await
    }

    /// With other blocks, and who is asked in turn.
    pub async fn with_more(
        folder: Folder,
        channel: (&str, &str),
        approver: &str,
        more: (&str, &str),
    ) -> World {
        let queue = Queue::new(State::open(&folder.path().join("state")).unwrap());
        let log = Log::open(&folder.path().join("audit.db")).unwrap();
        let policy = policy(&folder, channel, approver, more);
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let gate = Arc::new(Gate::new(policy, queue.clone(), log.clone()));
        let channels = Channels::new(queue.clone(), gate.clone(), KnownSecrets::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back = listener.local_addr().unwrap();
        let router = router(channels.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        World {
            folder,
            queue,
            gate,
            log,
            channels: tokio::spawn(channels.run()),
            back,
        }
    }

    /// The gateway ends, its folder stays.
    pub fn end(self) -> Folder {
        self.queue.close();
        self.channels.abort();
        self.folder
    }

    pub fn ask(&self, text: &str) -> JoinHandle<Result<(), Refusal>> {
        self.ask_as("laptop", text)
    }

    pub fn ask_as(&self, node: &str, text: &str) -> JoinHandle<Result<(), Refusal>> {
        let (gate, action, agent) = (self.gate.clone(), action(text), agent(node));
        tokio::spawn(async move { gate.judge(&agent, &action).await.map(drop) })
    }

    /// What the record of the last action says of who approved it.
    pub async fn approvers(&self) -> String {
        self.log.flush().await.unwrap();
        let reader = Reader::open(&self.folder.path().join("audit.db")).unwrap();
        let records = reader.select(&Filter::default()).unwrap();
        serde_json::json!(records).to_string()
    }

    /// The state database, for what a clock would do to it.
    pub fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("state/state.db")).unwrap()
    }

    /// The only question, once `is` says so of it.
    pub async fn held(&self, is: impl Fn(&Held) -> bool) -> Held {
        let found = async {
            loop {
                for held in self.queue.list(true).await.unwrap() {
                    if is(&held) {
                        return held;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, found).await.expect("no such question")
    }
}

fn policy(
    folder: &Folder,
    (kind, channel): (&str, &str),
    approver: &str,
    (more, chain): (&str, &str),
) -> Arc<Policy> {
    let in_folder = |text: &str| text.replace("@/", &format!("{}/", folder.path().display()));
    let (channel, more) = (in_folder(channel), in_folder(more));
    let channels = match approver.contains("channels") {
        true => String::new(),
        false => format!("channels = [{kind}.ops]"),
    };
    let others = (0..SENDING_MAX + 1).map(|number| format!("node-{number}"));
    let peers = serde_json::json!(others.chain(["laptop".to_owned()]).collect::<Vec<_>>());
    let text = format!(
        r#"
gateway {{ page_url = "{PAGE}/" }}
endpoint "https" "api" {{ hosts = ["api.test"] }}
channel "{kind}" "ops" {{
{channel}
}}
approver "human_approver" "ops" {{
  timeout  = 60
  {channels}
  {approver}
}}
profile "dev" {{
  peers     = {peers}
  endpoints = [https.api]
}}
rule "ask" {{
  endpoint = https.api
  approve  = [{chain}]
}}
{more}
"#
    );
    let source = Source {
        path: "policy.hcl".into(),
        text,
    };
    match Policy::load(vec![source], &|path| std::fs::read_to_string(path)) {
        Ok(policy) => Arc::new(policy),
        Err(errors) => panic!("{}", errors.render()),
    }
}

fn agent(node: &str) -> Agent {
    let identity = Identity::new(Transport::Wireguard, "10.55.0.2".parse().unwrap(), node);
    Agent::new(Arc::new(identity), "dev".into())
}

fn action(text: &str) -> Action {
    Action {
        step: Step::Request,
        endpoint: "https.api".into(),
        credential: None,
        facts: facts(),
        digest: Digest::of(text.as_bytes()),
        whole: true,
        summary: "POST /orders".to_owned(),
        detail: format!("POST /orders\n\n{text}"),
    }
}

fn facts() -> Facts {
    let request = http::Request::post("/orders?dry=%3Cno%3E").body(());
    let (parts, ()) = request.unwrap().into_parts();
    let facts = HttpFacts::read(&parts, "api.test", HeldBody::Empty, FactSet::ALL, 1 << 20);
    Facts::Http(Box::new(facts.unwrap()))
}

pub fn now_s() -> i64 {
    chrono::Utc::now().timestamp()
}
