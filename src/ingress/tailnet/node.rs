//! The gateway's own node: its bus is followed, its routes are kept declared.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;

use super::directory::Directory;
use super::localapi::{LocalApi, LocalApiError, Prefs, Status};
use super::login::{self, Login};

/// How long until a tailscaled that was lost is tried again; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// See [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long after a look the next one comes at the earliest, however much the bus says. No answer
/// from before the bus spoke is used for a new connection meanwhile.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The routes that this gateway advertises beside those that the node has from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Routes(pub Vec<IpNet>);

impl Routes {
    /// What to declare where `there` is declared: ours added, or taken out.
    pub fn over(&self, there: &[IpNet], wanted: bool) -> Option<Vec<IpNet>> {
        let is_ours = |net: &IpNet| self.0.contains(net);
        let mut all: Vec<IpNet> = there.iter().copied().filter(|net| !is_ours(net)).collect();
        if wanted {
            all.extend(&self.0);
        }
        let mut before = there.to_vec();
        let mut after = all.clone();
        before.sort();
        after.sort();
        (before != after).then_some(all)
    }
}

/// How long until a node that is not logged in is tried again: a key may have been replaced.
const LOGIN_AGAIN: Duration = Duration::from_secs(60);
/// tailscaled's word for a node that is not logged in.
const NEEDS_LOGIN: &str = "NeedsLogin";

/// A node that a tailscaled keeps.
#[derive(Debug)]
pub struct Node {
    api: LocalApi,
    /// Of a tailscaled of our own.
    login: Option<Login>,
    /// Why the last login failed.
    problem: Mutex<Option<String>>,
    directory: Arc<Directory>,
    routes: Routes,
    /// Whether the routes are to be declared. Held while they are, so that a withdrawal comes last.
    wanted: tokio::sync::Mutex<bool>,
    status: watch::Sender<Option<Status>>,
}

impl Node {
    /// Nothing is asked or declared before [`Node::follow`]. `login` is for a tailscaled of our own,
    /// whose prefs are ours too.
    pub fn new(api: LocalApi, routes: Routes, login: Option<Login>) -> Arc<Self> {
        Arc::new(Node {
            login,
            problem: Mutex::default(),
            directory: Directory::new(api.clone()),
            api,
            routes,
            wanted: tokio::sync::Mutex::new(true),
            status: watch::Sender::new(None),
        })
    }

    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The node's state, or `None` while tailscaled is not heard.
    pub fn status(&self) -> watch::Receiver<Option<Status>> {
        self.status.subscribe()
    }

