//! The grammar, each field's effect, every diagnostic, and the walk of the rules.

use std::net::IpAddr;
use std::path::PathBuf;

use super::*;
use crate::facts::Facts;

/// When everything here happens.
const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn load(text: &str) -> Result<Policy, Diagnostics> {
    let source = Source {
        path: PathBuf::from("dir/policy.hcl"),
        text: text.to_owned(),
    };
    Policy::load(vec![source], &|path| match path.to_str() {
        Some("dir/ca.pem") => Ok("-----BEGIN CERTIFICATE-----".to_owned()),
        _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    })
}

fn loaded(text: &str) -> Policy {
    load(text).unwrap_or_else(|errors| panic!("{errors}"))
}

const BASE: &str = r#"
endpoint "https" "api" { hosts = ["api.example.com", "*.example.org:8443", "10.0.0.0/8"] }
credential "bearer_token" "token" { endpoint = https.api }
approver "human_approver" "ops" { channel = "ops" }
"#;

fn with(text: &str) -> Policy {
    loaded(&format!("{BASE}{text}"))
}

fn identity(tag: &str) -> Identity {
    Identity {
        tags: vec![tag.to_owned()],
        ..Identity::new(Transport::Tailnet, IpAddr::from([100, 64, 0, 7]), "build-7")
    }
}

fn judge(policy: &Policy, tag: &str, credential: Option<&str>) -> Judgement {
    let identity = identity(tag);
    let profile = policy.profile_for(&identity).unwrap();
    let agent = Agent::new(Arc::new(identity), profile);
    policy.evaluate(&agent, "https.api", credential, &Facts::None, NOW)
}

fn said(policy: &Policy, tag: &str) -> String {
    match judge(policy, tag, Some("bearer_token.token")).verdict {
        Verdict::Allow { rule } => format!("allow {}", rule.as_deref().unwrap_or("-")),
        Verdict::Deny(refusal) => format!(
            "deny {} {}",
            refusal.cause.name(),
            refusal.rule().map_or("-", |rule| rule)
        ),
        Verdict::Ask { rule, chain, .. } => format!("ask {rule} {}", chain.join(",")),
    }
}

const CI: &str = r#"profile "ci" {
  tags = ["tag:ci"]
  credentials = [bearer_token.token]
}"#;

/// Blocks written on one line, as HCL wants them: an attribute a line.
fn lines(text: &str) -> String {
    text.replace("{ ", "{\n").replace(" }", "\n}").replace("  ", "\n")
}

