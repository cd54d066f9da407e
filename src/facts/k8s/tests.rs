use http::{Method, Request};
use serde_json::json;

use super::*;
use crate::facts::{Facts, Family};

fn facts(method: &str, target: &str, body: HeldBody<'_>) -> Result<K8sFacts, Malformed> {
    let request = Request::builder().method(method).uri(target).body(()).unwrap();
    let (parts, ()) = request.into_parts();
    K8sFacts::read(&parts, "cluster", body, FactSet::ALL, 1 << 20)
}

/// `verb group/version namespace resource name`, empty ones as `-`; `path` for no resource.
fn line(method: &str, target: &str) -> String {
    let facts = match facts(method, target, HeldBody::Empty) {
        Ok(facts) => facts,
        Err(_) => return "refused".to_owned(),
    };
    let text = |slot| match facts.fact(slot) {
        Fact::Known(View::Text("")) => "-".to_owned(),
        Fact::Known(View::Text(text)) => text.to_owned(),
        other => format!("{other:?}"),
    };
    let verb = text(Slot::K8sVerb);
    if !matches!(facts.fact(Slot::K8sIsResource), Fact::Known(View::Bool(true))) {
        return format!("{verb} path");
    }
    format!(
        "{verb} {}/{} {} {} {}",
        text(Slot::K8sGroup),
        text(Slot::K8sVersion),
        text(Slot::K8sNamespace),
        text(Slot::K8sResource),
        text(Slot::K8sName)
    )
}