    /// Follows the bus for as long as the gateway runs. A tailscaled that dies is waited for; who
    /// connects meanwhile cannot be asked for and is denied.
    pub async fn follow(&self) {
        let mut wait = RETRY_MIN;
        loop {
            let error = match self.follow_once(&mut wait).await {
                Err(error) => error,
                Ok(never) => match never {},
            };
            if self.status.borrow().is_some() {
                tracing::warn!(%error, "tailscaled is not heard; nobody of the tailnet is let in");
            } else {
                tracing::debug!(%error, "tailscaled is not heard");
            }
            self.status.send_replace(None);
            self.directory.lost();
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    async fn follow_once(&self, wait: &mut Duration) -> Result<std::convert::Infallible, LocalApiError> {
        let mut bus = self.api.watch().await?;
        if let Some(login) = &self.login {
            let wanted = self.wanted.lock().await;
            if *wanted {
                self.api.start(&login.prefs(&self.routes.0), None).await?;
            }
        }
        let (mut looked, mut due) = (None, None);
        let mut prefs = None;
        loop {
            // Not by the time-out alone: a bus that always has more would never let it come.
            if let Some(at) = due
                && at <= Instant::now()
            {
                if let Some(Prefs { advertise_routes }) = prefs.take() {
                    self.declare(&advertise_routes.unwrap_or_default()).await;
                }
                self.look().await?;
                (looked, due) = (Some(Instant::now()), None);
            }
            let next = async {
                match due {
                    Some(at) => tokio::time::timeout_at(at, bus.next()).await.ok(),
                    None => Some(bus.next().await),
                }
            };
            let Some(notify) = next.await.transpose()? else {
                continue;
            };
            *wait = RETRY_MIN;
            if notify.net_map || notify.state.is_some() {
                self.directory.changing();
            }
            if let Some(text) = notify.err_message {
                tracing::error!(text, "tailscaled says that something is wrong");
                self.note(Some(text));
            }
            let person = notify.browse_to_url.is_some();
            if notify.prefs.is_some() || notify.net_map || notify.state.is_some() || person {
                prefs = notify.prefs.or(prefs);
                due = due.or(Some(looked.map_or_else(Instant::now, |at| at + LOOK_EVERY)));
            }
        }
    }

    /// Reads the node's state anew, and has every open connection asked for.
    async fn look(&self) -> Result<(), LocalApiError> {
        let status = self.api.status().await?;
        let name = status
            .own
            .as_ref()
            .map(|own| own.name.trim_matches('.'))
            .unwrap_or_default();
        let (state, url) = (&status.backend_state, &status.auth_url);
        let before = self.status.borrow().clone();
        if before
            .as_ref()
            .is_none_or(|before| before.backend_state != *state)
        {
            tracing::info!(state, name, "tailscaled is heard");
        }
        if !url.is_empty() && before.is_none_or(|before| before.auth_url != *url) {
            login::show(url);
        }
        if state == "Running" {
            self.note(None);
        }
        self.directory.changed(&status);
        self.status.send_replace(Some(status));
        Ok(())
    }

    /// Logs the node of our own tailscaled in whenever that is needed.
    pub async fn keep_logged_in(&self) {
        let Some(login) = &self.login else {
            return;
        };
        let needs = |status: &Option<Status>| {
            status
                .as_ref()
                .is_some_and(|status| status.backend_state == NEEDS_LOGIN)
        };
        let mut status = self.status();
        while status.wait_for(needs).await.is_ok() {
            if let Err(error) = login.begin(&self.api, &self.routes.0).await {
                tracing::error!(%error, "the node cannot be logged in; it is tried again");
                self.note(Some(error.to_string()));
            }
            let _ = tokio::time::timeout(LOGIN_AGAIN, status.wait_for(|status| !needs(status))).await;
        }
    }

    /// Whether the tailscaled is our own.
    pub fn is_own(&self) -> bool {
        self.login.is_some()
    }

    /// The routes that are kept declared.
    pub fn routes(&self) -> &[IpNet] {
        &self.routes.0
    }

    /// Why the node is not of the tailnet, as far as that was said.
    pub fn problem(&self) -> Option<String> {
        self.problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Declares our routes beside those that are there. Where this user may not, that is said once
    /// for each change.
    async fn declare(&self, there: &[IpNet]) {
        let wanted = self.wanted.lock().await;
        if let Some(all) = self.routes.over(there, true).filter(|_| *wanted) {
            match self.api.advertise(&all).await {
                Ok(_) => tracing::info!(routes = ?self.routes.0, "the tailnet's routes are declared"),
                Err(error) => tracing::error!(
                    %error,
                    routes = ?self.routes.0,
                    "the routes could not be declared; let this user: tailscale set --operator=USER"
                ),
            }
        }
    }

    /// Withdraws our routes for good; others stay.
    pub async fn withdraw(&self) {
        let mut wanted = self.wanted.lock().await;
        *wanted = false;
        let done = async {
            let there = self.api.prefs().await?.advertise_routes.unwrap_or_default();
            if let Some(rest) = self.routes.over(&there, false) {
                self.api.advertise(&rest).await?;
            }
            Ok::<_, LocalApiError>(())
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "the tailnet's routes could not be withdrawn");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_routes_come_and_go_beside_others() {
        let nets =
            |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let routes = Routes(nets(&["10.78.0.0/16", "fd78::/64"]));
        let both = nets(&["192.0.2.0/24", "10.78.0.0/16", "fd78::/64"]);
        assert_eq!(routes.over(&nets(&["192.0.2.0/24"]), true), Some(both.clone()));
        assert_eq!(
            routes.over(&nets(&["192.0.2.0/24", "10.78.0.0/16"]), true),
            Some(both.clone())
        );
        assert_eq!(routes.over(&both, true), None);
        assert_eq!(routes.over(&both, false), Some(nets(&["192.0.2.0/24"])));
        assert_eq!(routes.over(&nets(&["192.0.2.0/24"]), false), None);
    }
}
