//! The operator's JSON API with the page on it, and the enrolment of agents' machines.
//!
//! The API is served on a Unix socket in the state folder, where the file's mode is the guard and the
//! kernel names the person, and on `dashboard_listen`, where a bearer token is, or for browsers a
//! session ([`admit`]). Enrolment has a listener of its own, over TLS by the gateway's CA.
//!
//! Invariants: a secret's value never leaves by this API; the API is on loopback alone; who decides
//! is what the transport proved, never what a body says. A program that runs under the gateway's own
//! account on the gateway's own machine is an operator: agents do not.

mod admit;
mod agents;
mod api;
mod asker;
mod certificate;
pub mod channels;
pub mod client;
mod credentials;
mod draft;
mod enrol;
mod grants;
pub mod listen;
mod machine;
mod node;
mod openapi;
mod overview;
mod page;
pub mod password;
mod peers;
pub mod people;
pub mod policy;
mod record;
mod router;
mod routes;
mod sources;
pub mod stream;
pub mod tailnet;
pub mod token;

use std::fs::{File, OpenOptions, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::channel::Channels;
use crate::credential::store::SecretStore;
use crate::ingress::tailnet::Directory;
use crate::policy::Gateway;
use crate::proxy::whoami::Teller;
use crate::state::State;
use crate::tls::{Authority, Leaves};
use crate::verdict::approval::Queue;
use crate::verdict::gate::Gate;

pub use draft::{Files, Guard, HeldBack};
use people::People;
pub use router::described;
use tailnet::Tailnet;
use token::OperatorToken;

/// The socket's name in the state folder.
pub const SOCKET: &str = "admin.sock";
/// The file that a running gateway locks in its state folder.
const LOCK: &str = "gateway.lock";
/// The audit log's name in the state folder.
pub const AUDIT: &str = "audit.db";

/// What the API works on; cheap to clone.
#[derive(Clone)]
pub struct Operator {
    state: State,
    queue: Queue,
    gate: Arc<Gate>,
    secrets: SecretStore,
    authority: Arc<Authority>,
    watchers: Arc<Semaphore>,
    /// Tells enrolled machines what their agents reach.
    teller: Option<Teller>,
    /// The tailnet's nodes that have connected.
    directory: Option<Arc<Directory>>,
    people: Arc<People>,
    /// Where the page is, once it is served.
    page: Arc<OnceLock<SocketAddr>>,
    tailnet: Option<Arc<Tailnet>>,
    channels: Option<Arc<Channels>>,
    /// The policy's files, where it is in files.
    files: Option<Files>,
    works: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    started: Instant,
}

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("{0}: {1}")]
    Listen(String, std::io::Error),
    #[error("{0} is not a loopback address; the admin API and what channels say are for this machine alone")]
    NotLoopback(SocketAddr),
    #[error("another gateway uses the state folder {0}")]
    InUse(String),
    #[error("the operator's token in {0} is not used: {1}")]
    Token(String, &'static str),
    #[error("no randomness from the system: {0}")]
    Random(String),
}

/// Who speaks to the API, as the transport proved it.
#[derive(Clone, Debug)]
struct Person(String);

impl Operator {
    /// # Errors
    /// No random bytes.
    pub fn new(
        state: State,
        queue: Queue,
        gate: Arc<Gate>,
        secrets: SecretStore,
        authority: Arc<Authority>,
    ) -> Result<Self, AdminError> {
        Ok(Operator {
            state,
            queue,
            gate,
            secrets,
            authority,
            watchers: Arc::new(Semaphore::new(stream::WATCHERS_MAX)),
            teller: None,
            directory: None,
            people: People::new()?,
            page: Arc::default(),
            tailnet: None,
            channels: None,
            files: None,
            works: Arc::new(Semaphore::new(policy::WORKS_MAX)),
            writes: Arc::new(Semaphore::new(policy::WRITES_MAX)),
            started: Instant::now(),
        })
    }

