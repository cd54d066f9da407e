//! The admin page in a real Chromium, as a person uses it.

use serde_json::json;
use tailkeep::identity::Transport;
use tailkeep::verdict::approval::{Answer, Question, Said};

use crate::browser::PASSWORD;
use crate::chromium::Chromium;
use crate::world::{World, question};

const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";
const TAB: &str = "\u{e004}";

const SQL: &str = "UPDATE orders\n   SET status = 'refunded', refunded_at = now()\n WHERE customer_id = $1\n   AND created_at > now() - interval '30 days'\nRETURNING id, total;";

/// A question as the Postgres proxy asks it.
pub fn refund() -> Question {
    Question {
        preview: serde_json::Value::Null,
        approver: "human_approver.ops".into(),
        rule: "writes-are-approved".into(),
        reason: "changes to orders are looked at by a person".into(),
        node: "agent-billing".into(),
        transport: Transport::Tailnet,
        earlier: vec![Said {
            person: "bob".to_owned(),
            through: Some("slack.ops".to_owned()),
        }],
        tags: vec!["tag:billing".into(), "tag:\u{202e}x".into()],
        endpoint: "postgres.orders".into(),
        description: Some("the orders of the shop, in production".into()),
        channel: Some("#orders".into()),
        credential: Some("postgres_credential.orders".into()),
        summary: "update orders set status = 'refunded'".into(),
        detail: SQL.to_owned(),
        facts: json!({
            "verb": "update", "verbs": ["update"], "tables": ["orders"], "reads": ["orders"], "writes": ["orders"],
            "functions": ["now"], "has_where": true, "row_limit": null, "parameters": ["4711"], "database": "shop",
            "statement": SQL, "statements": 1,
        }),
        ..question("refund")
    }
}

impl World {
    pub fn hold(&self, question: Question) -> tokio::task::JoinHandle<Answer> {
        let queue = self.queue.clone();
        tokio::spawn(async move { queue.ask(question).await.unwrap() })
    }

    async fn browser(&self, name: &str) -> Option<Chromium> {
        let browser = Chromium::start().await?;
        let url = self.json(&["operators", "invite", name, "--format", "json"])["url"]
            .as_str()
            .unwrap()
            .to_owned();
        browser.open(&url).await;
        browser.until("document.activeElement.name === 'password'").await;
        Some(browser)
    }