#[test]
fn rules_are_walked_by_priority_then_order() {
    let table = [
        ("", "deny no_rule -"),
        (
            r#"rule "a" { endpoint = https.api  verdict = "allow" }"#,
            "allow a",
        ),
        (
            r#"rule "a" { endpoint = https.api  verdict = "allow" }
            rule "b" { endpoint = https.api  verdict = "deny" }"#,
            "allow a",
        ),
        (
            r#"rule "a" { endpoint = https.api  verdict = "allow" }
            rule "b" { endpoint = https.api  verdict = "deny"  priority = 1 }"#,
            "deny rule b",
        ),
        (
            r#"rule "a" { endpoint = https.api  verdict = "allow"  priority = -1 }
            rule "b" { endpoint = https.api  verdict = "deny" }"#,
            "deny rule b",
        ),
        (
            r#"rule "a" { endpoint = https.api  verdict = "deny"  disabled = true }
            rule "b" { endpoint = https.api  approve = [human_approver.ops] }"#,
            "ask b human_approver.ops",
        ),
        (
            r#"rule "a" { endpoint = https.api  credential = bearer_token.token  verdict = "allow" }"#,
            "allow a",
        ),
        (r#"defaults { unmatched = "allow" }"#, "allow -"),
        // What hangs on a fact that is not there denies, whatever comes after.
        (
            r#"rule "a" { endpoint = https.api  condition = "http.method == 'GET'"  verdict = "allow" }
            rule "b" { endpoint = https.api  verdict = "allow" }"#,
            "deny unevaluable a",
        ),
        (
            r#"rule "a" { endpoint = https.api  condition = "'tag:ci' in agent.tags"  verdict = "allow" }"#,
            "allow a",
        ),
        (
            r#"rule "a" { endpoint = https.api  condition = "agent.profile == 'ops' || http.method == 'GET' && agent.node == 'x'"  verdict = "allow" }"#,
            "deny no_rule -",
        ),
        (
            r#"rule "a" { endpoint = https.api  condition = "agent.transport == 'tailnet' && agent.address == '100.64.0.7'"  verdict = "allow" }"#,
            "allow a",
        ),
    ];
    for (rules, wanted) in table {
        assert_eq!(
            said(&with(&format!("{CI}\n{}", lines(rules))), "tag:ci"),
            wanted,
            "{rules}"
        );
    }
}

#[test]
fn a_credential_predicate_does_not_match_another_or_none() {
    let rule = r#"rule "a" { endpoint = https.api  credential = bearer_token.token  verdict = "allow" }"#;
    let policy = with(&format!("{CI}\n{}", lines(rule)));
    for credential in [None, Some("bearer_token.other")] {
        assert!(matches!(
            judge(&policy, "tag:ci", credential).verdict,
            Verdict::Deny(_)
        ));
    }
}

#[test]
fn nested_rules_are_for_their_profile_alone() {
    let policy = with(
        r#"
        profile "ci" {
          tags        = ["tag:ci"]
          credentials = [bearer_token.token]
          rule "a" {
            endpoint = https.api
            verdict = "allow"
          }
        }
        profile "ops" {
          tags = ["tag:ops"]
          rule "a" {
            endpoint = https.api
            verdict  = "deny"
            reason   = "not ops"
          }
        }"#,
    );
    assert_eq!(said(&policy, "tag:ci"), "allow ci/a");
    assert_eq!(said(&policy, "tag:ops"), "deny rule ops/a");
    // The rule's endpoint came with the rule.
    assert_eq!(
        policy.model().profile("ops").unwrap().endpoints,
        [Arc::from("https.api")]
    );
}

#[test]
fn shadow_rules_are_recorded_and_change_nothing() {
    let policy = with(&format!(
        r#"{CI}
        rule "s" {{
          endpoint = https.api
          mode = "shadow"
          verdict = "deny"
        }}
        rule "u" {{
          endpoint = https.api
          mode = "shadow"
          condition = "http.path == '/'"
          verdict = "deny"
        }}
        rule "a" {{
          endpoint = https.api
          verdict = "allow"
        }}"#
    ));
    let judgement = judge(&policy, "tag:ci", None);
    assert_eq!(
        judgement.verdict,
        Verdict::Allow {
            rule: Some("a".into())
        }
    );
    assert_eq!(judgement.shadow, ["s=deny", "u=unevaluable"]);
}

#[test]
fn a_limit_is_read_and_goes_with_the_verdict() {
    let rule = |limits: &str| {
        let rule = format!("rule \"a\" {{\nendpoint = https.api\nverdict = \"allow\"\n{limits}\n}}");
        load(&format!("{BASE}{CI}\n{rule}"))
    };
    let policy = rule("limit {\nrate = \"30/m\"\n}\nlimit {\nrate = \"5/10s\"\nper = \"rule\"\n}").unwrap();
    let limits = judge(&policy, "tag:ci", None).limits.unwrap();
    let said: Vec<String> = limits.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["30 in 60 s for an agent", "5 in 10 s for all together"]);
    for per in ["agent", "profile", "endpoint", "rule"] {
        rule(&format!("limit {{\nrate = \"1/d\"\nper = \"{per}\"\n}}")).unwrap();
    }
    for (limit, wanted) in [
        ("", "a limit has no `rate`"),
        ("rate = \"30\"", "`rate` is a number"),
        ("rate = \"0/m\"", "`rate` is a number"),
        ("rate = \"10001/m\"", "`rate` is a number"),
        ("rate = \"1/32d\"", "`rate` is a number"),
        ("rate = \"1/m\"\nper = \"node\"", "`per` is `agent`"),
        ("rate = \"1/m\"\nburst = 3", "has no `burst`"),
    ] {
        let errors = rule(&format!("limit {{\n{limit}\n}}")).unwrap_err().to_string();
        assert!(errors.contains(wanted), "{limit}: {errors}");
    }
}

