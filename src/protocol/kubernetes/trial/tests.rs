use super::*;
use crate::facts::{FactSet, Mask};
use crate::policy::Previews;

const PODS: &str = "/api/v1/namespaces/a/pods";

/// How a request would be tried.
fn trial(line: &str, body: &str) -> Result<Trial, String> {
    headed(line, "application/json", body)
}

fn headed(line: &str, kind: &str, body: &str) -> Result<Trial, String> {
    let (method, target) = line.split_once(' ').unwrap();
    let request = http::Request::builder().method(method).uri(target);
    let request = request.header(CONTENT_TYPE, kind).body(()).unwrap();
    let (parts, ()) = request.into_parts();
    let held = match body {
        "" => HeldBody::Empty,
        body => HeldBody::Whole(body.as_bytes()),
    };
    let facts = K8sFacts::read(&parts, "a.test", held, FactSet::ALL, 1 << 20).unwrap();
    Trial::of(&facts, &parts, held)
}

/// Where it looks, where it is tried, and the body that is not the agent's.
fn asked(line: &str, body: &str) -> (String, String, String) {
    let trial = trial(line, body).unwrap();
    let look = trial.look.map_or(String::new(), |look| look.to_string());
    let body = trial
        .body
        .map_or(String::new(), |body| String::from_utf8(body).unwrap());
    (look, trial.run.to_string(), body)
}

fn triple(look: &str, run: &str, body: &str) -> (String, String, String) {
    (look.to_owned(), run.to_owned(), body.to_owned())
}

