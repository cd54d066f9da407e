# Everything about the agents with tag:agent-ops.

profile "ops" {
  tags        = ["tag:agent-ops"]
  credentials = [bearer_token.staging_token]

  rule "secrets" {
    endpoint  = kubernetes.staging
    priority  = 1000
    condition = "k8s.resource == 'secrets' || k8s.resource.startsWith('secrets/')"
    verdict   = "deny"
    reason    = "secret values stay in the cluster"
  }

  # Objects, and of what hangs on them only what shows and does no more: a GET can open a shell in a pod, or a way through
  # a service or a node.
  rule "reads" {
    endpoint  = kubernetes.staging
    condition = <<-CEL
      k8s.is_resource && k8s.verb in ['get', 'list', 'watch']
        && (!k8s.resource.contains('/') || k8s.resource.matches('^[^/]+/(?:status|scale)$')
          || (k8s.group == '' && k8s.resource == 'pods/log'))
    CEL
    verdict   = "allow"
  }

  # What clients ask to know what they speak to.
  rule "discovery" {
    endpoint  = kubernetes.staging
    condition = "!k8s.is_resource && k8s.verb == 'get' && k8s.path.matches('^/(?:version|healthz|livez|readyz|api(?:/[^/]+)?|apis(?:/[^/]+){0,2}|openapi/v[23](?:/.*)?)/?$')"
    verdict   = "allow"
  }

  rule "restarts" {
    endpoint  = kubernetes.staging
    condition = "k8s.verb == 'delete' && k8s.resource == 'pods' && k8s.name != ''"
    approve   = [human_approver.oncall]
  }

  # Judged and recorded, and changes nothing yet.
  rule "dry-run-only" {
    endpoint  = kubernetes.staging
    priority  = 10
    mode      = "shadow"
    condition = "!k8s.dry_run && !(k8s.verb in ['get', 'list', 'watch'])"
    verdict   = "deny"
  }
}
