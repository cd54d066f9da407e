//! tailscaled's LocalAPI: HTTP over its Unix socket, typed for what a gateway asks.
//!
//! Paths and fields are those of `tailscale.com/client/local` and `ipn/localapi` at 1.96. What
//! tailscaled says decides who somebody is, so an answer is taken whole or not at all: late, long,
//! cut off or not of the expected form, it is an error, and nobody gets in by it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::bus::Bus;
use super::filter::Filter;
use crate::credential::Secret;
use crate::proxy::http::faults::count_answer_part;

/// Bytes of one answer. A WhoIs answer is about 2 KiB; the status of a node without its peers, 4 KiB.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Bytes of one line of the bus: a netmap of a large tailnet is some megabytes.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// How long tailscaled may take for an answer. It looks up an unknown address in some 200 ms.
pub const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// How long tailscaled may take to have a certificate issued.
pub const CERTIFICATE_WAIT: Duration = Duration::from_secs(120);

/// Changes of prefs, state and netmap, and what they are at the beginning, without private keys, and the
/// engine's counters, which come every 3 seconds whatever happens and so tell a bus that is dead:
/// `NotifyWatchEngineUpdates | NotifyInitialState | NotifyInitialPrefs | NotifyInitialNetMap |
/// NotifyNoPrivateKeys | NotifyRateLimit` of `ipn/backend.go`.
const BUS_MASK: u32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8;

/// tailscaled was not heard, or not understood.
#[derive(Debug, thiserror::Error)]
pub enum LocalApiError {
    #[error("tailscaled does not answer: {0}")]
    Down(String),
    #[error("tailscaled refused ({0}): {1}")]
    Refused(u16, String),
    #[error("tailscaled's answer is longer than {0} bytes")]
    Long(usize),
    #[error("tailscaled's answer cannot be read: {0}")]
    Answer(String),
}

/// Over which transport a peer came; tailscaled keeps their ports apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Who is behind an address (`apitype.WhoIsResponse`).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WhoIs {
    pub node: Node,
    pub user_profile: UserProfile,
    /// What the tailnet policy grants the peer towards this node, by capability.
    #[serde(default)]
    pub cap_map: Option<BTreeMap<String, Option<Vec<Value>>>>,
}

/// A node (`tailcfg.Node`), as far as it is read.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Stays the same for as long as the node is of the tailnet.
    #[serde(rename = "StableID")]
    pub stable_id: String,
    /// The MagicDNS name, with a dot at its end.
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "Tags", default)]
    pub tags: Option<Vec<String>>,
    /// Its own addresses, each with a full prefix.
    #[serde(rename = "Addresses", default)]
    pub addresses: Option<Vec<IpNet>>,
}

/// A user (`tailcfg.UserProfile`).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserProfile {
    #[serde(default)]
    pub login_name: String,
}

/// The node's own state (`ipnstate.Status`).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// `Running`, `NeedsLogin`, `NeedsMachineAuth`, `Starting`, `Stopped`, `NoState`.
    pub backend_state: String,
    /// Where a person logs the node in, while that is needed.
    #[serde(rename = "AuthURL", default)]
    pub auth_url: String,
    #[serde(rename = "TailscaleIPs", default)]
    pub addresses: Option<Vec<std::net::IpAddr>>,
    /// Whether it has a network device; else connections come from this machine's own ports.
    #[serde(rename = "TUN", default)]
    pub has_device: bool,
    #[serde(rename = "Self", default)]
    pub own: Option<OwnNode>,
}

/// This node, as the control server has it (`ipnstate.PeerStatus`).
#[derive(Clone, Debug, Deserialize)]
pub struct OwnNode {
    #[serde(rename = "ID", default)]
    pub stable_id: String,
    #[serde(rename = "DNSName", default)]
    pub name: String,
    #[serde(rename = "Tags", default)]
    pub tags: Option<Vec<String>>,
    /// Own addresses and the routes that were approved.
    #[serde(rename = "AllowedIPs", default)]
    pub allowed: Option<Vec<IpNet>>,
    /// Those of its routes that lead to it, where several nodes have the same.
    #[serde(rename = "PrimaryRoutes", default)]
    pub primary: Option<Vec<IpNet>>,
}

/// What the node was told to be (`ipn.Prefs`), as far as it is read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Prefs {
    /// Null where there are none; what lacks it is something else, and not "none".
    #[serde(deserialize_with = "Option::deserialize")]
    pub advertise_routes: Option<Vec<IpNet>>,
}