    /// With a tailscaled on this machine, whose peers have no part in its loopback.
    pub fn beside(mut self, tailnet: Arc<Tailnet>) -> Self {
        self.tailnet = Some(tailnet);
        self
    }

    /// With the nodes of a tailnet to show.
    #[must_use]
    pub fn showing(mut self, directory: Arc<Directory>) -> Self {
        self.directory = Some(directory);
        self
    }

    /// With the files of the policy.
    #[must_use]
    pub fn writing(mut self, files: Files) -> Self {
        self.files = Some(files);
        self
    }

    /// With what takes decisions from channels.
    #[must_use]
    pub fn hearing(mut self, channels: Arc<Channels>) -> Self {
        self.channels = Some(channels);
        self
    }

    /// With what agents are told.
    #[must_use]
    pub fn telling(mut self, teller: Teller) -> Self {
        self.teller = Some(teller);
        self
    }

    /// The audit log, with all that was recorded until now.
    async fn audit(&self) -> PathBuf {
        self.gate.audit_written().await;
        self.state.dir().join(AUDIT)
    }
}

/// A state folder taken for one gateway, for as long as the value lives. Two gateways over one folder
/// would take each other's sockets away.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held, not read")] File);

impl Lock {
    /// To be taken before anything in the folder is opened.
    ///
    /// # Errors
    /// Another gateway has it, or the folder cannot be written.
    pub fn take(dir: &Path) -> Result<Lock, AdminError> {
        let path = dir.join(LOCK);
        let shown = path.display().to_string();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(|error| AdminError::Listen(shown.clone(), error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(AdminError::InUse(dir.display().to_string())),
            Err(TryLockError::Error(error)) => Err(AdminError::Listen(shown, error)),
        }
    }
}

/// Starts every listener of the operator's side; returns when they accept, with the address of
/// the one on TCP.
///
/// # Errors
/// A listener cannot be made, or the operator's token is none.
pub async fn serve(
    operator: Operator,
    gateway: &Gateway,
    leaves: Arc<Leaves>,
) -> Result<SocketAddr, AdminError> {
    if !gateway.admin_listen.ip().is_loopback() {
        return Err(AdminError::NotLoopback(gateway.admin_listen));
    }
    let path = operator.state.dir().join(SOCKET);
    let failed = |what: String| move |error| AdminError::Listen(what, error);
    let token = Arc::new(OperatorToken::open(operator.state.dir())?);
    let router = router::router(operator.clone(), token);
    tailnet::serve(&operator, router.clone(), leaves.clone());
    // A socket that an earlier run left.
    let _ = std::fs::remove_file(&path);
    let shown = path.display().to_string();
    let unix = UnixListener::bind(&path).map_err(failed(shown.clone()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed(shown))?;
    tokio::spawn(listen::serve(unix, router.clone(), listen::BOUNDS));

    let what = format!("dashboard_listen {}", gateway.admin_listen);
    let tcp = TcpListener::bind(gateway.admin_listen)
        .await
        .map_err(failed(what.clone()))?;
    let bound = tcp.local_addr().map_err(failed(what))?;
    let _ = operator.page.set(bound);
    tracing::info!(
        page = format!("http://{bound}/"),
        "the admin page and its API are served"
    );
    let tcp = listen::Loopback {
        listener: tcp,
        tailnet: operator.tailnet.clone(),
    };
    tokio::spawn(listen::serve(tcp, router, listen::BOUNDS));

    if let (Some(address), Some(channels)) = (gateway.channel_listen, &operator.channels) {
        channels::serve(address, channels.clone(), operator.tailnet.clone()).await?;
    }
    if let Some(address) = gateway.enrol_listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(failed(format!("enrol_listen {address}")))?;
        tokio::spawn(enrol::serve(listener, operator, leaves));
    }
    Ok(bound)
}
