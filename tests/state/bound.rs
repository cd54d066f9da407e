//! What a decision is bound to: the retry of anything else is another question.

use std::time::Duration;

use tailkeep::identity::Transport;
use tailkeep::policy::Escalation;
use tailkeep::verdict::Digest;
use tailkeep::verdict::approval::{Answer, Decision, Question, Queue};

use crate::{LONG, ask, open, pending, question, say};

type Change = (&'static str, fn(&mut Question));

/// Everything that a person sees of a question or that decides who may say yes.
const CHANGES: &[Change] = &[
    ("bytes", |one| one.digest = Digest::of(b"other")),
    ("node", |one| one.node = "other".into()),
    ("login", |one| one.login = Some("bob@example.com".into())),
    ("transport", |one| one.transport = Transport::Tailnet),
    ("tags", |one| one.tags = vec!["tag:ci".into()]),
    ("profile", |one| one.profile = "other".into()),
    ("agent", |one| one.agent = "node:other".into()),
    ("endpoint", |one| one.endpoint = "https.other".into()),
    ("credential", |one| {
        one.credential = Some("bearer_token.other".into())
    }),
    ("rule", |one| one.rule = "other".into()),
    ("policy", |one| one.policy = 2),
    ("approver", |one| one.approver = "human_approver.other".into()),
    ("required", |one| one.required = 2),
    ("eligible", |one| one.eligible = vec!["alice".into()]),
    ("excluded", |one| one.excluded = Some("bob".into())),
    ("earlier", |one| one.earlier = vec!["dave".into()]),
    ("escalation", |one| {
        let (to, after) = (vec!["carol".into()], LONG);
        one.escalation = Some(Escalation { to, after });
    }),
    ("summary", |one| one.summary = "other".into()),
    ("detail", |one| one.detail = "other".into()),
    ("facts", |one| {
        one.facts = serde_json::json!({ "method": "delete" })
    }),
    ("preview", |one| {
        one.preview = serde_json::json!({ "does": { "tag": "DELETE 1" } })
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_for_what_was_shown_and_nothing_else() {
    let (_dir, state, queue) = open();
    let asked = ask(&queue, question("a", LONG));
    let id = pending(&queue, 1).await[0];
    queue.close();
    asked.abort();
    let _ = asked.await;
    // The next run of the gateway: whoever asked has not come back yet.
    let queue = Queue::new(state);
    queue.decide(say(id, "alice", Decision::Allow)).await.unwrap();
    for (what, change) in CHANGES {
        let mut other = question("a", Duration::from_millis(1));
        change(&mut other);
        let answer = queue.ask(other).await.unwrap();
        assert_eq!(answer, Answer::TimedOut, "{what} is not bound");
    }
    let answer = queue.ask(question("a", LONG)).await.unwrap();
    assert_eq!(
        answer,
        Answer::Allowed {
            by: vec!["alice".into()]
        }
    );
    let again = queue.ask(question("a", Duration::from_millis(1))).await.unwrap();
    assert_eq!(again, Answer::TimedOut, "it counts once");
}
