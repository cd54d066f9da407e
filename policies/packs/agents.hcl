# Which agents there are. One profile for each group of agents: give it the tags, logins or peers that
# are meant, and the credentials of the packs that it may use.

profile "agents" {
  tags        = ["tag:agent"]
  credentials = [
    bearer_token.github_agent,
    bearer_token.cluster_agent,
    bearer_token.payments_test,
    { placeholder = "PH_payments_live", credential = bearer_token.payments_live },
    postgres_credential.database_ro,
    bearer_token.slack_bot,
  ]
}
