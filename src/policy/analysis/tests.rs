//! Each note, with its place, on a policy that has nothing else wrong.

use std::path::PathBuf;

use crate::policy::{Policy, Source};

const BASE: &str = r#"
defaults {
  unmatched    = "deny"
  unknown_host = "deny"
}
endpoint "https" "api" { hosts = ["api.example.com"] }
credential "bearer_token" "token" { endpoint = https.api }
profile "ci" {
  tags        = ["tag:ci"]
  credentials = [bearer_token.token]
}
rule "rest" {
  endpoint = https.api
  verdict  = "deny"
  priority = -1
}
"#;

/// The notes as `line: message`, without the lines of [`BASE`].
fn notes(text: &str) -> Vec<String> {
    let source = Source {
        path: PathBuf::from("policy.hcl"),
        text: format!("{BASE}{text}"),
    };
    let policy = Policy::load(vec![source], &|_| {
        Err(std::io::Error::from(std::io::ErrorKind::NotFound))
    })
    .unwrap_or_else(|errors| panic!("{errors}"));
    let notes = policy.notes();
    notes
        .items()
        .iter()
        .map(|note| {
            assert!(note.help.is_some(), "{}", note.message);
            let place = note.at.and_then(|at| notes.place(at)).unwrap();
            let line = place.line.saturating_sub(BASE.lines().count());
            format!("{line}: {}", note.message)
        })
        .collect()
}

fn rule(name: &str, fields: &str) -> String {
    format!(
        "rule \"{name}\" {{\n  endpoint = https.api\n  {}\n}}\n",
        fields.replace("; ", "\n  ")
    )
}

fn condition(condition: &str) -> String {
    rule("a", &format!("verdict = \"allow\"; condition = \"{condition}\""))
}

#[test]
fn a_rule_is_compared_with_so_many_before_it() {
    for (before, is_found) in [(super::COMPARED_MAX - 1, true), (super::COMPARED_MAX, false)] {
        let named = |name: &str, condition: &str| {
            rule(name, &format!("verdict = \"allow\"; condition = \"{condition}\""))
        };
        let get = "http.method == 'GET'";
        // All of them are filed under the method, for more rules have the host.
        let mut text: String = (0..before)
            .map(|number| named(&format!("r{number}"), &format!("{get} && http.host == 'x'")))
            .collect();
        text += &named("all", get);
        text += &named("late", &format!("{get} && http.path == '/x'"));
        text.extend((0..3).map(|number| named(&format!("h{number}"), "http.host == 'x'")));
        let found = notes(&text);
        let late = "rule `late` is never reached: `all` stands before it";
        assert_eq!(found.iter().any(|note| note.contains(late)), is_found, "{before}");
    }
}

/// The work of a load grows as its rules do: of ten thousand, each is compared with few.
#[test]
fn rules_that_share_little_are_not_compared() {
    let mut text = BASE.to_owned();
    for number in 0..500 {
        let condition =
            format!("http.method == 'GET' && http.path.startsWith('/team-{number}/') && http.host == 'x'");
        text += &rule(
            &format!("r{number}"),
            &format!("verdict = \"allow\"; condition = \"{condition}\""),
        );
    }
    let source = super::super::Source {
        path: "p.hcl".into(),
        text,
    };
    let none: crate::policy::ReadFile<'_> = &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let Ok(loaded) = crate::policy::load::load(&[source], none) else {
        panic!("it loads");
    };
    let own = super::walked(&loaded.rules, &"https.api".into());
    let (shared, mut earlier) = (super::shared(&own), super::Earlier::default());
    for (at, asked) in own.iter().enumerate() {
        earlier.file(at, asked, &shared);
    }
    assert_eq!(own.len(), 501);
    assert_eq!(earlier.filed.values().map(Vec::len).max(), Some(1));
}

#[test]
fn a_message_lists_so_many_names() {
    let names = ["a"; super::LISTED_MAX + 2];
    assert!(!super::listed(&names[..super::LISTED_MAX]).contains("more"));
    assert!(super::listed(&names).ends_with("`a` and 2 more"));
}

#[test]
fn a_policy_that_says_all_has_no_note() {
    assert_eq!(notes(""), [""; 0]);
    assert_eq!(
        notes(&condition("http.method == 'get' && http.path.startsWith('/v1/')")),
        [""; 0]
    );
}

