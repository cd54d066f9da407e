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

  # What clients ask to know what they speak to.
  rule "discovery" {
    endpoint  = kubernetes.staging
    condition = "!k8s.is_resource && k8s.verb == 'get' && k8s.path.matches('^/(?:version|api(?:/[^/]+)?|apis(?:/[^/]+){0,2}|openapi/v[23](?:/.*)?)/?$')"
    verdict   = "allow"
  }

  # What is listed here, and no more: a GET on `pods/exec`, `services/proxy` or `nodes/proxy` reaches into what runs.
  rule "reads" {
    endpoint  = kubernetes.staging
    condition = <<-CEL
      k8s.verb in ['get', 'list', 'watch']
        && ((k8s.group == '' && k8s.resource in ['pods', 'pods/log', 'pods/status', 'services', 'endpoints', 'events', 'namespaces', 'nodes'])
          || (k8s.group == 'apps' && k8s.resource in ['deployments', 'deployments/scale', 'replicasets', 'statefulsets', 'daemonsets'])
          || (k8s.group == 'batch' && k8s.resource in ['jobs', 'cronjobs']))
    CEL
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
