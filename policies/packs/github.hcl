# Safe GitHub: read what is listed; write issues, comments and files on branches named agent/…;
# a person looks at each merge. Everything else is refused.

endpoint "https" "github_api" {
  hosts = ["api.github.com"]
}

credential "bearer_token" "github_agent" {
  endpoint = https.github_api
  secret   = env("GITHUB_AGENT_TOKEN")
}

# Rails takes a method from a parameter, where it is let: a POST must be a POST. The headers by which it would, the
# gateway refuses before any rule.
rule "github-method-override" {
  endpoint  = https.github_api
  priority  = 300
  condition = "'_method' in http.query"
  verdict   = "deny"
  reason    = "a request is judged by its own method"
}

# Secrets, variables, keys, hooks, who may do what, runners, tokens; to read them is refused too.
rule "github-secrets" {
  endpoint  = https.github_api
  priority  = 200
  condition = <<-CEL
    http.path.matches('(?i)^/(?:repos/[^/]+/[^/]+|repositories/[0-9]+|orgs/[^/]+|organizations/[0-9]+|enterprises/[^/]+|user|users/[^/]+)/(?:hooks?|keys|gpg_keys|ssh_signing_keys|collaborators|outside_collaborators|invitations|repository_invitations|secret-scanning|(?:actions|dependabot|codespaces|agents)/(?:organization-)?(?:secrets|variables)|actions/(?:runners|runner-groups|permissions|oidc)|environments/.*(?:secrets|variables)|personal-access-token.*|credential-authorizations|installations?|migrations|audit-log|rulesets|properties)(?:/|$)')
      || http.path.matches('(?i)^/(?:app|applications|app-manifests|authorizations|installation|scim|manage|setup)(?:/|$)')
  CEL
  verdict   = "deny"
  reason    = "secrets, keys, hooks and permissions are no agent's business"
}

# What may be read is listed; what GitHub adds tomorrow is not read by itself.
rule "github-reads" {
  endpoint  = https.github_api
  condition = <<-CEL
    http.method in ['GET', 'HEAD'] && (
      http.path.matches('^/(?:repos/[^/]+/[^/]+|repositories/[0-9]+)(?:/(?:assignees|branches(?:/[^/]+)?|check-runs/.+|check-suites/.+|comments(?:/[0-9]+)?|commits(?:/.+)?|compare/.+|contents(?:/.*)?|contributors|deployments(?:/[0-9]+(?:/statuses(?:/[0-9]+)?)?)?|events|forks|git/(?:blobs|commits|matching-refs|ref|refs|tags|trees)(?:/.+)?|issues(?:/.+)?|labels(?:/[^/]+)?|languages|license|milestones(?:/.+)?|pulls(?:/.+)?|readme(?:/.+)?|releases(?:/.+)?|stargazers|subscribers|tags|topics|actions/(?:runs|jobs|workflows)(?:/.+)?))?$')
        || http.path.matches('^/(?:search/(?:code|commits|issues|labels|repositories|topics|users)|rate_limit|meta|versions|emojis|zen|licenses(?:/[^/]+)?|gitignore/templates(?:/[^/]+)?)$')
        || http.path.matches('^/(?:user|users/[^/]+(?:/repos)?|orgs/[^/]+(?:/repos)?)$'))
  CEL
  verdict   = "allow"
}

