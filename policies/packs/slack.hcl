# Slack: read, and post to the channels that are listed here. No administration, no files out, no
# tokens of an agent's own. The Web API takes its arguments from the query, a form or JSON: a call
# whose channel could be read from two places is refused.

endpoint "https" "slack" {
  hosts = ["slack.com"]
}

credential "bearer_token" "slack_bot" {
  endpoint = https.slack
  secret   = env("SLACK_BOT_TOKEN")
}

rule "slack-admin" {
  endpoint  = https.slack
  priority  = 200
  condition = <<-CEL
    http.path.matches('(?i)^/(?:api/+(?:admin|apps|auth\\.revoke|oauth|openid|tooling|team\\.(?:accesslogs|billable|integrationlogs|preferences|externalteams)|usergroups\\.(?:create|update|enable|disable|users\\.update))|scim|audit)')
  CEL
  verdict   = "deny"
  reason    = "agents do not administer the workspace"
}

# Files that leave, channels that are opened to others, and what a workspace shows in public.
rule "slack-external" {
  endpoint  = https.slack
  priority  = 200
  condition = <<-CEL
    http.path.matches('(?i)^/api/+(?:files\\.(?:upload|getuploadurlexternal|completeuploadexternal|sharedpublicurl|remote|delete|revokepublicurl)|conversations\\.(?:inviteshared|acceptsharedinvite|approvesharedinvite|declinesharedinvite|externalinvitepermissions|requestsharedinvite|setteleport)|canvases|slacklists|workflows|functions|calls)')
  CEL
  verdict   = "deny"
  reason    = "nothing leaves the workspace through an agent"
}

# A token in the arguments goes before the header: it would be another workspace's.
rule "slack-own-token" {
  endpoint  = https.slack
  priority  = 200
  condition = <<-CEL
    'token' in http.query || 'token' in http.form || 'token' in http.multipart || has(http.body_json.token)
  CEL
  verdict   = "deny"
  reason    = "the gateway holds the token"
}

rule "slack-reads" {
  endpoint  = https.slack
  condition = <<-CEL
    http.method in ['GET', 'POST']
      && http.path.matches('^/api/(?:api\\.test|auth\\.test|bots\\.info|bookmarks\\.list|chat\\.getPermalink|conversations\\.(?:list|info|history|members|replies)|emoji\\.list|files\\.(?:list|info)|pins\\.list|reactions\\.(?:get|list)|search\\.(?:all|files|messages)|team\\.info|usergroups\\.(?:list|users\\.list)|users\\.(?:conversations|getPresence|info|list|lookupByEmail|profile\\.get))$')
  CEL
  verdict   = "allow"
}

# The channels are meant by their ids: a name can be given to another channel. The body is what its type
# says: untyped, the server may read it otherwise; so may it `channel[]` or ` channel` in a form.
rule "slack-posts" {
  endpoint  = https.slack
  condition = <<-CEL
    http.method == 'POST'
      && http.path in ['/api/chat.postMessage', '/api/chat.update', '/api/reactions.add', '/api/reactions.remove']
      && size(http.query) == 0 && size(http.multipart) == 0
      && 'content-type' in http.headers
      && (http.headers['content-type'][0].matches('(?i)^application/x-www-form-urlencoded *(?:;|$)')
        ? http.form.all(name, name.matches('^[a-z_]+$'))
          && has(http.form.channel) && http.form.channel in [['C0AGENTS001'], ['C0AGENTS002']]
        : http.headers['content-type'][0].matches('(?i)^application/json *(?:;|$)')
          && has(http.body_json.channel) && http.body_json.channel in ['C0AGENTS001', 'C0AGENTS002'])
  CEL
  verdict   = "allow"

  limit {
    rate = "30/m"
    per  = "agent"
  }
}

rule "slack-rest" {
  endpoint = https.slack
  priority = -100
  verdict  = "deny"
  reason   = "the agents read, and post to their channels"
}