#[test]
fn what_is_asked_of_the_server_is_a_dry_run() {
    let one = format!("{PODS}/p");
    let dry = |path: &str| format!("{path}?dryRun=All");
    assert_eq!(asked(&format!("POST {PODS}"), "{}"), triple("", &dry(PODS), ""));
    assert_eq!(asked(&format!("PUT {one}"), "{}"), triple(&one, &dry(&one), ""));
    let patch = format!("PATCH {one}?fieldManager=x&force=true");
    assert_eq!(
        asked(&patch, "{}"),
        triple(&one, &format!("{one}?dryRun=All&fieldManager=x&force=true"), "")
    );
    for part in ["status", "scale"] {
        let path = format!("/apis/apps/v1/namespaces/a/deployments/d/{part}");
        assert_eq!(
            asked(&format!("PATCH {path}"), "{}"),
            triple(&path, &dry(&path), "")
        );
    }
    // By its query where it has no body, and by its body else: the server looks at one of them alone.
    assert_eq!(asked(&format!("DELETE {one}"), ""), triple(&one, &dry(&one), ""));
    let options = r#"{"propagationPolicy":"Background"}"#;
    let tried = r#"{"propagationPolicy":"Background","dryRun":["All"]}"#;
    assert_eq!(
        asked(&format!("DELETE {one}"), options),
        triple(&one, &one, tried)
    );
    let trap = format!("{one}?dryRun=All");
    assert_eq!(
        asked(&format!("DELETE {trap}"), "{}"),
        triple(&one, &trap, r#"{"dryRun":["All"]}"#)
    );
    let many = format!("{PODS}?labelSelector=a%3Db");
    let list = format!("{PODS}?limit={OBJECTS_MAX}&labelSelector=a%3Db");
    assert_eq!(
        asked(&format!("DELETE {many}"), options),
        triple(&list, &many, tried)
    );
    let many = format!("{PODS}?labelSelector=a%3Db&propagationPolicy=Background");
    let run = format!("{PODS}?dryRun=All&labelSelector=a%3Db&propagationPolicy=Background");
    assert_eq!(asked(&format!("DELETE {many}"), ""), triple(&list, &run, ""));
}

#[test]
fn what_may_be_no_dry_run_is_not_tried() {
    let one = format!("{PODS}/p");
    for (line, kind, body, why) in [
        (format!("GET {one}"), "", "", "changes no object"),
        (
            format!("POST {one}/exec?command=sh"),
            "",
            "",
            "no dry run of create of pods/exec",
        ),
        (
            format!("POST {one}/eviction"),
            "",
            "{}",
            "no dry run of create of pods/eviction",
        ),
        (
            format!("POST {one}/binding"),
            "",
            "{}",
            "no dry run of create of pods/binding",
        ),
        (
            format!("DELETE {one}/proxy/x"),
            "",
            "",
            "no dry run of delete of pods/proxy",
        ),
        (
            format!("PUT /api/v1/proxy{}", "/namespaces/a/pods/p"),
            "",
            "",
            "changes no object",
        ),
        (
            "POST /apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned(),
            "",
            "{}",
            "not stored",
        ),
        ("POST /version".to_owned(), "", "{}", "changes no object"),
        // It names a dry run itself.
        (format!("POST {PODS}?dryRun=All"), "", "{}", "a dry run itself"),
        (format!("POST {PODS}?dry%52un=All"), "", "{}", "a dry run itself"),
        (
            format!("POST {PODS}?dryRun="),
            "",
            "{}",
            "something of its own about a dry run",
        ),
        (
            format!("POST {PODS}?dryRun=All&dryRun="),
            "",
            "{}",
            "something of its own about a dry run",
        ),
        (
            format!("DELETE {one}"),
            "application/json",
            r#"{"dryRun":["All"]}"#,
            "a dry run itself",
        ),
        (
            format!("DELETE {one}"),
            "application/json",
            r#"{"dryRun":[]}"#,
            "something of its own",
        ),
        (
            format!("DELETE {one}"),
            "application/json",
            r#"{"dryRun":["All"],"dryRun":[]}"#,
            "several ways",
        ),
        // Options that are not read here, or that are none.
        (
            format!("DELETE {one}"),
            "application/vnd.kubernetes.protobuf",
            "k8s\0",
            "not JSON",
        ),
        (
            format!("DELETE {one}"),
            "application/yaml",
            "dryRun: []",
            "not JSON",
        ),
        (format!("DELETE {one}"), "application/json", " ", "several ways"),
        (format!("DELETE {one}"), "application/json", "[]", "several ways"),
        // What else may choose among many.
        (
            format!("DELETE {PODS}?limit=1"),
            "",
            "",
            "parameter \"limit\" may choose",
        ),
        (format!("DELETE {PODS}?resourceVersion=1"), "", "", "may choose"),
        (
            format!("DELETE {PODS}?labelSelector=a&labelSelector=b"),
            "",
            "",
            "may choose",
        ),
    ] {
        let said = headed(&line, kind, body).map(|trial| format!("{trial:?}"));
        let said = said.expect_err(&line);
        assert!(said.contains(why), "{line}: {said}");
    }
}

#[test]
fn a_server_that_may_not_know_dry_runs_is_asked_for_none() {
    let of = |major: &str, minor: &str| {
        let answer = json!({ "major": major, "minor": minor, "gitVersion": "v9.9.9" });
        knows_dry_runs(StatusCode::OK, &answer)
    };
    for (major, minor) in [("1", "18"), ("1", "18+"), ("1", "32"), ("1", "100+"), ("2", "0")] {
        assert_eq!(of(major, minor), Ok(()), "{major}.{minor}");
    }
    for (major, minor) in [("1", "17"), ("1", "8+"), ("0", "99")] {
        let why = of(major, minor).unwrap_err();
        assert!(
            why.starts_with("the API server is of Kubernetes "),
            "{major}.{minor}: {why}"
        );
    }
    for (major, minor) in [
        ("1", ""),
        ("", "18"),
        ("1", "-18"),
        ("1", "18.0"),
        ("v1", "18"),
        ("1", "18++"),
    ] {
        let why = of(major, minor).unwrap_err();
        assert!(
            why.contains("does not say which version"),
            "{major}.{minor}: {why}"
        );
    }
    let fine = json!({ "major": "1", "minor": "32" });
    assert!(knows_dry_runs(StatusCode::FORBIDDEN, &fine).is_err());
    for answer in [
        Value::Null,
        json!({}),
        json!([1, 32]),
        json!({ "major": 1, "minor": 32 }),
    ] {
        assert!(knows_dry_runs(StatusCode::OK, &answer).is_err(), "{answer}");
    }
}

#[test]
fn a_group_that_the_server_may_not_serve_is_asked_about() {
    let of = |group: &str| {
        let served = trial(&format!("POST /apis/{group}/v1/namespaces/a/things"), "{}")
            .unwrap()
            .served;
        served.map(|served| served.to_string())
    };
    assert_eq!(of("apps"), None);
    assert_eq!(
        of("example.com").unwrap(),
        "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com"
    );
    assert!(
        trial("POST /apis/metrics.k8s.io/v1/pods", "{}")
            .unwrap()
            .served
            .is_some()
    );
    let here = |status, answer: Value| Trial::is_served_here(status, &answer);
    assert!(here(
        StatusCode::OK,
        json!({ "spec": { "group": "example.com" } })
    ));
    assert!(here(StatusCode::OK, json!({ "spec": { "service": null } })));
    assert!(!here(
        StatusCode::OK,
        json!({ "spec": { "service": { "name": "x" } } })
    ));
    assert!(!here(StatusCode::OK, json!({})));
    assert!(!here(StatusCode::FORBIDDEN, json!({ "spec": {} })));
}

fn object(name: &str, version: &str) -> Value {
    json!({ "kind": "Pod", "metadata": { "namespace": "a", "name": name, "uid": format!("u-{name}"), "resourceVersion": version } })
}

#[test]
fn another_object_or_version_is_another_stand() {
    let delete = trial(&format!("DELETE {PODS}/p"), "").unwrap();
    let stand = |object: Value| delete.stand(StatusCode::OK, &object).unwrap();
    assert_eq!(stand(object("p", "1")), stand(object("p", "1")));
    assert_ne!(stand(object("p", "1")), stand(object("p", "2")));
    let mut other = object("p", "1");
    other["metadata"]["uid"] = "v".into();
    assert_ne!(stand(object("p", "1")), stand(other));
    assert_eq!(delete.stand(StatusCode::NOT_FOUND, &json!({})), Ok(Stand::Absent));
    for (status, answer) in [
        (StatusCode::OK, json!({})),
        (StatusCode::OK, Value::Null),
        (StatusCode::FORBIDDEN, json!({ "message": "not yours" })),
        (StatusCode::INTERNAL_SERVER_ERROR, Value::Null),
    ] {
        assert!(delete.stand(status, &answer).is_err(), "{status} {answer}");
    }
}

#[test]
fn of_many_all_are_seen_or_none() {
    let wipe = trial(&format!("DELETE {PODS}"), "").unwrap();
    let list = |items: Vec<Value>, more: &str| {
        wipe.stand(
            StatusCode::OK,
            &json!({ "metadata": { "continue": more }, "items": items }),
        )
    };
    let three = |version: &str| vec![object("c", "1"), object("b", version), object("a", "1")];
    let seen = list(three("1"), "").unwrap();
    assert_eq!(seen, list(three("1").into_iter().rev().collect(), "").unwrap());
    assert_ne!(seen, list(three("2"), "").unwrap());
    assert_ne!(seen, list(three("1").into_iter().skip(1).collect(), "").unwrap());
    let none = Previews::default();
    let hide = Hide {
        mask: &Mask::default(),
        previews: &none,
    };
    let shown = wipe.shown(Some(&seen), &Value::Null, (StatusCode::OK, &Value::Null), hide);
    assert_eq!(shown["diff"], json!(["- \"a/a\"", "- \"a/b\"", "- \"a/c\""]));
    assert_eq!(shown["does"]["objects"], 3);
    let later = list(three("2"), "").unwrap();
    let later = wipe.shown(Some(&later), &Value::Null, (StatusCode::OK, &Value::Null), hide);
    assert_ne!(shown["does"], later["does"], "another state is another question");

    let many = |count: usize| {
        (0..count)
            .map(|at| object(&at.to_string(), "1"))
            .collect::<Vec<_>>()
    };
    assert!(list(many(OBJECTS_MAX), "").is_ok());
    assert!(list(many(OBJECTS_MAX + 1), "").is_err());
    assert!(list(many(1), "more").is_err());
    assert!(wipe.stand(StatusCode::NOT_FOUND, &json!({})).is_err());
}

#[test]
fn secrets_and_masked_members_are_not_shown() {
    let path = "/api/v1/namespaces/a/secrets/s";
    let patch = trial(&format!("PATCH {path}"), "{}").unwrap();
    let secret = |value: &str| {
        json!({ "kind": "Secret", "metadata": { "name": "s", "uid": "u", "resourceVersion": "1",
            "annotations": { "plain": value } }, "data": { "key": value }, "hidden": { "deep": [value] } })
    };
    let was = secret("b25lLW9mLXNlY3JldA==");
    let stand = patch.stand(StatusCode::OK, &was).unwrap();
    let previews = Previews {
        masked: vec!["secrets.hidden".to_owned(), "pods.annotations".to_owned()],
        ..Previews::default()
    };
    let hide = Hide {
        mask: &Mask::default(),
        previews: &previews,
    };
    let shown = patch.shown(Some(&stand), &was, (StatusCode::OK, &secret("dHdv")), hide);
    assert_eq!(
        shown["diff"],
        json!([
            "- data.key: \"(masked)\"",
            "+ data.key: \"(masked)\"",
            "- hidden: \"(masked)\"",
            "+ hidden: \"(masked)\"",
            "- metadata.annotations.plain: \"b25lLW9mLXNlY3JldA==\"",
            "+ metadata.annotations.plain: \"dHdv\"",
        ])
    );
    let does = json!({ "verb": "patch", "kind": "Secret", "namespace": "a", "name": "s", "uid": "u",
        "resource_version": "1", "lines": 6, "digest": shown["does"]["digest"] });
    assert_eq!(shown["does"], does);
    // What the server says of a failure is shown, with what it was tried on.
    let status = json!({ "kind": "Status", "message": "it is immutable" });
    let shown = patch.shown(
        Some(&stand),
        &was,
        (StatusCode::UNPROCESSABLE_ENTITY, &status),
        hide,
    );
    assert_eq!(shown["does"]["error"], "the API server said 422: it is immutable");
    assert_eq!(shown["does"]["resource_version"], "1");
}

#[test]
fn what_is_made_anew_is_shown_whole_and_not_bound() {
    let create = trial(&format!("POST {PODS}"), "{}").unwrap();
    let made = |volume: &str| json!({ "kind": "Pod", "metadata": { "name": "p", "uid": volume }, "spec": { "v": volume } });
    let none = Previews::default();
    let hide = Hide {
        mask: &Mask::default(),
        previews: &none,
    };
    let of = |volume: &str| create.shown(None, &Value::Null, (StatusCode::CREATED, &made(volume)), hide);
    let shown = of("x1");
    assert_eq!(
        shown["diff"],
        json!(["+ kind: \"Pod\"", "+ metadata.name: \"p\"", "+ spec.v: \"x1\""])
    );
    assert_eq!(shown["does"], of("x2")["does"]);
    assert_eq!(
        shown["note"],
        "what the API server chooses itself may come out otherwise"
    );
    // Applied where there is nothing.
    let apply = trial(&format!("PATCH {PODS}/p"), "{}").unwrap();
    let shown = apply.shown(
        Some(&Stand::Absent),
        &Value::Null,
        (StatusCode::CREATED, &made("x")),
        hide,
    );
    assert_eq!(shown["diff"][0], "+ kind: \"Pod\"");
    let gone = trial(&format!("DELETE {PODS}/p"), "").unwrap();
    let mut kept = object("p", "1");
    kept["metadata"]["finalizers"] = json!(["a/b"]);
    let stand = gone.stand(StatusCode::OK, &kept).unwrap();
    let shown = gone.shown(Some(&stand), &kept, (StatusCode::OK, &kept), hide);
    assert_eq!(shown["diff"][0], "- kind: \"Pod\"");
    assert!(
        shown["note"]
            .as_str()
            .unwrap()
            .contains("until its finalizers have run"),
        "{shown}"
    );
    let same = apply.shown(Some(&stand), &kept, (StatusCode::OK, &kept), hide);
    assert_eq!(
        (&same["diff"], &same["note"]),
        (&json!([]), &json!("nothing would change"))
    );
}
