//! The blocks of the configuration, and for each of their fields what shows its effect.

use Proof::{Block, Inert, Same, Test, Wrong};

/// What shows that a field is not ignored.
pub enum Proof {
    /// A test that fails if it is: its file and its name.
    Test(&'static str, &'static str),
    /// It is a block of its own.
    Block(&'static str),
    /// It is of the grammar and does nothing here; with this line in the block, a note says so.
    Inert(&'static str),
    /// This line means the same as other lines in its place, or as another text.
    Same(&'static str, &'static str),
    /// It is checked, and this line is refused.
    Wrong(&'static str),
}

/// Blocks, with `@` where the fields stand that are looked at.
pub const BLOCKS: &[(&str, &str)] = &[
    ("file", "@\n"),
    ("gateway", "gateway {\n@\n}\n"),
    ("gateway wireguard", "gateway {\nwireguard {\n@\n}\n}\n"),
    ("gateway tailscale", "gateway {\ntailscale {\n@\n}\n}\n"),
    (
        "gateway tailscale via",
        "gateway {\ntailscale {\nsocket = \"/s\"\nvia {\n@\n}\n}\n}\n",
    ),
    ("gateway audit", "gateway {\naudit {\n@\n}\n}\n"),
    ("gateway limits", "gateway {\nlimits {\n@\n}\n}\n"),
    ("defaults", "defaults {\n@\n}\n"),
    ("policy", "policy \"x\" {\n@\n}\n"),
    (
        "endpoint https",
        "endpoint \"https\" \"x\" {\nhosts = [\"x.test\"]\n@\n}\n",
    ),
    (
        "endpoint http",
        "endpoint \"http\" \"x\" {\nhosts = [\"x.test\"]\n@\n}\n",
    ),
    (
        "endpoint kubernetes",
        "endpoint \"kubernetes\" \"x\" {\nhosts = [\"x.test\"]\n@\n}\n",
    ),
    (
        "endpoint mcp",
        "endpoint \"mcp\" \"x\" {\nhosts = [\"x.test\"]\n@\n}\n",
    ),
    (
        "endpoint postgres",
        "endpoint \"postgres\" \"x\" {\nhosts = [\"x.test\"]\n@\n}\n",
    ),
    (
        "credential bearer_token",
        "credential \"bearer_token\" \"x\" {\n@\n}\n",
    ),
    (
        "credential header_token",
        "credential \"header_token\" \"x\" {\nheader = \"x-key\"\n@\n}\n",
    ),
    (
        "credential basic_auth",
        "credential \"basic_auth\" \"x\" {\n@\n}\n",
    ),
    (
        "credential cookie_token",
        "credential \"cookie_token\" \"x\" {\ncookie_name = \"sid\"\n@\n}\n",
    ),
    (
        "credential query_token",
        "credential \"query_token\" \"x\" {\nparameter = \"key\"\n@\n}\n",
    ),
    (
        "credential mtls_credential",
        "credential \"mtls_credential\" \"x\" {\n@\n}\n",
    ),
    (
        "credential mtls_credential secrets",
        "credential \"mtls_credential\" \"x\" {\nsecrets {\n@\n}\n}\n",
    ),
    (
        "credential postgres_credential",
        "credential \"postgres_credential\" \"x\" {\n@\n}\n",
    ),
    (
        "approver human_approver",
        "approver \"human_approver\" \"x\" {\n@\n}\n",
    ),
    (
        "approver llm_approver",
        "approver \"llm_approver\" \"x\" {\n@\n}\n",
    ),
    ("channel slack", "channel \"slack\" \"x\" {\n@\n}\n"),
    ("channel webhook", "channel \"webhook\" \"x\" {\n@\n}\n"),
    ("channel ntfy", "channel \"ntfy\" \"x\" {\n@\n}\n"),
    ("channel email", "channel \"email\" \"x\" {\n@\n}\n"),
    ("channel person", "channel \"slack\" \"x\" {\nperson {\n@\n}\n}\n"),
    ("rule", "rule \"x\" {\nverdict = \"allow\"\n@\n}\n"),
    (
        "rule limit",
        "rule \"x\" {\nendpoint = https.api\nverdict = \"allow\"\nlimit {\n@\n}\n}\n",
    ),
    ("profile", "profile \"x\" {\ntags = [\"tag:x\"]\n@\n}\n"),
    (
        "profile rule",
        "profile \"x\" {\ntags = [\"tag:x\"]\nrule \"y\" {\nverdict = \"allow\"\n@\n}\n}\n",
    ),
    (
        "profile credentials",
        "profile \"x\" {\ntags = [\"tag:x\"]\ncredentials = [{\ncredential = bearer_token.token\n@\n}]\n}\n",
    ),
];

/// Types that are another with fixed fields, behind a plus.
pub const ALIASES: &[(&str, &str)] = &[
    ("endpoint openai_codex_https", "endpoint https"),
    ("credential github_oauth", "credential bearer_token"),
    ("credential notion_oauth", "credential bearer_token"),
    ("credential openai_api_key", "credential bearer_token"),
    (
        "credential anthropic_manual_key",
        "credential header_token + header = \"x-api-key\"",
    ),
    (
        "credential gemini_api_key",
        "credential header_token + header = \"x-goog-api-key\"",
    ),
    (
        "credential discord_bot_token",
        "credential header_token + header = \"authorization\"\nprefix = \"Bot \"",
    ),
];

/// Blocks and types that load whole and have no effect, of which a note tells.
pub const WHOLE: &[(&str, &str)] = &[
    (
        "endpoint clickhouse_https",
        "endpoint \"clickhouse_https\" \"x\" {\nhosts = [\"x.test\"]\n}\n",
    ),
    (
        "endpoint clickhouse_native",
        "endpoint \"clickhouse_native\" \"x\" {\nhosts = [\"x.test\"]\n}\n",
    ),
    (
        "endpoint mysql",
        "endpoint \"mysql\" \"x\" {\nhosts = [\"x.test\"]\n}\n",
    ),
    (
        "endpoint ssh",
        "endpoint \"ssh\" \"x\" {\nhosts = [\"x.test\"]\n}\n",
    ),
    (
        "credential anthropic_oauth_subscription",
        "credential \"anthropic_oauth_subscription\" \"x\" {}\n",
    ),
    (
        "credential aws_credential",
        "credential \"aws_credential\" \"x\" {}\n",
    ),
    (
        "credential clickhouse_credential",
        "credential \"clickhouse_credential\" \"x\" {}\n",
    ),
    (
        "credential google_gke_credential",
        "credential \"google_gke_credential\" \"x\" {}\n",
    ),
    (
        "credential notion_mcp_oauth",
        "credential \"notion_mcp_oauth\" \"x\" {}\n",
    ),
    (
        "credential openai_codex_oauth",
        "credential \"openai_codex_oauth\" \"x\" {}\n",
    ),
    (
        "credential slack_tokens",
        "credential \"slack_tokens\" \"x\" {}\n",
    ),
    ("credential ssh", "credential \"ssh\" \"x\" {}\n"),
    ("credential ssh_key", "credential \"ssh_key\" \"x\" {}\n"),
    ("credential tailscale", "credential \"tailscale\" \"x\" {}\n"),
    (
        "credential telegram_bot_token",
        "credential \"telegram_bot_token\" \"x\" {}\n",
    ),
    ("tunnel", "tunnel \"local_command\" \"x\" {}\n"),
    ("environment", "environment \"custom_environment\" \"x\" {}\n"),
    ("env_pushdown", "env_pushdown {}\n"),
    ("enrollment", "enrollment {}\n"),
    ("plugin", "plugin {}\n"),
];

const TUNNEL: &str = "tests/admin/tunnel.rs";
const AS_CONFIGURED: &str = "the_tunnel_is_as_the_configuration_says";
const GATEWAY: &str = "tests/admin/gateway.rs";
const POLICY: &str = "src/policy/tests.rs";
const HIDING: &str = "tests/state/hiding.rs";
const PEOPLE: &str = "tests/state/people.rs";
const PREVIEWS: &str = "tests/postgres/previews.rs";
const DRY_RUNS: &str = "tests/kubernetes/previews.rs";
const SLACK: &str = "tests/channels/slack.rs";
const PRESSED: &str = "a_listed_person_decides_by_a_button_and_the_message_says_so";
const WEBHOOK: &str = "tests/channels/webhook.rs";
const PUSH: &str = "tests/channels/push.rs";
const PUSHED: &str = "a_push_leads_to_the_page_and_says_nothing_of_the_action";
const EMAIL: &str = "tests/channels/email.rs";
const MAILED: &str = "mail_goes_by_verified_tls_and_leads_to_the_page";
const JUDGE: &str = "tests/judge/main.rs";
const OWN: &str = "tests/tailnet/own.rs";
const REDIRECT: &str = "tests/tailnet/redirect.rs";
const UPSTREAMS: &str = "tests/http/upstreams.rs";
const EACH_TYPE: &str = "tls_and_roots_are_as_each_type_of_endpoint_says";
const LOGINS: &str = "tests/postgres/logins.rs";
const CREDENTIALS: &str = "tests/http/credentials.rs";
const SWAPPED: &str = "a_placeholder_is_swapped_in_its_slot_and_scrubbed_from_the_answer";
const SOURCES: &str = "tests/state/sources.rs";
const CLAIMED: &str = "profiles_claim_by_what_the_tunnel_proved";

/// Endpoints of which nothing is tried.
const UNTRIED: &[&str] = &["endpoint https", "endpoint http", "endpoint mcp"];
/// Endpoints of HTTP and what is on it.
const WEB: &[&str] = &[
    "endpoint https",
    "endpoint http",
    "endpoint kubernetes",
    "endpoint mcp",
];
const ENDPOINTS: &[&str] = &[
    "endpoint https",
    "endpoint http",
    "endpoint kubernetes",
    "endpoint mcp",
    "endpoint postgres",
];
/// Credentials with one secret.
const SINGLE: &[&str] = &[
    "credential bearer_token",
    "credential header_token",
    "credential basic_auth",
    "credential cookie_token",
    "credential query_token",
    "credential postgres_credential",
];
const ALL_CREDENTIALS: &[&str] = &[
    "credential bearer_token",
    "credential header_token",
    "credential basic_auth",
    "credential cookie_token",
    "credential query_token",
    "credential mtls_credential",
    "credential postgres_credential",
];
const RULES: &[&str] = &["rule", "profile rule"];

type Line = (&'static [&'static str], &'static str, Proof);

/// Every field of every block: the blocks that have it, its name, and its proof.
#[rustfmt::skip]
pub const FIELDS: &[Line] = &[
    // What older files have at their top.
    (&["file"], "schema_version", Wrong("schema_version = 2")),
    (&["file"], "state_dir", Same("state_dir = \"/s\"", "gateway {\nstate_dir = \"/s\"\n}")),
    (&["file"], "dashboard_listen", Same("dashboard_listen = \":7\"", "gateway {\ndashboard_listen = \":7\"\n}")),
    (&["file"], "public_url", Same("public_url = \"https://g\"", "gateway {\npublic_url = \"https://g\"\n}")),
    (&["file"], "resolver", Same("resolver = \"10.0.0.5\"", "gateway {\nresolver = \"10.0.0.5\"\n}")),
    (&["file"], "unknown_host", Same("unknown_host = \"passthrough\"", "defaults {\nunknown_host = \"passthrough\"\n}")),
    (&["file"], "human_timeout", Same("human_timeout = 7", "defaults {\nhuman_timeout = 7\n}")),
    (&["file"], "wg_subnet_cidr", Same("wg_subnet_cidr = \"10.9.0.0/24\"", "gateway {\nwireguard {\nsubnet_cidr = \"10.9.0.0/24\"\n}\n}")),
    (&["file"], "wg_endpoint", Same("wg_endpoint = \"gw:7\"", "gateway {\nwireguard {\nendpoint = \"gw:7\"\n}\n}")),
    (&["file"], "authkey", Inert("authkey = \"k\"")),
    (&["file"], "control_url", Inert("control_url = \"https://c\"")),
    (&["file"], "hostname", Inert("hostname = \"h\"")),
    (&["file"], "tailscale_tags", Inert("tailscale_tags = [\"tag:x\"]")),
    (&["file", "defaults"], "llm_fail_mode", Inert("llm_fail_mode = \"open\"")),
    (&["file", "defaults"], "human_on_timeout", Inert("human_on_timeout = \"allow\"")),
    (&["file", "defaults"], "llm_cache_ttl", Inert("llm_cache_ttl = 300")),
    // gateway
    (&["gateway"], "state_dir", Test(GATEWAY, "held_actions_survive_a_restart")),
    (&["gateway"], "dashboard_listen", Test(GATEWAY, "an_unsafe_start_is_refused")),
    (&["gateway"], "enrol_listen", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway"], "public_url", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway"], "channel_listen", Test("tests/channels/program.rs", "decisions_are_taken_at_channel_listen")),
    (&["gateway"], "page_url", Test(SLACK, PRESSED)),
    (&["gateway"], "virtual_cidr", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway"], "virtual_cidr6", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway"], "resolver", Test("src/upstream/dial/tests.rs", "a_wildcard_name_that_resolves_to_a_closed_address_is_not_dialled")),
    (&["gateway"], "reload_guard", Test("tests/admin/guard.rs", "a_reload_that_would_change_verdicts_waits_until_it_is_accepted")),
    (&["gateway"], "wireguard", Block("gateway wireguard")),
    (&["gateway"], "tailscale", Block("gateway tailscale")),
    (&["gateway"], "audit", Block("gateway audit")),
    (&["gateway"], "limits", Block("gateway limits")),
    (&["gateway", "file"], "log_path", Inert("log_path = \"x\"")),
    (&["gateway", "file"], "listen", Inert("listen = \"x\"")),
    (&["gateway", "file"], "info_listen", Inert("info_listen = \"x\"")),
    (&["gateway", "file"], "admin_email", Inert("admin_email = \"x\"")),
    (&["gateway", "file"], "telemetry", Inert("telemetry = true")),
    (&["gateway", "file"], "session_keep", Inert("session_keep = 1")),
    (&["gateway", "file"], "ca_dir", Inert("ca_dir = \"x\"")),
    (&["gateway", "file"], "dashboard_secret", Inert("dashboard_secret = \"x\"")),
    (&["gateway", "file"], "insecure_no_dashboard_secret", Inert("insecure_no_dashboard_secret = true")),
    (&["gateway", "file"], "dashboard_config_writes", Test("tests/admin/editing.rs", "the_page_writes_only_where_the_configuration_lets_it")),
    (&["gateway", "file"], "genai_telemetry", Inert("genai_telemetry = true")),
    (&["gateway", "file"], "control", Inert("control = \"x\"")),
    (&["gateway", "file"], "wg_interface", Inert("wg_interface = \"x\"")),
    (&["gateway", "file"], "wg_server_pub", Inert("wg_server_pub = \"x\"")),
    (&["gateway", "file"], "oauth_client_id", Inert("oauth_client_id = \"x\"")),
    (&["gateway", "file"], "oauth_client_secret", Inert("oauth_client_secret = \"x\"")),
    (&["gateway wireguard"], "listen", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway wireguard"], "listen_port", Same("listen_port = 7", "listen = \"0.0.0.0:7\"")),
    (&["gateway wireguard"], "endpoint", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway wireguard"], "subnet_cidr", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway wireguard"], "subnet_cidr6", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway wireguard"], "stack", Test(GATEWAY, "the_stack_is_the_one_that_is_asked_for")),
    (&["gateway wireguard"], "mtu", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway wireguard"], "host_loopback_port", Inert("host_loopback_port = 1")),
    (&["gateway wireguard"], "interface", Inert("interface = \"x\"")),
    (&["gateway tailscale"], "socket", Test("tests/tailnet/main.rs", "peers_are_who_tailscaled_says_and_nobody_else_gets_in")),
    (&["gateway tailscale"], "authkey", Test(OWN, "our_own_tailscaled_serves_dies_comes_back_and_ends_with_us")),
    (&["gateway tailscale"], "control_url", Test(OWN, "our_own_tailscaled_serves_dies_comes_back_and_ends_with_us")),
    (&["gateway tailscale"], "hostname", Test(OWN, "our_own_tailscaled_serves_dies_comes_back_and_ends_with_us")),
    (&["gateway tailscale"], "tags", Test(OWN, "our_own_tailscaled_serves_dies_comes_back_and_ends_with_us")),
    (&["gateway tailscale"], "routes", Test(REDIRECT, "what_is_dialled_at_real_addresses_comes_to_the_gateway_and_nowhere_else")),
    (&["gateway tailscale"], "operators", Test("tests/tailnet/page.rs", "operators_reach_the_page_and_agents_do_not")),
    (&["gateway tailscale"], "redirect_port", Test(REDIRECT, "setup_shows_first_does_what_is_missing_and_takes_it_away")),
    (&["gateway tailscale"], "via", Block("gateway tailscale via")),
    (&["gateway tailscale"], "state_dir", Inert("state_dir = \"x\"")),
    (&["gateway tailscale"], "oauth_client_id", Inert("oauth_client_id = \"x\"")),
    (&["gateway tailscale"], "oauth_client_secret", Test(OWN, "an_oauth_client_lets_the_node_in")),
    (&["gateway tailscale via"], "site", Test(REDIRECT, "a_site_whose_range_others_have_too_is_reached_by_its_number")),
    (&["gateway tailscale via"], "cidr", Test(REDIRECT, "a_site_whose_range_others_have_too_is_reached_by_its_number")),
    (&["gateway audit"], "keep_days", Test(GATEWAY, "the_retention_is_that_of_the_policy_in_force")),
    (&["gateway audit"], "bytes_max", Test(GATEWAY, "the_retention_is_that_of_the_policy_in_force")),
    (&["gateway limits"], "body_bytes_max", Test("tests/http/streams.rs", "a_body_over_the_limit_cannot_be_judged_and_one_that_nobody_reads_passes")),
    (&["gateway limits"], "decoded_bytes_max", Test("tests/http/limits.rs", "a_body_that_decodes_to_more_than_the_limit_cannot_be_judged")),
    (&["gateway limits"], "statement_bytes_max", Test("tests/postgres/starts.rs", "packets_out_of_bounds_and_late_ones_are_refused")),
    (&["gateway limits"], "message_bytes_max", Test("tests/postgres/starts.rs", "packets_out_of_bounds_and_late_ones_are_refused")),
    (&["gateway limits"], "connections_max", Test(TUNNEL, AS_CONFIGURED)),
    (&["gateway limits"], "connect_ms", Test(UPSTREAMS, "an_upstream_that_is_away_is_502_and_one_that_is_slow_504")),
    (&["gateway limits"], "handshake_ms", Test("tests/http/limits.rs", "who_says_nothing_or_half_a_head_is_cut_off")),
    (&["gateway limits"], "idle_s", Test("tests/http/limits.rs", "an_idle_connection_is_closed_and_a_waiting_one_is_not")),
    // defaults, policy
    (&["defaults"], "unmatched", Test(HIDING, "defaults_decide_where_nothing_else_does")),
    (&["defaults"], "unknown_host", Test(HIDING, "defaults_decide_where_nothing_else_does")),
    (&["defaults"], "human_timeout", Test(HIDING, "defaults_decide_where_nothing_else_does")),
    (&["policy"], "text", Test(JUDGE, "a_judge_of_either_api_allows_and_denies")),
    // endpoint
    (WEB, "hosts", Test("src/proxy/route.rs", "the_closest_claim_wins")),
    (&["endpoint postgres"], "hosts", Test("tests/postgres/clients.rs", "psql_is_served_and_refused")),
    (ENDPOINTS, "host", Same("host = \"y.test\"", "hosts = [\"y.test\"]")),
    (ENDPOINTS, "server", Same("server = \"y.test\"", "hosts = [\"y.test\"]")),
    (ENDPOINTS, "port", Same("port = 7", "hosts = [\"x.test:7\"]")),
    (WEB, "upstream", Test(UPSTREAMS, EACH_TYPE)),
    (&["endpoint postgres"], "upstream", Test("tests/postgres/clients.rs", "psql_is_served_and_refused")),
    (WEB, "tls", Test(UPSTREAMS, EACH_TYPE)),
    (&["endpoint postgres"], "tls", Inert("tls = true")),
    (WEB, "ca_cert", Test(UPSTREAMS, EACH_TYPE)),
    (&["endpoint postgres"], "ca_cert", Test(LOGINS, "every_sslmode_is_what_libpq_makes_of_it")),
    (&["endpoint postgres"], "sslmode", Test(LOGINS, "every_sslmode_is_what_libpq_makes_of_it")),
    (WEB, "sslmode", Inert("sslmode = \"require\"")),
    (&["endpoint postgres"], "database", Test(LOGINS, "users_databases_and_passwords")),
    (WEB, "database", Inert("database = \"d\"")),
    (&["endpoint postgres"], "preview", Test(PREVIEWS, "a_change_is_shown_and_committed_on_yes")),
    (&["endpoint postgres"], "preview_lock_max", Test(PREVIEWS, "whoever_waits_for_its_locks_ends_it")),
    (&["endpoint postgres"], "preview_hold_max", Test(PREVIEWS, "it_is_held_open_so_long_and_no_longer")),
    (&["endpoint postgres"], "preview_rows", Test(PREVIEWS, "it_is_held_open_so_long_and_no_longer")),
    (&["endpoint postgres"], "preview_masked", Test(PREVIEWS, "a_change_is_shown_and_committed_on_yes")),
    (&["endpoint kubernetes"], "preview", Test(DRY_RUNS, "what_a_change_would_do_is_shown_and_not_done_before_the_yes")),
    (UNTRIED, "preview", Inert("preview = true")),
    (WEB, "preview_lock_max", Inert("preview_lock_max = 1")),
    (WEB, "preview_hold_max", Inert("preview_hold_max = 1")),
    (WEB, "preview_rows", Inert("preview_rows = 1")),
    (&["endpoint kubernetes"], "preview_masked", Test(DRY_RUNS, "secrets_and_masked_members_are_kept_from_who_decides")),
    (UNTRIED, "preview_masked", Inert("preview_masked = [\"a\"]")),
    (&["endpoint mcp"], "path", Test("tests/http/mcp.rs", "what_is_no_message_or_goes_elsewhere_is_refused")),
    (ENDPOINTS, "description", Test(HIDING, "a_question_says_what_its_endpoint_is_and_where_it_belongs")),
    (ENDPOINTS, "credential", Test(POLICY, "older_and_inert_fields_load_with_a_note")),
    (ENDPOINTS, "credentials", Inert("credentials = []")),
    (ENDPOINTS, "tunnel", Inert("tunnel = local_command.proxy")),
    (ENDPOINTS, "cluster_name", Inert("cluster_name = \"c\"")),
    (ENDPOINTS, "region", Inert("region = \"r\"")),
    (ENDPOINTS, "accept_invalid_certificate", Inert("accept_invalid_certificate = true")),
    // credential
    (ALL_CREDENTIALS, "endpoints", Test("src/credential/tests.rs", "a_placeholder_anywhere_else_is_refused")),
    (ALL_CREDENTIALS, "endpoint", Same("endpoint = https.api", "endpoints = [https.api]")),
    (SINGLE, "secret", Test(SOURCES, "a_secret_comes_from_where_the_credential_says")),
    (ALL_CREDENTIALS, "idempotency_key", Inert("idempotency_key = true")),
    (&["credential header_token"], "header", Test(CREDENTIALS, SWAPPED)),
    (&["credential header_token"], "prefix", Test("src/credential/tests.rs", "the_secret_goes_into_its_slot_alone")),
    (&["credential basic_auth"], "username", Test("src/credential/tests.rs", "the_secret_goes_into_its_slot_alone")),
    (&["credential cookie_token"], "cookie_name", Test(CREDENTIALS, SWAPPED)),
    (&["credential query_token"], "parameter", Test(CREDENTIALS, "a_query_secret_reaches_the_query_alone")),
    (&["credential postgres_credential"], "user", Test(LOGINS, "users_databases_and_passwords")),
    (&["credential postgres_credential"], "database", Test(LOGINS, "users_databases_and_passwords")),
    (&["credential mtls_credential"], "secrets", Block("credential mtls_credential secrets")),
    (&["credential mtls_credential secrets"], "cert", Test(SOURCES, "a_secret_comes_from_where_the_credential_says")),
    (&["credential mtls_credential secrets"], "key", Test(SOURCES, "a_secret_comes_from_where_the_credential_says")),
    (&["credential mtls_credential"], "cert", Same("cert = file(\"c\")", "secrets {\ncert = file(\"c\")\n}")),
    (&["credential mtls_credential"], "key", Same("key = file(\"c\")", "secrets {\nkey = file(\"c\")\n}")),
    (&["credential mtls_credential", "credential mtls_credential secrets"], "ca", Inert("ca = file(\"c\")")),
    // approver
    (&["approver human_approver"], "channel", Test(HIDING, "a_question_says_what_its_endpoint_is_and_where_it_belongs")),
    (&["approver human_approver"], "channels", Test(SLACK, PRESSED)),
    (&["approver human_approver"], "timeout", Test(HIDING, "defaults_decide_where_nothing_else_does")),
    (&["approver human_approver"], "require_approvers", Test(HIDING, "the_approver_says_how_many_of_whom_must_allow")),
    (&["approver human_approver"], "approvers", Test(HIDING, "the_approver_says_how_many_of_whom_must_allow")),
    (&["approver human_approver"], "separation", Test(PEOPLE, "the_owner_of_an_agent_does_not_decide_for_it")),
    (&["approver human_approver"], "on_timeout", Test(PEOPLE, "what_nobody_decides_in_time_is_denied_or_left_to_the_next")),
    (&["approver human_approver"], "escalate_after", Test(PEOPLE, "others_may_decide_once_nobody_did_for_so_long")),
    (&["approver human_approver"], "escalate_to", Test(PEOPLE, "others_may_decide_once_nobody_did_for_so_long")),
    (&["approver human_approver"], "quiet_hours", Test(PEOPLE, "nobody_is_asked_in_quiet_hours_but_those_of_the_escalation")),
    (&["approver human_approver"], "quiet_zone", Test(PEOPLE, "nobody_is_asked_in_quiet_hours_but_those_of_the_escalation")),
    (&["approver human_approver"], "credential", Inert("credential = bearer_token.token")),
    (&["approver human_approver"], "classifier", Inert("classifier = human_approver.person")),
    (&["approver human_approver"], "interactive", Inert("interactive = true")),
    (&["approver human_approver"], "message", Inert("message = \"x\"")),
    (&["approver human_approver"], "sync_wait_timeout", Inert("sync_wait_timeout = 1")),
    (&["approver human_approver"], "async_grant", Inert("async_grant {\n}")),
    (&["approver llm_approver"], "model", Test(JUDGE, "a_judge_of_either_api_allows_and_denies")),
    (&["approver llm_approver"], "credential", Test(JUDGE, "a_judge_of_either_api_allows_and_denies")),
    (&["approver llm_approver"], "policy", Test(JUDGE, "a_judge_of_either_api_allows_and_denies")),
    (&["approver llm_approver"], "provider", Test(JUDGE, "a_judge_of_either_api_allows_and_denies")),
    (&["approver llm_approver"], "base_url", Test(JUDGE, "a_judge_of_either_api_allows_and_denies")),
    (&["approver llm_approver"], "timeout", Test(JUDGE, "no_failure_allows")),
    (&["approver llm_approver"], "fail_mode", Test(JUDGE, "a_failure_is_left_to_people_where_it_is_said_so")),
    (&["approver llm_approver"], "confidence_min", Test(JUDGE, "certainty_is_the_operators_to_choose")),
    (&["approver llm_approver"], "cache", Test(JUDGE, "an_opinion_is_kept_for_the_identical_action_and_its_time")),
    (&["approver llm_approver"], "request_bytes_max", Test(JUDGE, "the_whole_action_or_none")),
    (&["approver llm_approver"], "answer_tokens_max", Test(JUDGE, "a_judge_of_either_api_allows_and_denies")),
    (&["approver llm_approver"], "requests_per_hour", Test(JUDGE, "budgets_hold")),
    (&["approver llm_approver"], "tokens_per_day", Test(JUDGE, "budgets_hold")),
    // channel
    (&["channel slack"], "token", Test(SLACK, PRESSED)),
    (&["channel slack"], "signing_secret", Test(SLACK, "nobody_else_decides_and_nothing_counts_twice")),
    (&["channel slack"], "room", Test(SLACK, PRESSED)),
    (&["channel slack"], "base_url", Test(SLACK, PRESSED)),
    (&["channel slack", "channel webhook"], "person", Block("channel person")),
    (&["channel person"], "id", Test(SLACK, "nobody_else_decides_and_nothing_counts_twice")),
    (&["channel person"], "name", Test(SLACK, "nobody_else_decides_and_nothing_counts_twice")),
    (&["channel webhook"], "url", Test(WEBHOOK, "a_system_is_told_and_decides_by_a_signed_request")),
    (&["channel webhook"], "secret", Test(WEBHOOK, "what_is_not_signed_whole_and_of_now_decides_nothing")),
    (&["channel ntfy"], "url", Test(PUSH, PUSHED)),
    (&["channel ntfy"], "topic", Test(PUSH, PUSHED)),
    (&["channel ntfy"], "token", Test(PUSH, PUSHED)),
    (&["channel email"], "server", Test(EMAIL, MAILED)),
    (&["channel email"], "tls", Test(EMAIL, MAILED)),
    (&["channel email"], "ca_cert", Test(EMAIL, "without_verified_tls_nothing_is_sent")),
    (&["channel email"], "username", Test(EMAIL, MAILED)),
    (&["channel email"], "password", Test(EMAIL, MAILED)),
    (&["channel email"], "from", Test(EMAIL, MAILED)),
    (&["channel email"], "to", Test(EMAIL, MAILED)),
    // rule
    (RULES, "endpoints", Test(POLICY, "rules_are_walked_by_priority_then_order")),
    (RULES, "endpoint", Same("endpoint = https.api", "endpoints = [https.api]")),
    (RULES, "verdict", Test(POLICY, "rules_are_walked_by_priority_then_order")),
    (RULES, "approve", Test(POLICY, "rules_are_walked_by_priority_then_order")),
    (RULES, "condition", Test(POLICY, "rules_are_walked_by_priority_then_order")),
    (RULES, "credential", Test(POLICY, "a_credential_predicate_does_not_match_another_or_none")),
    (RULES, "priority", Test(POLICY, "rules_are_walked_by_priority_then_order")),
    (RULES, "disabled", Test(POLICY, "rules_are_walked_by_priority_then_order")),
    (RULES, "mode", Test(POLICY, "shadow_rules_are_recorded_and_change_nothing")),
    (RULES, "reason", Test("tests/http/basics.rs", "a_denial_says_why_and_the_connection_lives_on")),
    (RULES, "limit", Block("rule limit")),
    (&["rule limit"], "rate", Test("tests/admin/guard.rs", "what_exceeds_a_rules_limit_is_denied_and_recorded")),
    (&["rule limit"], "per", Test("src/verdict/rate.rs", "each_limit_counts_by_its_own_name")),
    // profile
    (&["profile"], "tags", Test(POLICY, CLAIMED)),
    (&["profile"], "logins", Test(POLICY, CLAIMED)),
    (&["profile"], "nodes", Test(POLICY, CLAIMED)),
    (&["profile"], "peers", Test(POLICY, CLAIMED)),
    (&["profile"], "grants", Test(POLICY, CLAIMED)),
    (&["profile"], "endpoints", Test(POLICY, "every_family_reads_the_agents_facts")),
    (&["profile"], "endpoint", Same("endpoint = https.api", "endpoints = [https.api]")),
    (&["profile"], "credentials", Block("profile credentials")),
    (&["profile"], "rule", Block("profile rule")),
    (&["profile"], "environments", Inert("environments = [custom_environment.region]")),
    (&["profile"], "hitl_async_grants", Inert("hitl_async_grants = true")),
    (&["profile"], "allow_ephemeral_oidc", Inert("allow_ephemeral_oidc = true")),
    (&["profile credentials"], "credential", Test(CREDENTIALS, "the_only_credential_is_used_without_a_placeholder_and_never_bare")),
    (&["profile credentials"], "placeholder", Test("tests/gateway/agent.rs", "a_changed_policy_reaches_the_agent_and_leaving_reaches_the_gateway")),
    (&["profile credentials"], "user", Inert("user = \"x\"")),
    (&["profile credentials"], "database", Inert("database = \"x\"")),
];
