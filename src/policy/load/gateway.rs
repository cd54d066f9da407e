//! `gateway`, `defaults`, and the fields that older files have at the top.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hcl_edit::structure::Body;
use ipnet::IpNet;

use super::super::diagnostic::{At, Diagnostic};
use super::super::hcl::{Fields, Spot};
use super::super::{Gateway, Stack, UnknownHost, Unmatched, Wireguard};
use super::{Loader, Placed};

pub(super) const INERT: &str = "it is part of the grammar, and this gateway does otherwise or not at all";

impl<'a> Loader<'a> {
    pub(super) fn top_level(
        &mut self,
        bodies: &'a [(usize, Body)],
        singles: &HashMap<&str, Vec<Placed<'a>>>,
    ) {
        let unmatched_set = self.defaults(singles.get("defaults").map_or(&[], Vec::as_slice));
        self.gateways(singles.get("gateway").map_or(&[], Vec::as_slice));
        for (file, body) in bodies {
            let place = At {
                file: *file,
                start: 0,
                end: 0,
            };
            let fields = Fields::of_body(self.findings, "the file".to_owned(), place, body);
            self.old_top(&fields);
            // Blocks are looked at one by one, by their kinds.
            let known = |name: &str| body.blocks().any(|block| block.ident.value().as_str() == name);
            fields.finish_but(&known);
        }
        for name in ["env_pushdown", "enrollment", "plugin"] {
            for placed in singles.get(name).into_iter().flatten() {
                let fields = self.fields(*placed);
                self.findings.note(
                    Diagnostic::new(fields.at, format!("{} has no effect here", fields.title)).help(INERT),
                );
            }
        }
        if !unmatched_set {
            let place = At::default();
            let message = "an action that no rule matched is denied";
            let help =
                "`defaults { unmatched = \"allow\" }` lets it pass, as the reference implementation does";
            self.findings.note(Diagnostic::new(place, message).help(help));
        }
        let file = |name: &str| bodies.iter().any(|(_, body)| body.has_attribute(name));
        let block = |name: &str| {
            let all = singles.get("defaults").into_iter().flatten();
            all.into_iter()
                .any(|placed| placed.block.body.has_attribute(name))
        };
        if !file("unknown_host") && !block("unknown_host") {
            let message = "a destination that no endpoint claims is refused";
            let help = "`defaults { unknown_host = \"passthrough\" }` lets it through unread, as the reference \
                        implementation does";
            self.findings
                .note(Diagnostic::new(At::default(), message).help(help));
        }
    }

