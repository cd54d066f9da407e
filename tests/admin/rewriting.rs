//! The policy's files and why a rule matched, on the page in a real Chromium.

use serde_json::json;

use crate::browser::PASSWORD;
use crate::chromium::Chromium;
use crate::editing::{Edited, RULES};

const ENTER: &str = "\u{e007}";
const TAB: &str = "\u{e004}";

/// A browser whose person has signed in at a gateway that runs.
async fn signed_in(edited: &Edited) -> Option<Chromium> {
    let browser = Chromium::start().await?;
    let invited = std::process::Command::new(env!("CARGO_BIN_EXE_tailkeep"))
        .args(["operators", "invite", "ann", "--format", "json"])
        .env("TAILKEEP_SOCKET", edited.socket())
        .output()
        .unwrap();
    let invited: serde_json::Value = serde_json::from_slice(&invited.stdout).unwrap();
    browser.open(invited["url"].as_str().unwrap()).await;
    browser.until("document.activeElement.name === 'password'").await;
    browser.keys(&format!("{PASSWORD}{TAB}{PASSWORD}{ENTER}")).await;
    browser.until("document.querySelector('.dot.live')").await;
    Some(browser)
}

/// Presses the button that says this.
async fn press(browser: &Chromium, name: &str) {
    let button = format!(
        "[...document.querySelectorAll('main button')].find(one => one.innerText === '{name}' && !one.disabled)"
    );
    browser.until(&button).await;
    browser.run(&format!("{button}.click()")).await;
}

/// Types a whole text, as if it were pasted.
async fn paste(browser: &Chromium, text: &str) {
    let script = format!(
        "const field = document.querySelector('textarea'); field.value = {}; field.dispatchEvent(new Event('input', {{ bubbles: true }}))",
        json!(text)
    );
    browser.run(&script).await;
}

/// Pictures, light and dark, wide and narrow, each of them accessible and no wider than its window.
pub async fn looks(browser: &Chromium, name: &str) {
    for (how, width, height, scheme) in [
        ("light", 1280, 900, "light"),
        ("dark", 1280, 900, "dark"),
        ("narrow", 390, 844, "light"),
    ] {
        browser.size(width, height).await;
        browser.scheme(scheme).await;
        // What arrives shines for a second.
        browser.until("document.getAnimations().length === 0").await;
        browser.accessible(&format!("{name} {how}")).await;
        browser.picture(&format!("{name}-{how}")).await;
        let wide = browser
            .run("return document.documentElement.scrollWidth - innerWidth")
            .await;
        assert_eq!(wide, json!(0), "{name} {how} is wider than its window");
    }
    browser.size(1280, 900).await;
    browser.scheme("light").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_checked_rehearsed_and_written_on_the_page() {
    let edited = Edited::start("  dashboard_config_writes = true\n  reload_guard = \"24h\"").await;
    let Some(browser) = signed_in(&edited).await else {
        return;
    };
    browser.run("location.hash = '#/policy'").await;
    press(&browser, "Coverage of the last day").await;
    browser
        .until("document.body.innerText.includes('matched 2, not 1')")
        .await;
    browser
        .run("document.querySelector('td details').open = true")
        .await;
    browser
        .until("document.querySelector('.gaps').innerText.includes('never true')")
        .await;
    looks(&browser, "coverage").await;
    browser.run("location.hash = '#/policy/files'").await;
    browser
        .until("document.querySelector('textarea')?.value.includes('gateway')")
        .await;
    browser
        .run("const list = document.querySelector('main select'); list.value = 'rules.hcl'; list.dispatchEvent(new Event('change', { bubbles: true }))")
        .await;
    browser
        .until("document.querySelector('textarea').value.includes('rule')")
        .await;
    looks(&browser, "files").await;
    // What is wrong is shown with its place, and leads there.
    paste(
        &browser,
        &RULES.replace("http.method == 'post'", "http.metod == 'post'"),
    )
    .await;
    press(&browser, "Check").await;
    browser
        .until("document.querySelector('.diagnostics button')?.innerText.startsWith('rules.hcl:14:')")
        .await;
    looks(&browser, "draft-errors").await;
    browser
        .run("document.querySelector('.diagnostics button').click()")
        .await;
    let chosen = "document.querySelector('textarea').value.slice(...['selectionStart', 'selectionEnd'].map(end => document.querySelector('textarea')[end]))";
    browser.until(&format!("{chosen}.startsWith('.metod')")).await;
    // Nothing is written that was not rehearsed.
    let write =
        "[...document.querySelectorAll('main button')].find(one => one.innerText === 'Write and reload')";
    assert_eq!(
        browser.run(&format!("return {write}.disabled")).await,
        json!(true)
    );
    let strict = RULES.replace("\"allow\"", "\"deny\"");
    paste(&browser, &strict).await;
    // A draft outlives a look at another page.
    browser.run("location.hash = '#/traffic'").await;
    browser.until("document.querySelector('.row')").await;
    browser.run("location.hash = '#/policy/files'").await;
    browser
        .until("document.querySelector('textarea')?.value.includes('\"deny\"\\n}\\nrule')")
        .await;
    press(&browser, "Rehearse").await;
    browser
        .until("document.body.innerText.includes('2 would change')")
        .await;
    looks(&browser, "rehearsal").await;
    press(&browser, "Write and reload").await;
    browser
        .until("document.querySelector('[role=alert]')?.innerText.includes('it would change verdicts')")
        .await;
    looks(&browser, "held-back").await;
    press(&browser, "Accept and write").await;
    press(&browser, "Really?").await;
    browser
        .until("document.body.innerText.includes('It is in force')")
        .await;
    looks(&browser, "written").await;
    let path = edited.folder.path().join("policies/rules.hcl");
    assert_eq!(std::fs::read_to_string(path).unwrap(), strict);
    // Why, by the policy that is in force now.
    browser.run("location.hash = '#/traffic/3'").await;
    browser
        .until("document.querySelectorAll('.why details').length === 2")
        .await;
    let why = browser
        .run("return document.querySelector('.why').innerText")
        .await;
    for text in [
        "not the one of then",
        "reads",
        "not matched",
        "writes",
        "matched: deny",
        "'post'",
        "true",
    ] {
        assert!(why.as_str().unwrap().contains(text), "{text}: {why}");
    }
    browser.run("document.querySelectorAll('.why details').forEach(one => { one.open = true }); document.querySelector('.why').scrollIntoView()").await;
    looks(&browser, "why").await;
    let refusals = |line: &String| line.contains("status of 409");
    let complaints: Vec<String> = browser.complaints().await;
    assert!(complaints.iter().all(refusals), "{complaints:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_kept_elsewhere_are_read_alone() {
    let edited = Edited::start("").await;
    let Some(browser) = signed_in(&edited).await else {
        return;
    };
    browser.run("location.hash = '#/policy/files'").await;
    browser
        .until("document.querySelector('.note')?.innerText.includes('kept elsewhere')")
        .await;
    browser
        .until("!document.body.innerText.includes('Write and reload')")
        .await;
    looks(&browser, "elsewhere").await;
    // By keyboard alone.
    browser.run("document.querySelector('textarea').focus()").await;
    browser.keys(&format!("{TAB}{ENTER}")).await;
    browser
        .until("document.querySelector('[role=status].note')?.innerText.includes('It loads')")
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
