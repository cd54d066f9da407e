# A money API of Stripe's kind: test mode is the agents' playground; of live mode they read, and refund
# small amounts; a person looks at larger ones. Each POST has an idempotency key, so that what is sent
# twice is paid once. Amounts are in the currency's smallest unit.

endpoint "https" "payments" {
  hosts = ["api.stripe.com"]
}

# Used where an agent names no credential: what goes wrong goes wrong in test mode.
credential "bearer_token" "payments_test" {
  endpoint = https.payments
  secret   = env("PAYMENTS_TEST_KEY")
}

credential "bearer_token" "payments_live" {
  endpoint = https.payments
  secret   = env("PAYMENTS_LIVE_KEY")
}

# Keys, hooks, accounts of others, card numbers: in neither mode.
rule "payments-secrets" {
  endpoint  = https.payments
  priority  = 300
  condition = <<-CEL
    http.path.matches('(?i)^/v[0-9]+/+(?:apps/+secrets|ephemeral_keys|webhook_endpoints|accounts?|account_links|account_sessions|login_links|issuing|terminal/+connection_tokens|financial_connections|identity)(?:/|$)')
      || 'stripe-account' in http.headers || 'stripe-context' in http.headers
  CEL
  verdict   = "deny"
  reason    = "keys, hooks, card numbers and other accounts are no agent's business"
}

rule "payments-idempotency" {
  endpoint  = https.payments
  priority  = 200
  condition = <<-CEL
    http.method == 'POST'
      && !('idempotency-key' in http.headers && size(http.headers['idempotency-key']) == 1
        && http.headers['idempotency-key'][0].matches('^[A-Za-z0-9_.:-]{8,255}$'))
  CEL
  verdict   = "deny"
  reason    = "send an Idempotency-Key of 8 characters or more with each POST"
}

rule "payments-test-mode" {
  endpoint   = https.payments
  credential = bearer_token.payments_test
  condition  = "http.method in ['GET', 'POST', 'DELETE'] && http.path.startsWith('/v1/')"
  verdict    = "allow"
}

# What is read is a list: events, files, reports and tokens hold what the rules above refuse. So may what `expand`
# brings in.
rule "payments-live-reads" {
  endpoint   = https.payments
  credential = bearer_token.payments_live
  condition  = <<-CEL
    http.method == 'GET'
      && http.path.matches('^/v1/(?:balance|(?:balance_transactions|charges|coupons|credit_notes|customers|disputes|invoiceitems|invoices|payment_intents|payouts|plans|prices|products|promotion_codes|quotes|refunds|subscription_items|subscriptions|tax_rates)(?:/[A-Za-z0-9_]+)?|charges/[A-Za-z0-9_]+/refunds|invoices/[A-Za-z0-9_]+/lines)$')
      && http.query.all(name, !name.startsWith('expand'))
  CEL
  verdict    = "allow"
}

# To 50.00, 20 an hour; an amount that is not named would be all of the charge.
rule "payments-small-refunds" {
  endpoint   = https.payments
  credential = bearer_token.payments_live
  condition  = <<-CEL
    http.method == 'POST' && http.path == '/v1/refunds' && size(http.query) == 0
      && http.form.all(name, name in ['charge', 'payment_intent', 'amount', 'reason'] || name.startsWith('metadata['))
      && has(http.form.amount) && size(http.form.amount) == 1
      && http.form.amount[0].matches('^[1-9][0-9]{0,3}$') && int(http.form.amount[0]) <= 5000
  CEL
  verdict    = "allow"

  limit {
    rate = "20/h"
    per  = "agent"
  }
}

rule "payments-refunds" {
  endpoint   = https.payments
  credential = bearer_token.payments_live
  priority   = -10
  condition  = "http.method == 'POST' && http.path == '/v1/refunds' && size(http.query) == 0"
  approve    = [human_approver.packs]
  reason     = "a person looks at refunds above 50.00, and at those of a whole charge"
}

rule "payments-rest" {
  endpoint = https.payments
  priority = -100
  verdict  = "deny"
  reason   = "of live mode the agents read, and refund"
}