    fn defaults(&mut self, placed: &[Placed<'a>]) -> bool {
        let mut unmatched = false;
        for placed in placed {
            let fields = self.fields(*placed);
            self.default_fields(&fields);
            if let Some(text) = fields.text("unmatched") {
                unmatched = true;
                match text.value.as_str() {
                    "deny" => self.model.defaults.unmatched = Unmatched::Deny,
                    "allow" => self.model.defaults.unmatched = Unmatched::Allow,
                    _ => self.one_of(&text, "unmatched", "`deny` or `allow`"),
                }
            }
            fields.finish();
        }
        unmatched
    }

    fn default_fields(&mut self, fields: &Fields<'a>) {
        if let Some(text) = fields.text("unknown_host") {
            match text.value.as_str() {
                "deny" => self.model.defaults.unknown_host = UnknownHost::Deny,
                "passthrough" => self.model.defaults.unknown_host = UnknownHost::Passthrough,
                "inspect" => {
                    self.model.defaults.unknown_host = UnknownHost::Deny;
                    let message =
                        "`unknown_host = \"inspect\"` denies here: what no endpoint claims is not read";
                    let help = "write an endpoint for what is to be inspected, and \"deny\" for the rest";
                    self.findings.note(Diagnostic::new(text.at, message).help(help));
                }
                _ => self.one_of(&text, "unknown_host", "`deny` or `passthrough`"),
            }
        }
        if let Some(timeout) = fields.duration("human_timeout") {
            self.model.defaults.human_timeout = timeout;
        }
        for (name, ours) in [("llm_fail_mode", "closed"), ("human_on_timeout", "deny")] {
            if let Some(text) = fields.text(name)
                && text.value != ours
            {
                let message = format!("`{name} = \"{}\"` has no effect here", text.value);
                let help =
                    format!("an approval that fails or times out is always a denial ({name} = \"{ours}\")");
                self.findings.note(Diagnostic::new(text.at, message).help(help));
            }
        }
        fields.inert(&["llm_cache_ttl"], "each action is judged anew");
    }

    pub(super) fn one_of(&self, text: &Spot<String>, name: &str, wanted: &str) {
        let message = format!("`{name}` is {wanted}, not `{}`", text.value);
        self.findings
            .error(Diagnostic::new(text.at, message).help(format!("write {wanted}")));
    }

    fn gateways(&mut self, placed: &[Placed<'a>]) {
        for placed in placed {
            let fields = self.fields(*placed);
            self.gateway_fields(&fields);
            if let Some(listen) = fields.text("enrol_listen") {
                self.model.gateway.enrol_listen = self.address(&listen);
            }
            if let Some(listen) = fields.text("channel_listen") {
                let address = self.address(&listen);
                if address.is_some_and(|address| !address.ip().is_loopback()) {
                    self.one_of(
                        &listen,
                        "channel_listen",
                        "an address of loopback, 127.0.0.1:8090",
                    );
                }
                self.model.gateway.channel_listen = address;
            }
            if let Some(url) = fields.text("page_url") {
                if !url.value.starts_with("https://") && !url.value.starts_with("http://") {
                    self.one_of(&url, "page_url", "a URL, https://…");
                }
                self.model.gateway.page_url = Some(url.value.trim_end_matches('/').to_owned());
            }
            if let Some(cidr) = fields.text("virtual_cidr") {
                self.net(&cidr, true, |gateway| &mut gateway.virtual_v4);
            }
            if let Some(cidr) = fields.text("virtual_cidr6") {
                self.net(&cidr, false, |gateway| &mut gateway.virtual_v6);
            }
            self.model.gateway.reload_guard = fields.duration("reload_guard");
            self.wireguard(&fields);
            self.tailscale(&fields);
            self.audit(&fields);
            self.limits(&fields);
            fields.finish();
        }
    }

    fn gateway_fields(&mut self, fields: &Fields<'a>) {
        if let Some(text) = fields.text("state_dir") {
            self.model.gateway.state_dir = PathBuf::from(text.value);
        }
        if let Some(text) = fields.text("dashboard_listen")
            && let Some(address) = self.address(&text)
        {
            self.model.gateway.admin_listen = address;
        }
        if let Some(text) = fields.text("public_url") {
            if !text.value.starts_with("https://") && !text.value.starts_with("http://") {
                self.one_of(&text, "public_url", "a URL, https://…");
            }
            self.model.gateway.public_url = Some(text.value.trim_end_matches('/').to_owned());
        }
        if let Some(text) = fields.text("resolver") {
            let with_port = match text.value.parse::<IpAddr>() {
                Ok(ip) => Some(SocketAddr::new(ip, 53)),
                Err(_) => self.address(&text),
            };
            self.model.gateway.resolver = with_port;
        }
        if let Some(writes) = fields.flag("dashboard_config_writes") {
            self.model.gateway.config_writes = writes;
        }
        let inert = [
            "log_path",
            "listen",
            "info_listen",
            "admin_email",
            "telemetry",
            "session_keep",
            "ca_dir",
            "dashboard_secret",
            "insecure_no_dashboard_secret",
            "genai_telemetry",
            "control",
            "wg_interface",
            "wg_server_pub",
            "oauth_client_id",
            "oauth_client_secret",
        ];
        fields.inert(&inert, INERT);
    }

    /// What stood at the top of a file before there was a `gateway` block.
    fn old_top(&mut self, fields: &Fields<'a>) {
        self.default_fields(fields);
        self.gateway_fields(fields);
        fields.inert(
            &["authkey", "control_url", "hostname", "tailscale_tags"],
            "write it in gateway { tailscale { … } }",
        );
        if let Some(version) = fields.int("schema_version")
            && version.value != 1
        {
            let message = format!("schema_version {} is not known", version.value);
            self.findings
                .error(Diagnostic::new(version.at, message).help("this gateway reads schema_version = 1"));
        }
        let (cidr, endpoint) = (fields.text("wg_subnet_cidr"), fields.text("wg_endpoint"));
        if cidr.is_none() && endpoint.is_none() {
            return;
        }
        let mut wireguard = self
            .model
            .gateway
            .wireguard
            .take()
            .unwrap_or_else(default_wireguard);
        if let Some(cidr) = cidr {
            match cidr.value.parse::<IpNet>() {
                Ok(net) if net.addr().is_ipv4() => wireguard.subnet_v4 = net,
                _ => self.one_of(&cidr, "wg_subnet_cidr", "an IPv4 range such as 10.55.0.0/24"),
            }
        }
        wireguard.endpoint = endpoint.map(|text| text.value).or(wireguard.endpoint);
        self.model.gateway.wireguard = Some(wireguard);
    }

    /// `ip:port`, or `:port` for every address.
    fn address(&self, text: &Spot<String>) -> Option<SocketAddr> {
        let full = match text.value.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}"),
            None => text.value.replace("localhost:", "127.0.0.1:"),
        };
        let address = full.parse().ok();
        if address.is_none() {
            self.one_of(
                text,
                "the address",
                "an address with a port, such as 127.0.0.1:8080",
            );
        }
        address
    }

