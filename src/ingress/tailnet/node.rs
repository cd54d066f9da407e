//! The gateway's own node: its bus is followed, its routes are kept declared.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::declared::Declared;
use super::directory::Directory;
use super::filter::Filter;
use super::localapi::{LocalApi, LocalApiError, Prefs, Status};
use super::login::{self, Login};
use super::routes::Routes;

/// How long until a tailscaled that was lost is tried again; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// See [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long after a look the next one comes at the earliest, however much the bus says. No answer
/// from before the bus spoke is used for a new connection meanwhile.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long until a node that is not logged in is tried again: a key may have been replaced.
const LOGIN_AGAIN: Duration = Duration::from_secs(60);
/// How long a withdrawal may take to be known, before our own tailscaled ends.
const WITHDRAWN_MAX: Duration = Duration::from_secs(2);
/// tailscaled's word for a node that is not logged in.
const NEEDS_LOGIN: &str = "NeedsLogin";

/// A node that a tailscaled keeps.
#[derive(Debug)]
pub struct Node {
    api: LocalApi,
    /// Of a tailscaled of our own.
    login: Option<Login>,
    /// Why the last login failed.
    problem: watch::Sender<Option<String>>,
    directory: Arc<Directory>,
    /// Held while they are declared, so that a withdrawal comes last.
    routes: Mutex<Routes>,
    /// Where they are written down, at a tailscaled that outlives the gateway.
    declared: OnceLock<Declared>,
    status: watch::Sender<Option<Status>>,
    /// Of the last netmap of the bus that is followed now.
    filter: watch::Sender<Option<Filter>>,
}

impl Node {
    /// Nothing is asked or declared before [`Node::follow`]. `login` is for a tailscaled of our own,
    /// whose prefs are ours too.
    pub fn new(api: LocalApi, login: Option<Login>) -> Arc<Self> {
        let routes = match &login {
            Some(_) => Routes::alone(),
            None => Routes::default(),
        };
        Arc::new(Node {
            login,
            problem: watch::Sender::new(None),
            directory: Directory::new(api.clone()),
            api,
            routes: Mutex::new(routes),
            declared: OnceLock::new(),
            status: watch::Sender::new(None),
            filter: watch::Sender::new(None),
        })
    }

    /// Writes down what is declared, from now on. Set once.
    pub fn write_down(&self, declared: Declared) {
        let _ = self.declared.set(declared);
    }

    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The node's state, or `None` while tailscaled is not heard.
    pub fn status(&self) -> watch::Receiver<Option<Status>> {
        self.status.subscribe()
    }

