//! A tailscaled as far as its LocalAPI shows: what it says is as the test wants it, lies included.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

pub use crate::mood::Mood;
use crate::mood::{is_named, say};

struct Shared {
    nodes: BTreeMap<IpAddr, Value>,
    /// Without a device: for which node it dials from a port.
    ports: BTreeMap<u16, IpAddr>,
    mood: Mood,
    /// Of the answers about itself.
    own_mood: Mood,
    /// Of the answers about its prefs.
    prefs_mood: Mood,
    has_device: bool,
    statuses: usize,
    watchers: usize,
    prefs_asked: usize,
    /// Questions for ports that are being answered, and the most there were.
    asking: (usize, usize),
    prefs: Value,
    /// What the tailnet's policy file lets through to it.
    filter: Value,
    asked: Vec<String>,
    /// The backend's state, and where a person logs it in.
    state: String,
    login_url: String,
    /// The options that it was started with, and how often a login was begun.
    starts: Vec<Value>,
    logins: usize,
    /// Its bus says nothing, not even that it is there.
    is_silent: bool,
    /// Key and certificate, PEM, where the tailnet has HTTPS.
    certificate: Option<(String, String)>,
}

impl Shared {
    fn map(&self) -> Value {
        json!({ "Peers": [], "PacketFilter": self.filter })
    }
}

/// The daemon; dropped, its socket answers nobody.
pub struct Tailscaled {
    pub socket: PathBuf,
    shared: Arc<Mutex<Shared>>,
    bus: broadcast::Sender<String>,
    runtime: Option<Runtime>,
}

type Daemon = (Arc<Mutex<Shared>>, broadcast::Sender<String>);

impl Tailscaled {
    /// One that advertises a route of its own already.
    pub fn new(folder: &Path) -> Tailscaled {
        let shared = Shared {
            nodes: BTreeMap::new(),
            ports: BTreeMap::new(),
            mood: Mood::Honest,
            own_mood: Mood::Honest,
            prefs_mood: Mood::Honest,
            has_device: true,
            statuses: 0,
            watchers: 0,
            prefs_asked: 0,
            asking: (0, 0),
            prefs: json!({ "AdvertiseRoutes": ["192.0.2.0/24"] }),
            filter: Value::Null,
            asked: Vec::new(),
            state: "Running".to_owned(),
            login_url: String::new(),
            starts: Vec::new(),
            logins: 0,
            is_silent: false,
            certificate: None,
        };
        let mut daemon = Tailscaled {
            socket: folder.join("tailscaled.sock"),
            shared: Arc::new(Mutex::new(shared)),
            bus: broadcast::channel(1 << 14).0,
            runtime: None,
        };
        daemon.start();
        daemon
    }