#[test]
fn an_endpoint_that_the_profile_does_not_hold_is_closed() {
    let policy = with(
        r#"profile "ci" { tags = ["tag:ci"] }
        rule "a" { 
          endpoint = https.api
          verdict = "allow"
        }"#,
    );
    assert_eq!(said(&policy, "tag:ci"), "deny no_endpoint -");
}

#[test]
fn profiles_claim_by_what_the_tunnel_proved() {
    let policy = with(
        r#"
        profile "t" { tags = ["tag:ci"] }
        profile "l" { logins = ["Alice@example.com", "*@corp.example"] }
        profile "n" { nodes = ["laptop"] }
        profile "p" { peers = ["laptop"] }
        profile "g" { grants = ["ci"] }"#,
    );
    let check = |change: &dyn Fn(&mut Identity), wanted: Option<&str>| {
        let mut identity = identity("tag:none");
        change(&mut identity);
        assert_eq!(
            policy.profile_for(&identity).ok().as_deref(),
            wanted,
            "{identity:?}"
        );
    };
    check(&|_| {}, None);
    check(&|own| own.tags = vec!["tag:ci".into()], Some("t"));
    check(&|own| own.login = Some("alice@example.com".into()), Some("l"));
    check(&|own| own.login = Some("bob@corp.example".into()), Some("l"));
    check(&|own| own.login = Some("@corp.example".into()), None);
    check(&|own| own.login = Some("bob@evil@corp.example".into()), None);
    check(&|own| own.login = Some("bob@corp.example.evil".into()), None);
    check(&|own| own.node = "laptop".into(), Some("n"));
    check(&|own| own.grants = vec!["ci".into()], Some("g"));
    // A WireGuard peer is its name alone, and a node cannot take a peer's.
    check(
        &|own| (own.transport, own.node) = (Transport::Wireguard, "laptop".into()),
        Some("p"),
    );
    check(
        &|own| (own.transport, own.tags) = (Transport::Wireguard, vec!["tag:ci".into()]),
        None,
    );
    let mut both = identity("tag:ci");
    both.node = "laptop".to_owned();
    assert_eq!(
        policy.profile_for(&both).unwrap_err(),
        "the profiles `t` and `n` both claim laptop"
    );
}

#[test]
fn needs_are_those_of_the_rules_that_may_apply() {
    let policy = with(
        r#"
        profile "ci" {
          tags = ["tag:ci"]
          rule "a" {
            endpoint = https.api
            condition = "http.body.contains('x')"
            verdict = "allow"
          }
        }
        profile "ops" {
          tags = ["tag:ops"]
          rule "a" {
            endpoint = https.api
            condition = "http.path == '/'"
            verdict = "allow"
          }
        }"#,
    );
    let needs = |tag: &str| {
        let identity = identity(tag);
        let profile = policy.profile_for(&identity).unwrap();
        policy.needs(&Agent::new(Arc::new(identity), profile), "https.api")
    };
    use crate::facts::Slot;
    assert_eq!(needs("tag:ci"), [Slot::HttpBody].into_iter().collect());
    assert_eq!(needs("tag:ops"), [Slot::HttpPath].into_iter().collect());
}

