# Every block and field of the grammar that other gateways' policies are written in, schema 1.
schema_version = 1
gateway {
  dashboard_listen        = "127.0.0.1:8080"
  public_url              = "https://gw.example.com"
  state_dir               = "state"
  dashboard_config_writes = true
  wireguard {
    subnet_cidr        = "10.55.0.0/24"
    listen_port        = 41820
    endpoint           = "wg.example.com:51820"
    mtu                = 1280
    host_loopback_port = 18443
  }
  genai_telemetry {
    include_message_content = false
  }
}
defaults {
  unknown_host     = "passthrough"
  llm_fail_mode    = "closed"
  llm_cache_ttl    = 300
  human_timeout    = 600
  human_on_timeout = "deny"
}
endpoint "https" "claude" { hosts = ["api.anthropic.com"] }
endpoint "openai_codex_https" "chat" {
  hosts = ["chatgpt.com"]
}
endpoint "https" "cloud" { hosts = ["*.amazonaws.com"] }
endpoint "https" "bill" { hosts = ["api.withorb.com"] }
endpoint "ssh" "build" { hosts = ["build.internal.example.com:22"] }
endpoint "postgres" "pg" {
  host   = "pg.internal.example.com:5432"
  tunnel = local_command.sql
}
endpoint "clickhouse_native" "ch" {
  hosts                      = ["ch.internal.example.com:9440"]
  tls                        = true
  accept_invalid_certificate = true
}
endpoint "kubernetes" "dev" { server = "198.51.100.10" }
credential "anthropic_oauth_subscription" "sub" { endpoint = https.claude }
credential "anthropic_manual_key" "key" { endpoint = https.claude }
credential "openai_codex_oauth" "codex" { endpoints = [openai_codex_https.chat] }
credential "bearer_token" "aws" { endpoint = https.cloud }
credential "bearer_token" "orb-test" { endpoint = https.bill }
credential "bearer_token" "orb-prod" { endpoint = https.bill }
credential "ssh_key" "build" { endpoint = ssh.build }
credential "postgres_credential" "ro" {
  endpoint = postgres.pg
  user     = "ro"
}
credential "postgres_credential" "rw" {
  endpoint = postgres.pg
  user     = "rw"
}
credential "clickhouse_credential" "chc" {
  endpoint = clickhouse_native.ch
  user     = "agent"
}
credential "mtls_credential" "k" { endpoint = kubernetes.dev }
credential "slack_tokens" "slack" { endpoint = https.bill }
approver "human_approver" "ops" {
  channel     = "#ops"
  credential  = slack_tokens.slack
  interactive = true
  timeout     = 86400
}
approver "llm_approver" "judge" {
  model      = "claude-haiku"
  credential = anthropic_manual_key.key
  policy     = <<-EOT
    Deny what shows e-mail addresses.
  EOT
}
rule "banned" {
  endpoint = postgres.pg
  priority = 100
  condition = <<-CEL
    sql.verb in ['drop', 'do', 'vacuum']
    || sets.intersects(sql.functions, ['lo_get'])
    || sql.functions.exists(f, f.startsWith('dblink_'))
  CEL
  verdict = "deny"
  reason  = "no"
}
rule "pii" {
  endpoint  = postgres.pg
  priority  = 50
  condition = "sql.verb == 'select' && sets.intersects(sql.tables, ['users'])"
  approve   = [llm_approver.judge, human_approver.ops]
}
rule "writes" {
  endpoint   = postgres.pg
  credential = postgres_credential.rw
  condition  = "sql.verb in ['insert', 'merge'] && sql.statement.matches('(?i)\\bx\\b')"
  approve    = [human_approver.ops]
}
rule "pgrest" {
  endpoint = postgres.pg
  priority = -100
  verdict  = "deny"
}
rule "k8s" {
  endpoints = [kubernetes.dev]
  condition = <<-CEL
    k8s.resource in ['pods/exec', 'pods/attach'] && k8s.params.stdin == 'true' && k8s.namespace == 'a' && k8s.name.endsWith('x')
  CEL
  verdict  = "deny"
}
rule "http" {
  endpoints = [https.claude, https.bill]
  condition = "http.method in ['GET', 'HEAD'] && http.path.startsWith('/v1') && 'x' in http.query && http.headers['x'][0] == 'y' && http.body.contains('a') && http.body_json.a == 1"
  verdict   = "allow"
}
tunnel "local_command" "sql" {
  command       = ["proxy", "--x"]
  listen        = "127.0.0.1:5433"
  ready_probe   = "tcp"
  ready_timeout = "30s"
  share         = "singleton"
  keepalive     = "10m"
}
environment "custom_environment" "region" {
  key         = "AWS_REGION"
  value       = "us-east-1"
  description = "d"
}
enrollment "oidc" "ci" {
  issuer  = "https://token.example.com"
  profile = "ci"
  ttl     = "1h"
  match   = { ref = "refs/heads/main" }
}
profile "ci" {
  credentials          = [anthropic_oauth_subscription.sub, openai_codex_oauth.codex, bearer_token.aws, postgres_credential.ro, postgres_credential.rw]
  environments         = [custom_environment.region]
  allow_ephemeral_oidc = true
}
profile "billing" {
  credentials = [
    { placeholder = "PH_orb_test", credential = bearer_token.orb-test },
    { placeholder = "PH_orb_prod", credential = bearer_token.orb-prod },
    ssh_key.build, clickhouse_credential.chc, mtls_credential.k, slack_tokens.slack,
  ]
}
