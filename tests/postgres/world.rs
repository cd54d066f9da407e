//! The proxy on loopback before a server, and what it recorded.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tailkeep::audit::log::Log;
use tailkeep::audit::read::{Filter, Reader};
use tailkeep::credential::store::SecretStore;
use tailkeep::identity::{Identity, Transport};
use tailkeep::ingress::dns::Names;
use tailkeep::ingress::{Flow, FlowStream};
use tailkeep::policy::{Policy, Source};
use tailkeep::proxy::{Parts, Proxy};
use tailkeep::state::State;
use tailkeep::tls::{Authority, Connectors, Leaves};
use tailkeep::upstream::{Closed, Dialer};
use tailkeep::verdict::approval::Queue;
use tailkeep::verdict::gate::Gate;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::folder::Folder;
use crate::server::{PASSWORD, Server};

/// How long anything may take here before a test fails.
pub const SOON: Duration = Duration::from_secs(30);

/// Nothing is dropped; what holds `hold` is asked about; all else passes.
pub const RULES: &str = r#"
rule "held" {
  endpoint  = postgres.orders
  condition = "sql.statement.contains('hold')"
  approve   = [human_approver.ops]
  priority  = 10
}
rule "no-drops" {
  endpoint  = postgres.orders
  condition = "!sql.opaque && ('drop' in sql.verbs || 'delete' in sql.verbs || 'truncate' in sql.verbs)"
  verdict   = "deny"
  reason    = "no drops here"
  priority  = 20
}
rule "rest" {
  endpoint = postgres.orders
  verdict  = "allow"
}
"#;

/// What a policy says besides its rules.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    pub limits: &'a str,
    pub endpoint: &'a str,
    pub credential: &'a str,
    pub rules: &'a str,
    pub password: &'a str,
    /// More of the profile's credentials.
    pub held: &'a str,
    /// Of who is asked.
    pub approver: &'a str,
}

pub const SETUP: Setup<'static> = Setup {
    limits: "",
    endpoint: "sslmode = \"disable\"",
    credential: "user = \"app\"",
    rules: RULES,
    password: PASSWORD,
    held: "",
    approver: "",
};

pub struct World {
    pub address: SocketAddr,
    pub queue: Queue,
    pub ca: String,
    pub gate: Arc<Gate>,
    folder: Folder,
    log: Log,
    open: Arc<AtomicUsize>,
}

