# Who decides when a rule of a pack asks. Name people with `approvers = ["ann@example.com"]`; without,
# whoever may use the operator's API decides.

approver "human_approver" "packs" {
  channel = "#agent-approvals"
  timeout = "15m"
}
