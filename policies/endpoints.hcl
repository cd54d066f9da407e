# The production services, the credentials that open them, and who decides when a rule asks.

endpoint "https" "github" {
  hosts = ["api.github.com"]
}

endpoint "postgres" "orders" {
  host     = "orders.internal.example.com:5432"
  database = "orders"
  sslmode  = "verify-full"
}

endpoint "kubernetes" "staging" {
  server = "https://10.20.0.7:6443"
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
