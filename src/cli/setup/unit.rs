//! The systemd units and the account. No I/O. The repository's `tailscale/` has them as examples.

use super::Wanted;
use super::change::{STOP, doing, quoted, undoing};

/// The gateway. No root: the one capability is for the ports of the virtual addresses and DNS.
pub(super) fn gateway(wanted: &Wanted) -> String {
    format!(
        "\
[Unit]
Description=Tailkeep, a firewall for AI agents
Wants=network-online.target
# Stopped before the table is taken away: nothing is led to this machine by then.
Requires=tailkeep-intercept.service
After=network-online.target tailscaled.service tailkeep-intercept.service
# It is begun anew for as long as it takes.
StartLimitIntervalSec=0

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

/// What both services of the table may: root's, and yet no more than the table takes.
const OF_TABLE: &str = "\
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ReadWritePaths=/run
RestrictAddressFamilies=AF_UNIX AF_NETLINK
SystemCallArchitectures=native
";

/// What turns connections to the gateway, as a service: loaded at each start, before tailscaled.
pub(super) fn intercept(wanted: &Wanted) -> String {
    let lines = |before: &str, commands: &[Vec<String>]| -> String {
        let line = |command: &Vec<String>| {
            let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
            format!("{before}{}\n", words.join(" "))
        };
        commands.iter().map(line).collect()
    };
    let doing = doing(&wanted.names);
    format!(
        "\
[Unit]
Description=Turns the tailnet's connections to Tailkeep
Wants=tailkeep-watch.service
Before=tailscaled.service tailkeep.service tailkeep-watch.service
After=nftables.service
# A firewall that starts anew flushes every table.
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
Restart=on-failure
RestartSec=1
RuntimeDirectory=tailkeep
RuntimeDirectoryMode=0755
{start}{reload}{stop}{OF_TABLE}
[Install]
WantedBy=multi-user.target
",
        start = lines("ExecStart=", &doing),
        reload = lines("ExecReload=", &doing),
        stop = lines(STOP, &undoing(&wanted.names)),
    )
}

/// What loads the table anew whenever somebody has flushed it. A service of its own: where it breaks, the table stays and
/// no other is stopped.
pub(super) fn watch(wanted: &Wanted) -> String {
    format!(
        "\
[Unit]
Description=Watches over the table that turns the tailnet's connections to Tailkeep
PartOf=tailkeep-intercept.service
After=tailkeep-intercept.service
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={program} setup --watch
Restart=always
RestartSec=200ms
{OF_TABLE}",
        program = quoted(&wanted.program.to_string_lossy()),
    )
}

/// The gateway's account, for systemd-sysusers.
pub(super) fn account(user: &str) -> String {
    format!("u {user} - \"Tailkeep gateway\" /var/lib/tailkeep\n")
}
