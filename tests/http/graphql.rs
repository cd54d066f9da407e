//! GraphQL, forms and uploads through the gateway, each judged by what it says.

use serde_json::json;

use crate::agent::curl;
use crate::server::{BOTH, Service};
use crate::world::{API, World};

const RULES: &str = r#"
rule "no-mutations" {
  endpoint  = https.api
  condition = "http.graphql.kind == 'mutation' && http.graphql.fields.exists(f, f.startsWith('delete'))"
  verdict   = "deny"
  reason    = "nothing is deleted here"
}
rule "no-emails" {
  endpoint  = https.api
  condition = "'viewer.email' in http.graphql.paths"
  verdict   = "deny"
  reason    = "no emails"
}
rule "no-amounts" {
  endpoint  = https.api
  condition = "'amount' in http.form || 'contract' in http.multipart"
  verdict   = "deny"
  reason    = "no amounts"
}
rule "rest" {
  endpoint = https.api
  verdict  = "allow"
}"#;

#[tokio::test]
async fn operations_and_forms_are_judged() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(RULES));
    let gateway = world.listen(API).await;
    let url = "https://api.test/echo";
    let post = async |kind: &str, body: &str| {
        let kind = format!("Content-Type: {kind}");
        let got = curl(&world, gateway, &["-H", &kind, "-d", body, url]).await;
        (got.status, got.text())
    };
    let json = "application/json";
    let read = json!({"query": "{ viewer { login } }"});
    let delete =
        json!({"query": "mutation { x: ...F } fragment F on M { deleteRepo { ok } }".replace("x: ", "")});
    assert_eq!(post(json, &read.to_string()).await.0, 200);
    let (status, said) = post(json, &delete.to_string()).await;
    assert!(
        status == 403 && said.contains("nothing is deleted here"),
        "{said}"
    );
    // Each of a batch is judged.
    assert_eq!(post(json, &json!([read, read]).to_string()).await.0, 200);
    assert_eq!(post(json, &json!([read, delete, read]).to_string()).await.0, 403);
    let email = json!({"query": "{ viewer { e: email } }"});
    assert_eq!(post(json, &email.to_string()).await.0, 403);
    // Which of two runs hangs on the server.
    let both = json!({"query": "query A { a } mutation B { deleteRepo }"});
    assert_eq!(post(json, &both.to_string()).await.0, 403);
    let stored = json!({"extensions": {"persistedQuery": {"sha256Hash": "00"}}});
    assert_eq!(post(json, &stored.to_string()).await.0, 403);
    let got = curl(
        &world,
        gateway,
        &["-G", "--data-urlencode", "query=mutation { deleteRepo }", url],
    )
    .await;
    assert_eq!(got.status, 403);
    let form = "application/x-www-form-urlencoded";
    assert_eq!(post(form, "a=1").await.0, 200);
    assert_eq!(post(form, "a=1&%61mount=2").await.0, 403);
    // curl's own multipart body is one that every reader takes alike.
    assert_eq!(curl(&world, gateway, &["-F", "note=x", url]).await.status, 200);
    assert_eq!(
        curl(&world, gateway, &["-F", "contract=@/dev/null", url])
            .await
            .status,
        403
    );
    let seen = service.seen().len();
    assert_eq!(seen, 4, "{:?}", service.lines());
    let story = world.story().await;
    let not_sent = story
        .iter()
        .filter(|line| line.ends_with("allow | rule | NOT SENT"));
    assert_eq!(not_sent.count(), 1, "{story:#?}");
}
