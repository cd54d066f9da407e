//! The operator's JSON API and the enrolment of agents' machines.
//!
//! The API is served on a Unix socket in the state folder, where the file's mode is the guard and the
//! kernel names the person, and on `dashboard_listen`, where a bearer token is. Enrolment has a
//! listener of its own, over TLS by the gateway's CA.
//!
//! Invariants: a secret's value never leaves by this API; the API is on loopback alone; who decides
//! is what the transport proved, never what a body says.

mod api;
pub mod client;
mod enrol;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::{TcpListener, UnixListener};

use crate::credential::store::SecretStore;
use crate::policy::Gateway;
use crate::state::State;
use crate::tls::{Authority, Leaves};
use crate::verdict::approval::Queue;
use crate::verdict::gate::Gate;

/// The socket's name in the state folder.
pub const SOCKET: &str = "admin.sock";
/// The audit log's name in the state folder.
pub const AUDIT: &str = "audit.db";
/// The file that holds the operator's token for the TCP listener.
pub const TOKEN: &str = "operator.token";

/// What the API works on; cheap to clone.
#[derive(Clone)]
pub struct Operator {
    state: State,
    queue: Queue,
    gate: Arc<Gate>,
    secrets: SecretStore,
    authority: Arc<Authority>,
}

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("{0}: {1}")]
    Listen(String, std::io::Error),
    #[error("dashboard_listen = \"{0}\" is not a loopback address; the admin API is for this machine alone")]
    NotLoopback(SocketAddr),
    #[error("no randomness from the system: {0}")]
    Random(String),
}

/// Who speaks to the API, as the transport proved it.
#[derive(Clone, Debug)]
struct Person(String);

impl Connected<IncomingStream<'_, UnixListener>> for Person {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let uid = stream.io().peer_cred().map(|peer| peer.uid()).ok();
        let user = uid.and_then(|uid| nix::unistd::User::from_uid(uid.into()).ok().flatten());
        Person(match (user, uid) {
            (Some(user), _) => user.name,
            (None, Some(uid)) => format!("uid:{uid}"),
            (None, None) => "unknown".to_owned(),
        })
    }
}

impl Operator {
    pub fn new(
        state: State,
        queue: Queue,
        gate: Arc<Gate>,
        secrets: SecretStore,
        authority: Arc<Authority>,
    ) -> Self {
        Operator {
            state,
            queue,
            gate,
            secrets,
            authority,
        }
    }

    fn audit(&self) -> PathBuf {
        self.state.dir().join(AUDIT)
    }
}

/// Starts every listener of the operator's side; returns when they accept.
///
/// # Errors
/// A listener cannot be made.
pub async fn serve(operator: Operator, gateway: &Gateway, leaves: Arc<Leaves>) -> Result<(), AdminError> {
    let path = operator.state.dir().join(SOCKET);
    let failed = |what: String| move |error| AdminError::Listen(what, error);
    // A socket that an earlier run left.
    let _ = std::fs::remove_file(&path);
    let shown = path.display().to_string();
    let unix = UnixListener::bind(&path).map_err(failed(shown.clone()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed(shown))?;
    let by_person = api::router(operator.clone()).into_make_service_with_connect_info::<Person>();
    tokio::spawn(async move { axum::serve(unix, by_person).await });

    if !gateway.admin_listen.ip().is_loopback() {
        return Err(AdminError::NotLoopback(gateway.admin_listen));
    }
    let token = token(operator.state.dir())?;
    let what = format!("dashboard_listen {}", gateway.admin_listen);
    let tcp = TcpListener::bind(gateway.admin_listen)
        .await
        .map_err(failed(what.clone()))?;
    let bound = tcp.local_addr().map_err(failed(what))?;
    let by_token = api::guarded(operator.clone(), token, bound);
    tokio::spawn(async move { axum::serve(tcp, by_token).await });

    if let Some(address) = gateway.enrol_listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(failed(format!("enrol_listen {address}")))?;
        tokio::spawn(enrol::serve(listener, operator, leaves));
    }
    Ok(())
}

/// The operator's token, made at the first start with mode 0600.
fn token(dir: &std::path::Path) -> Result<String, AdminError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(TOKEN);
    if let Ok(token) = std::fs::read_to_string(&path) {
        return Ok(token.trim().to_owned());
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| AdminError::Random(error.to_string()))?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let failed = |error| AdminError::Listen(path.display().to_string(), error);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    writeln!(file, "{token}").map_err(failed)?;
    Ok(token)
}
