# The production services, the credentials that open them, and who decides when a rule asks.

endpoint "https" "github" {
  hosts = ["api.github.com"]
}

endpoint "postgres" "orders" {
  host     = "orders.internal.example.com:5432"
  database = "orders"
  sslmode  = "verify-full"
}

# Named, not by its address: a tailscaled without a network device leads agents to names alone.
endpoint "kubernetes" "staging" {
  server = "https://staging.internal.example.com:6443"
}

# The values come from the environment of the gateway; the agents see `{{github_pat}}`.
credential "bearer_token" "github_pat" {
  endpoint = https.github
  secret   = env("GITHUB_PAT")
}

credential "postgres_credential" "orders_ro" {
  endpoint = postgres.orders
  user     = "orders_ro"
  secret   = env("ORDERS_RO_PASSWORD")
}

credential "postgres_credential" "orders_rw" {
  endpoint = postgres.orders
  user     = "orders_rw"
  secret   = env("ORDERS_RW_PASSWORD")
}

# Without `secret`, the value is set by `tailkeep credentials set staging_token`.
credential "bearer_token" "staging_token" {
  endpoint = kubernetes.staging
}

# Whoever may use the operator's API decides, unless people are named:
#   approvers         = ["alice@example.com", "*@ops.example.com", "grant:oncall"]
#   require_approvers = 2
# "grant:oncall" are those whom the tailnet's policy file gives the app capability
# tailkeep.dev/cap/approver with {"approvers": ["oncall"]}.
# Where two are needed, name people whom the tailnet proves: who may use the API can invite accounts. An account and a
# login of one person count once: tailkeep operators invite alice --login alice@example.com
approver "human_approver" "oncall" {
  channel = "#agent-approvals"
  timeout = "15m"
}

# For every agent, before what its own file allows: the tables with secrets, yours and the server's own.
rule "orders-secrets" {
  endpoint  = postgres.orders
  priority  = 100
  condition = <<-CEL
    sql.tables.exists(t, t in [
      'customer_secrets', 'api_keys', 'sessions',
      'pg_authid', 'pg_shadow', 'pg_user_mapping', 'pg_user_mappings', 'pg_foreign_server',
      'pg_hba_file_rules', 'pg_ident_file_mappings', 'pg_file_settings', 'pg_subscription',
      'pg_largeobject', 'pg_stat_ssl', 'pg_config',
      'pg_stats', 'pg_stats_ext', 'pg_stats_ext_exprs', 'pg_statistic', 'pg_statistic_ext_data',
      'pg_stat_activity', 'pg_stat_statements', 'pg_stat_replication', 'pg_prepared_statements', 'pg_cursors',
      'pg_db_role_setting', 'pg_roles', 'pg_user',
      'user_mapping_options', '_pg_user_mappings', 'foreign_server_options', '_pg_foreign_servers'
    ])
    || sql.tables.exists(t, t.startsWith('pg_toast'))
  CEL
  verdict   = "deny"
  reason    = "this table holds secrets"
}