#[test]
fn each_field_reaches_the_model() {
    let policy = loaded(
        r#"
schema_version = 1
gateway {
  state_dir = "/state"
  dashboard_listen = ":9000"
  enrol_listen = "0.0.0.0:9001"
  public_url = "https://gw.example.com/"
  resolver = "10.0.0.53"
  virtual_cidr = "10.99.0.0/16"
  virtual_cidr6 = "fd99::/64"
  wireguard {
    listen = "192.0.2.1"
    listen_port = 4000
    subnet_cidr = "10.56.0.0/24"
    subnet_cidr6 = "fd56::/64"
    endpoint = "gw:4000"
    stack = "userspace"
    mtu = 1300
  }
  tailscale {
    socket = "/run/ts.sock"
    authkey = env("K")
    oauth_client_secret = file("secret")
    control_url = "https://c"
    hostname = "keep"
    tags = ["tag:gw"]
    routes = ["10.20.0.0/16"]
    operators = ["Ann@example.com", "*@ops.example.com", "grant:admin"]
    redirect_port = 9002
    via {
      site = 7
      cidr = "10.1.0.0/16"
    }
  }
  audit {
    keep_days = 9
    bytes_max = 10
  }
  reload_guard = "24h"
  dashboard_config_writes = true
  limits {
    body_bytes_max = 1
    decoded_bytes_max = 2
    statement_bytes_max = 3
    message_bytes_max = 4
    connections_max = 5
    connect_ms = 6
    handshake_ms = 7
    idle_s = 8
  }
}
defaults {
  unmatched = "allow"
  unknown_host = "passthrough"
  human_timeout = "2m"
}
policy "text" {
  text = <<-EOT
  be strict
EOT
}
endpoint "postgres" "pg" {
  host = "PG.example.com:6000"
  sslmode = "verify-ca"
  database = "orders"
  ca_cert = "<<file:ca.pem>>"
  upstream = "127.0.0.1:7000"
  description = "orders"
  preview = true
  preview_lock_max = "3s"
  preview_hold_max = "2m"
  preview_rows = 7
  preview_masked = ["email", "users.name"]
}
endpoint "http" "plain" { hosts = ["plain.example.com"] }
endpoint "kubernetes" "k8s" {
  server = "https://[fd00::1]:6443"
  ca_cert = file("ca.pem")
}
credential "header_token" "h" {
  endpoint = http.plain
  header = "X-Key"
  prefix = "Token "
  secret = env("H")
}
credential "basic_auth" "b" {
  endpoints = [http.plain, kubernetes.k8s]
  username = "bob"
  secret = file("b.txt")
}
credential "cookie_token" "c" {
  endpoint = http.plain
  cookie_name = "session"
  secret = vault("kv/c#v")
}
credential "query_token" "q" {
  endpoint = http.plain
  parameter = "key"
}
credential "mtls_credential" "m" {
  endpoint = kubernetes.k8s
  secrets {
    cert = file("c.pem")
    key = env("K")
  }
}
credential "postgres_credential" "ro" {
  endpoint = postgres.pg
  user = "ro"
  database = "orders"
}
credential "anthropic_manual_key" "a" { endpoint = http.plain }
endpoint "mcp" "tools" {
  hosts = ["tools.example.com"]
  path = "/tools/mcp/"
}
approver "human_approver" "ops" {
  channel = "x"
  timeout = 60
  require_approvers = 2
  approvers = ["a", "b"]
}
approver "llm_approver" "judge" {
  model = "m"
  credential = anthropic_manual_key.a
  policy = policy.text
}
profile "p" {
  peers = ["x"]
  credentials = [header_token.h, { placeholder = "PH_basic", credential = basic_auth.b }, postgres_credential.ro]
}
"#,
    );
    insta::assert_debug_snapshot!(policy.model());
    assert_ne!(policy.version(), loaded(BASE).version());
}

#[test]
fn what_a_judge_is_sent_has_a_size() {
    let text = |field: &str, number: u64| {
        format!(
            "{BASE}policy \"words\" {{ text = \"x\" }}\ncredential \"anthropic_manual_key\" \"k\" {{ endpoint = https.api }}\n\
             approver \"llm_approver\" \"judge\" {{\n  model = \"m\"\n  credential = anthropic_manual_key.k\n  \
             policy = policy.words\n  {field} = {number}\n}}\n"
        )
    };
    assert!(load(&text("request_bytes_max", 64 << 10)).is_ok());
    assert!(load(&text("request_bytes_max", (64 << 10) + 1)).is_err());
    for (tokens, is_fine) in [
        (255, false),
        (256, true),
        (64 << 10, true),
        ((64 << 10) + 1, false),
    ] {
        assert_eq!(
            load(&text("answer_tokens_max", tokens)).is_ok(),
            is_fine,
            "{tokens}"
        );
    }
}

