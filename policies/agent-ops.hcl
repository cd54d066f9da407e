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

  rule "reads" {
    endpoint  = kubernetes.staging
    condition = "k8s.verb in ['get', 'list', 'watch'] && !k8s.resource.contains('/exec')"
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
