//! The page while the gateway's node waits for a person who logs it in.

use serde_json::json;
use tailkeep::admin::tailnet::Tailnet;
use tailkeep::ingress::tailnet::{LocalApi, Node};

use crate::tailscaled::Tailscaled;
use crate::world::{POLICY, World};

const URL: &str = "https://login.example.com/a/0123456789abcdef";

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_shown_where_to_log_the_node_in_until_it_is() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    // It runs on a runtime of its own, which may not end within this one.
    let daemon = tokio::task::block_in_place(|| Tailscaled::new(folder.path()));
    daemon.state("NeedsLogin");
    let api = LocalApi::new(&daemon.socket).unwrap();
    let node = Node::new(api.clone(), None);
    let tailnet = Tailnet::new(node.clone(), api, daemon.socket.clone());
    tokio::spawn(async move { node.follow().await });
    let world = World::beside(POLICY, Some(tailnet)).await;
    let Some(browser) = world.signed_in("ann").await else {
        tokio::task::block_in_place(|| drop(daemon));
        return;
    };
    browser.run("location.hash = '#/gateway'").await;
    let says = |what: &str| format!("document.body.innerText.includes('{what}')");
    browser.until(&says("A person has to log the node in.")).await;
    assert_eq!(
        browser.run("return document.querySelector('svg.code')").await,
        json!(null)
    );
    // tailscaled has got an address from its control server.
    daemon.needs_person(URL, "");
    browser
        .until(&format!("document.querySelector('a[href=\"{URL}\"]')"))
        .await;
    browser.until(&says(URL)).await;
    let drawn = "return document.querySelector('svg.code path').getAttribute('d')";
    let (_, path) = tailkeep::ingress::tailnet::login::qr_path(URL).unwrap();
    assert_eq!(browser.run(drawn).await, json!(path));
    let seen = "document.querySelector('svg.code').getBoundingClientRect().width >= 200";
    browser.until(seen).await;
    browser.accessible("login").await;
    browser.picture("login").await;
    // Once that is done, it is gone: whoever has the address can make the node their own.
    daemon.state("Running");
    daemon.tell();
    browser.until(&says("The node is of the tailnet.")).await;
    let left = format!(
        "return document.body.innerHTML.includes('{URL}') || Boolean(document.querySelector('svg.code'))"
    );
    assert_eq!(browser.run(&left).await, json!(false));
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    tokio::task::block_in_place(|| drop(daemon));
}