    /// What the tailnet's policy file lets through to the node, or `None` while that was not said.
    pub fn filter(&self) -> Option<Filter> {
        self.filter.borrow().clone()
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
            self.filter.send_replace(None);
            self.directory.lost();
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    async fn follow_once(&self, wait: &mut Duration) -> Result<std::convert::Infallible, LocalApiError> {
        let mut bus = self.api.watch().await?;
        if let Some(login) = &self.login {
            let routes = self.routes.lock().await;
            self.api.start(&login.prefs(routes.ours()), None).await?;
        }
        let (mut looked, mut due) = (None, None);
        let mut prefs = None;
        loop {
            // Not by the time-out alone: a bus that always has more would never let it come.
            if let Some(at) = due
                && at <= Instant::now()
            {
                if let Some(Prefs { advertise_routes }) = prefs.take() {
                    let routes = self.routes.lock().await;
                    self.declare(&routes, &advertise_routes.unwrap_or_default()).await;
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
            let is_other = notify.net_map.is_some() || notify.state.is_some();
            if is_other {
                self.directory.changing();
            }
            if let Some(map) = notify.net_map {
                self.filter.send_replace(Some(map.packet_filter));
            }
            if let Some(text) = notify.err_message {
                tracing::error!(text, "tailscaled says that something is wrong");
                self.note(Some(text));
            }
            let person = notify.browse_to_url.is_some();
            if notify.prefs.is_some() || is_other || person {
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
        self.log_in_every(LOGIN_AGAIN).await;
    }

    async fn log_in_every(&self, again: Duration) {
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
            if let Err(error) = login.begin(&self.api, &self.routes().await).await {
                tracing::error!(%error, "the node cannot be logged in; it is tried again");
                self.note(Some(error.to_string()));
            }
            let _ = tokio::time::timeout(again, status.wait_for(|status| !needs(status))).await;
        }
    }

    /// Whether the tailscaled is our own.
    pub fn is_own(&self) -> bool {
        self.login.is_some()
    }

    /// The routes that are kept declared.
    pub async fn routes(&self) -> Vec<IpNet> {
        self.routes.lock().await.ours().to_vec()
    }

    /// Why the node is not of the tailnet, as far as that was said.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    fn note(&self, problem: Option<String>) {
        self.problem.send_replace(problem);
    }

    /// Declares these routes from now on, and none that were ours before. Once the routes were
    /// withdrawn, nothing is declared any more.
    pub async fn advertise(&self, routes: Vec<IpNet>) {
        let mut ours = self.routes.lock().await;
        if !ours.replace(routes) {
            return;
        }
        if let Some(Err(error)) = self.declared.get().map(|file| file.keep(ours.all())) {
            tracing::error!(%error, "what is declared cannot be written down: after a crash it stays declared");
        }
        // A tailscaled that is not heard says its prefs when it is.
        if let Ok(prefs) = self.api.prefs().await {
            self.declare(&ours, prefs.advertise_routes.as_deref().unwrap_or_default())
                .await;
        }
    }

    /// The routes that are declared and are not ours.
    ///
    /// # Errors
    /// See [`LocalApiError`].
    pub async fn others(&self) -> Result<Vec<IpNet>, LocalApiError> {
        let routes = self.routes.lock().await;
        let there = self.api.prefs().await?.advertise_routes.unwrap_or_default();
        Ok(there.into_iter().filter(|net| !routes.are_ours(net)).collect())
    }

    /// Declares our routes beside those that are there. Where this user may not, that is said once
    /// for each change.
    async fn declare(&self, routes: &Routes, there: &[IpNet]) {
        let Some(all) = routes.over(there) else { return };
        match self.api.advertise(&all).await {
            Ok(_) => tracing::info!(routes = ?routes.ours(), "the tailnet's routes are declared"),
            Err(error) => tracing::error!(
                %error,
                routes = ?routes.ours(),
                "the routes could not be declared; let this user: tailscale set --operator=USER"
            ),
        }
    }

    /// Waits, a moment at most, until the tailnet knows of a withdrawal: a tailscaled that ends before
    /// may not have told it.
    pub async fn until_withdrawn(&self, ours: &[IpNet]) {
        let told = async {
            loop {
                let own = self.api.status().await.ok().and_then(|status| status.own);
                let allowed = own.and_then(|own| own.allowed).unwrap_or_default();
                if !ours.iter().any(|route| allowed.contains(route)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // A control server that is down hears of it from nobody.
        let _ = tokio::time::timeout(WITHDRAWN_MAX, told).await;
    }

    /// Takes our routes out of those that the node advertises, for good.
    pub async fn withdraw(&self) {
        let mut routes = self.routes.lock().await;
        routes.end();
        let done = async {
            let prefs = self.api.prefs().await?;
            if let Some(rest) = routes.over(prefs.advertise_routes.as_deref().unwrap_or_default()) {
                self.api.advertise(&rest).await?;
            }
            Ok::<_, LocalApiError>(())
        };
        match (done.await, self.declared.get()) {
            (Ok(()), file) => file.into_iter().for_each(Declared::forget),
            (Err(error), _) => tracing::warn!(%error, "the tailnet's routes could not be withdrawn"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_withdrawal_that_nobody_hears_of_is_waited_for_a_moment() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let route: IpNet = "10.78.0.0/16".parse().unwrap();
        let own =
            serde_json::json!({ "BackendState": "Running", "Self": { "ID": "n1", "AllowedIPs": [route] } });
        let told = move || {
            let own = axum::Json(own.clone());
            async move { own }
        };
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(told)).await });
        let node = Node::new(LocalApi::new(&socket).unwrap(), None);
        let status = node.api.status().await.unwrap();
        assert!(
            status.own.unwrap().allowed.unwrap().contains(&route),
            "it is known still"
        );
        let waited = tokio::time::timeout(WITHDRAWN_MAX * 5, node.until_withdrawn(&[route])).await;
        assert!(waited.is_ok(), "it is waited for still");
    }

    #[tokio::test]
    async fn a_login_that_leads_nowhere_is_begun_again_until_the_node_runs() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let taken = || async { axum::http::StatusCode::NO_CONTENT };
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(taken)).await });
        let (reads, logins) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(0));
        let (counted, told) = (reads.clone(), logins.clone());
        let login = Login {
            control_url: None,
            hostname: None,
            tags: Vec::new(),
            // The first is not to be had: a key may come later.
            secret: Some(Box::new(move || {
                told.send_modify(|count| *count += 1);
                match counted.fetch_add(1, Ordering::Relaxed) {
                    0 => Err(crate::credential::store::Missing {
                        credential: "key".to_owned(),
                        cause: "it is not there yet".to_owned(),
                    }),
                    _ => Ok(crate::credential::Secret::new(b"tskey".to_vec())),
                }
            })),
        };
        let node = Node::new(LocalApi::new(&socket).unwrap(), Some(login));
        let state = |state: &str| -> Status {
            serde_json::from_value(serde_json::json!({ "BackendState": state })).unwrap()
        };
        node.status.send_replace(Some(state(NEEDS_LOGIN)));
        let keeper = node.clone();
        tokio::spawn(async move { keeper.log_in_every(Duration::from_millis(20)).await });
        let mut begun = logins.subscribe();
        tokio::time::timeout(Duration::from_secs(20), begun.wait_for(|count| *count >= 3))
            .await
            .expect("it is not tried again")
            .unwrap();
        assert!(node.problem().is_some_and(|text| text.contains("not there yet")));
        node.status.send_replace(Some(state("Running")));
        // One may be under way.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = reads.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(reads.load(Ordering::Relaxed), before);
    }
}
