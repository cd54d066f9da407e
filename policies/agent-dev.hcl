# Everything about the agents with tag:agent-dev: they read freely, and a person looks at what they change.

profile "dev" {
  tags = ["tag:agent-dev"]

  # Or by the tailnet's policy file, without a tag: the app capability tailkeep.dev/cap/profile with
  # {"profiles": ["dev"]} (tailscale/policy.hujson).
  grants = ["dev"]

  credentials = [bearer_token.github_pat, postgres_credential.orders_rw]

  rule "dev-github-reads" {
    endpoint  = https.github
    condition = "http.method in ['GET', 'HEAD']"
    verdict   = "allow"
  }

  rule "dev-github-rest" {
    endpoint = https.github
    priority = -100
    approve  = [human_approver.oncall]
  }

  rule "dev-orders-reads" {
    endpoint  = postgres.orders
    condition = <<-CEL
      sql.verb in ['select', 'show', 'explain'] && sql.verbs.all(v, v in ['select', 'show', 'explain'])
        && size(sql.writes) == 0 && !sql.opaque && !sql.role_change && !sql.program && !sql.server_file && !sql.locks
        && sql.functions.all(f, f in ['count', 'sum', 'avg', 'min', 'max', 'lower', 'upper', 'length', 'now', 'date_trunc'])
        && !('customer_secrets' in sql.tables)
    CEL
    verdict   = "allow"
  }

  # Held: the statement waits, byte for byte, until somebody has decided.
  rule "dev-orders-changes" {
    endpoint  = postgres.orders
    condition = <<-CEL
      sql.verbs.all(v, v in ['select', 'insert', 'update', 'delete'])
        && sql.has_where && !sql.opaque && !sql.role_change && !sql.program
        && !('customer_secrets' in sql.tables)
    CEL
    approve   = [human_approver.oncall]
    reason    = "a person looks at each change of the orders"
  }
}
