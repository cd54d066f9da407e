//! What people are shown of a held change: the API server's own dry run of it, and that it is still so when it goes.

use serde_json::{Value, json};
use tailkeep::verdict::approval::{Decide, Decision, Held, QuestionState};

use crate::cluster::{Cluster, Done, Gateway, POD};
use crate::verbs::held;

const RULES: &str = r#"
rule "changes" {
  endpoint  = kubernetes.prod
  condition = "k8s.verb in ['create', 'update', 'patch', 'delete', 'deletecollection']"
  approve   = [human_approver.ops]
}
rule "rest" {
  endpoint = kubernetes.prod
  verdict  = "allow"
}
"#;

const DEPLOYMENT: &str = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":1,
  "selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},
  "spec":{"containers":[{"name":"main","image":"good/one"},{"name":"side","image":"good/side"}]}}}}"#;

async fn previewing(cluster: &Cluster, fields: &str) -> Gateway {
    let gateway = cluster.gateway(RULES).await;
    let wanted = format!("preview = true\n{fields}\n  ca_cert  =");
    gateway
        .world
        .reload(&gateway.policy.replace("ca_cert  =", &wanted));
    gateway
}

async fn decide(gateway: &Gateway, held: &Held, decision: Decision) {
    let decide = Decide {
        id: held.id,
        person: "ann".into(),
        decision,
        reason: None,
        grant: None,
    };
    gateway.world.queue.decide(decide).await.unwrap();
}

/// Runs kubectl, which is held; what people are shown of it, `before` they decide.
async fn shown<T>(
    gateway: &Gateway,
    (args, input): (&[&str], &str),
    decision: Decision,
    before: impl AsyncFnOnce() -> T,
) -> (Done, Value, T) {
    let (done, (preview, found)) = tokio::join!(gateway.kubectl_with(args, input), async {
        let held = held(gateway).await;
        let found = before().await;
        decide(gateway, &held, decision).await;
        (held.question["preview"].clone(), found)
    });
    (done, preview, found)
}

/// The object as the API server has it, with `does` saying that it is this one.
async fn object(cluster: &Cluster, kind: &str, name: &str) -> Value {
    let args = ["get", kind, name, "-o", "json"];
    serde_json::from_str(&cluster.admin(&args, "").await).unwrap()
}

fn is_of(preview: &Value, object: &Value) {
    let (does, own) = (&preview["does"], &object["metadata"]);
    assert_eq!(does["uid"], own["uid"], "{preview}");
    assert_eq!(does["resource_version"], own["resourceVersion"], "{preview}");
    assert_eq!(does["name"], own["name"], "{preview}");
}

