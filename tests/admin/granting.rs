//! The page's grants and its kill switch, in a real Chromium.

use std::net::IpAddr;

use tailkeep::identity::{Identity, Transport};
use tailkeep::verdict::Digest;
use tailkeep::verdict::approval::{Answer, People, Question, Scope};

use crate::page::refund;
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_given_and_taken_back_and_an_agent_stopped_on_the_page() {
    let world = World::new().await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    let identity = Identity::new(
        Transport::Wireguard,
        IpAddr::from([10, 77, 0, 2]),
        "agent-billing",
    );
    let identity = identity.proved_by("key:a");
    let question = || Question {
        scope: Scope::new(&identity, "dev", ("writes-are-approved", Digest::of(b"v1"))),
        agent: "peer:agent-billing".into(),
        chain: vec![People {
            required: 1,
            eligible: vec![],
            excluded: None,
        }],
        ..refund()
    };
    let asked = world.hold(question());
    browser.until("document.querySelector('.asked a')").await;
    browser.run("document.querySelector('.asked a').click()").await;
    browser.until("document.querySelector('.decide select')").await;
    browser
        .run(
            "const list = document.querySelector('.decide select'); list.value = 'uses=20';
              list.dispatchEvent(new Event('change', { bubbles: true }))",
        )
        .await;
    browser
        .until("document.querySelector('.hint').innerText.includes('unseen')")
        .await;
    browser.accessible("grant").await;
    browser.picture("grant").await;
    browser
        .run("document.querySelector('.decide .yes').click()")
        .await;
    assert!(matches!(asked.await.unwrap(), Answer::Granted(used) if used.by == ["ann"]));
    browser
        .until("document.querySelector('.grants')?.innerText.includes('1 of 20 uses')")
        .await;
    browser.accessible("grants").await;
    browser.picture("grants").await;
    // Each click is a person's: the second is asked for.
    browser
        .run("document.querySelector('.grants button').click()")
        .await;
    browser
        .until("document.querySelector('.grants button').innerText === 'Really?'")
        .await;
    browser
        .run("document.querySelector('.grants button').click()")
        .await;
    browser.until("!document.querySelector('.grants')").await;
    assert!(world.queue.is_revoked(1));
    // Stopped by one click, and let go again.
    world.json(&[
        "peers",
        "add",
        "agent-billing",
        "--public-key",
        KEY,
        "--format",
        "json",
    ]);
    let asked = world.hold(question());
    browser.run("location.hash = '#/agents'").await;
    let stop = "document.querySelector('[aria-label=\"Stop agent-billing at once\"]')";
    browser.until(stop).await;
    browser.run(&format!("{stop}.click()")).await;
    assert!(matches!(asked.await.unwrap(), Answer::Denied { by, .. } if by == "ann"));
    let go = "document.querySelector('[aria-label=\"Let go peer:agent-billing\"]')";
    browser.until(go).await;
    browser.accessible("stopped").await;
    browser.picture("stopped").await;
    assert_eq!(world.queue.killed().borrow()["peer:agent-billing"].person, "ann");
    browser.run(&format!("{go}.click()")).await;
    browser
        .until("document.querySelector('[aria-label=\"Really: Let go peer:agent-billing\"]')")
        .await;
    browser
        .run("document.querySelector('[aria-label=\"Really: Let go peer:agent-billing\"]').click()")
        .await;
    browser.until(&format!("!{go} && {stop}")).await;
    assert!(world.queue.killed().borrow().is_empty());
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// A WireGuard public key.
const KEY: &str = "B6N8vBQgk8i3VdwbEOhstCY0BvkpJFtYqLaGfYyxKAY=";
