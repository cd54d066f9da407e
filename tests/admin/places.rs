//! The admin page's other places in a real Chromium: traffic, agents, policy, credentials, audit, gateway.

use serde_json::json;
use tailkeep::facts::Facts;
use tailkeep::verdict::{Action, Cause, Digest, Refusal, Step};

use crate::chromium::Chromium;
use crate::world::{World, agent};

const ENTER: &str = "\u{e007}";
const DOWN: &str = "\u{e015}";
const PLACES: [&str; 7] = [
    "approvals",
    "traffic",
    "agents",
    "policy",
    "credentials",
    "audit",
    "gateway",
];

/// An action like those of a busy day.
fn action(n: usize) -> Action {
    Action {
        step: Step::Request,
        endpoint: "https.api".into(),
        credential: None,
        facts: Facts::None,
        digest: Digest::of(&n.to_be_bytes()),
        summary: format!("GET /orders/{n}?expand=items"),
        detail: String::new(),
        whole: true,
    }
}

/// Judges so many actions at once, one of which is refused.
async fn busy(world: &World, numbers: std::ops::Range<usize>) {
    let mut going = tokio::task::JoinSet::new();
    for n in numbers {
        let gate = world.gate.clone();
        going.spawn(async move { drop(gate.judge(&agent(), &action(n)).await) });
    }
    going.join_all().await;
    let no = Refusal::new(Cause::NoRule, "no rule allows this");
    world
        .gate
        .refuse(&agent(), "https.api", "DELETE /orders", no)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_actions_stay_smooth_and_are_filtered_as_one_types() {
    let world = World::new().await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    browser.run("location.hash = '#/traffic'").await;
    browser
        .until("document.body.innerText.includes('No agent has done anything yet')")
        .await;
    busy(&world, 0..3000).await;
    browser
        .until("document.body.innerText.includes('3001 actions')")
        .await;
    let drawn = browser
        .run("return document.querySelectorAll('.row').length")
        .await;
    assert!(drawn.as_u64().unwrap() < 80, "{drawn} rows are drawn");
    assert!(
        browser
            .run("return document.querySelector('.row').textContent")
            .await
            .as_str()
            .unwrap()
            .contains("DELETE /orders")
    );
    browser.picture("traffic").await;
    browser.accessible("traffic").await;
    browser.keys("/deny -gone").await;
    browser
        .until("document.querySelectorAll('.row').length === 1")
        .await;
    browser
        .run("const field = document.querySelector('input'); field.select()")
        .await;
    browser.keys("orders/1234").await;
    browser
        .until("document.querySelector('.row .mono').textContent.includes('/orders/1234?')")
        .await;
    browser.run("document.querySelector('.rows').focus()").await;
    browser.keys(DOWN).await;
    browser
        .until("document.querySelector('.drawer .facts, .drawer .fields')")
        .await;
    let whole = browser
        .run("return document.querySelector('.drawer').textContent")
        .await;
    for text in [
        "allow",
        "laptop",
        "https.api",
        "all",
        &action(1234).digest.to_string(),
    ] {
        assert!(whole.as_str().unwrap().contains(text), "{text}: {whole}");
    }
    browser.picture("action").await;
    browser.accessible("action").await;
    // What comes moves nothing for one who reads further down.
    browser.run("const field = document.querySelector('input'); field.value = ''; field.dispatchEvent(new Event('input', { bubbles: true }))").await;
    browser
        .until("document.querySelectorAll('.row').length > 5")
        .await;
    browser
        .run("document.querySelector('.rows').scrollTop = 32 * 500; window.seen = null")
        .await;
    let middle = "(() => { const box = document.querySelector('.rows'); const top = box.getBoundingClientRect().top; \
        return [...box.querySelectorAll('.row')].find(row => row.getBoundingClientRect().top >= top)?.id })()";
    browser
        .until(&format!(
            "(window.seen = {middle}) && document.querySelectorAll('.row').length > 5"
        ))
        .await;
    browser
        .until(&format!(
            "window.seen === {middle} && document.querySelector('.rows').scrollTop >= 32 * 499"
        ))
        .await;
    let seen = browser.run(&format!("return {middle}")).await;
    busy(&world, 3000..3200).await;
    browser
        .until("document.body.innerText.includes('3202 actions')")
        .await;
    assert_eq!(browser.run(&format!("return {middle}")).await, seen);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_is_accessible_light_and_dark_wide_and_narrow() {
    let world = World::new().await;
    busy(&world, 0..20).await;
    let held = world.ask("held");
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    every_place(&browser, "").await;
    held.abort();
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// What there is before anything is set up, and what to do about it.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_empty_says_what_to_do_next() {
    let world = World::with(
        "endpoint \"https\" \"api\" {\n  hosts = [\"api.test\"]\n}\n\
         profile \"dev\" {\n  peers = [\"laptop\"]\n  endpoints = [https.api]\n}\n",
    );
    let world = world.await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    every_place(&browser, "empty-").await;
    for (place, says) in [
        ("approvals", "approve = [human_approver.ops]"),
        ("traffic", "tailkeep"),
        ("agents", "first action"),
        ("policy", "rule"),
        ("credentials", "credential"),
        ("audit", "Every verdict"),
    ] {
        browser.run(&format!("location.hash = '#/{place}'")).await;
        browser
            .until(&format!(
                "document.querySelector('nav [aria-current]').getAttribute('href') === '#/{place}'"
            ))
            .await;
        browser
            .until(&format!(
                "document.querySelector('.empty')?.textContent.includes('{says}')"
            ))
            .await;
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// And with more than anybody has open at once.
#[tokio::test(flavor = "multi_thread")]
async fn every_place_is_usable_with_thousands_of_rows() {
    let world = World::new().await;
    busy(&world, 0..3000).await;
    let held: Vec<_> = (0..32)
        .map(|number| world.ask(&format!("held/{number}/{}", "long/".repeat(40))))
        .collect();
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    browser
        .until("document.querySelectorAll('.asked a').length === 32")
        .await;
    every_place(&browser, "full-").await;
    held.iter().for_each(|task| task.abort());
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// Looks at each, light and dark, wide and narrow.
async fn every_place(browser: &Chromium, kind: &str) {
    for (name, width, height, scheme) in [
        ("light", 1280, 800, "light"),
        ("dark", 1280, 800, "dark"),
        ("narrow", 390, 844, "light"),
    ] {
        let name = format!("{kind}{name}");
        browser.size(width, height).await;
        browser.scheme(scheme).await;
        for place in PLACES {
            browser.run(&format!("location.hash = '#/{place}'")).await;
            browser
                .until(&format!("document.querySelector('nav [aria-current]').getAttribute('href') === '#/{place}' && document.querySelector('h1')"))
                .await;
            browser
                .until("document.querySelector('table, .row, .asked a, .empty')")
                .await;
            browser.accessible(&format!("{place} {name}")).await;
            browser.picture(&format!("{place}-{name}")).await;
            let wide = browser
                .run("return document.documentElement.scrollWidth - innerWidth")
                .await;
            assert_eq!(wide, json!(0), "{place} {name} is wider than its window");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_there_what_the_commands_do() {
    let world = World::new().await;
    busy(&world, 0..20).await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    // A peer's link.
    browser.run("location.hash = '#/agents'").await;
    browser
        .until("document.querySelector('tbody').innerText.includes('laptop')")
        .await;
    browser
        .run("document.querySelector('form input[name=name]').focus()")
        .await;
    browser.keys(&format!("build-7{ENTER}")).await;
    browser
        .until("document.querySelector('.whole').textContent.includes('tailkeep join')")
        .await;
    assert_eq!(
        world.json(&["peers", "--format", "json"])["waiting"][0]["peer"],
        "build-7"
    );
    // A secret goes in, and is on no page.
    browser.run("location.hash = '#/credentials'").await;
    browser.until("document.querySelector('table button')").await;
    browser
        .run("document.querySelector('table button').click()")
        .await;
    browser.until("document.activeElement.name === 'value'").await;
    browser.keys(&format!("s3cret-of-pat{ENTER}")).await;
    browser.until("document.body.innerText.includes('is set')").await;
    browser.until("document.querySelector('tbody .badge.good')").await;
    assert!(
        !browser
            .run("return document.documentElement.outerHTML")
            .await
            .to_string()
            .contains("s3cret")
    );
    // Rules with what they decided.
    browser.run("location.hash = '#/policy'").await;
    browser
        .until("document.querySelector('td.num')?.innerText === '20'")
        .await;
    // The record is searched, and its chain is whole.
    browser.run("location.hash = '#/audit'").await;
    browser.until("document.querySelector('input[name=text]')").await;
    browser
        .run("document.querySelector('input[name=text]').focus()")
        .await;
    browser.keys(&format!("orders/13{ENTER}")).await;
    browser
        .until("document.querySelectorAll('.row').length === 1")
        .await;
    browser.run("document.querySelector('.bar button').click()").await;
    browser
        .until("document.querySelector('[role=status].note').innerText.includes('are as they were written')")
        .await;
    // Another operator's session is ended, and this one's as well.
    let other = crate::browser::invited(&world, "bob").await;
    browser.run("location.hash = '#/gateway'").await;
    browser
        .until("[...document.querySelectorAll('td strong')].some(name => name.innerText === 'bob')")
        .await;
    browser.picture("gateway-sessions").await;
    let button = "[...document.querySelectorAll('button')].find(one => one.getAttribute('aria-label')?.endsWith('of bob'))";
    browser.until(button).await;
    browser.run(&format!("{button}.click()")).await;
    browser.until(&format!("{button}.innerText === 'Really?'")).await;
    browser.run(&format!("{button}.click()")).await;
    browser.until(&format!("!{button}")).await;
    let said = crate::browser::hear(&world, "GET /v1/session", &other.headers(&world), "").await;
    assert_eq!(said.status, 401);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