/// Method, target, and what the API server's resolver says. `resolver_agrees` compares the same
/// table with the resolver itself.
const TABLE: &[(&str, &str, &str)] = &[
    ("GET", "/", "get path"),
    ("GET", "/api", "get path"),
    ("GET", "/api/", "get path"),
    ("GET", "/api/v1", "get path"),
    ("GET", "/api/v1/", "get path"),
    ("GET", "/apis", "get path"),
    ("GET", "/apis/apps", "get path"),
    ("GET", "/apis/apps/v1", "get path"),
    ("GET", "/apis/apps/v1/", "get path"),
    ("GET", "/healthz", "get path"),
    ("GET", "/version", "get path"),
    ("POST", "/metrics/a/b/c", "post path"),
    ("GET", "/openapi/v3/apis/apps/v1", "get path"),
    ("DELETE", "/other/v1/pods", "delete path"),
    ("GET", "/API/v1/pods", "get path"),
    ("GET", "/api/v1/pods", "list -/v1 - pods -"),
    ("GET", "/api/v1/pods/", "list -/v1 - pods -"),
    ("HEAD", "/api/v1/pods", "list -/v1 - pods -"),
    ("GET", "/api/v1/nodes/n1", "get -/v1 - nodes n1"),
    ("HEAD", "/api/v1/nodes/n1", "get -/v1 - nodes n1"),
    (
        "GET",
        "/api/v1/nodes/n1/proxy/metrics",
        "get -/v1 - nodes/proxy n1",
    ),
    ("GET", "/api/v1/namespaces", "list -/v1 - namespaces -"),
    ("POST", "/api/v1/namespaces", "create -/v1 - namespaces -"),
    (
        "DELETE",
        "/api/v1/namespaces",
        "deletecollection -/v1 - namespaces -",
    ),
    ("GET", "/api/v1/namespaces/prod", "get -/v1 prod namespaces prod"),
    (
        "DELETE",
        "/api/v1/namespaces/prod",
        "delete -/v1 prod namespaces prod",
    ),
    (
        "DELETE",
        "/api/v1/namespaces/prod/",
        "delete -/v1 prod namespaces prod",
    ),
    (
        "PATCH",
        "/api/v1/namespaces/prod",
        "patch -/v1 prod namespaces prod",
    ),
    (
        "PUT",
        "/api/v1/namespaces/prod/status",
        "update -/v1 prod namespaces/status prod",
    ),
    (
        "PUT",
        "/api/v1/namespaces/prod/finalize",
        "update -/v1 prod namespaces/finalize prod",
    ),
    ("GET", "/api/v1/namespaces/prod/pods", "list -/v1 prod pods -"),
    ("POST", "/api/v1/namespaces/prod/pods", "create -/v1 prod pods -"),
    (
        "DELETE",
        "/api/v1/namespaces/prod/pods",
        "deletecollection -/v1 prod pods -",
    ),
    ("GET", "/api/v1/namespaces/prod/pods/p", "get -/v1 prod pods p"),
    ("PUT", "/api/v1/namespaces/prod/pods/p", "update -/v1 prod pods p"),
    (
        "PATCH",
        "/api/v1/namespaces/prod/pods/p",
        "patch -/v1 prod pods p",
    ),
    (
        "DELETE",
        "/api/v1/namespaces/prod/pods/p",
        "delete -/v1 prod pods p",
    ),
    ("OPTIONS", "/api/v1/namespaces/prod/pods/p", "- -/v1 prod pods p"),
    (
        "GET",
        "/api/v1/namespaces/prod/pods/p/log",
        "get -/v1 prod pods/log p",
    ),
    (
        "GET",
        "/api/v1/namespaces/prod/pods/p/exec?command=sh",
        "get -/v1 prod pods/exec p",
    ),
    (
        "POST",
        "/api/v1/namespaces/prod/pods/p/exec?command=sh",
        "create -/v1 prod pods/exec p",
    ),
    (
        "POST",
        "/api/v1/namespaces/prod/pods/p/attach",
        "create -/v1 prod pods/attach p",
    ),
    (
        "GET",
        "/api/v1/namespaces/prod/pods/p/portforward",
        "get -/v1 prod pods/portforward p",
    ),
    (
        "POST",
        "/api/v1/namespaces/prod/pods/p/eviction",
        "create -/v1 prod pods/eviction p",
    ),
    (
        "GET",
        "/api/v1/namespaces/prod/pods/p/proxy/a/b",
        "get -/v1 prod pods/proxy p",
    ),
    (
        "DELETE",
        "/api/v1/namespaces/prod/services/s/proxy/x",
        "delete -/v1 prod services/proxy s",
    ),
    (
        "GET",
        "/api/v1/namespaces/prod/services/https:s:443/proxy",
        "get -/v1 prod services/proxy https:s:443",
    ),
    (
        "POST",
        "/api/v1/namespaces/prod/serviceaccounts/a/token",
        "create -/v1 prod serviceaccounts/token a",
    ),
    (
        "GET",
        "/api/v1/namespaces/prod/secrets",
        "list -/v1 prod secrets -",
    ),
    ("GET", "/api/v1/watch/pods", "watch -/v1 - pods -"),
    ("GET", "/api/v1/watch/namespaces", "watch -/v1 - namespaces -"),
    (
        "GET",
        "/api/v1/watch/namespaces/prod",
        "watch -/v1 prod namespaces prod",
    ),
    (
        "GET",
        "/api/v1/watch/namespaces/prod/pods",
        "watch -/v1 prod pods -",
    ),
    (
        "GET",
        "/api/v1/watch/namespaces/prod/pods/p",
        "watch -/v1 prod pods p",
    ),
    (
        "DELETE",
        "/api/v1/watch/namespaces/prod/pods/p",
        "watch -/v1 prod pods p",
    ),
    (
        "GET",
        "/apis/apps/v1/watch/namespaces/prod/deployments",
        "watch apps/v1 prod deployments -",
    ),
    ("GET", "/api/v1/watch", "refused"),
    ("GET", "/api/v1/proxy", "refused"),
    ("GET", "/api/v1/proxy/nodes/n1", "proxy -/v1 - nodes n1"),
    (
        "POST",
        "/api/v1/proxy/namespaces/prod/pods/p/x",
        "proxy -/v1 prod pods p",
    ),
    ("GET", "/apis/apps/v1/deployments", "list apps/v1 - deployments -"),
    (
        "GET",
        "/apis/apps/v1/namespaces/prod/deployments/d",
        "get apps/v1 prod deployments d",
    ),
    (
        "PATCH",
        "/apis/apps/v1/namespaces/prod/deployments/d/scale",
        "patch apps/v1 prod deployments/scale d",
    ),
    (
        "DELETE",
        "/apis/apps/v1/namespaces/prod/deployments",
        "deletecollection apps/v1 prod deployments -",
    ),
    (
        "PUT",
        "/apis/apps/v1/namespaces/prod/deployments/d/status",
        "update apps/v1 prod deployments/status d",
    ),
    (
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "create authorization.k8s.io/v1 - selfsubjectaccessreviews -",
    ),
    (
        "GET",
        "/apis/x.io/v1/namespaces/status",
        "get x.io/v1 status namespaces status",
    ),
    (
        "GET",
        "/apis/x.io/v1/namespaces/prod/status",
        "get x.io/v1 prod namespaces/status prod",
    ),
    ("GET", "/api/v1/pods?watch=true", "watch -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch=1", "watch -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch", "watch -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch=", "watch -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch=false", "list -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch=False", "list -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch=0", "list -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch=no", "watch -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch=0&watch=1", "list -/v1 - pods -"),
    ("GET", "/api/v1/pods?Watch=1", "list -/v1 - pods -"),
    ("GET", "/api/v1/pods?watch=1&limit=x", "watch -/v1 - pods -"),
    ("GET", "/api/v1/namespaces/a/pods/p?watch=1", "get -/v1 a pods p"),
    (
        "GET",
        "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp",
        "list -/v1 a pods p",
    ),
    (
        "GET",
        "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3D%3Dp&watch=1",
        "watch -/v1 a pods p",
    ),
    (
        "GET",
        "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%21%3Dp",
        "list -/v1 a pods -",
    ),
    (
        "GET",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn,metadata.name%3Dp",
        "list -/v1 - pods p",
    ),
    (
        "GET",
        "/api/v1/pods?fieldSelector=metadata.name%3Da,metadata.name%3Db",
        "list -/v1 - pods a",
    ),
    (
        "GET",
        "/api/v1/pods?fieldSelector=metadata.name%3D..",
        "list -/v1 - pods -",
    ),
    (
        "GET",
        "/api/v1/pods?fieldSelector=metadata.name%3Da%2Fb",
        "list -/v1 - pods -",
    ),
    (
        "GET",
        "/api/v1/pods?fieldSelector=metadata.name%3Da&limit=x",
        "list -/v1 - pods -",
    ),
    ("GET", "/api/v1/pods?fieldSelector=broken", "list -/v1 - pods -"),
    (
        "GET",
        "/api/v1/pods?fieldSelector=metadata.name%3Da%5C%2Cb",
        "list -/v1 - pods a,b",
    ),
    (
        "GET",
        "/api/v1/pods?fieldSelector=metadata.name%3Da&labelSelector=x%3Dy",
        "list -/v1 - pods a",
    ),
    (
        "DELETE",
        "/api/v1/pods?fieldSelector=metadata.name%3Da",
        "deletecollection -/v1 - pods -",
    ),
];

