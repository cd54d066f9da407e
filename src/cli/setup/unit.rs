//! The systemd units and the account. No I/O. The repository's `tailscale/` has them as examples.

use super::Wanted;
use super::change::{ORDERLY, doing, quoted, undoing};

/// The gateway. No root: the one capability is for the ports of the virtual addresses and DNS.
pub(super) fn gateway(wanted: &Wanted) -> String {
    format!(
        "\
[Unit]
Description=Tailkeep, a firewall for AI agents
Wants=network-online.target
Requires=tailkeep-intercept.service
After=network-online.target tailscaled.service tailkeep-intercept.service

[Service]
Type=exec
User={user}
Group={user}
ExecStart={program} gateway -c {config}
ExecReload=/bin/kill -HUP $MAINPID
# After a crash: the tailnet leads agents to another gateway, if there is one.
ExecStopPost=-{program} tailnet --withdraw -c {config}
Restart=on-failure
RestartSec=2
# Routes are withdrawn and the audit log is flushed before it ends.
TimeoutStopSec=30
StateDirectory=tailkeep
StateDirectoryMode=0700
WorkingDirectory=/var/lib/tailkeep
LimitNOFILE=65536
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
# The WireGuard listener ends TCP in a network namespace of its own, behind a TUN device.
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
RestrictNamespaces=user net
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077

[Install]
WantedBy=multi-user.target
",
        user = wanted.user,
        program = quoted(&wanted.program.to_string_lossy()),
        config = quoted(&wanted.config.to_string_lossy()),
    )
}

/// What turns connections to the gateway, as a service: loaded at each start, before tailscaled.
pub(super) fn intercept(wanted: &Wanted) -> String {
    let lines = |(before, after): (&str, &str), commands: &[Vec<String>]| -> String {
        let line = |command: &Vec<String>| {
            let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
            format!("{before}{}{after}\n", words.join(" "))
        };
        commands.iter().map(line).collect()
    };
    let doing = doing(&wanted.names);
    format!(
        "\
[Unit]
Description=Turns the tailnet's connections to Tailkeep
Before=tailscaled.service tailkeep.service
After=nftables.service
# A firewall that starts anew flushes every table.
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
StartLimitIntervalSec=0

[Service]
Type=exec
Restart=always
RestartSec=200ms
RuntimeDirectory=tailkeep
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=restart
{start}\
# Loads the table anew whenever somebody has flushed it.
ExecStart={program} setup --watch
{reload}\
# Where it was stopped; while one that broke is begun anew, everything stays.
{stop}\
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ReadWritePaths=/run
RestrictAddressFamilies=AF_UNIX AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
",
        program = quoted(&wanted.program.to_string_lossy()),
        start = lines(("ExecStartPre=", ""), &doing),
        reload = lines(("ExecReload=", ""), &doing),
        stop = lines(ORDERLY, &undoing(&wanted.names)),
    )
}

/// The gateway's account, for systemd-sysusers.
pub(super) fn account(user: &str) -> String {
    format!("u {user} - \"Tailkeep gateway\" /var/lib/tailkeep\n")
}
