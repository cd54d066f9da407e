//! The commands as their user runs them: the binary, its output, its exit status.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests say what they expect")]

mod eval;
mod inspect;
mod lsp;
mod replay;
mod starter;

use std::io::Write as _;
use std::process::{Command, Stdio};

/// What a run printed, and how it ended.
struct Run {
    code: i32,
    out: String,
    errors: String,
}

fn tailkeep(args: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tailkeep"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A command that refuses its arguments reads nothing.
    let _ = feed.join().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Endpoints of each family, and rules for the profile `dev`.
const POLICY: &str = r#"
endpoint "https" "api" {
  hosts = ["api.test"]
}
endpoint "kubernetes" "prod" {
  server = "https://10.0.0.7:6443"
}
endpoint "postgres" "orders" {
  host     = "orders.test:5432"
  database = "orders"
}
credential "postgres_credential" "login" {
  endpoint = postgres.orders
  user     = "reader"
}
approver "human_approver" "ops" {}
profile "dev" {
  tags        = ["tag:dev"]
  endpoints   = [https.api, kubernetes.prod]
  credentials = [postgres_credential.login]
}
profile "other" {
  tags      = ["tag:other"]
  endpoints = [kubernetes.prod]
}
rule "api-reads" {
  endpoint  = https.api
  condition = "http.method == 'GET' && http.query.page == ['2']"
  verdict   = "allow"
}
rule "no-secrets" {
  endpoint  = kubernetes.prod
  condition = "k8s.resource == 'secrets'"
  verdict   = "deny"
  reason    = "secrets stay"
}
rule "dev-reads" {
  endpoint  = kubernetes.prod
  condition = "k8s.verb in ['get', 'list'] && agent.profile == 'dev'"
  verdict   = "allow"
}
rule "forced" {
  endpoint  = kubernetes.prod
  condition = "k8s.verb == 'delete' && 'force' in k8s.params"
  approve   = [human_approver.ops]
}
rule "orders-reads" {
  endpoint  = postgres.orders
  condition = "sql.verbs.all(v, v == 'select') && !('cards' in sql.tables) && !('pg_sleep' in sql.functions)"
  verdict   = "allow"
}
rule "orders-deletes" {
  endpoint  = postgres.orders
  condition = "sql.verb == 'delete' && sql.has_where"
  approve   = [human_approver.ops]
}
endpoint "mcp" "tools" { hosts = ["tools.test"] }
endpoint "https" "many" { hosts = ["*.many.test"] }
credential "bearer_token" "house" { endpoint = https.many }
profile "tools" {
  tags        = ["tag:tools"]
  endpoints   = [mcp.tools]
  credentials = [bearer_token.house]
}
rule "search" {
  endpoint  = mcp.tools
  condition = "agent.profile == 'tools' && (mcp.method == 'ping' || mcp.tool == 'search')"
  verdict   = "allow"
}
rule "house" {
  endpoint  = https.many
  condition = "http.host == 'a.many.test'"
  verdict   = "allow"
}
"#;

/// A folder with the policy in `policy.hcl`.
fn policy() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.hcl");
    std::fs::write(&path, POLICY).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}
