//! The fields of the labelled blocks. *Pure.*

use super::super::Kind;
use super::{Field, Shape, Table};

pub(super) static ENDPOINT: Table = Table {
    doc: "A service that agents reach through the gateway: endpoint \"type\" \"name\" { … }.",
    groups: &[&[
        Field::new(
            "hosts",
            Shape::Texts,
            "The destinations that it claims: names, `*.suffix`, addresses or ranges, with or without `:port`.",
        ),
        Field::new(
            "host",
            Shape::Text,
            "One destination that it claims, `db.internal:5432`.",
        ),
        Field::new(
            "server",
            Shape::Text,
            "The API server's URL, as a kubeconfig has it.",
        )
        .of(&["kubernetes"]),
        Field::new(
            "port",
            Shape::Whole,
            "The port of a claim that names none; by default that of its type.",
        ),
        Field::new(
            "upstream",
            Shape::Text,
            "Where it is dialled, `host:port`, if that is not what the agent asked for.",
        ),
        Field::new("tls", Shape::Flag, "Whether the upstream is spoken to over TLS."),
        Field::new(
            "ca_cert",
            Shape::Text,
            "The roots that sign the upstream's certificate: PEM text, or file(\"ca.pem\").",
        ),
        Field::new(
            "sslmode",
            Shape::OneOf(&["disable", "prefer", "require", "verify-ca", "verify-full"]),
            "How the server's TLS is checked, as libpq names it; prefer by default.",
        )
        .of(&["postgres"]),
        Field::new("database", Shape::Text, "The only database that agents may name.").of(&["postgres"]),
        Field::new(
            "preview",
            Shape::Flag,
            "Whether a held change is tried and shown to its approvers, in the agent's session or by the API server's dry run (Kubernetes 1.18 or later); false by default.",
        )
        .of(&["postgres", "kubernetes"]),
        Field::new(
            "preview_lock_max",
            Shape::Time,
            "How long anyone may wait for a held change's locks before it is rolled back; 2s by default.",
        )
        .of(&["postgres"]),
        Field::new(
            "preview_hold_max",
            Shape::Time,
            "How long a tried change is held open before it is rolled back; 5m by default.",
        )
        .of(&["postgres"]),
        Field::new(
            "preview_rows",
            Shape::Whole,
            "Rows of the sample, from 0 to 50; 5 by default.",
        )
        .of(&["postgres"]),
        Field::new(
            "preview_masked",
            Shape::Texts,
            "What approvers do not see the values of: `column` or `table.column`; `member` or `resource.member` of Kubernetes objects.",
        )
        .of(&["postgres", "kubernetes"]),
        Field::new(
            "path",
            Shape::Text,
            "The path of the MCP server, `/mcp` by default; nothing beside it is reached.",
        )
        .of(&["mcp"]),
        Field::new(
            "description",
            Shape::Text,
            "What it is, for operators and approvers; agents are not told.",
        ),
        Field::new(
            "credential",
            Shape::Reference(Kind::Credential),
            "A credential that is bound to this endpoint; the credential's own `endpoint` says the same.",
        ),
        Field::new(
            "tunnel",
            Shape::Reference(Kind::Tunnel),
            "Part of the grammar: the endpoint is dialled directly all the same.",
        ),
        Field::inert("credentials", "Bind each credential by its own `endpoint`."),
        Field::inert("cluster_name", "Signing for EKS is not built here."),
        Field::inert("region", "Signing for EKS is not built here."),
        Field::inert(
            "accept_invalid_certificate",
            "Certificates are always checked; name the roots with `ca_cert`.",
        ),
    ]],
};

pub(super) static CREDENTIAL: Table = Table {
    doc: "A secret that the gateway puts in the place of {{name}}: credential \"type\" \"name\" { … }.",
    groups: &[&[
        Field::new(
            "endpoint",
            Shape::Reference(Kind::Endpoint),
            "The endpoint that it may be sent to.",
        ),
        Field::new(
            "endpoints",
            Shape::References(Kind::Endpoint),
            "The endpoints that it may be sent to.",
        ),
        Field::new(
            "secret",
            Shape::Secret,
            "Where the secret comes from; without it, from `tailkeep credentials set`.",
        ),
        Field::new("header", Shape::Text, "The header that carries it.").of(&["header_token"]),
        Field::new("prefix", Shape::Text, "What stands before it in the header.").of(&["header_token"]),
        Field::new("username", Shape::Text, "The user's name of the pair.").of(&["basic_auth"]),
        Field::new("cookie_name", Shape::Text, "The cookie that carries it.").of(&["cookie_token"]),
        Field::new("parameter", Shape::Text, "The query's parameter that carries it.").of(&["query_token"]),
        Field::new("user", Shape::Text, "The role that it logs in as.").of(&["postgres_credential"]),
        Field::new("database", Shape::Text, "The database that it is for.").of(&["postgres_credential"]),
        Field::new("cert", Shape::Secret, "The client certificate, PEM.").of(&["mtls_credential"]),
        Field::new("key", Shape::Secret, "The client certificate's key, PEM.").of(&["mtls_credential"]),
        Field::inert("ca", ROOTS).of(&["mtls_credential"]),
        Field::new(
            "secrets",
            Shape::Block(&SECRETS),
            "The parts of the client certificate, in a block.",
        )
        .of(&["mtls_credential"]),
        Field::inert("idempotency_key", "No header is added to what the agent sends."),
    ]],
};