#[test]
fn a_port_is_that_of_the_claim_else_of_the_block_else_of_the_url() {
    let load = |lines: &str| {
        let policy = loaded(&format!("endpoint \"kubernetes\" \"k8s\" {{\n{lines}\n}}\n"));
        let endpoint = policy.model().endpoints[0].clone();
        let notes = policy.notes().render();
        let upstream = endpoint.upstream.as_ref().map(|own| own.port);
        (
            endpoint.claims[0].port,
            upstream,
            notes.contains("`port` of") && notes.contains("has no effect here"),
        )
    };
    for (lines, port, upstream, is_noted) in [
        ("server = \"https://k8s.test\"", 443, None, false),
        ("server = \"http://k8s.test/\"", 80, None, false),
        ("host = \"k8s.test\"", 443, None, false),
        ("server = \"https://k8s.test\"\nport = 6443", 6443, None, false),
        ("server = \"https://[fd00::1]/\"\nport = 6443", 6443, None, false),
        ("host = \"k8s.test\"\nport = 6443", 6443, None, false),
        ("server = \"https://k8s.test:7\"\nport = 6443", 7, None, true),
        (
            "server = \"https://k8s.test:7\"\nupstream = \"10.0.0.7\"\nport = 6443",
            7,
            Some(6443),
            false,
        ),
    ] {
        assert_eq!(load(lines), (port, upstream, is_noted), "{lines}");
    }
}

#[test]
fn older_and_inert_fields_load_with_a_note() {
    let policy = loaded(
        r##"
listen = "0.0.0.0:8443"
unknown_host = "passthrough"
llm_fail_mode = "closed"
llm_cache_ttl = 300
human_timeout = 600
human_on_timeout = "deny"
wg_subnet_cidr = "10.57.0.0/24"
endpoint "ssh" "box" { hosts = ["box.example.com:22"] }
endpoint "clickhouse_native" "ch" {
  hosts = ["ch.example.com"]
  tls = true
  accept_invalid_certificate = true
}
endpoint "https" "direct" {
  hosts = ["d.example.com"]
  tunnel = local_command.proxy
  credential = bearer_token.d
}
tunnel "local_command" "proxy" {
  command = ["x"]
  listen = "127.0.0.1:1"
}
environment "custom_environment" "region" {
  key = "R"
  value = "x"
}
env_pushdown { A = { value = "x" } }
credential "bearer_token" "d" { idempotency_key = true }
credential "slack_tokens" "s" { endpoint = https.direct }
credential "ssh_key" "k" { endpoint = ssh.box }
approver "human_approver" "ops" {
  channel = "#x"
  credential = slack_tokens.s
  interactive = true
  async_grant { enabled = true }
}
rule "ssh" {
  endpoint = ssh.box
  condition = "ssh.verb == 'exec'"
  verdict = "deny"
}
rule "ch" {
  endpoint = clickhouse_native.ch
  condition = "sql.verb in ['select']"
  verdict = "allow"
}
profile "default" {
  credentials = [bearer_token.d]
  environments = [custom_environment.region]
  hitl_async_grants = true
}
"##,
    );
    let notes: Vec<&str> = policy
        .notes()
        .items()
        .iter()
        .map(|note| note.message.as_str())
        .collect();
    insta::assert_debug_snapshot!(notes);
    assert_eq!(policy.model().defaults.unknown_host, UnknownHost::Passthrough);
    assert_eq!(
        policy.model().credential("bearer_token.d").unwrap().endpoints,
        [Arc::from("https.direct")]
    );
    assert!(policy.model().gateway.wireguard.is_some());
}

#[test]
fn postgres_credentials_are_told_apart_by_their_user() {
    let text = |second: &str| {
        format!(
            r#"endpoint "postgres" "pg" {{ host = "pg:5432" }}
credential "postgres_credential" "ro" {{
  endpoint = postgres.pg
  user = "ro"
}}
credential "postgres_credential" "rw" {{
  endpoint = postgres.pg
  user = "{second}"
}}
profile "p" {{
  tags = ["tag:p"]
  credentials = [postgres_credential.ro, postgres_credential.rw]
}}"#
        )
    };
    let policy = loaded(&text("rw"));
    assert!(
        policy.model().profiles[0]
            .credentials
            .iter()
            .all(|held| !held.fallback)
    );
    assert!(
        load(&text("ro"))
            .unwrap_err()
            .to_string()
            .contains("nothing tells them apart")
    );
}