    /// A browser whose person has signed in.
    pub async fn signed_in(&self, name: &str) -> Option<Chromium> {
        let browser = self.browser(name).await?;
        browser.keys(&format!("{PASSWORD}{TAB}{PASSWORD}{ENTER}")).await;
        browser.until("document.querySelector('.dot.live')").await;
        Some(browser)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_sees_a_question_arrive_and_decides_by_keyboard() {
    let world = World::new().await;
    let Some(browser) = world.browser("ann").await else {
        return;
    };
    browser.picture("invited").await;
    browser.accessible("invited").await;
    browser.keys(&format!("{PASSWORD}{TAB}{PASSWORD}{ENTER}")).await;
    browser
        .until("document.body.innerText.includes('Nothing waits for you')")
        .await;
    browser.accessible("nothing").await;
    browser.picture("nothing").await;
    // It arrives by itself.
    let asked = world.hold(refund());
    browser.until("document.title.startsWith('(1) ')").await;
    browser.keys("j").await;
    browser.until("document.querySelector('.whole')").await;
    let shown = browser
        .run("return document.querySelector('.whole').textContent")
        .await;
    assert_eq!(shown, json!(SQL), "the statement is not whole");
    let all = browser
        .run("return document.querySelector('.question').textContent")
        .await;
    for text in [
        "agent-billing",
        "alice@example.com",
        "writes-are-approved",
        "changes to orders",
        "human_approver.ops",
        "#orders",
        "the orders of the shop, in production",
        "postgres_credential.orders",
        "With these parameters$1 = \"4711\"",
        &refund().digest.to_string(),
        "1 person",
        "tailnet",
        "tag:billing, tag:\\u{202e}x",
        "bob through slack.ops",
    ] {
        assert!(all.as_str().unwrap().contains(text), "{text} is not shown: {all}");
    }
    browser.accessible("question").await;
    browser.picture("question").await;
    // Escape takes it back; what is typed is a reason and no command.
    browser.keys(&format!("a{ESCAPE}")).await;
    browser.keys("d").await;
    browser
        .until("document.querySelector('.hint').innerText.includes('Enter denies')")
        .await;
    browser.keys(ESCAPE).await;
    browser
        .until("!document.querySelector('.hint').innerText.includes('Enter')")
        .await;
    browser.keys("a").await;
    browser
        .until("document.querySelector('.hint').innerText.includes('Enter approves')")
        .await;
    browser.picture("armed").await;
    browser.keys(&format!("a deal, ticket 8{ENTER}")).await;
    let answer = asked.await.unwrap();
    assert_eq!(
        answer,
        Answer::Allowed {
            by: vec!["ann".into()]
        }
    );
    browser
        .until("document.querySelector('.question .badge.good')")
        .await;
    assert_eq!(
        world.queue.show(1).await.unwrap().unwrap().reason.as_deref(),
        Some("a deal, ticket 8")
    );
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_decided_on_a_telephone_in_the_dark() {
    let world = World::new().await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    browser.size(390, 844).await;
    browser.scheme("dark").await;
    let asked = world.hold(refund());
    // Each is a task of its own: the first has to be there before the second is asked.
    browser
        .until("document.querySelectorAll('.asked a').length === 1")
        .await;
    let other = world.ask("other");
    browser
        .until("document.querySelectorAll('.asked a').length === 2")
        .await;
    browser.picture("telephone-list").await;
    browser.accessible("telephone list").await;
    browser.run("document.querySelector('.asked a').click()").await;
    browser.until("document.querySelector('.decide')").await;
    browser.accessible("telephone question").await;
    browser.picture("telephone-question").await;
    let inside = "const box = document.querySelector('.no').getBoundingClientRect();
        return box.height >= 44 && box.bottom <= innerHeight && document.documentElement.scrollWidth <= innerWidth";
    assert_eq!(
        browser.run(inside).await,
        json!(true),
        "the buttons cannot be reached by a thumb"
    );
    browser.run("document.querySelector('.decide .no').click()").await;
    assert!(matches!(asked.await.unwrap(), Answer::Denied { by, .. } if by == "ann"));
    browser.until("document.title.startsWith('(1) ')").await;
    other.abort();
    browser.until("!document.title.startsWith('(')").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_writes_is_text_and_hides_nothing() {
    let world = World::new().await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    let hostile = "<img src=x onerror=alert(1)>\u{202e}evil\u{200b}\u{1b}[2J</pre><script>document.title='owned'</script>";
    // What it did before, and what was said to its likes, are its words too.
    let _ = world.judge(hostile).await;
    world.log.flush().await.unwrap();
    let facts = json!({ "constructor": hostile, "__proto__": [hostile], "a": { "b": hostile } });
    let before = world.hold(Question {
        summary: hostile.to_owned(),
        facts: facts.clone(),
        ..refund()
    });
    let id = world.pending(1).await[0].id.to_string();
    world.run(&["approvals", "deny", &id, "--reason", "not today"]);
    before.await.unwrap();
    let asked = world.hold(Question {
        node: "laptop".into(),
        summary: hostile.to_owned(),
        detail: hostile.to_owned(),
        reason: hostile.to_owned(),
        facts,
        ..refund()
    });
    browser.until("document.querySelector('.asked a')").await;
    browser.keys("j").await;
    browser.until("document.querySelector('.whole')").await;
    let shown = browser
        .run("return document.querySelector('.whole').textContent")
        .await;
    let escaped = "<img src=x onerror=alert(1)>\\u{202e}evil\\u{200b}\\u{001b}[2J</pre><script>document.title='owned'</script>";
    assert_eq!(shown, json!(escaped));
    browser
        .until("document.querySelectorAll('.question caption').length === 2")
        .await;
    let tables =
        "return [...document.querySelectorAll('.question tbody')].map(one => one.textContent).join('\\n')";
    let tables = browser.run(tables).await;
    for text in [
        "allow",
        "https.api",
        escaped,
        "denied",
        "agent-billing",
        ": not today",
    ] {
        assert!(
            tables.as_str().unwrap().contains(text),
            "{text} is not shown: {tables}"
        );
    }
    let made = "return document.querySelectorAll('#app img:not([src^=\"/page/\"]), #app script').length";
    assert_eq!(browser.run(made).await, json!(0));
    assert_ne!(browser.run("return document.title").await, json!("owned"));
    browser.picture("hostile").await;
    browser
        .run("document.querySelector('.question caption').scrollIntoView()")
        .await;
    browser.accessible("asker").await;
    browser.picture("asker").await;
    asked.abort();
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_leaves_the_page() {
    let world = World::new().await;
    let Some(browser) = world.signed_in("ann").await else {
        return;
    };
    world.run(&["operators", "end", "1"]);
    browser.until("document.activeElement.name === 'name'").await;
    browser.picture("sign-in").await;
    browser.accessible("sign in").await;
    browser.keys(&format!("ann{TAB}wrong password{ENTER}")).await;
    browser
        .until("document.querySelector('[role=alert]').innerText.includes('is wrong')")
        .await;
    browser.run("document.querySelector('input[name=password]').value = ''; document.querySelector('input[name=password]').focus()").await;
    browser.keys(&format!("{PASSWORD}{ENTER}")).await;
    browser.until("document.querySelector('.dot.live')").await;
}