const ROOTS: &str = "The endpoint's `ca_cert` names the roots that its server is trusted by.";

static SECRETS: Table = Table {
    doc: "The parts of a client certificate.",
    groups: &[&[
        Field::new("cert", Shape::Secret, "The client certificate, PEM."),
        Field::new("key", Shape::Secret, "The client certificate's key, PEM."),
        Field::inert("ca", ROOTS),
    ]],
};

const LLM: &[&str] = &["llm_approver"];
const HUMAN: &[&str] = &["human_approver"];
const ELSEWHERE: &str = "People decide with `tailkeep approvals` and on the gateway's page.";

pub(super) static APPROVER: Table = Table {
    doc: "Who is asked about held actions: approver \"type\" \"name\" { … }.",
    groups: &[&[
        Field::new("approvers", Shape::Texts, "Who may decide: logins, `*@domain`, `grant:NAME`, accounts of the gateway's machine; everybody if empty.").of(HUMAN),
        Field::new("require_approvers", Shape::Whole, "How many people must allow, 1 to 100.").of(HUMAN),
        Field::new("separation", Shape::Flag, "Whether the agent's own owner may not decide.").of(HUMAN),
        Field::new("on_timeout", Shape::Text, "What it means that nobody decided in time: `deny`, or `next` for the next approver.").of(HUMAN),
        Field::new("escalate_after", Shape::Time, "When those of `escalate_to` may decide too.").of(HUMAN),
        Field::new("escalate_to", Shape::Texts, "Who may decide too, once nobody did for so long.").of(HUMAN),
        Field::new("quiet_hours", Shape::Text, "When nobody is asked, `22:00-07:00`.").of(HUMAN),
        Field::new("quiet_zone", Shape::Text, "The zone of the quiet hours; UTC by default.").of(HUMAN),
        Field::new("channel", Shape::Text, "Where its questions belong; each carries it, for what hands them on.").of(HUMAN),
        Field::new("channels", Shape::References(Kind::Channel), "Where people are told of its questions, beside the page; 8 at most.").of(HUMAN),
        Field::new("timeout", Shape::Time, "How long an answer is waited for; then it is a denial."),
        Field::inert("credential", ELSEWHERE).of(HUMAN),
        Field::inert("classifier", ELSEWHERE).of(HUMAN),
        Field::inert("interactive", ELSEWHERE).of(HUMAN),
        Field::inert("message", ELSEWHERE).of(HUMAN),
        Field::inert("sync_wait_timeout", ELSEWHERE).of(HUMAN),
        Field::inert("async_grant", ELSEWHERE).of(HUMAN),
        Field::new("model", Shape::Text, "The model that judges.").of(LLM),
        Field::new("credential", Shape::Reference(Kind::Credential), "The credential of the model's API.").of(LLM),
        Field::new("policy", Shape::Reference(Kind::Policy), "What the model judges by: a `policy` block, or a text.").of(LLM),
        Field::new("provider", Shape::OneOf(&["anthropic", "openai"]), "Whose API it speaks; by the model's name if not given.").of(LLM),
        Field::new("base_url", Shape::Text, "The API's URL; the provider's own if not given.").of(LLM),
        Field::new("fail_mode", Shape::OneOf(&["deny", "next"]), "What a judge that fails means: a denial, or a question to the next approver.").of(LLM),
        Field::new("confidence_min", Shape::Whole, "Percent of certainty below which its `allow` counts for nothing; 70 by default.").of(LLM),
        Field::new("cache", Shape::Time, "How long a verdict on the same action is kept; not at all by default.").of(LLM),
        Field::new("request_bytes_max", Shape::Whole, "Bytes of an action that it is sent; what is larger is denied.").of(LLM),
        Field::new("requests_per_hour", Shape::Whole, "Questions an hour at most, the last quarter for agents that took little; 1000 by default.").of(LLM),
        Field::new("tokens_per_day", Shape::Whole, "Tokens a day at most, the last quarter for agents that took little; 5000000 by default.").of(LLM),
    ]],
};

pub(super) static POLICY: Table = Table {
    doc: "A text that an LLM judges by: policy \"name\" { text = … }.",
    groups: &[&[Field::new(
        "text",
        Shape::Text,
        "What is allowed and what is not, in words.",
    )]],
};

