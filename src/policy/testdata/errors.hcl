gatway {}

gateway {
  dashboard_listen = "nowhere"
  wireguard {
    subnet_cidr = "10.55.0.0"
    listen_prt  = 1
  }
  limits {
    idle_s = 0
  }
}

defaults {
  unmatched = "maybe"
}

endpoint "https" "api" { hosts = ["api.example.com"] }
endpoint "https" "api" { hosts = ["other.example.com"] }
endpoint "htps" "typo" { hosts = ["x.example.com"] }
endpoint "https" "bare" {}
endpoint "https" "badhost" { hosts = ["a b"] }
endpoint "postgres" "pg" {
  host = "pg:5432"
  sslmode = "allow"
}

credential "bearer_token" "literal" {
  endpoint = https.api
  secret   = "sk-live-123"
}
credential "header_token" "noheader" { endpoint = https.api }
credential "bearer_token" "lost" { endpoint = https.apl }
credential "bearer_tokn" "typo" { endpoint = https.api }
credential "bearer_token" "one" { endpoint = https.api }
credential "bearer_token" "two" { endpoint = https.api }

approver "llm_approver" "judge" { policy = policy.none }

rule "nothing" {}
rule "kind" {
  endpoint = https.api
  approve  = [bearer_token.one]
}
rule "both" {
  endpoint = https.api
  verdict  = "allow"
  approve  = []
}
rule "families" {
  endpoints = [https.api, postgres.pg]
  verdict   = "deny"
}
rule "cel" {
  endpoint  = https.api
  condition = "http.method == 'GET' && sql.verb == 'x' || http.pth == '/'"
  verdict   = "allow"
}
rule "syntax" {
  endpoint  = https.api
  condition = "http.method == "
  verdict   = "allow"
}
rule "field" {
  endpoint = https.api
  verdict  = "allow"
  prioriti = 3
}

profile "a" {
  tags        = ["tag:x", "agent"]
  logins      = ["*@example.com"]
  credentials = [bearer_token.one, bearer_token.two, { placeholder = "PH_x" }]
}
profile "b" {
  tags   = ["tag:x"]
  logins = ["bob@example.com", "*"]
}