#[test]
fn a_rule_that_can_never_match() {
    let table = [
        (
            "http.method == 'get' && false",
            "its condition is false whatever the action is",
        ),
        (
            "http.method == 'get' && http.method == 'post'",
            "`http.method` cannot be all that it asks for",
        ),
        (
            "http.method in ['get', 'head'] && http.method == 'put'",
            "`http.method` cannot be all that it asks for",
        ),
        (
            "http.path.startsWith('/a/') && http.path == '/b'",
            "`http.path` cannot be all that it asks for",
        ),
        (
            "http.path.startsWith('/a/') && http.path.startsWith('/b/')",
            "`http.path` cannot be all that it asks for",
        ),
    ];
    for (source, why) in table {
        assert_eq!(
            notes(&condition(source)),
            [format!("1: rule `a` can never match: {why}")],
            "{source}"
        );
    }
    for source in [
        "http.method == 'get' || http.method == 'post'",
        "http.path.startsWith('/a/') && http.path.startsWith('/a/b')",
        "'a' in agent.tags && 'b' in agent.tags",
        "now.getHours() > 5",
    ] {
        assert_eq!(notes(&condition(source)), [""; 0], "{source}");
    }
    assert_eq!(
        notes(&condition("1 / 0 == 1")),
        ["1: the condition of rule `a` always fails, and so denies"]
    );
    let other = "credential \"bearer_token\" \"other\" { endpoint = https.b }\n\
                 endpoint \"https\" \"b\" { hosts = [\"b.example.com\"] }\n\
                 rule \"b\" {\n  endpoint = https.b\n  verdict = \"deny\"\n}\n";
    let found = notes(&format!(
        "{other}{}",
        rule("a", "verdict = \"allow\"; credential = bearer_token.other")
    ));
    assert_eq!(
        found,
        [
            "1: no profile holds `bearer_token.other`",
            "3: rule `b` can never match: no profile reaches `https.b`",
            "7: rule `a` can never match: `bearer_token.other` is for none of its endpoints",
        ]
    );
}

#[test]
fn a_rule_that_is_never_reached() {
    let get = "verdict = \"allow\"; condition = \"http.method == 'get'\"";
    let narrow = "verdict = \"deny\"; condition = \"http.path == '/x' && http.method == 'get'\"";
    let found = notes(&format!("{}{}", rule("a", get), rule("b", narrow)));
    assert_eq!(found, ["6: rule `b` is never reached: `a` stands before it"]);
    // The other way round both are reached; so they are where the first only watches.
    assert_eq!(
        notes(&format!("{}{}", rule("b", narrow), rule("a", get))),
        [""; 0]
    );
    assert_eq!(
        notes(&format!(
            "{}{}",
            rule("a", &format!("{get}; mode = \"shadow\"")),
            rule("b", narrow)
        )),
        [""; 0]
    );
    let low = rule("a", &format!("{get}; priority = -2"));
    assert_eq!(
        notes(&low),
        ["1: rule `a` is never reached: `rest` stands before it"]
    );
    // A rule of one profile takes nothing from the others.
    let own = format!(
        "profile \"ops\" {{\n  peers = [\"x\"]\n{}}}\n",
        rule("all", "verdict = \"deny\"")
    );
    assert_eq!(notes(&format!("{own}{}", rule("a", get))), [""; 0]);
}

#[test]
fn an_endpoint_without_a_default() {
    let text = "endpoint \"https\" \"b\" { hosts = [\"b.example.com\"] }\n\
                profile \"ops\" {\n  peers = [\"x\"]\n  endpoints = [https.b]\n}\n";
    assert_eq!(
        notes(text),
        ["1: `https.b` has no rule without a condition for `ops`: what no rule matched is denied"]
    );
}

#[test]
fn profiles_that_can_claim_one_agent() {
    let table = [
        ("tags = [\"tag:ops\"]", true),
        ("nodes = [\"build-7\"]", true),
        ("grants = [\"ops\"]", true),
        ("logins = [\"*@example.com\"]", false),
        ("peers = [\"laptop\"]", false),
    ];
    for (field, clash) in table {
        let found = notes(&format!("profile \"ops\" {{\n  {field}\n}}\n"));
        let wanted = ["1: profile `ops` and `ci` could claim one agent together".to_owned()];
        assert_eq!(found, if clash { &wanted[..] } else { &[] }, "{field}");
    }
}

#[test]
fn a_condition_that_fails_on_what_may_be_missing() {
    let fails =
        |part: &str| format!("4: `{part}` fails where it is missing, and a condition that fails denies");
    let table: &[(&str, &[&str])] = &[
        ("http.body_json.amount > 5", &["http.body_json.amount"]),
        ("has(http.body_json.amount) && http.body_json.amount > 5", &[]),
        ("http.body_json.amount > 5 && has(http.body_json.amount)", &[]),
        ("!has(http.body_json.amount) || http.body_json.amount > 5", &[]),
        (
            "has(http.body_json.amount) ? http.body_json.amount > 5 : true",
            &[],
        ),
        (
            "has(http.body_json.amount) || http.body_json.amount > 5",
            &["http.body_json.amount"],
        ),
        ("has(http.body_json.a.b)", &["http.body_json.a"]),
        ("http.headers['X-Team'][0] == 'blue'", &["http.headers['x-team']"]),
        (
            "'x-team' in http.headers && http.headers['x-team'][0] == 'blue'",
            &[],
        ),
        (
            "http.body_json.tags.exists(t, t.name == 'x')",
            &["http.body_json.tags", "it.name"],
        ),
    ];
    for (source, wanted) in table {
        let found = notes(&condition(source));
        let wanted: Vec<String> = wanted.iter().map(|part| fails(part)).collect();
        assert_eq!(found, wanted, "{source}");
    }
}