# Every field on every path is one of these, so that no audit log, key, rule or member is among them.
rule "github-graphql-reads" {
  endpoint  = https.github_api
  condition = <<-CEL
    http.method == 'POST' && http.path == '/graphql' && http.graphql.kind == 'query'
      && http.graphql.paths.all(path, path.matches('^(?:(?:__typename|additions|assignees|author|authoredDate|baseRefName|body|bodyHTML|bodyText|branchName|byteSize|changedFiles|closed|closedAt|color|comments|commit|commits|committedDate|conclusion|createdAt|cursor|defaultBranchRef|deletions|description|diffHunk|edges|endCursor|entries|files|hasNextPage|hasPreviousPage|headRefName|headRefOid|history|id|isArchived|isDraft|isFork|isPrivate|issue|issues|issueCount|labels|languages|login|merged|mergedAt|mergeable|message|messageHeadline|milestone|milestones|name|nameWithOwner|node|nodes|number|object|oid|owner|pageInfo|path|position|primaryLanguage|pullRequest|pullRequests|rateLimit|cost|limit|remaining|resetAt|ref|refs|releases|repository|repositoryCount|reviewDecision|reviewThreads|reviews|search|size|startCursor|state|statusCheckRollup|submittedAt|tagName|target|text|title|totalCount|type|updatedAt|url|viewer)(?:[.]|$))+$'))
  CEL
  verdict   = "allow"
}

# A mutation can do anything that the token can: a person reads it.
rule "github-graphql-changes" {
  endpoint  = https.github_api
  condition = "http.method == 'POST' && http.path == '/graphql' && http.graphql.kind == 'mutation'"
  approve   = [human_approver.packs]
  reason    = "a person looks at each GraphQL mutation"
}

rule "github-issues" {
  endpoint  = https.github_api
  condition = <<-CEL
    (http.method == 'POST' && http.path.matches('^/repos/[^/]+/[^/]+/issues(?:/[0-9]+/(?:comments|labels))?$'))
      || (http.method == 'PATCH' && http.path.matches('^/repos/[^/]+/[^/]+/issues/(?:comments/)?[0-9]+$'))
  CEL
  verdict   = "allow"
}

# A comment on a pull request; no review, which could approve it.
rule "github-pull-comments" {
  endpoint  = https.github_api
  condition = "http.method == 'POST' && http.path.matches('^/repos/[^/]+/[^/]+/pulls/[0-9]+/comments(?:/[0-9]+/replies)?$')"
  verdict   = "allow"
}

# Files on branches of the agents' own. What stands in .github runs with the repository's secrets.
rule "github-files" {
  endpoint  = https.github_api
  condition = <<-CEL
    http.method == 'PUT' && http.path.matches('^/repos/[^/]+/[^/]+/contents/.')
      && !http.path.matches('(?i)^/repos/[^/]+/[^/]+/contents/+\\.github(?:/|$)')
      && size(http.query) == 0 && has(http.body_json.branch)
      && type(http.body_json.branch) == string && http.body_json.branch.matches('^agent/[A-Za-z0-9._/-]+$')
  CEL
  verdict   = "allow"
}

rule "github-branches" {
  endpoint  = https.github_api
  condition = <<-CEL
    http.method == 'POST' && http.path.matches('^/repos/[^/]+/[^/]+/git/refs$')
      && size(http.query) == 0 && has(http.body_json.ref)
      && type(http.body_json.ref) == string && http.body_json.ref.matches('^refs/heads/agent/[A-Za-z0-9._/-]+$')
  CEL
  verdict   = "allow"
}

rule "github-pulls" {
  endpoint  = https.github_api
  condition = "http.method == 'POST' && http.path.matches('^/repos/[^/]+/[^/]+/pulls$')"
  verdict   = "allow"
}

# Which branch a merge goes to stands in the pull request and not in this one: a person looks it up.
rule "github-merges" {
  endpoint  = https.github_api
  condition = <<-CEL
    (http.method == 'PUT' && http.path.matches('^/repos/[^/]+/[^/]+/pulls/[0-9]+/merge$'))
      || (http.method == 'POST' && http.path.matches('^/repos/[^/]+/[^/]+/merges$'))
  CEL
  approve   = [human_approver.packs]
  reason    = "a person looks at each merge"
}

rule "github-rest" {
  endpoint = https.github_api
  priority = -100
  verdict  = "deny"
  reason   = "the agents read, comment, and propose"
}