#[test]
fn requests_resolve_as_in_the_api_server() {
    for (method, target, want) in TABLE {
        assert_eq!(line(method, target), *want, "{method} {target}");
    }
}

/// Every path of up to four parts behind a version, and of up to four parts at all, of the words that mean something to
/// the resolver; by every method and each query that it reads.
fn every_request() -> Vec<(&'static str, String)> {
    fn paths(front: &str, words: &[&str], parts: usize, out: &mut Vec<String>) {
        out.push(front.to_owned());
        if parts > 0 {
            for word in words {
                paths(&format!("{front}/{word}"), words, parts - 1, out);
            }
        }
    }
    let mut all = Vec::new();
    for front in ["/api/v1", "/apis/apps/v1"] {
        let words = ["watch", "proxy", "namespaces", "pods", "status", "a"];
        paths(front, &words, 4, &mut all);
    }
    for word in ["api", "apis", "v1", "watch"] {
        let words = ["api", "apis", "v1", "watch", "proxy", "namespaces", "pods"];
        paths(&format!("/{word}"), &words, 3, &mut all);
    }
    let queries = ["", "?watch=true", "?watch=0", "?fieldSelector=metadata.name%3Dx"];
    let mut asked = Vec::new();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
        for path in &all {
            asked.extend(queries.iter().map(|query| (method, format!("{path}{query}"))));
        }
    }
    asked
}

