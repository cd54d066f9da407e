use crate::tailkeep;

/// Every line of `input` has its line in the output; `want` holds a part of each.
#[track_caller]
fn check(family: &str, code: i32, lines: &[(&str, &str)]) {
    let input: Vec<&str> = lines.iter().map(|(line, _)| *line).collect();
    let run = tailkeep(&["inspect", family], input.join("\n").as_bytes());
    assert_eq!(run.code, code, "{}{}", run.out, run.errors);
    let got: Vec<&str> = run.out.lines().collect();
    assert_eq!(got.len(), lines.len(), "{}", run.out);
    for ((line, want), got) in lines.iter().zip(got) {
        let _: serde_json::Map<String, serde_json::Value> = serde_json::from_str(got).unwrap();
        assert!(got.contains(want), "{line}: {got}");
    }
}

#[test]
fn a_statement_and_a_body_have_a_size() {
    let sql = |bytes: usize| {
        serde_json::json!({ "sql": format!("select '{}'", "x".repeat(bytes - 9)) }).to_string()
    };
    check(
        "sql",
        0,
        &[
            (&sql(128 << 10), r#""unparseable":false"#),
            (&sql((128 << 10) + 1), r#""unparseable":true"#),
        ],
    );
}

#[test]
fn statements_of_three_dialects() {
    check(
        "sql",
        0,
        &[
            (
                r#"{"sql":"SELECT a FROM public.t WHERE b = 1 LIMIT 3"}"#,
                r#"{"verb":"select","verbs":["select"],"tables":["public.t","t"],"reads":["public.t","t"],"writes":[],"functions":[],"statements":1,"has_where":true,"row_limit":3,"unparseable":false}"#,
            ),
            (
                r#"{"sql":"DELETE FROM `d`.`T` LIMIT 3","dialect":"mysql"}"#,
                r#"{"verb":"delete","verbs":["delete"],"tables":["d.T","T"],"reads":[],"writes":["d.T","T"],"functions":[],"statements":1,"has_where":false,"row_limit":3,"unparseable":false}"#,
            ),
            (
                r#"{"sql":"SELECT uniq(a) FROM d.t; TRUNCATE TABLE t","dialect":"clickhouse"}"#,
                r#"{"verb":"select","verbs":["select","truncate"],"tables":["d.t","t"],"reads":["d.t","t"],"writes":["t"],"functions":["uniq"],"statements":2,"has_where":false,"row_limit":null,"unparseable":false}"#,
            ),
            (
                r#"{"sql":"DELETE FROM t /*! WHERE 1 */","dialect":"mysql"}"#,
                r#"{"verb":"","verbs":[],"tables":[],"reads":[],"writes":[],"functions":[],"statements":1,"has_where":false,"row_limit":null,"unparseable":true}"#,
            ),
            (
                r#"{"sql":"SELECT $1::int","dialect":"postgres"}"#,
                r#""unparseable":false"#,
            ),
            (r#"{"sql":""}"#, r#""statements":0"#),
        ],
    );
}

#[test]
fn requests_of_both_families() {
    check(
        "k8s",
        0,
        &[
            (
                r#"{"method":"POST","path":"/api/v1/namespaces/a/pods/p/exec?command=id&stdin=1"}"#,
                r#"{"is_resource":true,"verb":"create","group":"","version":"v1","namespace":"a","resource":"pods/exec","name":"p","params":{"command":"id","stdin":"1"}}"#,
            ),
            (
                r#"{"method":"GET","path":"/apis/apps/v1/deployments?watch=true&fieldSelector=metadata.name%3Dx","headers":null,"body":null}"#,
                r#"{"is_resource":true,"verb":"watch","group":"apps","version":"v1","namespace":"","resource":"deployments","name":"x""#,
            ),
            (
                r#"{"method":"GET","path":"/healthz"}"#,
                r#""is_resource":false,"verb":"get""#,
            ),
        ],
    );
    check(
        "http",
        0,
        &[
            (
                r#"{"method":"PUT","path":"/a/b?q=1&q=2","headers":{"Host":"h.test","X-A":["1","2"]},"body":"text"}"#,
                r#""query":{"q":["1","2"]},"headers":{"host":["h.test"],"x-a":["1","2"]},"host":"h.test","body":"text","body_json":null"#,
            ),
            (
                r#"{"method":"post","path":"/","headers":{"content-type":"application/json"},"body":{"a":[1]}}"#,
                r#""method":"post""#,
            ),
        ],
    );
}

/// A batch is one line too: what each of its parts says.
#[test]
fn messages_and_batches() {
    check(
        "mcp",
        2,
        &[
            (
                r#"{"body":{"jsonrpc":"2.0","method":"notifications/initialized"}}"#,
                r#"{"kind":"notification","method":"notifications/initialized""#,
            ),
            (
                r#"{"method":"POST","path":"/mcp","body":[{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p"}},{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"file:///a"}}]}"#,
                r#"{"batch":[{"kind":"request","method":"prompts/get","tool":"","arguments":null,"resource":"","prompt":"p""#,
            ),
            (r#"{"body":"no JSON"}"#, r#"{"error":"the request is refused"#),
        ],
    );
    check(
        "http",
        0,
        &[
            (
                r#"{"method":"POST","path":"/graphql","headers":{"content-type":"application/json"},"body":[{"query":"{a}"},{"query":"mutation {b}"}]}"#,
                r#""graphql.kind":"mutation""#,
            ),
            (
                r#"{"method":"POST","path":"/","headers":{"content-type":"application/x-www-form-urlencoded"},"body":"a=1&a=2"}"#,
                r#""form":{"a":["1","2"]}"#,
            ),
        ],
    );
}

/// A line that cannot be read stands in its place, and the others are read.
#[test]
fn bad_lines_keep_the_order_and_exit_2() {
    check(
        "sql",
        2,
        &[
            (r#"{"sql":"select 1"}"#, r#""verb":"select""#),
            ("no json", r#"{"error":"#),
            ("", r#"{"error":"#),
            (
                r#"{"sql":"select 1","dialect":"oracle"}"#,
                "there are postgres, mysql, clickhouse",
            ),
            (r#"{"query":"select 1"}"#, r#"{"error":"#),
            (r#"{"sql":"drop table t"}"#, r#""verb":"drop""#),
        ],
    );
    check(
        "k8s",
        2,
        &[
            (
                r#"{"method":"GET","path":"/api/v1//pods"}"#,
                r#"{"error":"the request is refused"#,
            ),
            (r#"{"method":"GET","path":"/api/v1/pods"}"#, r#""verb":"list""#),
            (r#"{"method":"G T","path":"/"}"#, r#"{"error":"#),
            (r#"{"method":"GET","path":"/","headers":{"a":1}}"#, r#"{"error":"#),
            (r#"{"path":"/"}"#, r#"{"error":"#),
        ],
    );
    let run = tailkeep(&["inspect", "http"], b"\xff\xfe\n");
    assert_eq!((run.code, run.out.lines().count()), (2, 1));
    assert_eq!(tailkeep(&["inspect", "http"], b"").code, 0);
    let run = tailkeep(&["inspect", "ldap"], b"{}\n");
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.errors.contains("sql, k8s, http"), "{}", run.errors);
}
