# Safe Kubernetes: read all but secrets, try changes by server-side dry run; a person looks at scaling,
# restarts and deletions; nothing is run in a pod. Impersonation is refused by the gateway itself,
# whatever the rules say.

endpoint "kubernetes" "cluster" {
  server = "https://10.20.0.7:6443"
}

credential "bearer_token" "cluster_agent" {
  endpoint = kubernetes.cluster
  secret   = env("CLUSTER_AGENT_TOKEN")
}

# Secrets, and what makes tokens and certificates; nobody reads or changes them, dry or not.
rule "kubernetes-secrets" {
  endpoint  = kubernetes.cluster
  priority  = 200
  condition = <<-CEL
    k8s.resource == 'secrets' || k8s.resource.startsWith('secrets/') || k8s.resource == 'serviceaccounts/token'
      || k8s.group in ['authentication.k8s.io', 'certificates.k8s.io']
  CEL
  verdict   = "deny"
  reason    = "secret values stay in the cluster"
}

# What reaches into a pod, a service or a node. A GET can run a command as well as a POST.
rule "kubernetes-exec" {
  endpoint  = kubernetes.cluster
  priority  = 200
  condition = <<-CEL
    k8s.resource.matches('^[^/]+/(?:exec|attach|portforward|proxy|ephemeralcontainers)(?:/|$)') || k8s.verb == 'proxy'
      || k8s.resource == 'nodes/log' || k8s.resource == 'nodes/checkpoint'
  CEL
  verdict   = "deny"
  reason    = "agents run nothing inside the cluster"
}

# What clients ask to know what they speak to.
rule "kubernetes-discovery" {
  endpoint  = kubernetes.cluster
  condition = "!k8s.is_resource && k8s.verb == 'get' && k8s.path.matches('^/(?:version|healthz|livez|readyz|api(?:/[^/]+)?|apis(?:/[^/]+){0,2}|openapi/v[23](?:/.*)?)/?$')"
  verdict   = "allow"
}

# Of subresources those alone that are known to show and to do no more: a server that extends the API
# may open a console by a GET.
rule "kubernetes-reads" {
  endpoint  = kubernetes.cluster
  condition = <<-CEL
    k8s.is_resource && k8s.verb in ['get', 'list', 'watch']
      && (!k8s.resource.contains('/') || k8s.resource.matches('^[^/]+/(?:status|scale)$') || (k8s.group == '' && k8s.resource == 'pods/log'))
  CEL
  verdict   = "allow"
}

# The server checks it and forgets it. Rights are not even tried.
rule "kubernetes-dry-run" {
  endpoint  = kubernetes.cluster
  condition = <<-CEL
    k8s.dry_run && k8s.verb in ['create', 'update', 'patch', 'delete'] && k8s.resource.matches('^[^/]+(?:/(?:status|scale))?$')
      && k8s.group in ['', 'apps', 'batch', 'networking.k8s.io', 'autoscaling', 'policy']
  CEL
  verdict   = "allow"
}

# One object of a workload, by its name; never a collection.
rule "kubernetes-deletes" {
  endpoint  = kubernetes.cluster
  condition = <<-CEL
    k8s.verb == 'delete'
      && ((k8s.group == '' && k8s.resource in ['pods', 'configmaps', 'services'])
        || (k8s.group == 'apps' && k8s.resource in ['deployments', 'replicasets', 'statefulsets', 'daemonsets'])
        || (k8s.group == 'batch' && k8s.resource in ['jobs', 'cronjobs']))
      && !(k8s.namespace in ['', 'kube-system', 'kube-public', 'kube-node-lease'])
  CEL
  approve   = [human_approver.packs]
  reason    = "a person looks at each deletion"
}

# How many there are, and a new image or a restart: what a workload mounts is seen by who approves.
rule "kubernetes-changes" {
  endpoint  = kubernetes.cluster
  condition = <<-CEL
    k8s.verb in ['patch', 'update'] && k8s.group == 'apps'
      && k8s.resource.matches('^(?:deployments|statefulsets|daemonsets)(?:/scale)?$')
      && !(k8s.namespace in ['', 'kube-system', 'kube-public', 'kube-node-lease'])
  CEL
  approve   = [human_approver.packs]
  reason    = "a person looks at each change of a workload"
}

rule "kubernetes-rest" {
  endpoint = kubernetes.cluster
  priority = -100
  verdict  = "deny"
  reason   = "the agents read this cluster"
}