impl World {
    /// A gateway before the server on `port`.
    pub async fn new(port: u16, setup: Setup<'_>) -> World {
        let folder = Folder::new();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let authority = Arc::new(Authority::open(folder.path()).unwrap());
        let ca = folder.path().join("gateway.pem");
        std::fs::write(&ca, authority.ca_pem()).unwrap();
        let log = Log::open(&folder.path().join("audit.db")).unwrap();
        let policy = policy(port, setup);
        let model = policy.model();
        let queue = Queue::new(State::open(&folder.path().join("state")).unwrap());
        let gate = Arc::new(Gate::new(policy.clone(), queue.clone(), log.clone()));
        let names = Names::open(model.gateway.virtual_v4, model.gateway.virtual_v6, None).unwrap();
        let index = names.assign("orders.test").unwrap();
        let destination = SocketAddr::new(names.address(index, true).unwrap(), 5432);
        let secrets = SecretStore::new(folder.path());
        if !setup.password.is_empty() {
            for name in ["orders", "reports"] {
                secrets.set(name, "", setup.password.as_bytes()).unwrap();
            }
        }
        let dialer = Dialer::new(None, Closed::default(), model.gateway.limits.connect_ms);
        let proxy = Proxy::new(Parts {
            called: tokio::sync::watch::channel(Default::default()).1,
            gate: gate.clone(),
            names: Arc::new(names),
            leaves: Arc::new(Leaves::new(authority).unwrap()),
            connectors: Arc::new(Connectors::default()),
            dialer: Arc::new(dialer),
            secrets,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let counter = open.clone();
        tokio::spawn(async move {
            while let Ok((stream, source)) = listener.accept().await {
                let flow = Flow {
                    identity: identity("laptop", "10.77.0.2").into(),
                    source,
                    destination,
                    stream: FlowStream::Kernel(stream),
                };
                let (proxy, open) = (proxy.clone(), counter.clone());
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    proxy.serve(flow).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        World {
            address,
            queue,
            ca: ca.display().to_string(),
            gate,
            folder,
            log,
            open,
        }
    }

    /// Connections of agents that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Puts other rules in force.
    pub fn reload(&self, port: u16, setup: Setup<'_>) {
        self.gate.swap(policy(port, setup));
    }

    /// Every audit record, once no connection is open that could add to them.
    pub async fn records(&self) -> Vec<serde_json::Value> {
        until("every connection ends", || self.open() == 0).await;
        self.log.flush().await.unwrap();
        let reader = Reader::open(&self.folder.path().join("audit.db")).unwrap();
        reader.select(&Filter::default()).unwrap()
    }

    /// `summary | verdict | status` of every record but the connects'.
    pub async fn story(&self) -> Vec<String> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
        let records = self.records().await;
        let requests = records.iter().filter(|record| record["step"] != "connect");
        requests
            .map(|record| {
                format!(
                    "{} | {} | {}",
                    text(&record["summary"]),
                    text(&record["verdict"]),
                    text(&record["outcome"]["status"])
                )
            })
            .collect()
    }

    pub fn url(&self, options: &str) -> String {
        format!(
            "postgresql://agent@127.0.0.1:{}/postgres?{options}",
            self.address.port()
        )
    }

    /// Runs psql with one `-c` for each text.
    pub async fn psql(&self, texts: &[&str]) -> Output {
        self.psql_with("sslmode=disable", texts).await
    }

    pub async fn psql_with(&self, options: &str, texts: &[&str]) -> Output {
        let mut command = Command::new("psql");
        command.args(["-XAtq", &self.url(options)]);
        for text in texts {
            command.args(["-c", text]);
        }
        run(&mut command).await
    }

    /// Runs psql and says what came out: `out | errors`.
    pub async fn said(&self, texts: &[&str]) -> String {
        said(&self.psql(texts).await)
    }

    /// Waits for a held question and gives its id.
    pub async fn held(&self) -> i64 {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            if let Some(held) = self.queue.list(false).await.unwrap().first() {
                return held.id;
            }
            assert!(tokio::time::Instant::now() < deadline, "nothing is held");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Runs a command to its end.
pub async fn run(command: &mut Command) -> Output {
    let name = format!("{:?}", command.as_std().get_program());
    let running = command.kill_on_drop(true).output();
    tokio::time::timeout(SOON, running)
        .await
        .unwrap_or_else(|_| panic!("{name} hangs"))
        .unwrap_or_else(|error| panic!("{name} ({error}): see scripts/test"))
}

/// What a command said, a line each joined by blanks: `out | errors`.
pub fn said(ran: &Output) -> String {
    let line = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', " ");
    format!("{} | {}", line(&ran.stdout), line(&ran.stderr))
}

/// A server, started off the runtime.
pub async fn server(settings: &[&str]) -> Server {
    let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
    let start = move || Server::start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// A server, and a gateway before it.
pub async fn both() -> (Server, World) {
    let server = server(&[]).await;
    let world = World::new(server.port, SETUP).await;
    (server, world)
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn identity(node: &str, address: &str) -> Arc<Identity> {
    let identity = Identity::new(Transport::Wireguard, address.parse().unwrap(), node);
    Arc::new(identity.proved_by(format!("key:{node}")))
}

fn policy(port: u16, setup: Setup<'_>) -> Arc<Policy> {
    let text = format!(
        r#"
gateway {{
  limits {{
    {}
  }}
}}
endpoint "postgres" "orders" {{
  host     = "orders.test:5432"
  upstream = "127.0.0.1:{port}"
  {}
}}
credential "postgres_credential" "orders" {{
  endpoint = postgres.orders
  {}
}}
approver "human_approver" "ops" {{
  {}
}}
profile "dev" {{
  peers       = ["laptop"]
  credentials = [postgres_credential.orders{}]
}}
{}"#,
        setup.limits, setup.endpoint, setup.credential, setup.approver, setup.held, setup.rules
    );
    let source = Source {
        path: "policy.hcl".into(),
        text,
    };
    match Policy::load(vec![source], &|path| std::fs::read_to_string(path)) {
        Ok(policy) => Arc::new(policy),
        Err(errors) => panic!("{errors}"),
    }
}
