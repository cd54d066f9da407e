//! Each note, with its place, on a policy that has nothing else wrong.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::facts::Family;
use crate::identity::{Identity, Transport};
use crate::policy::cel::Condition;
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

/// Of all pairs of profiles with few marks: one agent can be claimed by both exactly where that is an error or a note.
#[test]
fn two_profiles_that_can_claim_one_agent_are_never_let_through_unsaid() {
    const MARKS: &[(&str, &str)] = &[
        ("tags", "tag:a"),
        ("tags", "tag:b"),
        ("logins", "ann@example.com"),
        ("logins", "bob@example.com"),
        ("logins", "*@example.com"),
        ("nodes", "n1"),
        ("nodes", "n2"),
        ("grants", "g1"),
        ("grants", "g2"),
        ("peers", "p1"),
        ("peers", "p2"),
    ];
    let subsets = |of: [&'static str; 2]| [vec![], vec![of[0]], vec![of[1]], of.to_vec()];
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let mut agents = Vec::new();
    for node in ["n1", "n2", "n3", "p1", "p2"] {
        agents.push(Identity::new(
            Transport::Wireguard,
            Ipv4Addr::LOCALHOST.into(),
            node,
        ));
        for tags in subsets(["tag:a", "tag:b"]) {
            // A tagged node has no login.
            let logins: &[Option<&str>] = match tags.is_empty() {
                true => &[
                    Some("ann@example.com"),
                    Some("bob@example.com"),
                    Some("eve@example.com"),
                ],
                false => &[None],
            };
            for (login, grants) in logins
                .iter()
                .flat_map(|login| subsets(["g1", "g2"]).map(|grants| (login, grants)))
            {
                agents.push(Identity {
                    tags: owned(&tags),
                    login: login.map(str::to_owned),
                    grants: owned(&grants),
                    ..Identity::new(Transport::Tailnet, Ipv4Addr::LOCALHOST.into(), node)
                });
            }
        }
    }
    let profile = |name: &str, marks: &[(&str, &str)]| {
        let lists = ["tags", "logins", "nodes", "grants", "peers"].map(|field| {
            let own = marks.iter().filter(|mark| mark.0 == field);
            let own: Vec<String> = own.map(|mark| format!("{:?}", mark.1)).collect();
            format!("  {field} = [{}]\n", own.join(", "))
        });
        format!("profile \"{name}\" {{\n{}}}\n", lists.concat())
    };
    let load = |text: String| {
        let path = PathBuf::from("policy.hcl");
        Policy::load(vec![Source { path, text }], &|_| {
            Err(std::io::Error::from(std::io::ErrorKind::NotFound))
        })
    };
    let mut seen = [0; 3];
    for (index, one) in MARKS.iter().enumerate() {
        for two in &MARKS[index..] {
            for other in MARKS {
                let text = profile("x", &[*one, *two]) + &profile("y", &[*other]);
                let what = format!("{one:?} {two:?}, {other:?}");
                let Ok(policy) = load(text) else {
                    // The same mark, or a domain and a login of it.
                    let clash = |mark: &(&str, &str)| {
                        mark.0 == other.0
                            && (mark.1 == other.1 || mark.1.starts_with('*') || other.1.starts_with('*'))
                    };
                    assert!(clash(one) || clash(two), "{what} does not load");
                    seen[0] += 1;
                    continue;
                };
                let both = agents.iter().find(|agent| {
                    policy
                        .profile_for(agent)
                        .is_err_and(|why| why.contains("both claim"))
                });
                let mut notes = policy.notes().items().iter();
                let noted = notes.any(|note| note.message.contains("could claim one agent together"));
                assert_eq!(noted, both.is_some(), "{what}: {both:?}");
                seen[1 + usize::from(noted)] += 1;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
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
        // What may be missing, said so.
        (
            "http.body_json.?a.b.orValue(0) == 1 && agent.tags[?0].orValue('') == 'x'",
            &[],
        ),
        ("http.body_json.?a.value() == 1", &["value(http.body_json.?a)"]),
        (
            "http.body_json.?a.hasValue() && http.body_json.?a.value() == 1",
            &[],
        ),
        // An item of a list that may be shorter.
        ("agent.tags[0] == 'tag:ci'", &["agent.tags[0]"]),
        ("size(agent.tags) > 0 && agent.tags[0] == 'tag:ci'", &[]),
        ("agent.tags.size() >= 2 && agent.tags[1] == 'tag:ci'", &[]),
        ("2 <= size(agent.tags) && agent.tags[1] == 'tag:ci'", &[]),
        ("size(agent.tags) == 1 ? agent.tags[0] == 'tag:ci' : false", &[]),
        ("size(agent.tags) != 0 && agent.tags[0] == 'tag:ci'", &[]),
        ("size(agent.tags) < 1 || agent.tags[0] == 'tag:ci'", &[]),
        (
            "size(agent.tags) > 1 && agent.tags[2] == 'tag:ci'",
            &["agent.tags[2]"],
        ),
        (
            "size(agent.tags) < 9 && agent.tags[1] == 'tag:ci'",
            &["agent.tags[1]"],
        ),
        (
            "size(agent.caps) > 0 && agent.tags[0] == 'tag:ci'",
            &["agent.tags[0]"],
        ),
        ("http.path.split('/')[0] == '' && ['a', 'b'][1] == 'b'", &[]),
        ("http.path.split('/')[1] == 'v1'", &["split(http.path, '/')[1]"]),
        (
            "'x-team' in http.headers && http.headers['x-team'][1] == 'blue'",
            &["http.headers['x-team'][1]"],
        ),
    ];
    for (source, wanted) in table {
        let found = notes(&condition(source));
        let wanted: Vec<String> = wanted.iter().map(|part| fails(part)).collect();
        assert_eq!(found, wanted, "{source}");
    }
    let sql = "size(sql.parameters) > 0 && sql.parameters[0] == 'x' && sql.parameters[1] == 'y'";
    let found = Condition::compile(sql, Family::Sql).unwrap().fragile();
    let shown: Vec<_> = found.iter().map(|one| (&*one.part, &*one.guard)).collect();
    assert_eq!(shown, [("sql.parameters[1]", "size(sql.parameters) > 1")]);
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

/// What the reference implementation takes for plain is denied here, and the note has the words that leave it to others.
#[test]
fn a_rule_that_denies_what_cannot_be_read_is_noted_once() {
    let rule = |name: &str, endpoints: &str, condition: &str, more: &str| {
        format!(
            "rule \"{name}\" {{\n  endpoints = [{endpoints}]\n  condition = \"{condition}\"\n  verdict = \"deny\"\n{more}}}\n"
        )
    };
    let both = "postgres.a, postgres.b";
    let endpoints = "endpoint \"postgres\" \"a\" { host = \"a.example.com\" }\n\
                     endpoint \"postgres\" \"b\" { host = \"b.example.com\" }\n";
    let noted = |rules: &[String]| -> Vec<String> {
        let found = notes(&format!("{endpoints}{}", rules.concat()));
        let of = |note: String| Some(note.split_once(": ")?.1.strip_prefix("rule `")?.to_owned());
        let found = found
            .into_iter()
            .filter(|note| note.contains("denies a statement"));
        found.filter_map(of).collect()
    };
    let banned = rule("banned", both, "sql.functions.exists(f, f == 'lo_get')", "");
    let tables = rule("tables", both, "'t' in sql.tables", "");
    let said = "banned` denies a statement that runs code which cannot be read (`sql.opaque`): `sql.functions` is unknown of it";
    assert_eq!(noted(&[banned.clone(), tables.clone()]), [said]);
    let first = |condition: &str, more: &str| noted(&[rule("first", both, condition, more), banned.clone()]);
    assert_eq!(first("sql.opaque", ""), [""; 0]);
    assert_eq!(
        first("!sql.opaque && sql.functions.exists(f, f == 'x')", ""),
        [""; 0]
    );
    assert_eq!(first("sql.opaque", "  mode = \"shadow\"\n"), [said]);
    assert_eq!(first("sql.opaque", "  priority = -1\n"), [said]);
    assert_eq!(first("sql.verb == 'drop'", ""), [said]);
    let of_a = rule("first", "postgres.a", "sql.opaque", "");
    assert_eq!(noted(&[of_a, banned]), [said]);
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
