//! The gateway's half of enrolment: `POST /v1/enrol` over TLS by the gateway's own CA. What machines
//! ask afterwards, by the key that they enrolled: [`super::machine`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::api::{Failed, bad, broken, state_failed};
use super::sources::Sources;
use super::{Operator, listen, machine};
use crate::bad_input;
use crate::client::enrol::Request;
use crate::client::store::Assigned;
use crate::identity::cluster::Cluster;
use crate::identity::{Identity, Transport, manifest};
use crate::ingress::tailnet::Called;
use crate::ingress::wireguard::public_key;
use crate::policy::{Model, Wireguard};
use crate::state::peer::{PeerKey, Subnets};
use crate::tls::{LeafName, Leaves, Offer, accept};

/// For one enrolment, handshake included.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// Bytes of the request's body.
const REQUEST_BYTES_MAX: usize = 4 << 10;

const NO_KEY: &str = "the public key is not 32 bytes in base64";
const NO_WIREGUARD: &str = "the gateway has no WireGuard listener";

/// Serves enrolments. The number at a time and the time of each are bounded, which with tokens of
/// 256 bits leaves nothing to be guessed.
pub(super) async fn serve(listener: TcpListener, operator: Operator, leaves: Arc<Leaves>) {
    let sources = Arc::new(Sources::default());
    let router = Router::new()
        .route("/v1/enrol", post(enrol))
        .merge(machine::routes())
        .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(axum::middleware::map_response(
            async |answer: axum::response::Response| listen::counted(bad_input::Reader::Enrolment, answer),
        ))
        .with_state(operator);
    loop {
        let (stream, source, own) = match listener.accept().await.and_then(|(stream, source)| {
            let own = stream.local_addr()?;
            Ok((stream, source.ip(), own))
        }) {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an enrolment could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(share) = Sources::take(&sources, source) else {
            continue;
        };
        let (leaves, service) = (leaves.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let served = async {
                let greeting = accept::greet(stream, CONNECTION_TIME).await.ok()?;
                let name = match greeting.sni() {
                    Some(sni) => LeafName::Name(sni),
                    None => LeafName::Address(own.ip()),
                };
                let leaf = leaves.get(&name).ok()?;
                let stream = greeting.finish(&leaf, Offer::Http1).await.ok()?;
                // What was offered, and no HTTP/2 by its preface: its streams would have no bound here.
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder.max_buf_size(listen::HEAD_BYTES_MAX);
                let served = builder.serve_connection(TokioIo::new(stream), service);
                listen::heard(served, bad_input::Reader::Enrolment).await;
                Some(())
            };
            tokio::select! {
                _ = tokio::time::timeout(CONNECTION_TIME, served) => {}
                () = share.lost() => {}
            }
        });
    }
}

/// A refusal, as the agent's side shows it.
pub(super) fn refused(status: StatusCode, text: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "error": text })))
}

pub(super) type Answer = Result<Json<Assigned>, (StatusCode, Json<Value>)>;

/// Where machines enrol, if the configuration does not say. A listener on every address has none that could
/// be dialled, and the node's changes with its node; its MagicDNS name leads there.
pub(super) fn base(listen: SocketAddr, called: &Called) -> String {
    let is_nodes = listen.ip().is_unspecified() || called.addresses.contains(&listen.ip());
    match called.name.as_deref().filter(|_| is_nodes) {
        Some(name) => format!("https://{name}:{}", listen.port()),
        None => format!("https://{listen}"),
    }
}

async fn enrol(
    Shared(operator): Shared<Operator>,
    headers: HeaderMap,
    Json(request): Json<Request>,
) -> Answer {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = bearer
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::to_owned);
    let token = token.ok_or_else(|| refused(StatusCode::UNAUTHORIZED, "the join URL's token is missing"))?;
    let key = read_key(&request.public_key).ok_or_else(|| refused(StatusCode::BAD_REQUEST, NO_KEY))?;
    let policy = operator.gate.policy();
    let gateway = &policy.model().gateway;
    let no_wireguard = || refused(StatusCode::CONFLICT, NO_WIREGUARD);
    let wireguard = gateway.wireguard.as_ref().ok_or_else(no_wireguard)?;
    let subnets = subnets(wireguard).ok_or_else(no_wireguard)?;
    let enrolled = operator
        .state
        .run(move |state| state.enrol(&token, &key, &subnets))
        .await;
    let peer = enrolled.map_err(|error| refused(StatusCode::FORBIDDEN, &error.to_string()))?;
    let private = operator.state.gateway_key();
    let private = private.map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    tracing::info!(peer = peer.peer, v4 = %peer.v4, "a machine has enrolled");
    let own_key = public_key(&private);
    Ok(Json(assigned(
        &operator,
        policy.model(),
        wireguard,
        &peer,
        own_key,
    )))
}

