//! A gateway on loopback with a policy, and what it recorded.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tailkeep::audit::log::Log;
use tailkeep::audit::read::{Filter, Reader};
use tailkeep::credential::{KnownSecrets, Secret};
use tailkeep::identity::budget::{Budget, Room};
use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::policy::{Policy, Source};
use tailkeep::proxy::http::{Claimed, Shared, serve};
use tailkeep::proxy::http::{FACTS_BYTES_MAX, HELD_BYTES_MAX, HTTP2_PER_AGENT_MAX};
use tailkeep::state::State;
use tailkeep::tls::{Authority, Connectors, Leaves};
use tailkeep::upstream::{Closed, Dialer, Pool};
use tailkeep::verdict::approval::{Held, Queue};
use tailkeep::verdict::gate::Gate;
use tokio::net::TcpListener;

use crate::folder::Folder;

/// How long anything may take here before a test fails.
pub const SOON: Duration = Duration::from_secs(10);

/// What the agents dial: a name behind a virtual address, or an address.
#[derive(Clone)]
pub struct Dialled {
    pub endpoint: &'static str,
    pub name: Option<&'static str>,
    pub destination: &'static str,
}

/// `api.test:443` of `https.api`.
pub const API: Dialled = Dialled {
    endpoint: "https.api",
    name: Some("api.test"),
    destination: "10.78.0.9:443",
};

/// Secrets by credential name and slot.
pub type Values = HashMap<(String, String), Vec<u8>>;

pub struct World {
    pub folder: Folder,
    pub gate: Arc<Gate>,
    pub shared: Arc<Shared<Gate>>,
    pub authority: Arc<Authority>,
    pub queue: Queue,
    /// Values by credential name and slot, before the default of [`World::new`].
    pub secrets: Arc<Mutex<Values>>,
    log: Log,
    pub ended: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
}

impl World {
    /// A gateway with `policy`, and the secret `s3cr3t-of-<name>` for every credential.
    pub fn new(policy: &str) -> World {
        let folder = Folder::new();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let authority = Arc::new(Authority::open(folder.path()).unwrap());
        std::fs::write(folder.path().join("gateway.pem"), authority.ca_pem()).unwrap();
        let log = Log::open(&folder.path().join("audit.db")).unwrap();
        let policy = load(policy);
        let limits = &policy.model().gateway.limits;
        let dialer = Dialer::new(
            policy.model().gateway.resolver,
            Closed::default(),
            limits.connect_ms,
        );
        let queue = Queue::new(State::open(&folder.path().join("state")).unwrap());
        let gate = Arc::new(Gate::new(policy.clone(), queue.clone(), log.clone()));
        let secrets: Arc<Mutex<Values>> = Arc::default();
        let stored = secrets.clone();
        let known = KnownSecrets::default();
        for credential in &policy.model().credentials {
            known.learn(
                &credential.key,
                "",
                format!("s3cr3t-of-{}", credential.name).as_bytes(),
            );
        }
        let shared = Arc::new(Shared {
            judge: gate.clone(),
            leaves: Arc::new(Leaves::new(authority.clone()).unwrap()),
            pool: Pool::new(Arc::new(dialer), Arc::new(Connectors::default())),
            held: Budget::new(HELD_BYTES_MAX),
            facts: Budget::new(FACTS_BYTES_MAX),
            http2: Budget::new(HTTP2_PER_AGENT_MAX),
            known,
            secrets: Arc::new(move |credential, slot| {
                let kept = stored.lock().unwrap();
                let own = kept.get(&(credential.name.clone(), slot.to_owned())).cloned();
                match credential.name.as_str() {
                    "unset" => None,
                    name if slot.is_empty() => Some(Secret::new(
                        own.unwrap_or(format!("s3cr3t-of-{name}").into_bytes()),
                    )),
                    _ => own.map(Secret::new),
                }
            }),
        });
        World {
            folder,
            gate,
            shared,
            authority,
            queue,
            secrets,
            log,
            ended: Arc::default(),
            open: Arc::default(),
        }
    }

    /// Room that other requests of the same agent have for their facts.
    pub fn room_for_facts(&self, bytes: usize) -> Room {
        self.shared.facts.take(&agent().identity, bytes).unwrap()
    }

    /// The newest question that is open, and another than `before`.
    pub async fn question(&self, before: i64) -> Held {
        let looking = async {
            loop {
                let mut held = self.queue.list(false).await.unwrap();
                held.retain(|held| held.id != before);
                if let Some(held) = held.pop() {
                    return held;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.expect("a question")
    }

    /// Puts another policy in force.
    pub fn reload(&self, policy: &str) {
        self.gate.swap(load(policy));
    }

    /// Sets a secret.
    pub fn set(&self, name: &str, slot: &str, value: &str) {
        let key = (name.to_owned(), slot.to_owned());
        self.secrets
            .lock()
            .unwrap()
            .insert(key, value.as_bytes().to_vec());
    }

    /// A port on loopback where an agent that connects is one that dialled `dialled`.
    pub async fn listen(&self, dialled: Dialled) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, ended, open) = (self.shared.clone(), self.ended.clone(), self.open.clone());
        let claimed = Claimed {
            help: "http://tailkeep.internal/".to_owned(),
            agent: agent(),
            endpoint: dialled.endpoint.into(),
            name: dialled.name.map(str::to_owned),
            destination: dialled.destination.parse().unwrap(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, claimed) = (shared.clone(), claimed.clone());
                let (ended, open) = (ended.clone(), open.clone());
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let result = serve(stream, shared, claimed).await;
                    ended.lock().unwrap().push(format!("{result:?}"));
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        address
    }

    /// The CA's certificate, for `--cacert`.
    pub fn ca(&self) -> String {
        path(&self.folder.path().join("gateway.pem"))
    }

    /// Connections of agents that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Every audit record, oldest first, once nothing is open to add to them.
    pub async fn records(&self) -> Vec<serde_json::Value> {
        self.log.flush().await.unwrap();
        let reader = Reader::open(&self.folder.path().join("audit.db")).unwrap();
        reader.select(&Filter::default()).unwrap()
    }

    /// `summary verdict cause status` of every record.
    pub async fn story(&self) -> Vec<String> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
        self.records()
            .await
            .iter()
            .map(|record| {
                let status = &record["outcome"]["status"];
                ["summary", "verdict", "cause"]
                    .map(|field| text(&record[field]))
                    .into_iter()
                    .chain([text(status)])
                    .collect::<Vec<_>>()
                    .join(" | ")
            })
            .collect()
    }
}

pub fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub fn agent() -> Arc<Agent> {
    let identity = Identity::new(Transport::Wireguard, "10.77.0.2".parse().unwrap(), "laptop");
    Arc::new(Agent::new(Arc::new(identity), "dev".into()))
}

fn load(text: &str) -> Arc<Policy> {
    let source = Source {
        path: "policy.hcl".into(),
        text: text.to_owned(),
    };
    match Policy::load(vec![source], &|path| std::fs::read_to_string(path)) {
        Ok(policy) => Arc::new(policy),
        Err(errors) => panic!("{errors}"),
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
