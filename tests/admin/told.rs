//! How channels were told, and what an action would do, on a question's page in a real Chromium.

use serde_json::{Value, json};

use crate::page::refund;
use crate::rewriting::looks;
use crate::world::World;
use tailkeep::verdict::approval::Question;

fn shown(preview: Value) -> Question {
    Question { preview, ..refund() }
}

/// What is between two headings of the question.
fn between(from: &str, to: &str) -> String {
    format!("return document.querySelector('.question').innerText.split('{from}')[1].split('{to}')[0]")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_and_what_it_does_are_shown() {
    let world = World::new().await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    let rows = json!([
        ["4711", "refunded", null],
        ["4712", "\u{202e}dednufer", "2026-07-01"]
    ]);
    let asked = world.hold(shown(json!({
        "does": { "tag": "UPDATE 3", "rows": 3, "digest": "sha256:00" }, "note": "one of its rows is not shown",
        "columns": ["id", "status", "refunded_at"], "sample": rows, "held_s": 30,
    })));
    let id = world.pending(1).await[0].id;
    for (channel, went) in [
        ("slack.ops", Some(Ok(Some("C1/2".to_owned())))),
        (
            "email.oncall",
            Some(Err(
                "the server said: <b>550</b>\u{1b}[2J no such person".to_owned()
            )),
        ),
        ("ntfy.phone", None),
    ] {
        let _ = world
            .queue
            .begin_telling(id, channel.to_owned(), "1".to_owned())
            .await
            .unwrap();
        if let Some(went) = went {
            world
                .queue
                .end_telling((id, channel.to_owned()), went, (false, false))
                .await
                .unwrap();
        }
    }
    browser.run(&format!("location.hash = '#/approvals/{id}'")).await;
    browser
        .until("document.querySelector('.question')?.innerText.includes('ntfy.phone')")
        .await;
    let told = browser.run(&between("Told", "Wanted")).await;
    let told = told.as_str().unwrap();
    for text in [
        "slack.ops told",
        "email.oncall not told",
        "550</b>\\u{001b}[2J no such person",
        "ntfy.phone being told",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }
    let does = browser.run(&between("What it does", "Why you are asked")).await;
    let does = does.as_str().unwrap();
    for text in [
        "UPDATE 3",
        "A yes commits it",
        "After 30 s",
        "runs it once more, and commits only the same rows",
        "one of its rows is not shown.",
        "NULL",
        "\\u{202e}dednufer",
        "refunded_at",
    ] {
        assert!(does.contains(text), "{text}: {does}");
    }
    looks(&browser, "previewed").await;
    browser
        .run("document.querySelector('.question .fields').scrollIntoView()")
        .await;
    looks(&browser, "told").await;
    asked.abort();
    // Each of the others says why nothing was tried, or that it fails.
    for (name, preview, want) in [
        (
            "not-tried",
            json!({ "none": "it calls a function that is not the server's own", "plan": { "rows": 40, "cost": 12.5 } }),
            "Not tried: it calls a function that is not the server's own. The server expects 40 rows, at a cost of 12.5.",
        ),
        (
            "fails",
            json!({ "does": { "error": "relation orders does not exist" } }),
            "It fails: relation orders does not exist",
        ),
    ] {
        let asked = world.hold(Question {
            digest: tailkeep::verdict::Digest::of(name.as_bytes()),
            ..shown(preview)
        });
        browser.until("document.querySelector('.asked a')").await;
        let id = loop {
            if let [one] = &*world.queue.list(false).await.unwrap()
                && one.question["digest"] == json!(tailkeep::verdict::Digest::of(name.as_bytes()).to_string())
            {
                break one.id;
            }
            tokio::task::yield_now().await;
        };
        browser.run(&format!("location.hash = '#/approvals/{id}'")).await;
        browser
            .until(&format!(
                "document.querySelector('.question').innerText.includes({})",
                json!(want)
            ))
            .await;
        looks(&browser, name).await;
        asked.abort();
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dry_run_would_change_is_shown_line_by_line() {
    let world = World::new().await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    let asked = world.hold(Question {
        endpoint: "kubernetes.prod".into(),
        summary: "PATCH /apis/apps/v1/namespaces/shop/deployments/web".to_owned(),
        detail: "PATCH /apis/apps/v1/namespaces/shop/deployments/web\n\n{\"spec\":{\"replicas\":3}}".to_owned(),
        ..shown(json!({
            "does": { "verb": "patch", "kind": "Deployment", "namespace": "shop", "name": "web",
                "uid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "resource_version": "4711", "lines": 205, "digest": "00" },
            "diff": ["- spec.replicas: 1", "+ spec.replicas: 3", "+ metadata.labels.\u{202e}x: \"<b>\"",
                format!("- spec.template.spec.containers[main].image: \"{}\"", "good/".repeat(40))],
            "note": "5 more lines are not shown",
        }))
    });
    browser.until("document.querySelector('.asked a')").await;
    browser.keys("j").await;
    browser.until("document.querySelector('.question .added')").await;
    let does = browser.run(&between("What it does", "Why you are asked")).await;
    let does = does.as_str().unwrap();
    for text in [
        "The API server's own dry run of this: patch Deployment shop/web, version 4711. A yes sends it only if that is still so then.",
        "uid 6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "- spec.replicas: 1\n+ spec.replicas: 3\n+ metadata.labels.\\u{202e}x: \"<b>\"\n",
        "5 more lines are not shown.",
    ] {
        assert!(does.contains(text), "{text}: {does}");
    }
    let body = browser.run(&between("Its body, as JSON", "What it does")).await;
    let pretty = "{\n  \"spec\": {\n    \"replicas\": 3\n  }\n}";
    assert_eq!(body.as_str().unwrap().trim(), pretty);
    let lines =
        "return ['added', 'gone'].map(kind => document.querySelectorAll('.question .' + kind).length)";
    assert_eq!(browser.run(lines).await, json!([2, 2]));
    browser.picture("body-rendered").await;
    let here = "document.querySelector('[aria-label=\"What would change\"]').scrollIntoView()";
    browser.run(here).await;
    looks(&browser, "dry-run").await;
    asked.abort();
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