#[test]
fn a_note_on_what_is_safer_here_says_how_to_undo_it() {
    let source = Source {
        path: PathBuf::from("policy.hcl"),
        text: "\n".to_owned(),
    };
    let policy = Policy::load(vec![source], &|_| {
        Err(std::io::Error::from(std::io::ErrorKind::NotFound))
    })
    .unwrap();
    let helps: Vec<&str> = policy
        .notes()
        .items()
        .iter()
        .filter_map(|note| note.help.as_deref())
        .collect();
    for line in ["unmatched = \"allow\"", "unknown_host = \"passthrough\""] {
        assert!(helps.iter().any(|help| help.contains(line)), "{helps:?}");
    }
}

#[test]
fn a_rule_of_several_endpoints_is_dead_where_it_is_dead_at_each() {
    let other = "endpoint \"https\" \"b\" { hosts = [\"b.example.com\"] }\n\
                 profile \"ops\" {\n  peers = [\"x\"]\n  endpoints = [https.api, https.b]\n}\n";
    let rule = |name: &str, endpoints: &str, fields: &str| {
        format!("rule \"{name}\" {{\n  endpoints = [{endpoints}]\n  verdict = \"deny\"\n  {fields}\n}}\n")
    };
    let both = "https.api, https.b";
    let late = rule("late", both, "condition = \"http.method == 'put'\"");
    let dead = |first: &str| {
        let found = notes(&format!("{other}{}{late}", rule("all", first, "")));
        found
            .iter()
            .any(|note| note.contains("rule `late` is never reached"))
    };
    assert!(dead(both));
    assert!(!dead("https.api"));
}

#[test]
fn a_literal_that_no_action_has() {
    let text = |condition: &str| {
        format!(
            "endpoint \"postgres\" \"db\" {{ host = \"db.example.com:5432\" }}\n\
             endpoint \"kubernetes\" \"k\" {{ server = \"https://10.0.0.1:6443\" }}\n\
             rule \"a\" {{\n  endpoint = {}\n  verdict = \"deny\"\n  condition = \"{condition}\"\n}}\n",
            match &condition[..3] {
                "sql" | "'DR" => "postgres.db",
                "k8s" | "has" => "kubernetes.k",
                _ => "https.api",
            }
        )
    };
    for (condition, wanted) in [
        ("sql.verb == 'DROP'", Some("`sql.verb` is never")),
        ("'DROP' in sql.verbs", Some("`sql.verbs` is never")),
        ("sql.verb == 'drop'", None),
        ("k8s.verb in ['get', 'meta']", Some("`k8s.verb` is never")),
        ("k8s.verb in ['get', 'deletecollection']", None),
        ("k8s.resource == 'Pods'", Some("`k8s.resource` is never")),
        (
            "has(k8s.params.stdin) && k8s.params.stdin == '1'",
            Some("`k8s.params.stdin` is never"),
        ),
        ("has(k8s.params.stdin) && k8s.params.stdin == 'true'", None),
        ("http.path.startsWith('/a//b')", Some("`http.path` is never")),
        ("http.path == '/a/b'", None),
    ] {
        let found = notes(&text(condition));
        let of = found.iter().find(|note| note.contains("is never "));
        assert_eq!(of.is_some(), wanted.is_some(), "{condition}: {found:?}");
        assert!(
            wanted.is_none_or(|wanted| of.unwrap().contains(wanted)),
            "{condition}: {found:?}"
        );
    }
}

#[test]
fn an_unknown_host_that_is_to_be_inspected_is_denied_with_a_note() {
    let source = Source {
        path: PathBuf::from("policy.hcl"),
        text: "defaults { unknown_host = \"inspect\" }\n".to_owned(),
    };
    let policy = Policy::load(vec![source], &|_| {
        Err(std::io::Error::from(std::io::ErrorKind::NotFound))
    })
    .unwrap();
    assert_eq!(
        policy.model().defaults.unknown_host,
        crate::policy::UnknownHost::Deny
    );
    let items = policy.notes().items();
    assert!(items.iter().any(|note| note.message.contains("denies here")));
}

#[test]
fn names_that_want_one_virtual_address_beside_a_tailnet() {
    let text = |gateway: &str| {
        let endpoint = |number: u32| {
            format!(
                "endpoint \"http\" \"n{number}\" {{ hosts = [\"n{number}.test\", \"*.n{number}.test\"] }}\n"
            )
        };
        let endpoints: String = (0..3).map(endpoint).collect();
        format!("gateway {{\n  {gateway}\n}}\n{endpoints}")
    };
    let contended = |gateway: &str| -> Vec<String> {
        let all = notes(&text(gateway)).into_iter();
        all.filter(|note| note.contains("want one virtual address"))
            .collect()
    };
    let narrow = contended("virtual_cidr = \"10.78.0.0/29\"\n  tailscale {}");
    assert_eq!(
        narrow,
        ["6: `n1.test`, `n2.test`, `tailkeep.internal` want one virtual address, which one of them has"]
    );
    assert_eq!(contended("tailscale {}"), [""; 0]);
    assert_eq!(contended("virtual_cidr = \"10.78.0.0/29\""), [""; 0]);
}