/// Compares the table, and every path of the words that mean something, with the API server's own code
/// (`tests/facts/resolver`, which `scripts/test` builds).
#[test]
fn the_resolver_agrees() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/kubernetes/resolver");
    if !std::path::Path::new(program).exists() {
        eprintln!("SKIPPED: the API server's resolver is not there; scripts/test builds it");
        return;
    }
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut all = every_request();
    all.extend(
        TABLE
            .iter()
            .map(|(method, target, _)| (*method, (*target).to_owned())),
    );
    let asked: String = all
        .iter()
        .map(|(method, target)| format!("{method} {target}\n"))
        .collect();
    let mut stdin = child.stdin.take().unwrap();
    // It answers while it is asked.
    let asking = std::thread::spawn(move || stdin.write_all(asked.as_bytes()));
    let output = child.wait_with_output().unwrap();
    asking.join().unwrap().unwrap();
    let answers: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), all.len());
    for ((method, target), theirs) in all.iter().zip(answers) {
        let text = |key: &str| match theirs[key].as_str().unwrap_or_default() {
            "" => "-".to_owned(),
            text => text.to_owned(),
        };
        let want = match theirs["is_resource"].as_bool() {
            None => "refused".to_owned(),
            Some(false) => format!("{} path", text("verb")),
            Some(true) => format!(
                "{} {}/{} {} {} {}",
                text("verb"),
                text("group"),
                text("version"),
                text("namespace"),
                text("resource"),
                text("name")
            ),
        };
        assert_eq!(line(method, target), want, "{method} {target}");
    }
}

#[test]
fn what_a_proxy_could_read_differently_is_refused() {
    for (method, target) in [
        ("GET", "/api/v1//pods"),
        ("GET", "//api/v1/pods"),
        ("GET", "/api/v1/namespaces/a/../b/pods"),
        ("GET", "/api/v1/namespaces/a/pods/p%2fexec"),
        ("GET", "/api/v1/pods?a=1;watch=1"),
        ("GET", "/api/v1/pods?watch=%zz"),
        ("delete", "/api/v1/namespaces/a/pods/p"),
        ("FOO", "/api/v1/pods"),
    ] {
        assert_eq!(line(method, target), "refused", "{method} {target}");
    }
}

#[test]
fn a_name_that_hangs_on_a_selector_we_do_not_read_is_unknown() {
    let target = "/api/v1/pods?fieldSelector=metadata.name%3Da&labelSelector=x%20in%20%28y%29";
    let facts = facts("GET", target, HeldBody::Empty).unwrap();
    assert!(matches!(
        facts.fact(Slot::K8sName),
        Fact::Unknown(Blind::Ambiguous)
    ));
}