#[test]
fn every_error_is_reported_at_its_place() {
    let errors = load(include_str!("testdata/errors.hcl")).unwrap_err();
    insta::assert_snapshot!(errors.render());
    let json = errors.to_json();
    // A literal secret is not repeated.
    assert!(!errors.render().contains("sk-live") && !json.to_string().contains("sk-live"));
    assert!(
        json.as_array()
            .unwrap()
            .iter()
            .all(|error| error["line"].is_u64() && error["file"].is_string())
    );
}

#[test]
fn a_cel_error_points_into_the_text_that_wrote_it() {
    let table = [
        (
            "condition = \"http.method == \\\"GET\\\" && http.pth == '/'\"",
            "http.pth",
        ),
        (
            "condition = <<-CEL\n    http.method == 'GET'\n      && http.pth == '/'\n  CEL\n",
            "http.pth",
        ),
        ("condition = <<CEL\n    http.pth == '/'\nCEL\n", "http.pth"),
    ];
    for (condition, wanted) in table {
        let text =
            format!("{BASE}rule \"a\" {{\n  endpoint = https.api\n  {condition}\n  verdict = \"deny\"\n}}\n");
        let errors = load(&text).unwrap_err();
        let at = errors.items()[0].at.unwrap();
        let start = text.find(wanted).unwrap();
        assert!(
            at.start >= start && at.start <= start + wanted.len(),
            "{condition}: {}",
            &text[at.start..]
        );
    }
}

#[test]
fn hcl_that_does_not_parse_is_an_error_and_not_a_panic() {
    for text in [
        "endpoint",
        "a = ",
        "x {",
        "a = \"${b}\"",
        "rule { }",
        "endpoint \"https\" { }",
        "\u{feff}é = [",
    ] {
        assert!(load(text).is_err(), "{text}");
    }
}