/// A change that the bus tells (`ipn.Notify`), as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Notify {
    #[serde(default)]
    pub prefs: Option<Prefs>,
    /// Nodes, users, filters or capabilities changed.
    #[serde(default)]
    pub net_map: Option<NetMap>,
    /// The backend's state, as a number.
    #[serde(default)]
    pub state: Option<i64>,
    /// Why a login failed, most often.
    #[serde(default)]
    pub err_message: Option<String>,
    /// Where a person is to log the node in.
    #[serde(rename = "BrowseToURL", default)]
    pub browse_to_url: Option<String>,
}

/// What the control server told of the tailnet (`netmap.NetworkMap`), as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetMap {
    #[serde(default)]
    pub packet_filter: Filter,
}

/// A client of one tailscaled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalApi {
    client: reqwest::Client,
}

impl LocalApi {
    /// For the tailscaled that listens at `socket`; nothing is connected yet.
    ///
    /// # Errors
    /// The client could not be made.
    pub fn new(socket: &Path) -> Result<Self, LocalApiError> {
        let client = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(down)?;
        Ok(LocalApi { client })
    }

    /// The node's own state.
    ///
    /// # Errors
    /// See [`LocalApiError`].
    pub async fn status(&self) -> Result<Status, LocalApiError> {
        self.ask(self.client.get(url("status?peers=false"))).await
    }

    /// Who is behind an address and port, or `None` if no peer is. Where tailscaled has no network
    /// device, the address is the local one that it dialled from, and the answer holds only while
    /// that connection is open.
    ///
    /// # Errors
    /// See [`LocalApiError`].
    pub async fn who_is(
        &self,
        address: SocketAddr,
        protocol: Protocol,
    ) -> Result<Option<WhoIs>, LocalApiError> {
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let request = self
            .client
            .get(url("whois"))
            .query(&[("addr", address.to_string().as_str()), ("proto", protocol)]);
        match self.ask(request).await {
            Ok(found) => Ok(Some(found)),
            Err(LocalApiError::Refused(404, _)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the node was told to be.
    ///
    /// # Errors
    /// See [`LocalApiError`].
    pub async fn prefs(&self) -> Result<Prefs, LocalApiError> {
        self.ask(self.client.get(url("prefs"))).await
    }

    /// Declares the routes that the node advertises, all others than these are withdrawn.
    ///
    /// # Errors
    /// See [`LocalApiError`]; 403 where this user may only read.
    pub async fn advertise(&self, routes: &[IpNet]) -> Result<Prefs, LocalApiError> {
        let wanted = json!({ "AdvertiseRoutes": routes, "AdvertiseRoutesSet": true });
        self.ask(self.client.patch(url("prefs")).json(&wanted)).await
    }

    /// The node's own certificate with its key, as PEM. To have a new one issued takes its time.
    ///
    /// # Errors
    /// See [`LocalApiError`]; refused where the tailnet has no HTTPS certificates.
    pub async fn certificate(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, LocalApiError> {
        let request = self.client.get(url(&format!("cert/{name}")));
        let request = request.query(&[("type", "pair")]);
        let told = self.exchange(request, CERTIFICATE_WAIT).await?;
        Ok(Zeroizing::new(told))
    }

    /// Gives all prefs anew (`ipn.Options`), with an auth key where one is to be used.
    ///
    /// # Errors
    /// See [`LocalApiError`].
    pub async fn start(&self, prefs: &Value, key: Option<&Secret>) -> Result<(), LocalApiError> {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Options<'a> {
            auth_key: &'a str,
            update_prefs: &'a Value,
        }
        let key = key.map(|key| std::str::from_utf8(key.expose())).transpose();
        let options = Options {
            auth_key: key
                .map_err(|_| LocalApiError::Answer("the key is no text".to_owned()))?
                .unwrap_or_default(),
            update_prefs: prefs,
        };
        self.tell(self.client.post(url("start")).json(&options)).await
    }

    /// Logs the node in: with the key that was given, or by a person.
    ///
    /// # Errors
    /// See [`LocalApiError`].
    pub async fn login_interactive(&self) -> Result<(), LocalApiError> {
        self.tell(self.client.post(url("login-interactive"))).await
    }

    /// Follows the bus: first what is, then every change.
    ///
    /// # Errors
    /// See [`LocalApiError`].
    pub async fn watch(&self) -> Result<Bus, LocalApiError> {
        let request = self.client.get(url("watch-ipn-bus")).query(&[("mask", BUS_MASK)]);
        let answer = tokio::time::timeout(ANSWER_WAIT, request.send());
        let answer = answer.await.map_err(|_| late(ANSWER_WAIT))?.map_err(down)?;
        if !answer.status().is_success() {
            return Err(LocalApiError::Refused(answer.status().as_u16(), String::new()));
        }
        Ok(Bus::new(answer))
    }

    async fn ask<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, LocalApiError> {
        let told = self.exchange(request, ANSWER_WAIT).await?;
        serde_json::from_slice(&told).map_err(|error| counted(LocalApiError::Answer(error.to_string())))
    }

    async fn tell(&self, request: reqwest::RequestBuilder) -> Result<(), LocalApiError> {
        self.exchange(request, ANSWER_WAIT).await.map(drop)
    }

    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
        wait: Duration,
    ) -> Result<Vec<u8>, LocalApiError> {
        let exchange = async {
            let answer = request.send().await.map_err(down)?;
            let status = answer.status();
            let told = whole(answer).await?;
            match status.is_success() {
                true => Ok(told),
                false => Err(LocalApiError::Refused(status.as_u16(), first_line(&told))),
            }
        };
        tokio::time::timeout(wait, exchange)
            .await
            .map_err(|_| late(wait))?
    }
}

/// tailscaled answers to this name alone: another, or an `Origin`, could be a browser's.
fn url(path: &str) -> String {
    format!("http://local-tailscaled.sock/localapi/v0/{path}")
}

pub(super) fn counted(error: LocalApiError) -> LocalApiError {
    crate::bad_input::count(crate::bad_input::Reader::Tailscaled, &error);
    error
}

/// An answer's body, up to [`ANSWER_BYTES_MAX`].
async fn whole(mut answer: reqwest::Response) -> Result<Vec<u8>, LocalApiError> {
    let mut told = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(down)? {
        if told.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(counted(LocalApiError::Long(ANSWER_BYTES_MAX)));
        }
        told.extend_from_slice(&piece);
    }
    Ok(told)
}

pub(super) fn late(wait: Duration) -> LocalApiError {
    LocalApiError::Down(format!("nothing within {wait:?}"))
}

pub(super) fn down(error: reqwest::Error) -> LocalApiError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        if let Some(own) = error.downcast_ref() {
            count_answer_part(crate::bad_input::Reader::Tailscaled, own);
        }
        text = format!("{text}: {error}");
        source = error.source();
    }
    LocalApiError::Down(text)
}