    pub fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _ = std::fs::remove_file(&self.socket);
        let app = Router::new()
            .route("/localapi/v0/status", get(status))
            .route("/localapi/v0/whois", get(who_is))
            .route("/localapi/v0/prefs", get(prefs).patch(patch_prefs))
            .route("/localapi/v0/cert/{name}", get(certificate))
            .route("/localapi/v0/start", post(start))
            .route("/localapi/v0/login-interactive", post(log_in))
            .route("/localapi/v0/watch-ipn-bus", get(watch))
            .with_state((self.shared.clone(), self.bus.clone()));
        let socket = self.socket.clone();
        let listener = runtime.block_on(async move { tokio::net::UnixListener::bind(socket).unwrap() });
        runtime.spawn(async move { axum::serve(listener, app).await });
        self.runtime = Some(runtime);
    }

    /// As killed: its connections end, its socket stays and refuses.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }

    pub fn mood(&self, mood: Mood) {
        self.shared.lock().unwrap().mood = mood;
    }

    /// From the next change on.
    pub fn state(&self, state: &str) {
        let mut shared = self.shared.lock().unwrap();
        state.clone_into(&mut shared.state);
        shared.login_url.clear();
    }

    /// Says that a person has to log it in.
    pub fn needs_person(&self, url: &str, why: &str) {
        url.clone_into(&mut self.shared.lock().unwrap().login_url);
        self.say(&json!({ "ErrMessage": why }).to_string());
        self.say(&json!({ "BrowseToURL": url }).to_string());
    }

    pub fn starts(&self) -> Vec<Value> {
        self.shared.lock().unwrap().starts.clone()
    }

    pub fn logins(&self) -> usize {
        self.shared.lock().unwrap().logins
    }

    /// As a tailnet with HTTPS certificates.
    pub fn certify(&self, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let pair = (made.signing_key.serialize_pem(), made.cert.pem());
        std::fs::write(self.certificate_file(), &pair.1).unwrap();
        self.shared.lock().unwrap().certificate = Some(pair);
    }

    pub fn certificate_file(&self) -> PathBuf {
        self.socket.with_extension("crt")
    }

    /// Its bus stays open, and says nothing from now on, or again what it is asked to.
    pub fn silent(&self, is_silent: bool) {
        self.shared.lock().unwrap().is_silent = is_silent;
    }

    pub fn own_mood(&self, mood: Mood) {
        self.shared.lock().unwrap().own_mood = mood;
    }

    pub fn prefs_mood(&self, mood: Mood) {
        self.shared.lock().unwrap().prefs_mood = mood;
    }

    /// As with `--tun=userspace-networking`, from the next change on.
    pub fn without_device(&self) {
        self.shared.lock().unwrap().has_device = false;
        self.tell();
    }

    /// What its netmaps say of the policy file, from the next one on.
    pub fn filter(&self, filter: Value) {
        self.shared.lock().unwrap().filter = filter;
    }

    /// Dials for a node from a port.
    pub fn dials(&self, port: u16, address: &str) {
        let address = address.parse().unwrap();
        self.shared.lock().unwrap().ports.insert(port, address);
    }

    /// Says a line on the bus as it is.
    pub fn say(&self, line: &str) {
        let _ = self.bus.send(line.to_owned());
    }

    /// How often it was asked how it is, and how often its bus was followed.
    pub fn looks(&self) -> (usize, usize) {
        let shared = self.shared.lock().unwrap();
        (shared.statuses, shared.watchers)
    }

    /// How often it was asked for its prefs.
    pub fn prefs_asked(&self) -> usize {
        self.shared.lock().unwrap().prefs_asked
    }

    /// The most ports that were asked for at once.
    pub fn asked_at_once(&self) -> usize {
        self.shared.lock().unwrap().asking.1
    }

    /// Gives a node another capability, or another answer altogether.
    pub fn change(&self, address: &str, change: impl FnOnce(&mut Value)) {
        let address = address.parse().unwrap();
        change(self.shared.lock().unwrap().nodes.get_mut(&address).unwrap());
    }

    /// Lets a node join, or changes it, without telling.
    pub fn node(&self, address: &str, name: &str, tags: &[&str], grants: Value) {
        let node = json!({
            "Node": {
                "ID": 7, "StableID": format!("n-{name}"), "Name": format!("{name}.lab.ts.net."),
                "Addresses": [format!("{address}/32")], "Tags": tags, "Hostinfo": {},
            },
            "UserProfile": { "LoginName": "ann@example.com", "DisplayName": "Ann" },
            "CapMap": { "tailkeep.dev/cap/profile": grants },
        });
        let address = address.parse().unwrap();
        self.shared.lock().unwrap().nodes.insert(address, node);
    }

    pub fn leave(&self, address: &str) {
        self.shared
            .lock()
            .unwrap()
            .nodes
            .remove(&address.parse().unwrap());
    }

    /// Tells the bus that the netmap changed.
    pub fn tell(&self) {
        let map = self.shared.lock().unwrap().map();
        self.say(&json!({ "NetMap": map }).to_string());
    }

    pub fn routes(&self) -> Vec<String> {
        serde_json::from_value(self.shared.lock().unwrap().prefs["AdvertiseRoutes"].clone()).unwrap()
    }

    /// As `tailscale set --advertise-routes`.
    pub fn set_routes(&self, routes: &[&str]) {
        let prefs = json!({ "AdvertiseRoutes": routes });
        self.shared.lock().unwrap().prefs = prefs.clone();
        self.say(&json!({ "Prefs": prefs }).to_string());
    }

    /// The addresses that were asked for, oldest first.
    pub fn asked(&self) -> Vec<String> {
        self.shared.lock().unwrap().asked.clone()
    }
}

