//! The walk by the index and the walk of every rule give one verdict.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use crate::facts::{Blind, Fact, FactSource, Slot, View};
use crate::identity::{Agent, Identity, Transport};
use crate::policy::{Policy, Source};

/// Facts of which each is a text, a list, or unknown.
#[derive(Debug)]
struct Table {
    method: Option<&'static str>,
    path: Option<&'static str>,
    host: Option<&'static str>,
    json: Option<serde_json::Value>,
}

impl FactSource for Table {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        let text = match slot {
            Slot::HttpMethod => self.method,
            Slot::HttpPath => self.path,
            Slot::HttpHost => self.host,
            Slot::HttpBodyJson => {
                return self
                    .json
                    .as_ref()
                    .map_or(Fact::Unknown(Blind::Truncated), |json| {
                        Fact::Known(View::Json(Box::leak(Box::new(json.into()))))
                    });
            }
            _ => None,
        };
        text.map_or(Fact::Unknown(Blind::Truncated), |text| {
            Fact::Known(View::Text(text))
        })
    }
}

fn atom() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("http.method == 'GET'".to_owned()),
        Just("http.method in ['get', 'put']".to_owned()),
        Just("'post' == http.method".to_owned()),
        Just("http.path.startsWith('/a/')".to_owned()),
        Just("http.path.startsWith('/a/b')".to_owned()),
        Just("http.path.startsWith('/ä')".to_owned()),
        Just("http.path.startsWith('')".to_owned()),
        Just("http.path == '/a/b'".to_owned()),
        Just("http.host == 'x'".to_owned()),
        Just("http.host != 'x'".to_owned()),
        Just("'tag:ci' in agent.tags".to_owned()),
        Just("'tag:x' in agent.tags".to_owned()),
        Just("agent.profile == 'ci'".to_owned()),
        Just("http.body_json.a == 1".to_owned()),
        Just("has(http.body_json.a)".to_owned()),
        Just("http.path.contains('b')".to_owned()),
        Just("false".to_owned()),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    atom().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" && "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" || "))),
            inner.prop_map(|one| format!("!({one})")),
        ]
    })
}

fn rule() -> impl Strategy<Value = String> {
    let verdict = prop_oneof![Just("\"allow\""), Just("\"deny\"")];
    (
        prop::option::of(condition()),
        verdict,
        -2i64..2,
        any::<bool>(),
        0u8..4,
    )
        .prop_map(|(condition, verdict, priority, credential, kind)| {
            let mut text = format!("endpoint = https.api\nverdict = {verdict}\npriority = {priority}\n");
            if let Some(condition) = condition {
                text.push_str(&format!("condition = \"{condition}\"\n"));
            }
            if credential {
                text.push_str("credential = bearer_token.token\n");
            }
            if kind == 0 {
                text.push_str("mode = \"shadow\"\n");
            }
            text
        })
}

fn facts() -> impl Strategy<Value = Table> {
    let method = prop::option::of(prop::sample::select(vec!["get", "put", "post", "delete"]));
    let path = prop::option::of(prop::sample::select(vec!["", "/", "/a/", "/a/b", "/a/bc", "/äb"]));
    let host = prop::option::of(prop::sample::select(vec!["x", "y"]));
    let json = prop::option::of(prop::sample::select(vec![
        serde_json::Value::Null,
        serde_json::json!({"a": 1}),
        serde_json::json!({"a": "x"}),
        serde_json::json!([]),
    ]));
    (method, path, host, json).prop_map(|(method, path, host, json)| Table {
        method,
        path,
        host,
        json,
    })
}

fn policy(shared: &[String], own: &[String]) -> Policy {
    let mut text = String::from(
        "endpoint \"https\" \"api\" { hosts = [\"api.example.com\"] }\n\
         credential \"bearer_token\" \"token\" { endpoint = https.api }\n",
    );
    for (index, rule) in shared.iter().enumerate() {
        text.push_str(&format!("rule \"r{index}\" {{\n{rule}}}\n"));
    }
    for profile in ["ci", "ops"] {
        text.push_str(&format!(
            "profile \"{profile}\" {{\ntags = [\"tag:{profile}\"]\nendpoints = [https.api]\n"
        ));
        for (index, rule) in own.iter().enumerate() {
            text.push_str(&format!("rule \"r{index}\" {{\n{rule}}}\n"));
        }
        text.push_str("}\n");
    }
    let source = Source {
        path: PathBuf::from("policy.hcl"),
        text,
    };
    Policy::load(vec![source], &|_| {
        Err(std::io::Error::from(std::io::ErrorKind::NotFound))
    })
    .unwrap_or_else(|errors| panic!("{errors}"))
}

fn agent(profile: &str) -> Agent {
    let mut identity = Identity::new(Transport::Tailnet, IpAddr::from([100, 64, 0, 7]), "build-7");
    identity.tags = vec![format!("tag:{profile}")];
    Agent::new(Arc::new(identity), profile.into())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_index_changes_no_verdict(
        shared in prop::collection::vec(rule(), 1..10),
        own in prop::collection::vec(rule(), 0..4),
        all in prop::collection::vec(facts(), 1..24),
    ) {
        let policy = policy(&shared, &own);
        let now = chrono::DateTime::UNIX_EPOCH;
        for table in &all {
            for profile in ["ci", "ops"] {
                for credential in [None, Some("bearer_token.token")] {
                    let agent = agent(profile);
                    let quick = policy.evaluate(&agent, "https.api", credential, table, now);
                    let (plain, _) = policy.explain(&agent, "https.api", credential, table, now);
                    prop_assert_eq!(quick, plain, "{:?}", table);
                }
            }
        }
    }
}

#[test]
fn an_unknown_fact_still_denies_by_the_rule_that_reads_it() {
    let rules = [
        "endpoint = https.api\nverdict = \"deny\"\ncondition = \"http.path == '/secret'\"\n".to_owned(),
        "endpoint = https.api\nverdict = \"allow\"\n".to_owned(),
    ];
    let policy = policy(&rules, &[]);
    let table = Table {
        method: Some("get"),
        path: None,
        host: None,
        json: None,
    };
    let judgement = policy.evaluate(
        &agent("ci"),
        "https.api",
        None,
        &table,
        chrono::DateTime::UNIX_EPOCH,
    );
    let crate::verdict::Verdict::Deny(refusal) = judgement.verdict else {
        panic!("{judgement:?}");
    };
    assert_eq!(refusal.cause.name(), "unevaluable");
}