pub(super) static TUNNEL: Table = Table {
    doc: "Part of the grammar: it is read and not started.",
    groups: &[&[
        Field::new(
            "via",
            Shape::Reference(Kind::Tunnel),
            "The tunnel that it goes through.",
        ),
        Field::new(
            "credential",
            Shape::Reference(Kind::Credential),
            "The credential that it is opened with.",
        ),
    ]],
};

pub(super) static ENVIRONMENT: Table = Table {
    doc: "Part of the grammar, without effect here: `tailkeep env` prints placeholders and CA variables.",
    groups: &[],
};

pub(super) static PROFILE: Table = Table {
    doc: "A group of agents: who they are, what they hold, which rules are theirs alone.",
    groups: &[&[
        Field::new(
            "tags",
            Shape::Texts,
            "Tailnet tags of its agents, `tag:agent-ci`.",
        ),
        Field::new(
            "logins",
            Shape::Texts,
            "Logins of its agents' people: `ann@example.com`, `*@example.com`.",
        ),
        Field::new("nodes", Shape::Texts, "Names of its tailnet nodes."),
        Field::new("peers", Shape::Texts, "Names of its WireGuard peers."),
        Field::new(
            "grants",
            Shape::Texts,
            "Names that the tailnet's policy file hands out by tailkeep.dev/cap/profile.",
        ),
        Field::new(
            "credentials",
            Shape::References(Kind::Credential),
            "The credentials that it holds, and so the endpoints that it reaches; { placeholder = \"PH_…\", credential = type.name } gives one a look-alike.",
        ),
        Field::new(
            "endpoint",
            Shape::Reference(Kind::Endpoint),
            "An endpoint that it reaches without a credential.",
        ),
        Field::new(
            "endpoints",
            Shape::References(Kind::Endpoint),
            "Endpoints that it reaches without a credential.",
        ),
        Field::new(
            "environments",
            Shape::References(Kind::Environment),
            "Part of the grammar, without effect here.",
        ),
        Field::new(
            "rule",
            Shape::Block(&RULE),
            "A rule for this profile's agents alone.",
        ),
        Field::inert(
            "hitl_async_grants",
            "It is part of the grammar and not built here.",
        ),
        Field::inert(
            "allow_ephemeral_oidc",
            "It is part of the grammar and not built here.",
        ),
    ]],
};

/// The objects among a profile's `credentials`.
pub(super) static HELD: Table = Table {
    doc: "A credential that the profile holds, with its look-alike.",
    groups: &[&[
        Field::new(
            "credential",
            Shape::Reference(Kind::Credential),
            "The credential.",
        ),
        Field::new(
            "placeholder",
            Shape::Text,
            "What agents may write instead of {{name}}, 4 characters or more.",
        ),
        Field::inert("user", "Set it on the credential."),
        Field::inert("database", "Set it on the credential."),
    ]],
};

pub(super) static RULE: Table = Table {
    doc: "What happens to actions on its endpoints: the first that matches decides, by falling priority.",
    groups: &[&[
        Field::new(
            "endpoint",
            Shape::Reference(Kind::Endpoint),
            "The endpoint that it is for.",
        ),
        Field::new(
            "endpoints",
            Shape::References(Kind::Endpoint),
            "The endpoints that it is for, all of one family.",
        ),
        Field::new(
            "credential",
            Shape::Reference(Kind::Credential),
            "Only actions that use this credential.",
        ),
        Field::new(
            "condition",
            Shape::Condition,
            "When it matches: CEL over the endpoint's facts and `agent`; always if it is not given.",
        ),
        Field::new("verdict", Shape::OneOf(&["allow", "deny"]), "What it decides."),
        Field::new(
            "approve",
            Shape::References(Kind::Approver),
            "Who is asked instead, in this order; all of them must allow.",
        ),
        Field::new("reason", Shape::Text, "What the agent is told of a denial."),
        Field::new(
            "priority",
            Shape::Whole,
            "Higher ones are looked at first; 0 by default.",
        ),
        Field::new(
            "mode",
            Shape::OneOf(&["enforce", "shadow"]),
            "shadow: it is judged and recorded, and changes nothing.",
        ),
        Field::new("disabled", Shape::Flag, "It is not looked at."),
        Field::new(
            "limit",
            Shape::Block(&LIMIT),
            "How often it lets actions pass; one too many is denied.",
        ),
    ]],
};

pub(super) static LIMIT: Table = Table {
    doc: "How often a rule lets actions pass.",
    groups: &[&[
        Field::new("rate", Shape::Text, "A number and a time: \"30/m\", \"5/10s\"."),
        Field::new(
            "per",
            Shape::OneOf(&["agent", "profile", "endpoint", "rule"]),
            "Who shares the count; each agent has its own by default.",
        ),
    ]],
};
