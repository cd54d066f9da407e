//go:build tools

// Keeps kubectl's own dependencies in go.sum.
package main

import _ "k8s.io/kubernetes/cmd/kubectl"