fn first_line(told: &[u8]) -> String {
    let text = String::from_utf8_lossy(told.get(..200).unwrap_or(told)).into_owned();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bad_input::{Reader, counted};

    fn says(body: Vec<u8>) -> reqwest::Response {
        http::Response::new(body).into()
    }

    #[tokio::test]
    async fn a_tailscaled_that_says_nothing_is_down() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let api = LocalApi::new(&socket).unwrap();
        let all = async { tokio::join!(api.prefs(), api.watch()) };
        let told = tokio::time::timeout(ANSWER_WAIT * 5, all).await;
        let (prefs, bus) = told.expect("it is waited for still");
        assert!(matches!(prefs, Err(LocalApiError::Down(_))));
        assert!(matches!(bus, Err(LocalApiError::Down(_))));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_http_is_counted_and_the_next_is_taken() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let api = LocalApi::new(&socket).unwrap();
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let fine = "HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{\"AdvertiseRoutes\": null}\n";
        for (said, reason) in [
            ("HELLO\r\n\r\n".to_owned(), "head"),
            ("HTTP/1.1 OK\r\n\r\n".to_owned(), "head"),
            ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n".to_owned(), "head"),
            (format!("{chunked}zz\r\n"), "body"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]".to_owned(),
                "answer",
            ),
        ] {
            let before = counted(Reader::Tailscaled, reason);
            let (mut prefs, mut again) = (None, None);
            let answers = async {
                for said in [&said[..], fine] {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let _ = stream.read(&mut [0; 4096]).await.unwrap();
                    stream.write_all(said.as_bytes()).await.unwrap();
                }
            };
            let asks = async {
                prefs = Some(api.prefs().await);
                again = Some(api.prefs().await);
            };
            tokio::join!(answers, asks);
            assert!(prefs.unwrap().is_err(), "{said}");
            assert!(counted(Reader::Tailscaled, reason) > before, "{said}");
            assert_eq!(again.unwrap().unwrap(), Prefs::default(), "{said}");
        }
    }

    #[tokio::test]
    async fn an_answer_has_a_size_and_what_cannot_be_read_is_counted() {
        let most = whole(says(vec![b' '; ANSWER_BYTES_MAX])).await.unwrap();
        assert_eq!(most.len(), ANSWER_BYTES_MAX);
        let before = counted(Reader::Tailscaled, "long");
        let long = whole(says(vec![b' '; ANSWER_BYTES_MAX + 1])).await;
        assert!(matches!(long, Err(LocalApiError::Long(ANSWER_BYTES_MAX))));
        assert!(counted(Reader::Tailscaled, "long") > before);
        let mut bus = Bus::new(says(b"\n{]\n".to_vec()));
        let before = counted(Reader::Tailscaled, "answer");
        assert!(matches!(bus.next().await, Err(LocalApiError::Answer(_))));
        assert!(counted(Reader::Tailscaled, "answer") > before);
    }
}
