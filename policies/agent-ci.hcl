# Everything about the agents with tag:agent-ci.

profile "ci" {
  tags        = ["tag:agent-ci"]
  credentials = [bearer_token.github_pat, postgres_credential.orders_ro]

  rule "github-reads" {
    endpoint  = https.github
    condition = "http.method in ['GET', 'HEAD']"
    verdict   = "allow"
  }

  rule "github-comments" {
    endpoint  = https.github
    condition = "http.method == 'POST' && http.path.matches('^/repos/[^/]+/[^/]+/issues/[0-9]+/comments$')"
    verdict   = "allow"
  }

  rule "github-merges" {
    endpoint  = https.github
    condition = "http.method == 'PUT' && http.path.endsWith('/merge')"
    approve   = [human_approver.oncall]
    reason    = "a person looks at each merge"
  }

  # Every statement that only reads. `verbs` holds what runs inside CTEs and EXPLAIN ANALYZE too. Functions are
  # listed, as the server's own read files (`pg_read_file`) and end sessions (`pg_terminate_backend`) in a SELECT.
  rule "orders-reads" {
    endpoint  = postgres.orders
    condition = <<-CEL
      sql.verb in ['select', 'show', 'explain'] && sql.verbs.all(v, v in ['select', 'show', 'explain'])
        && size(sql.writes) == 0 && !sql.opaque && !sql.role_change && !sql.program && !sql.server_file && !sql.locks
        && sql.functions.all(f, f in ['count', 'sum', 'avg', 'min', 'max', 'lower', 'upper', 'length', 'now', 'date_trunc'])
        && !('customer_secrets' in sql.tables)
    CEL
    verdict   = "allow"
  }

  rule "orders-rest" {
    endpoint = postgres.orders
    priority = -100
    verdict  = "deny"
    reason   = "the CI agents only read the orders"
  }
}
