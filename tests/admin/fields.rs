//! Every field of the `gateway` and `defaults` blocks has a test that fails if it is ignored.
//!
//! The fields are read from the structs themselves, so that a new one without a test fails here.

use std::path::Path;

/// Structs whose fields are a configuration's, and where they stand.
const STRUCTS: &[(&str, &str)] = &[
    ("Gateway", "src/policy/model.rs"),
    ("Wireguard", "src/policy/model.rs"),
    ("Tailscale", "src/policy/model/tailscale.rs"),
    ("Limits", "src/policy/model.rs"),
    ("Defaults", "src/policy/model.rs"),
    ("Retention", "src/audit/mod.rs"),
];

/// A field, and the test of what it does: its file and its name. Fields that are blocks of their
/// own name their struct.
const TESTS: &[(&str, &str, &str)] = &[
    (
        "Gateway.state_dir",
        "tests/admin/gateway.rs",
        "held_actions_survive_a_restart",
    ),
    (
        "Gateway.admin_listen",
        "tests/admin/gateway.rs",
        "an_unsafe_start_is_refused",
    ),
    (
        "Gateway.enrol_listen",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Gateway.public_url",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    ("Gateway.wireguard", "struct", "Wireguard"),
    ("Gateway.tailscale", "struct", "Tailscale"),
    (
        "Gateway.virtual_v4",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Gateway.virtual_v6",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Gateway.resolver",
        "src/upstream/dial/tests.rs",
        "a_wildcard_name_that_resolves_to_a_closed_address_is_not_dialled",
    ),
    ("Gateway.audit", "struct", "Retention"),
    ("Gateway.limits", "struct", "Limits"),
    (
        "Wireguard.listen",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Wireguard.endpoint",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Wireguard.subnet_v4",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Wireguard.subnet_v6",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Wireguard.stack",
        "tests/admin/gateway.rs",
        "the_stack_is_the_one_that_is_asked_for",
    ),
    (
        "Wireguard.mtu",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Limits.body_bytes_max",
        "tests/http/streams.rs",
        "a_body_over_the_limit_cannot_be_judged_and_one_that_nobody_reads_passes",
    ),
    (
        "Limits.decoded_bytes_max",
        "tests/http/limits.rs",
        "a_body_that_decodes_to_more_than_the_limit_cannot_be_judged",
    ),
    (
        "Limits.statement_bytes_max",
        "tests/postgres/starts.rs",
        "packets_out_of_bounds_and_late_ones_are_refused",
    ),
    (
        "Limits.message_bytes_max",
        "tests/postgres/starts.rs",
        "packets_out_of_bounds_and_late_ones_are_refused",
    ),
    (
        "Limits.connections_max",
        "tests/admin/tunnel.rs",
        "the_tunnel_is_as_the_configuration_says",
    ),
    (
        "Limits.connect_ms",
        "tests/http/upstreams.rs",
        "an_upstream_that_is_away_is_502_and_one_that_is_slow_504",
    ),
    (
        "Limits.handshake_ms",
        "tests/http/limits.rs",
        "who_says_nothing_or_half_a_head_is_cut_off",
    ),
    (
        "Limits.idle_s",
        "tests/http/limits.rs",
        "an_idle_connection_is_closed_and_a_waiting_one_is_not",
    ),
    (
        "Defaults.unmatched",
        "tests/state/hiding.rs",
        "defaults_decide_where_nothing_else_does",
    ),
    (
        "Defaults.unknown_host",
        "tests/state/hiding.rs",
        "defaults_decide_where_nothing_else_does",
    ),
    (
        "Defaults.human_timeout",
        "tests/state/hiding.rs",
        "defaults_decide_where_nothing_else_does",
    ),
    (
        "Retention.keep_days",
        "tests/admin/gateway.rs",
        "the_retention_is_that_of_the_policy_in_force",
    ),
    (
        "Retention.bytes_max",
        "tests/admin/gateway.rs",
        "the_retention_is_that_of_the_policy_in_force",
    ),
];

/// Structs that another ingress reads, whose own tests are in a folder of their own.
const ELSEWHERE: &[(&str, &str)] = &[("Tailscale", "tests/tailnet")];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The public fields of a struct, from its source.
fn fields(name: &str, path: &str) -> Vec<String> {
    let source = read(path);
    let start = source.find(&format!("pub struct {name} {{")).expect("the struct");
    let body = &source[start..];
    let body = &body[..body.find("\n}").unwrap()];
    let fields = body
        .lines()
        .filter_map(|line| line.strip_prefix("    pub ")?.split(':').next());
    fields.map(|field| format!("{name}.{field}")).collect()
}

#[test]
fn each_field_has_a_test_of_what_it_does() {
    let mut known: Vec<String> = Vec::new();
    for (name, path) in STRUCTS {
        let fields = fields(name, path);
        assert!(!fields.is_empty(), "{name}");
        if ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == name) {
            continue;
        }
        known.extend(fields);
    }
    for field in &known {
        assert!(
            TESTS.iter().any(|(name, ..)| name == field),
            "{field} has no test of what it does"
        );
    }
    for (field, file, test) in TESTS {
        assert!(
            known.iter().any(|name| name == field),
            "{field} is no field any more"
        );
        if *file == "struct" {
            assert!(STRUCTS.iter().any(|(name, _)| name == test), "{test}");
            continue;
        }
        let source = read(file);
        let at = source
            .find(&format!("fn {test}("))
            .unwrap_or_else(|| panic!("{file} has no test {test}"));
        let before = &source[..at];
        let attribute = before
            .trim_end()
            .rsplit('\n')
            .nth(usize::from(before.trim_end().ends_with("async")));
        assert!(
            before.contains("test") && attribute.is_some(),
            "{test} of {file} is no test"
        );
    }
}
