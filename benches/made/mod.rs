//! What several benchmarks are made of: a policy, an agent, an action's facts, a record.

#![allow(dead_code, reason = "each takes what it needs")]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a measurement that cannot be made says so"
)]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use tailkeep::audit::Record;
use tailkeep::facts::http::{HeldBody, HttpFacts};
use tailkeep::facts::sql::{self, SqlFacts};
use tailkeep::facts::{FactSet, Facts};
use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::policy::{Policy, Source};
use tailkeep::verdict::{Digest, Step};

/// Two endpoints of so many rules and one; the last one matches.
pub fn policy(rules: usize) -> Policy {
    let mut text = String::from(
        "endpoint \"https\" \"api\" { hosts = [\"api.example.com\"] }\n\
         endpoint \"postgres\" \"db\" { host = \"db.example.com:5432\" }\n\
         profile \"ci\" {\n  tags = [\"tag:ci\"]\n  endpoints = [https.api, postgres.db]\n}\n",
    );
    for rule in 0..rules {
        let method = ["GET", "POST", "DELETE"][rule % 3];
        let _ = writeln!(
            text,
            "rule \"h{rule}\" {{\n  endpoint = https.api\n  verdict = \"allow\"\n  \
             condition = \"http.method == '{method}' && http.path.startsWith('/repos/team-{rule}/')\"\n}}\n\
             rule \"s{rule}\" {{\n  endpoint = postgres.db\n  verdict = \"allow\"\n  \
             condition = \"'table_{rule}' in sql.tables && sql.verbs.all(v, v == 'select')\"\n}}"
        );
    }
    text.push_str(
        "rule \"h\" {\n  endpoint = https.api\n  verdict = \"allow\"\n  condition = \"http.path == '/repos/x'\"\n}\n\
         rule \"s\" {\n  endpoint = postgres.db\n  verdict = \"allow\"\n  condition = \"sql.verb == 'select'\"\n}\n",
    );
    let source = Source {
        path: "bench.hcl".into(),
        text,
    };
    Policy::load(vec![source], &|_| {
        Err(std::io::Error::from(std::io::ErrorKind::NotFound))
    })
    .unwrap_or_else(|errors| panic!("{errors}"))
}

pub fn agent() -> Agent {
    let mut identity = Identity::new(Transport::Tailnet, IpAddr::from([100, 64, 0, 7]), "build-7");
    identity.tags = vec!["tag:ci".to_owned()];
    Agent::new(Arc::new(identity), "ci".into())
}

/// A GET that the last rule allows.
pub fn http() -> Facts {
    let (parts, ()) = http::Request::builder()
        .method("GET")
        .uri("/repos/x")
        .body(())
        .unwrap()
        .into_parts();
    let http = HttpFacts::read(&parts, "api.example.com", HeldBody::Empty, FactSet::ALL, 1 << 20).unwrap();
    Facts::Http(Box::new(http))
}

/// A SELECT that the last rule allows.
pub fn sql() -> Facts {
    let statement = sql::read(
        "SELECT a FROM public.orders o JOIN lines l ON l.o = o.id",
        1 << 20,
    );
    let statement = statement.into_iter().next().unwrap();
    Facts::Sql(Box::new(SqlFacts::new(statement, "orders", "ci")))
}

/// What pgbench's SELECT leaves.
pub fn record(number: u32) -> Record {
    let text = format!("SELECT abalance FROM pgbench_accounts WHERE aid = {number};");
    Record {
        at_us: i64::from(number),
        step: Step::Request,
        transport: "wireguard",
        node: "agent".to_owned(),
        login: None,
        address: "10.78.0.2".to_owned(),
        agent: None,
        profile: Some("agent".into()),
        endpoint: "postgres.orders".into(),
        credential: Some("postgres_credential.orders".into()),
        facts: serde_json::json!({
            "sql.statement": text, "sql.verb": "select", "sql.verbs": ["select"], "sql.tables": ["pgbench_accounts"],
            "sql.reads": ["pgbench_accounts"], "sql.writes": [], "sql.functions": [], "sql.columns": ["abalance", "aid"],
            "sql.objects": [], "sql.database": "postgres", "sql.user": "bench", "sql.has_where": true,
            "sql.row_limit": null, "sql.program": false, "sql.server_file": false, "sql.role_change": false,
            "sql.locks": false, "sql.opaque": false, "sql.unparseable": false, "sql.parameters": [],
        })
        .into(),
        digest: Digest::of(text.as_bytes()),
        summary: text,
        verdict: "allow",
        cause: "rule",
        rule: Some("sql".into()),
        reason: String::new(),
        detail: None,
        approvers: Vec::new(),
        shadow: Vec::new(),
        judge_us: 3,
        wait_us: 0,
        policy: 1,
    }
}