#[test]
fn a_dry_run_is_one_only_where_nothing_can_change() {
    let check = |method: &str, target: &str, body: Option<&str>, want: Fact<bool>| {
        let held = body.map_or(HeldBody::Empty, |body| HeldBody::Whole(body.as_bytes()));
        let facts = facts(method, target, held).unwrap();
        assert_eq!(facts.dry_run, want, "{method} {target} {body:?}");
    };
    let pods = "/api/v1/namespaces/a/pods?dryRun=All";
    let pod = "/api/v1/namespaces/a/pods/p?dryRun=All";
    check("POST", pods, Some("{}"), Fact::Known(true));
    check("DELETE", pod, None, Fact::Known(true));
    // The API server reads a DELETE's options from its body, and then not from the query.
    check("DELETE", pod, Some("{}"), Fact::Known(false));
    check("DELETE", pod, Some("null"), Fact::Unknown(Blind::Opaque));
    check("DELETE", pod, Some("k8s\0xx"), Fact::Unknown(Blind::Opaque));
    check("DELETE", pod, Some("a: b"), Fact::Unknown(Blind::Opaque));
    check("DELETE", pod, Some(r#"{"dryRun":["All"]}"#), Fact::Known(true));
    check(
        "POST",
        "/api/v1/namespaces/a/pods?dryRun=All&dryRun=x",
        None,
        Fact::Known(false),
    );
    check(
        "POST",
        "/api/v1/namespaces/a/pods/p/exec?dryRun=All",
        None,
        Fact::Unknown(Blind::Opaque),
    );
    check("GET", pod, None, Fact::Known(false));
}

#[test]
fn only_what_is_asked_for_is_read_and_printed() {
    let request = Request::builder()
        .uri("/api/v1/pods?limit=1&limit=2")
        .body(())
        .unwrap();
    let (parts, ()) = request.into_parts();
    let needs: FactSet = [Slot::K8sParams, Slot::K8sVerb].into_iter().collect();
    assert!(!K8sFacts::wants_body(needs));
    let facts = K8sFacts::read(&parts, "", HeldBody::NotHeld, needs, 0).unwrap();
    assert_eq!(
        Facts::K8s(Box::new(facts)).to_json(&crate::facts::Mask::default()),
        json!({ "verb": "list", "params": { "limit": "1" } })
    );
}

proptest::proptest! {
    #[test]
    fn never_panics(path in "(/(api|apis|v1|watch|namespaces|proxy|a|%[0-9a-f]{2}|[ -~]{0,3})){0,7}", query in "[ -~]{0,40}") {
        let query = match query::read(&query) { Fact::Known(query) => query, Fact::Unknown(_) => Vec::new() };
        let _ = resolve::resolve(&Method::GET, &path, &query);
    }

    #[test]
    fn selectors_never_panic(text in ".{0,40}") {
        let _ = selector::name(&text);
        let _ = selector::is_plain(&text);
    }
}

#[test]
fn selectors_and_every_word_of_a_command() {
    let text = |target: &str, slot| {
        let facts = facts("GET", target, HeldBody::Empty).unwrap();
        match facts.fact(slot) {
            Fact::Known(view) => view.to_json(),
            Fact::Unknown(blind) => json!(format!("{blind:?}")),
        }
    };
    let list =
        "/api/v1/namespaces/a/pods?labelSelector=app%3Dweb,tier%20in%20(a,b)&fieldSelector=spec.nodeName%3Dn";
    assert_eq!(text(list, Slot::K8sLabelSelector), "app=web,tier in (a,b)");
    assert_eq!(text(list, Slot::K8sFieldSelector), "spec.nodeName=n");
    assert_eq!(text("/api/v1/pods", Slot::K8sLabelSelector), "");
    // The API server takes one of them.
    let twice = "/api/v1/pods?labelSelector=a&labelSelector=b&fieldSelector=&fieldSelector=x";
    assert_eq!(text(twice, Slot::K8sLabelSelector), "Ambiguous");
    assert_eq!(text(twice, Slot::K8sFieldSelector), "Ambiguous");
    let exec = "/api/v1/namespaces/a/pods/p/exec?command=sh&command=-c&container=c&command=rm%20-rf+/";
    assert_eq!(text(exec, Slot::K8sCommand), json!(["sh", "-c", "rm -rf /"]));
    assert_eq!(text("/api/v1/pods", Slot::K8sCommand), json!([]));
}

#[test]
fn what_is_true_or_false_has_one_spelling_for_conditions() {
    let condition =
        crate::policy::cel::Condition::compile("k8s.params.stdin == 'true'", Family::K8s).unwrap();
    for (query, wanted, is_true) in [
        ("stdin=true", "true", true),
        ("stdin=1", "true", true),
        ("stdin=TRUE", "true", true),
        ("stdin", "true", true),
        ("stdin=", "true", true),
        ("stdin=no", "true", true),
        ("stdin=1&stdin=0", "true", true),
        ("stdin=0&stdin=1", "false", false),
        ("stdin=0", "false", false),
        ("stdin=False", "false", false),
    ] {
        let target = format!("/api/v1/namespaces/a/pods/p/exec?command=1&{query}");
        let facts = facts("GET", &target, HeldBody::Empty).unwrap();
        let Fact::Known(params) = facts.fact(Slot::K8sParams) else {
            panic!("{query}");
        };
        assert_eq!(
            params.to_json(),
            json!({ "command": "1", "stdin": wanted }),
            "{query}"
        );
        let env = crate::policy::cel::Env::new(&facts, &facts);
        assert_eq!(condition.holds(&env), Ok(is_true), "{query}");
    }
    let facts = facts("GET", "/api/v1/pods?watch=1&follow&limit=1", HeldBody::Empty).unwrap();
    let written = View::Map(facts.written_params()).to_json();
    assert_eq!(written, json!({ "watch": "1", "follow": "", "limit": "1" }));
}