/// Adds a peer that brings a key: `POST /v1/peers` of the operator.
pub(super) async fn add_key(
    operator: &Operator,
    name: String,
    key: &str,
    hold: bool,
) -> Result<Assigned, Failed> {
    let key = read_key(key).ok_or_else(|| bad(NO_KEY))?;
    let policy = operator.gate.policy();
    let no_wireguard = || Failed(StatusCode::CONFLICT, NO_WIREGUARD.to_owned());
    let wireguard = policy.model().gateway.wireguard.as_ref();
    let wireguard = wireguard.ok_or_else(no_wireguard)?;
    let subnets = subnets(wireguard).ok_or_else(no_wireguard)?;
    let added = operator
        .state
        .run(move |state| state.add_key(&name, &key, &subnets, hold));
    let peer = added.await.map_err(state_failed)?;
    let private = operator.state.gateway_key().map_err(broken)?;
    let own = public_key(&private);
    tracing::info!(peer = peer.peer, v4 = %peer.v4, "a peer's key is added");
    Ok(assigned(operator, policy.model(), wireguard, &peer, own))
}

fn read_key(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

pub(super) fn assigned(
    operator: &Operator,
    model: &Model,
    wireguard: &Wireguard,
    peer: &PeerKey,
    key: [u8; 32],
) -> Assigned {
    let identity = Identity::new(Transport::Wireguard, IpAddr::V4(peer.v4), peer.peer.clone());
    let profile = operator.gate.policy().profile_for(&identity).ok();
    let profile = profile.and_then(|name| model.profile(&name));
    let mut placeholders = BTreeMap::new();
    for held in profile.iter().flat_map(|profile| &profile.credentials) {
        let Some(credential) = model.credential(&held.credential) else {
            continue;
        };
        if let Some((variable, text)) = manifest::variable(credential, held) {
            placeholders.insert(variable, text.to_owned());
        }
    }
    let own = |net: IpNet| net.hosts().next();
    Assigned {
        name: peer.peer.clone(),
        address_v4: Some(peer.v4),
        address_v6: Some(peer.v6),
        gateway_public_key: STANDARD.encode(key),
        wireguard_endpoint: wireguard
            .endpoint
            .clone()
            .unwrap_or_else(|| wireguard.listen.to_string()),
        dns: [own(wireguard.subnet_v4), own(wireguard.subnet_v6)]
            .into_iter()
            .flatten()
            .collect(),
        mtu: wireguard.mtu,
        ca_pem: operator.authority.ca_pem().to_owned(),
        placeholders,
        endpoints: profile.map_or_else(Vec::new, |profile| {
            profile.endpoints.iter().map(|key| key.to_string()).collect()
        }),
        clusters: profile.map_or_else(Vec::new, |profile| Cluster::of(model, profile)),
    }
}

pub(super) fn subnets(config: &Wireguard) -> Option<Subnets> {
    match (config.subnet_v4, config.subnet_v6) {
        (IpNet::V4(v4), IpNet::V6(v6)) => Some(Subnets { v4, v6 }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_the_node_by_its_name() {
        let called = Called {
            name: Some("gw.lab.ts.net".to_owned()),
            addresses: vec!["100.64.0.1".parse().unwrap()],
            silent: None,
        };
        for (listen, named) in [
            ("0.0.0.0:8443", "https://gw.lab.ts.net:8443"),
            ("[::]:8443", "https://gw.lab.ts.net:8443"),
            ("100.64.0.1:443", "https://gw.lab.ts.net:443"),
            ("192.0.2.1:8443", "https://192.0.2.1:8443"),
            ("127.0.0.1:8443", "https://127.0.0.1:8443"),
        ] {
            assert_eq!(base(listen.parse().unwrap(), &called), named);
        }
        // Without a tailnet, or before it was heard.
        let listen = "192.0.2.1:8443".parse().unwrap();
        assert_eq!(base(listen, &Called::default()), "https://192.0.2.1:8443");
    }
}