#[test]
fn every_family_reads_the_agents_facts() {
    let conditions = [
        ("agent.tags == ['tag:ci']", true),
        ("'tag:ci' in agent.tags", true),
        ("'tag:other' in agent.tags", false),
        ("agent.login == 'ann@example.com'", true),
        ("agent.login.endsWith('@elsewhere.com')", false),
        ("agent.node == 'build-7'", true),
        ("agent.node == 'build-8'", false),
        (
            "'example.com/cap/deploy' in agent.caps && 'ci' in agent.caps",
            true,
        ),
        ("'example.com/cap/other' in agent.caps", false),
        (
            "agent.transport == 'tailnet' && agent.address == '100.64.0.7' && agent.profile == 'p'",
            true,
        ),
    ];
    let families = [
        ("https", "https.e", r#"hosts = ["e.test"]"#),
        ("postgres", "postgres.e", r#"host = "e.test""#),
        ("kubernetes", "kubernetes.e", r#"server = "https://e.test""#),
        ("mcp", "mcp.e", r#"hosts = ["e.test"]"#),
    ];
    for (kind, key, place) in families {
        for (condition, want) in conditions {
            let text = format!(
                "endpoint \"{kind}\" \"e\" {{\n  {place}\n}}\nprofile \"p\" {{\n  tags = [\"tag:ci\"]\n  endpoints = [{key}]\n}}\n\
                 rule \"r\" {{\n  endpoint = {key}\n  condition = \"{condition}\"\n  verdict = \"allow\"\n}}\n"
            );
            let policy = load(&text).unwrap_or_else(|errors| panic!("{}", errors.render()));
            let identity = Identity {
                login: Some("ann@example.com".to_owned()),
                grants: vec!["ci".to_owned()],
                caps: vec!["example.com/cap/deploy".to_owned(), "ci".to_owned()],
                ..identity("tag:ci")
            };
            let agent = Agent::new(Arc::new(identity), "p".into());
            let verdict = policy.evaluate(&agent, key, None, &Facts::None, NOW).verdict;
            let allowed = matches!(verdict, Verdict::Allow { .. });
            assert_eq!(allowed, want, "{kind}: {condition}: {verdict:?}");
        }
    }
}

#[test]
fn who_may_decide_is_checked_at_load() {
    let approver = |fields: &str| load(&format!("approver \"human_approver\" \"a\" {{\n{fields}\n}}\n"));
    let people = |fields: &str| {
        let policy = approver(fields).unwrap_or_else(|errors| panic!("{}", errors.render()));
        match &policy.model().approver("human_approver.a").unwrap().kind {
            ApproverKind::Human { approvers, .. } => approvers.clone(),
            ApproverKind::Llm(_) => Vec::new(),
        }
    };
    let list = r#"approvers = ["Ann@Example.com", "*@ops.test", "grant:OnCall", "root", "ann@example.com"]"#;
    assert_eq!(
        people(list),
        ["ann@example.com", "*@ops.test", "grant:OnCall", "root"]
    );
    // A group may be any number of people, a person is one.
    assert_eq!(
        people("require_approvers = 3\n approvers = [\"grant:oncall\"]").len(),
        1
    );
    assert!(approver("require_approvers = 2\n approvers = [\"a\", \"a\"]").is_err());
    for wrong in [
        "",
        "grant:",
        "grant:a/b",
        "*",
        "a*@b.c",
        "*@",
        "@b.c",
        "*@*.c",
        "tag:x",
        "tag:x@y",
    ] {
        assert!(approver(&format!("approvers = [{wrong:?}]")).is_err(), "{wrong}");
    }
}

#[test]
fn the_tailnets_secrets_come_from_elsewhere() {
    let block =
        |fields: &str| format!("gateway {{\n  state_dir = \"/s\"\n  tailscale {{\n    {fields}\n  }}\n}}\n");
    for (fields, wanted) in [
        (
            "authkey = \"tskey-auth-1\"",
            "a secret does not stand in a policy",
        ),
        (
            "oauth_client_secret = \"tskey-client-1\"\n    tags = [\"tag:a\"]",
            "a secret does not stand",
        ),
        ("authkey = vault(\"a#b\")", "cannot come from a vault"),
        ("oauth_client_secret = env(\"A\")", "tagged nodes in alone"),
        ("control_url = \"control.example.com\"", "a URL"),
    ] {
        let said = load(&block(fields)).unwrap_err().render();
        assert!(
            said.contains(wanted) && !said.contains("tskey"),
            "{fields}: {said}"
        );
    }
}

#[test]
fn a_guest_is_meant_by_its_own_names_alone() {
    let text = r#"
profile "all" {
  logins = ["*@example.com"]
  nodes  = ["build-7"]
}
profile "one" {
  logins = ["bob@elsewhere.com"]
  nodes  = ["build-8.evil.ts.net"]
}
"#;
    let policy = load(text).unwrap_or_else(|errors| panic!("{}", errors.render()));
    let of = |is_guest, node: &str, login: &str| {
        let identity = Identity {
            is_guest,
            node: node.to_owned(),
            login: Some(login.to_owned()),
            ..identity("tag:none")
        };
        policy.profile_for(&identity).ok().map(|name| name.to_string())
    };
    let all = Some("all".to_owned());
    assert_eq!(of(false, "x", "ann@example.com"), all);
    assert_eq!(
        of(true, "x.evil.ts.net", "ann@example.com"),
        None,
        "a wildcard names no guest"
    );
    let one = Some("one".to_owned());
    assert_eq!(of(true, "build-8.evil.ts.net", "ann@example.com"), one);
    assert_eq!(of(true, "x.evil.ts.net", "Bob@elsewhere.com"), one);
    assert_eq!(of(false, "build-7", "eve@evil.com"), all);
    assert_eq!(of(true, "build-7.evil.ts.net", "eve@evil.com"), None);
    assert_eq!(of(false, "x", "eve@evil.com@example.com"), None);
}

#[test]
fn no_endpoint_has_the_gateways_own_name() {
    let errors = load("endpoint \"http\" \"e\" {\n  hosts = [\"tailkeep.internal\"]\n}\n").unwrap_err();
    assert!(
        errors.render().contains("the gateway's own"),
        "{}",
        errors.render()
    );
}

#[test]
fn an_upstream_among_the_names_virtual_addresses_is_an_error() {
    let with = |gateway: &str, endpoint: &str| {
        load(&format!(
            "gateway {{\n {gateway}\n}}\nendpoint \"postgres\" \"e\" {{\n {endpoint}\n}}\n"
        ))
        .map_err(|errors| errors.render())
        .err()
    };
    let tailnet = "virtual_cidr = \"10.0.0.0/8\"\n tailscale {\n }";
    for endpoint in [
        "host = \"e.test\"\n upstream = \"10.20.0.5:5432\"",
        "host = \"10.20.0.5:5432\"",
        "hosts = [\"10.20.0.0/16\"]",
        "host = \"e.test\"\n upstream = \"[fd7a:7461:696c:78::9]:5432\"",
    ] {
        let said = with(tailnet, endpoint).unwrap_or_default();
        assert!(
            said.contains("of the names' virtual addresses"),
            "{endpoint}: {said}"
        );
    }
    let elsewhere = "host = \"e.test\"\n upstream = \"11.20.0.5:5432\"";
    assert_eq!(with(tailnet, elsewhere), None);
    let wider = "hosts = [\"8.0.0.0/6\"]";
    assert_eq!(with(tailnet, wider), None, "of which the names' part ends here");
    assert_eq!(
        with("", "host = \"10.78.0.5:5432\""),
        None,
        "nothing leads there from a tailnet"
    );
}

#[test]
fn routes_that_lead_round_the_gateway_or_nowhere_are_errors() {
    let gateway = |socket: &str, rest: &str| {
        load(&format!(
            "gateway {{\n tailscale {{\n {socket}\n {rest}\n }}\n}}\n{BASE}"
        ))
        .map_err(|errors| errors.render())
        .err()
    };
    let (attached, own) = ("socket = \"/run/ts.sock\"", "authkey = env(\"K\")");
    for (socket, rest, wanted) in [
        (own, r#"routes = ["10.20.0.0/16"]"#, "would go round the gateway"),
        (
            own,
            "via {\n site = 7\n cidr = \"10.1.0.0/16\"\n }",
            "would go round the gateway",
        ),
        (
            attached,
            r#"routes = ["0.0.0.0/0"]"#,
            "addresses of the tailnet's own nodes",
        ),
        (
            attached,
            r#"routes = ["100.64.0.0/16"]"#,
            "addresses of the tailnet's own nodes",
        ),
        (
            attached,
            r#"routes = ["fd7a:115c:a1e0:b1a::/64"]"#,
            "is written via",
        ),
        (attached, r#"routes = ["127.0.0.0/16"]"#, "each machine itself"),
        (attached, r#"routes = ["fe80::/64"]"#, "or its link"),
        (attached, r#"routes = ["10.0.0.0/8"]"#, "virtual addresses"),
        (attached, r#"routes = ["production"]"#, "a list of ranges"),
        (
            attached,
            "via {\n site = 65536\n cidr = \"10.1.0.0/16\"\n }",
            "site",
        ),
        (
            attached,
            "via {\n site = 7\n cidr = \"fd00::/64\"\n }",
            "an IPv4 range",
        ),
        (attached, "via {\n site = 7\n }", "needs a `site` and a `cidr`"),
        (
            attached,
            "via {\n site = 7\n cidr = \"10.1.0.0/16\"\n }\n via {\n site = 8\n cidr = \"10.1.2.0/24\"\n }",
            "overlaps 10.1.0.0/16 at site 7",
        ),
    ] {
        let errors = gateway(socket, rest).unwrap_or_default();
        assert!(errors.contains(wanted), "{rest}: {errors}");
    }
    assert_eq!(
        gateway(own, r#"routes = ["10.78.4.0/24"]"#),
        None,
        "of the virtual range"
    );
    assert_eq!(
        gateway(attached, r#"routes = ["10.20.0.0/16", "fd20::/64"]"#),
        None
    );
}