    fn net(&mut self, text: &Spot<String>, v4: bool, place: fn(&mut Gateway) -> &mut IpNet) {
        match text.value.parse::<IpNet>() {
            Ok(net) if net.addr().is_ipv4() == v4 => *place(&mut self.model.gateway) = net.trunc(),
            _ => {
                let wanted = if v4 {
                    "an IPv4 range, 10.78.0.0/16"
                } else {
                    "an IPv6 range, fd78::/64"
                };
                self.one_of(text, "the range", wanted);
            }
        }
    }

    fn wireguard(&mut self, gateway: &Fields<'a>) {
        let Some(fields) = gateway.nested("wireguard") else {
            return;
        };
        let mut wireguard = default_wireguard();
        if let Some(listen) = fields.text("listen") {
            match listen.value.parse::<IpAddr>() {
                Ok(ip) => wireguard.listen.set_ip(ip),
                Err(_) => {
                    if let Some(address) = self.address(&listen) {
                        wireguard.listen = address;
                    }
                }
            }
        }
        if let Some(port) = fields
            .size("listen_port", 0..=65_535)
            .and_then(|port| u16::try_from(port).ok())
        {
            wireguard.listen.set_port(port);
        }
        wireguard.endpoint = fields.text("endpoint").map(|text| text.value);
        for (name, v4) in [("subnet_cidr", true), ("subnet_cidr6", false)] {
            let Some(cidr) = fields.text(name) else { continue };
            match cidr.value.parse::<IpNet>() {
                Ok(net) if net.addr().is_ipv4() && v4 => wireguard.subnet_v4 = net,
                Ok(net) if net.addr().is_ipv6() && !v4 => wireguard.subnet_v6 = net,
                _ => self.one_of(
                    &cidr,
                    name,
                    "a range such as 10.55.0.0/24 (subnet_cidr6: fd55::/64)",
                ),
            }
        }
        if let Some(stack) = fields.text("stack") {
            match stack.value.as_str() {
                "auto" => wireguard.stack = Stack::Auto,
                "kernel" => wireguard.stack = Stack::Kernel,
                "userspace" => wireguard.stack = Stack::Userspace,
                _ => self.one_of(&stack, "stack", "`auto`, `kernel` or `userspace`"),
            }
        }
        if let Some(mtu) = fields
            .size("mtu", 1280..=9000)
            .and_then(|mtu| u16::try_from(mtu).ok())
        {
            wireguard.mtu = mtu;
        }
        fields.inert(&["host_loopback_port", "interface"], INERT);
        fields.finish();
        self.model.gateway.wireguard = Some(wireguard);
    }
}

/// What a `wireguard` block means that sets nothing.
fn default_wireguard() -> Wireguard {
    Wireguard {
        listen: SocketAddr::from(([0, 0, 0, 0], 51_820)),
        endpoint: None,
        subnet_v4: IpNet::from(ipnet::Ipv4Net::new_assert([10, 55, 0, 0].into(), 24)),
        subnet_v6: IpNet::from(ipnet::Ipv6Net::new_assert(
            [0xfd55, 0x7461, 0x696c, 0, 0, 0, 0, 0].into(),
            64,
        )),
        stack: Stack::Auto,
        mtu: 1420,
    }
}
