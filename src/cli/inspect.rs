//! `tailkeep inspect`: the facts of statements or requests, one JSON object a line.
//!
//! A line that cannot be read gives `{"error": …}` in its place, and exit status 2 at the end.

use std::io::{BufRead, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::facts::http::{HeldBody, HttpFacts};
use crate::facts::k8s::K8sFacts;
use crate::facts::sql;
use crate::facts::sql::dialect::{self, Dialect};
use crate::facts::{Blind, Fact, FactSet, FactSource, Slot, View, mcp};

/// Longest line that is read, bytes.
const LINE_BYTES_MAX: usize = 4 << 20;
/// Longest statement, bytes: the gateway's default.
const STATEMENT_BYTES_MAX: usize = 128 << 10;
/// Longest body once its content coding is undone, bytes.
const DECODED_BYTES_MAX: usize = 4 << 20;

/// What is printed of a Kubernetes request.
const K8S: &[Slot] = &[
    Slot::K8sIsResource,
    Slot::K8sVerb,
    Slot::K8sGroup,
    Slot::K8sVersion,
    Slot::K8sNamespace,
    Slot::K8sResource,
    Slot::K8sName,
    Slot::K8sParams,
];

/// What is printed of an HTTP request.
const HTTP: &[Slot] = &[
    Slot::HttpMethod,
    Slot::HttpPath,
    Slot::HttpRawPath,
    Slot::HttpQuery,
    Slot::HttpHeaders,
    Slot::HttpHost,
    Slot::HttpBody,
    Slot::HttpBodyJson,
    Slot::HttpWebsocket,
    Slot::HttpForm,
    Slot::HttpMultipart,
    Slot::HttpGraphqlOperation,
    Slot::HttpGraphqlKind,
    Slot::HttpGraphqlFields,
    Slot::HttpGraphqlPaths,
];

/// What is printed of a message of the Model Context Protocol.
const MCP: &[Slot] = &[
    Slot::McpKind,
    Slot::McpMethod,
    Slot::McpTool,
    Slot::McpArguments,
    Slot::McpResource,
    Slot::McpPrompt,
    Slot::McpParams,
    Slot::McpQuery,
];

#[derive(clap::Args)]
pub struct Args {
    /// What each line of the standard input is.
    #[arg(value_enum)]
    family: Family,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Family {
    /// `{"sql": …, "dialect": "postgres" | "mysql" | "clickhouse"}`
    Sql,
    /// `{"method": …, "path": …, "headers": …, "body": …}` to a Kubernetes API server
    K8s,
    /// `{"method": …, "path": …, "headers": …, "body": …}`; a batch of GraphQL operations gives
    /// `{"batch": […]}`
    Http,
    /// `{"body": …}`, a message or a list of them (which gives `{"batch": […]}`); or a whole
    /// request as for `http`
    Mcp,
}

#[derive(Deserialize)]
struct Text {
    sql: String,
    #[serde(default)]
    dialect: Option<String>,
}

#[derive(Deserialize)]
struct Request {
    method: Option<String>,
    path: Option<String>,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    body: Option<Value>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut output = std::io::stdout().lock();
    let mut bad = false;
    each_line(&mut std::io::stdin().lock(), |line| {
        let facts = line.and_then(|line| facts(args.family, line));
        bad |= facts.is_err();
        let shown = facts.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        writeln!(output, "{shown}")?;
        // A driver may wait for each answer before it asks on.
        output.flush()?;
        Ok(())
    })?;
    Ok(ExitCode::from(if bad { 2 } else { 0 }))
}

/// Hands over each line without its end; one that is too long is an error, and passed over.
fn each_line(
    input: &mut impl BufRead,
    mut each: impl FnMut(anyhow::Result<&[u8]>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(LINE_BYTES_MAX + 1).unwrap_or(u64::MAX);
        if input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let ended = line.last() == Some(&b'\n');
        if ended {
            line.pop();
        }
        if !ended && line.len() > LINE_BYTES_MAX {
            input.skip_until(b'\n')?;
            each(Err(anyhow::anyhow!(
                "the line is longer than {LINE_BYTES_MAX} bytes"
            )))?;
        } else {
            each(Ok(&line))?;
        }
    }
}

fn facts(family: Family, line: &[u8]) -> anyhow::Result<Value> {
    match family {
        Family::Sql => {
            let text: Text = serde_json::from_slice(line).context("not an object with `sql`")?;
            sql_facts(&text)
        }
        Family::K8s => {
            let (parts, body) = request(line, None)?;
            let held = body.as_deref().map_or(HeldBody::Empty, HeldBody::Whole);
            let needs = K8S.iter().copied().collect();
            let facts = K8sFacts::read(&parts, "", held, needs, DECODED_BYTES_MAX);
            let facts = facts.context("the request is refused")?;
            let mut shown = named(&facts, K8S);
            // As they were sent, where conditions read one spelling of true and false.
            shown[Slot::K8sParams.name()] = View::Map(facts.written_params()).to_json();
            Ok(shown)
        }
        Family::Http => {
            let (parts, body) = request(line, None)?;
            let held = body.as_deref().map_or(HeldBody::Empty, HeldBody::Whole);
            let host = parts.headers.get("host").and_then(|host| host.to_str().ok());
            let host = host.unwrap_or_default().to_ascii_lowercase();
            let each = HttpFacts::read_each(&parts, &host, held, FactSet::ALL, DECODED_BYTES_MAX);
            let each = each.context("the request is refused")?;
            let is_batch = each.len() > 1;
            Ok(all(each.iter().map(|one| named(one, HTTP)), is_batch))
        }
        Family::Mcp => {
            let (parts, body) = request(line, Some(("POST", "/")))?;
            let held = body.as_deref().map_or(HeldBody::Empty, HeldBody::Whole);
            let read = mcp::read(&parts, held, DECODED_BYTES_MAX).context("the request is refused")?;
            Ok(all(read.messages.iter().map(|one| named(one, MCP)), read.batch))
        }
    }
}

/// The facts of a request, or of each part of a batch.
fn all(mut each: impl Iterator<Item = Value>, is_batch: bool) -> Value {
    if is_batch {
        return json!({ "batch": each.collect::<Vec<_>>() });
    }
    each.next().unwrap_or_default()
}

/// The facts in these slots; an unknown one stands as `{"unknown": "<why>"}`.
fn named(facts: &impl FactSource, slots: &[Slot]) -> Value {
    let object = slots.iter().map(|slot| {
        let value = match facts.fact(*slot) {
            Fact::Known(view) => view.to_json(),
            Fact::Unknown(blind) => unknown(blind),
        };
        (slot.name().to_owned(), value)
    });
    Value::Object(object.collect())
}

fn unknown(blind: Blind) -> Value {
    json!({ "unknown": blind })
}

/// The union of all statements of a text, with the first one's verb.
fn sql_facts(text: &Text) -> anyhow::Result<Value> {
    let statements = match text.dialect.as_deref() {
        None | Some("" | "postgres" | "postgresql") => sql::read(&text.sql, STATEMENT_BYTES_MAX),
        Some(name) => match Dialect::of(name) {
            Some(dialect) => dialect::read(&text.sql, dialect, STATEMENT_BYTES_MAX),
            None => bail!("there is no dialect `{name}`: there are postgres, mysql, clickhouse"),
        },
    };
    let union = |list: fn(&sql::Statement) -> &Vec<String>| {
        let mut all: Vec<&str> = Vec::new();
        for name in statements.iter().flat_map(|statement| list(statement)) {
            if !all.contains(&name.as_str()) {
                all.push(name);
            }
        }
        json!(all)
    };
    let limits: Option<Vec<i64>> = statements.iter().map(|one| one.row_limit).collect();
    Ok(json!({
        "verb": statements.first().map_or("", |first| first.verb.as_str()),
        "verbs": union(|one| &one.verbs),
        "tables": union(|one| &one.tables),
        "reads": union(|one| &one.reads),
        "writes": union(|one| &one.writes),
        "functions": union(|one| &one.functions),
        "statements": statements.len(),
        "has_where": has_where(&statements),
        "row_limit": limits.and_then(|limits| limits.into_iter().max()),
        "unparseable": statements.iter().any(|one| one.unparseable),
    }))
}

/// Whether each statement that changes rows has a WHERE; if none does, whether one has.
fn has_where(statements: &[std::sync::Arc<sql::Statement>]) -> bool {
    let changes = |one: &sql::Statement| {
        let verbs = one.verbs.iter();
        verbs
            .map(String::as_str)
            .any(|verb| matches!(verb, "update" | "delete" | "merge"))
    };
    if statements.iter().any(|one| changes(one)) {
        statements.iter().all(|one| !changes(one) || one.has_where)
    } else {
        statements.iter().any(|one| one.has_where)
    }
}

/// The head and the body that a line describes; `usual` are the method and the path where they may
/// be left out.
fn request(
    line: &[u8],
    usual: Option<(&str, &str)>,
) -> anyhow::Result<(http::request::Parts, Option<Vec<u8>>)> {
    let wanted = "not an object with `method` and `path`";
    let read: Request = serde_json::from_slice(line).context(wanted)?;
    let method = read.method.as_deref().or(usual.map(|(method, _)| method));
    let path = read.path.as_deref().or(usual.map(|(_, path)| path));
    let mut builder = http::Request::builder()
        .method(method.context(wanted)?)
        .uri(path.context(wanted)?);
    for (name, value) in read.headers.unwrap_or_default() {
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let Value::String(value) = value else {
                bail!("the header `{name}` is no string");
            };
            builder = builder.header(name.as_str(), value);
        }
    }
    let (parts, ()) = builder.body(()).context("not a request")?.into_parts();
    let body = match read.body {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.into_bytes()),
        Some(value) => Some(value.to_string().into_bytes()),
    };
    Ok((parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(family: Family, line: &str, want: &str) {
        let got =
            facts(family, line.as_bytes()).map_or_else(|_| "error".to_owned(), |facts| facts.to_string());
        assert_eq!(got, want);
    }

    #[test]
    fn each_family_prints_its_named_facts_in_order() {
        check(
            Family::Sql,
            r#"{"sql":"select 1; delete from s.t where id = 1"}"#,
            r#"{"verb":"select","verbs":["select","delete"],"tables":["s.t","t"],"reads":[],"writes":["s.t","t"],"functions":[],"statements":2,"has_where":true,"row_limit":null,"unparseable":false}"#,
        );
        check(
            Family::Sql,
            r#"{"sql":"selec 1"}"#,
            r#"{"verb":"","verbs":[],"tables":[],"reads":[],"writes":[],"functions":[],"statements":1,"has_where":false,"row_limit":null,"unparseable":true}"#,
        );
        check(
            Family::K8s,
            r#"{"method":"DELETE","path":"/api/v1/namespaces/a/pods/p?force=1"}"#,
            r#"{"is_resource":true,"verb":"delete","group":"","version":"v1","namespace":"a","resource":"pods","name":"p","params":{"force":"1"}}"#,
        );
        check(
            Family::Http,
            r#"{"method":"POST","path":"/a%62?x=1","headers":{"Host":"H.example","content-type":"application/json"},"body":{"k":1}}"#,
            r#"{"method":"post","path":"/ab","raw_path":"/a%62","query":{"x":["1"]},"headers":{"host":["H.example"],"content-type":["application/json"]},"host":"h.example","body":"{\"k\":1}","body_json":{"k":1},"websocket":false,"form":{},"multipart":[],"graphql.operation":"","graphql.kind":"","graphql.fields":[],"graphql.paths":[]}"#,
        );
        check(
            Family::Http,
            r#"{"method":"POST","path":"/graphql","headers":{"content-type":"application/json"},"body":{"query":"mutation A { close(id: 1) { id } }"}}"#,
            r#"{"method":"post","path":"/graphql","raw_path":"/graphql","query":{},"headers":{"content-type":["application/json"]},"host":"","body":"{\"query\":\"mutation A { close(id: 1) { id } }\"}","body_json":{"query":"mutation A { close(id: 1) { id } }"},"websocket":false,"form":{},"multipart":[],"graphql.operation":"A","graphql.kind":"mutation","graphql.fields":["close"],"graphql.paths":["close","close.id"]}"#,
        );
        check(
            Family::Mcp,
            r#"{"body":{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm","arguments":{"path":"/"}}}}"#,
            r#"{"kind":"request","method":"tools/call","tool":"rm","arguments":{"path":"/"},"resource":"","prompt":"","params":{"name":"rm","arguments":{"path":"/"}},"query":{}}"#,
        );
        check(
            Family::Mcp,
            r#"{"method":"GET","path":"/mcp?a=1"}"#,
            r#"{"kind":"stream","method":"","tool":"","arguments":null,"resource":"","prompt":"","params":null,"query":{"a":["1"]}}"#,
        );
        check(
            Family::Mcp,
            r#"{"body":{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}}"#,
            "error",
        );
        check(Family::Http, r#"{"path":"/"}"#, "error");
        for line in [
            "",
            "{}",
            "[1]",
            "{\"sql\":1}",
            "{\"sql\":\"select 1\",\"dialect\":\"x\"}",
        ] {
            check(Family::Sql, line, "error");
        }
    }

    #[test]
    fn a_body_has_a_size_as_it_is_sent() {
        // A short line may stand for a long body: `1e9` is sent as 1000000000.0.
        let fits = (DECODED_BYTES_MAX - 1) / ",1000000000.0".len();
        for (numbers, is_known) in [(fits, true), (fits + 1, false)] {
            let body = vec!["1e9"; numbers].join(",");
            let line = format!(r#"{{"method":"POST","path":"/","body":[{body}]}}"#);
            let shown = facts(Family::Http, line.as_bytes()).unwrap();
            let length = shown["body"].as_str().map(str::len);
            assert_eq!(length, is_known.then_some(fits * 13 + 1));
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let mut input = vec![b'x'; LINE_BYTES_MAX + 10];
        input.extend_from_slice(b"\nshort\n\nlast");
        let mut seen = Vec::new();
        let read = each_line(&mut input.as_slice(), |line| {
            seen.push(line.ok().map(<[u8]>::len));
            Ok(())
        });
        assert!(read.is_ok());
        assert_eq!(seen, [None, Some(5), Some(0), Some(4)]);
    }
}