async fn status(State((shared, _)): State<Daemon>, headers: HeaderMap) -> Response {
    let (mood, has_device, state, url) = {
        let mut shared = shared.lock().unwrap();
        shared.statuses += 1;
        let (state, url) = (shared.state.clone(), shared.login_url.clone());
        (shared.own_mood, shared.has_device, state, url)
    };
    let status = json!({
        "BackendState": state, "AuthURL": url, "TUN": has_device, "TailscaleIPs": ["100.64.0.1"],
        "Self": {
            "ID": "n-gw", "DNSName": "gw.lab.ts.net.", "Tags": ["tag:gateway"],
            "AllowedIPs": ["100.64.0.1/32"],
        },
    });
    say(mood, &headers, Some(status)).await
}

async fn certificate(
    State((shared, _)): State<Daemon>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let pair = shared.lock().unwrap().certificate.clone();
    match pair.filter(|_| is_named(&headers) && query["type"] == "pair") {
        Some((key, certificate)) => format!("{key}{certificate}").into_response(),
        None => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "your Tailscale account does not support getting TLS certs",
        )
            .into_response(),
    }
}

async fn who_is(
    State((shared, _)): State<Daemon>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let address: std::net::SocketAddr = query["addr"].parse().unwrap();
    let (found, mood) = {
        let mut shared = shared.lock().unwrap();
        shared.asked.push(format!("{} {}", query["proto"], address.ip()));
        let by_address = shared.nodes.get(&address.ip());
        let by_port = || shared.nodes.get(shared.ports.get(&address.port())?);
        let found = by_address.or_else(by_port).cloned();
        if address.port() != 0 {
            shared.asking.0 += 1;
            shared.asking.1 = shared.asking.0.max(shared.asking.1);
        }
        (found, shared.mood)
    };
    // The real one waits for such a port to be entered, and holds everything up meanwhile.
    if found.is_none() && address.port() != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = say(mood, &headers, found).await;
    if address.port() != 0 {
        shared.lock().unwrap().asking.0 -= 1;
    }
    answer
}

async fn start(State((shared, _)): State<Daemon>, headers: HeaderMap, body: Bytes) -> Response {
    let mood = {
        let mut shared = shared.lock().unwrap();
        shared.starts.push(serde_json::from_slice(&body).unwrap());
        shared.own_mood
    };
    say(mood, &headers, Some(Value::Null)).await
}

async fn log_in(State((shared, _)): State<Daemon>, headers: HeaderMap) -> Response {
    let mood = {
        let mut shared = shared.lock().unwrap();
        shared.logins += 1;
        shared.own_mood
    };
    say(mood, &headers, Some(Value::Null)).await
}

async fn prefs(State((shared, _)): State<Daemon>, headers: HeaderMap) -> Response {
    let (prefs, mood) = {
        let mut shared = shared.lock().unwrap();
        shared.prefs_asked += 1;
        (shared.prefs.clone(), shared.prefs_mood)
    };
    say(mood, &headers, Some(prefs)).await
}

async fn patch_prefs(State((shared, bus)): State<Daemon>, headers: HeaderMap, body: Bytes) -> Response {
    let wanted: Value = serde_json::from_slice(&body).unwrap();
    if !is_named(&headers) || wanted["AdvertiseRoutesSet"] != true {
        return StatusCode::FORBIDDEN.into_response();
    }
    let prefs = json!({ "AdvertiseRoutes": wanted["AdvertiseRoutes"] });
    shared.lock().unwrap().prefs = prefs.clone();
    let _ = bus.send(json!({ "Prefs": prefs }).to_string());
    prefs.to_string().into_response()
}

async fn watch(State((shared, bus)): State<Daemon>) -> Response {
    let first = {
        let mut shared = shared.lock().unwrap();
        shared.watchers += 1;
        json!({ "Version": "1.96.5", "State": 6, "Prefs": shared.prefs, "NetMap": shared.map() }).to_string()
    };
    let mut changes = bus.subscribe();
    let mut beats = tokio::time::interval(Duration::from_secs(2));
    let (lines, receiver) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while shared.lock().unwrap().is_silent {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut next = Some(first);
        while let Some(line) = next {
            let is_silent = shared.lock().unwrap().is_silent;
            if !is_silent && lines.send(format!("{line}\n")).await.is_err() {
                return;
            }
            next = tokio::select! {
                change = changes.recv() => change.ok(),
                // As the real one's, which was asked for its engine's state.
                _ = beats.tick() => Some("{\"Engine\": {\"NumLive\": 0}}".to_owned()),
            };
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(line), receiver))
    });
    Body::from_stream(stream).into_response()
}