fn has(preview: &Value, lines: &[&str]) {
    let diff = preview["diff"].as_array().unwrap_or_else(|| panic!("{preview}"));
    for line in lines {
        assert!(diff.contains(&json!(line)), "{line}: {preview:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_change_would_do_is_shown_and_not_done_before_the_yes() {
    let cluster = Cluster::start().await;
    let gateway = previewing(&cluster, "").await;
    cluster.admin(&["create", "-f", "-"], DEPLOYMENT).await;
    changes(&cluster, &gateway).await;
    creations(&cluster, &gateway).await;
    deletions(&cluster, &gateway).await;
    what_is_not_tried(&cluster, &gateway).await;
    others_groups(&cluster, &gateway).await;
    // Without the field nobody is shown anything.
    gateway.world.reload(&gateway.policy);
    let patch = ["patch", "deployment", "web", "-p", r#"{"spec":{"replicas":9}}"#];
    let (_, preview, ()) = shown(&gateway, (&patch, ""), Decision::Deny, async || ()).await;
    assert_eq!(preview, Value::Null);
}

async fn changes(cluster: &Cluster, gateway: &Gateway) {
    let patch = ["patch", "deployment", "web", "-p", r#"{"spec":{"replicas":3}}"#];
    for (decision, replicas) in [(Decision::Deny, 1), (Decision::Allow, 3)] {
        let meanwhile = async || object(cluster, "deployment", "web").await;
        let (done, preview, was) = shown(gateway, (&patch, ""), decision, meanwhile).await;
        assert_eq!(done.ok, decision == Decision::Allow, "{done:?}");
        assert_eq!(
            preview["diff"],
            json!(["- spec.replicas: 1", "+ spec.replicas: 3"])
        );
        assert_eq!(
            (&preview["does"]["kind"], &preview["does"]["verb"]),
            (&json!("Deployment"), &json!("patch"))
        );
        is_of(&preview, &was);
        assert_eq!(was["spec"]["replicas"], 1, "it was done before");
        assert_eq!(
            object(cluster, "deployment", "web").await["spec"]["replicas"],
            replicas
        );
    }
    let scale = ["scale", "deployment", "web", "--replicas=5"];
    let (done, preview, ()) = shown(gateway, (&scale, ""), Decision::Allow, async || ()).await;
    assert!(done.ok, "{done:?}");
    has(&preview, &["- spec.replicas: 3", "+ spec.replicas: 5"]);
    assert_eq!(preview["does"]["kind"], "Scale");
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let changed = DEPLOYMENT.replace("good/side", "good/other");
    let (done, preview, was) = shown(gateway, (&apply, &changed), Decision::Allow, async || {
        object(cluster, "deployment", "web").await
    })
    .await;
    assert!(done.ok, "{done:?}");
    is_of(&preview, &was);
    let image = "spec.template.spec.containers[side].image";
    has(
        &preview,
        &[
            &format!("- {image}: \"good/side\""),
            &format!("+ {image}: \"good/other\""),
        ],
    );
    // What the API server refuses is shown in its words, and people decide all the same.
    let selector = [
        "patch",
        "deployment",
        "web",
        "-p",
        r#"{"spec":{"selector":{"matchLabels":{"app":"x"}}}}"#,
    ];
    let (done, preview, ()) = shown(gateway, (&selector, ""), Decision::Allow, async || ()).await;
    assert!(done.errors.contains("immutable"), "{done:?}");
    let error = preview["does"]["error"].as_str().unwrap();
    assert!(
        error.starts_with("the API server said 422: ") && error.contains("immutable"),
        "{error}"
    );
}

async fn creations(cluster: &Cluster, gateway: &Gateway) {
    let file =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"made"},"data":{"a":"one\ntwo\nthree"}}"#;
    let get = ["get", "configmap", "made", "--ignore-not-found", "-o", "name"];
    let (done, preview, was) = shown(
        gateway,
        (&["apply", "-f", "-"], file),
        Decision::Allow,
        async || cluster.admin(&get, "").await,
    )
    .await;
    assert_eq!((done.ok, was.as_str()), (true, ""), "{done:?}");
    has(
        &preview,
        &[
            "+ kind: \"ConfigMap\"",
            "+ metadata.name: \"made\"",
            "+ data.a: \"one\\ntwo\\nthree\"",
        ],
    );
    assert_eq!(
        (&preview["does"]["verb"], &preview["does"]["name"]),
        (&json!("create"), &json!("made"))
    );
    assert_eq!(preview["does"]["uid"], Value::Null);
    // kubectl's own way of applying, to what is there now.
    let file = file.replace("two", "2");
    let (done, preview, ()) = shown(
        gateway,
        (&["apply", "-f", "-"], &file),
        Decision::Allow,
        async || (),
    )
    .await;
    assert!(done.ok, "{done:?}");
    has(
        &preview,
        &["- data.a (line 2): \"two\"", "+ data.a (line 2): \"2\""],
    );
}

async fn deletions(cluster: &Cluster, gateway: &Gateway) {
    // kubectl sends options as a body: the API server then does not look at the query.
    cluster
        .admin(&["create", "-f", "-"], &POD.replace("NAME", "web"))
        .await;
    let delete = ["delete", "pod", "web", "--wait=false"];
    let (done, preview, was) = shown(gateway, (&delete, ""), Decision::Deny, async || {
        object(cluster, "pod", "web").await
    })
    .await;
    assert!(!done.ok);
    is_of(&preview, &was);
    assert_eq!(
        was["metadata"]["deletionTimestamp"],
        Value::Null,
        "it was deleted before"
    );
    has(
        &preview,
        &["- kind: \"Pod\"", "- spec.containers[0].image: \"good/image\""],
    );
    for name in ["first", "second", "third"] {
        cluster.admin(&["create", "configmap", name], "").await;
    }
    cluster
        .admin(&["label", "configmap", "first", "second", "team=a"], "")
        .await;
    let names = async || cluster.admin(&["get", "configmaps", "-o", "name"], "").await;
    let wipe = [
        "delete",
        "--raw",
        "/api/v1/namespaces/default/configmaps?labelSelector=team%3Da",
    ];
    let (done, preview, left) = shown(gateway, (&wipe, ""), Decision::Allow, names).await;
    assert!(done.ok, "{done:?}");
    assert!(
        left.contains("configmap/first\n") && left.contains("configmap/second\n"),
        "{left}"
    );
    assert_eq!(
        preview["diff"],
        json!(["- \"default/first\"", "- \"default/second\""])
    );
    assert_eq!(
        (&preview["does"]["objects"], &preview["does"]["kind"]),
        (&json!(2), &json!("configmaps"))
    );
    let left = names().await;
    assert!(
        !left.contains("first") && !left.contains("second") && left.contains("third"),
        "{left}"
    );
}

async fn what_is_not_tried(cluster: &Cluster, gateway: &Gateway) {
    let of = async |args: &[&str]| {
        let (_, preview, ()) = shown(gateway, (args, ""), Decision::Allow, async || ()).await;
        preview
    };
    let own = [
        "patch",
        "deployment",
        "web",
        "--dry-run=server",
        "-p",
        r#"{"spec":{"replicas":7}}"#,
    ];
    let none = json!({ "none": "it is a dry run itself, and changes nothing" });
    assert_eq!(of(&own).await, none);
    // As the API server reads it, that is: the options of a DELETE are its body's.
    assert_eq!(
        of(&["delete", "deployment", "web", "--dry-run=server"]).await,
        none
    );
    assert_eq!(object(cluster, "deployment", "web").await["spec"]["replicas"], 1);
    // A webhook that has its say is called, and what the API server makes of that is shown.
    let webhook = r#"{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingWebhookConfiguration","metadata":{"name":"w"},
      "webhooks":[{"name":"w.example.com","sideEffects":"None","admissionReviewVersions":["v1"],"failurePolicy":"Fail","clientConfig":{"url":"https://127.0.0.1:1/"},
      "rules":[{"apiGroups":[""],"apiVersions":["v1"],"operations":["CREATE"],"resources":["services"]}]}]}"#;
    cluster.admin(&["create", "-f", "-"], webhook).await;
    let service = ["create", "service", "clusterip", "s", "--tcp=80"];
    let refused = loop {
        let preview = of(&service).await;
        if !preview["does"]["error"].is_null() {
            break preview;
        }
        // It comes into force a moment after it was made.
        cluster.admin(&["delete", "service", "s"], "").await;
    };
    let error = refused["does"]["error"].as_str().unwrap();
    assert!(
        error.contains("failed calling webhook \"w.example.com\""),
        "{error}"
    );
    cluster
        .admin(&["delete", "validatingwebhookconfiguration", "w"], "")
        .await;
    let token = of(&["create", "token", "default"]).await;
    assert_eq!(
        token["none"],
        "the API server has no dry run of create of serviceaccounts/token"
    );
    let may = of(&["auth", "can-i", "get", "pods"]).await;
    assert_eq!(may["none"], "selfsubjectaccessreviews are not stored");
}

/// Objects of a definition are tried, and those of another API server behind this one are not.
async fn others_groups(cluster: &Cluster, gateway: &Gateway) {
    let definition = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.example.com"},
      "spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"things","singular":"thing","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,
      "schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}"#;
    cluster.admin(&["create", "-f", "-"], definition).await;
    let wait = ["wait", "--for=condition=Established", "crd", "things.example.com"];
    cluster.admin(&wait, "").await;
    let thing = r#"{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"t"},"size":1}"#;
    let (done, preview, ()) = shown(
        gateway,
        (&["create", "-f", "-"], thing),
        Decision::Allow,
        async || (),
    )
    .await;
    assert!(done.ok, "{done:?} {preview}");
    has(&preview, &["+ size: 1"]);
    let service = r#"{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.other.example.com"},
      "spec":{"group":"other.example.com","version":"v1","groupPriorityMinimum":1,"versionPriority":1,"insecureSkipTLSVerify":true,"service":{"namespace":"default","name":"none"}}}"#;
    cluster.admin(&["create", "-f", "-"], service).await;
    let delete = [
        "delete",
        "--raw",
        "/apis/other.example.com/v1/namespaces/default/things/t",
    ];
    let (_, preview, ()) = shown(gateway, (&delete, ""), Decision::Deny, async || ()).await;
    assert_eq!(
        preview,
        json!({ "none": "another server may serve it, and do it where a dry run is asked for" })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_since_it_was_shown_is_refused() {
    let cluster = Cluster::start().await;
    let gateway = previewing(&cluster, "").await;
    cluster.admin(&["create", "-f", "-"], DEPLOYMENT).await;
    for name in ["first", "second"] {
        cluster.admin(&["create", "configmap", name], "").await;
        cluster.admin(&["label", "configmap", name, "team=a"], "").await;
    }
    let made = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"made"},"data":{"by":"agent"}}"#;
    let apply = ["apply", "--server-side", "-f", "-"];
    let wipe = [
        "delete",
        "--raw",
        "/api/v1/namespaces/default/configmaps?labelSelector=team%3Da",
    ];
    let patch = ["patch", "deployment", "web", "-p", r#"{"spec":{"replicas":3}}"#];
    let delete = ["delete", "configmap", "first"];
    // The agent's request, what somebody does meanwhile, and what is left.
    let cases: [(&[&str], &str, &[&[&str]], &[&str], &str); 4] = [
        (
            &patch,
            "",
            &[&["label", "deployment", "web", "a=b"]],
            &["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"],
            "1",
        ),
        // Another object of that name.
        (
            &delete,
            "",
            &[
                &["delete", "configmap", "first"],
                &["create", "configmap", "first"],
                &["label", "configmap", "first", "team=a"],
            ],
            &["get", "configmap", "first", "-o", "name"],
            "configmap/first\n",
        ),
        (
            &wipe,
            "",
            &[
                &["create", "configmap", "third"],
                &["label", "configmap", "third", "team=a"],
            ],
            &["get", "configmaps", "-l", "team=a", "-o", "name"],
            "configmap/first\nconfigmap/second\nconfigmap/third\n",
        ),
        (
            &apply,
            made,
            &[&["create", "configmap", "made"]],
            &["get", "configmap", "made", "-o", "jsonpath={.data}"],
            "",
        ),
    ];
    for (args, input, meanwhile, look, left) in cases {
        let (done, _, ()) = shown(&gateway, (args, input), Decision::Allow, async || {
            for step in meanwhile {
                cluster.admin(step, "").await;
            }
        })
        .await;
        assert!(!done.ok, "{args:?}: {done:?}");
        assert!(
            done.errors.contains("no longer as it was shown"),
            "{args:?}: {done:?}"
        );
        assert_eq!(cluster.admin(look, "").await, left, "{args:?}");
    }
    // The yes is used up: the same is asked again, and shown as it now is.
    let past = gateway.world.queue.list(true).await.unwrap();
    assert!(
        past.iter().all(|held| held.state == QuestionState::Used),
        "{past:?}"
    );
    let now = async || object(&cluster, "deployment", "web").await;
    let (done, preview, was) = shown(&gateway, (&patch, ""), Decision::Allow, now).await;
    assert!(done.ok, "{done:?}");
    is_of(&preview, &was);
    let refused = "Error from server (Conflict): what it changes is no longer as it was shown to who approved it; ask again (rule changes)\n";
    let (done, ..) = shown(&gateway, (&delete, ""), Decision::Allow, async || {
        cluster.admin(&["label", "configmap", "first", "b=c"], "").await;
    })
    .await;
    assert_eq!(done.errors, refused);
    let story = gateway.world.story().await;
    let of = |end: &str| story.iter().filter(|line| line.ends_with(end)).count();
    assert_eq!(
        of(" | allow | approved | refused: not as it was shown"),
        5,
        "{story:#?}"
    );
    assert_eq!(of(" | deny | changed | -"), 5, "{story:#?}");
    // Each preview has a record of its own.
    let previews = (
        of(" | allow | preview | HTTP 200"),
        of(" | allow | preview | HTTP 201"),
    );
    assert_eq!(previews, (5, 1), "{story:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_and_masked_members_are_kept_from_who_decides() {
    let cluster = Cluster::start().await;
    let gateway = previewing(&cluster, "preview_masked = [\"configmaps.data\"]").await;
    let secret = [
        "create",
        "secret",
        "generic",
        "s",
        "--from-literal=key=the-old-value",
    ];
    cluster.admin(&secret, "").await;
    cluster
        .admin(&["create", "configmap", "c", "--from-literal=k=plain-old"], "")
        .await;
    let patch = [
        "patch",
        "secret",
        "s",
        "-p",
        r#"{"stringData":{"key":"the-new-value"},"type":"Opaque"}"#,
    ];
    let (done, preview, ()) = shown(&gateway, (&patch, ""), Decision::Allow, async || ()).await;
    assert!(done.ok, "{done:?}");
    assert_eq!(
        preview["diff"],
        json!(["- data.key: \"(masked)\"", "+ data.key: \"(masked)\""])
    );
    let patch = ["patch", "configmap", "c", "-p", r#"{"data":{"k":"plain-new"}}"#];
    let (_, preview, ()) = shown(&gateway, (&patch, ""), Decision::Allow, async || ()).await;
    assert_eq!(
        preview["diff"],
        json!(["- data: \"(masked)\"", "+ data: \"(masked)\""])
    );
    let delete = ["delete", "secret", "s"];
    let (_, preview, ()) = shown(&gateway, (&delete, ""), Decision::Allow, async || ()).await;
    has(&preview, &["- data.key: \"(masked)\""]);
    for held in gateway.world.queue.list(true).await.unwrap() {
        let shown = held.question["preview"].to_string();
        for secret in [
            "the-old-value",
            "the-new-value",
            "dGhlLW9sZC12YWx1ZQ",
            "dGhlLW5ldy12YWx1ZQ",
            "plain-",
        ] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }
}
