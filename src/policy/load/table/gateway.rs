//! The fields of the gateway's own blocks, and of the top of older files. *Pure.*

use super::{Field, Shape, Table};

/// Blocks without labels of their own, and those that are read for their note alone.
pub(super) static SINGLES: &[(&str, &Table)] = &[
    ("gateway", &GATEWAY),
    ("defaults", &DEFAULTS),
    ("env_pushdown", &NOTED),
    ("enrollment", &NOTED),
    ("plugin", &NOTED),
];

static NOTED: Table = Table {
    doc: "Part of the grammar, without effect here.",
    groups: &[],
};

const OTHERWISE: &str = "It is part of the grammar, and this gateway does otherwise or not at all.";
const NESTED: &str = "Write it in gateway { tailscale { … } }.";

const OWN: &[Field] = &[
    Field::new(
        "state_dir",
        Shape::Text,
        "The folder of the gateway's database, keys and audit log.",
    ),
    Field::new(
        "dashboard_listen",
        Shape::Text,
        "Where the admin page listens, 127.0.0.1:8080.",
    ),
    Field::new(
        "dashboard_config_writes",
        Shape::Flag,
        "Whether operators may write policy files by the admin page; false by default, as they may be kept elsewhere.",
    ),
    Field::new(
        "public_url",
        Shape::Text,
        "The URL at which machines reach the gateway to enrol.",
    ),
    Field::new(
        "resolver",
        Shape::Text,
        "The DNS server that upstream names are asked of.",
    ),
    Field::inert("log_path", OTHERWISE),
    Field::inert("listen", OTHERWISE),
    Field::inert("info_listen", OTHERWISE),
    Field::inert("admin_email", OTHERWISE),
    Field::inert("telemetry", OTHERWISE),
    Field::inert("session_keep", OTHERWISE),
    Field::inert("ca_dir", OTHERWISE),
    Field::inert("dashboard_secret", OTHERWISE),
    Field::inert("insecure_no_dashboard_secret", OTHERWISE),
    Field::inert("genai_telemetry", OTHERWISE),
    Field::inert("control", OTHERWISE),
    Field::inert("wg_interface", OTHERWISE),
    Field::inert("wg_server_pub", OTHERWISE),
    Field::inert("oauth_client_id", OTHERWISE),
    Field::inert("oauth_client_secret", OTHERWISE),
];

const DEFAULT: &[Field] = &[
    Field::new(
        "unknown_host",
        Shape::OneOf(&["deny", "passthrough"]),
        "What a destination gets that no endpoint claims; deny by default. UDP is refused whatever it says.",
    ),
    Field::new(
        "human_timeout",
        Shape::Time,
        "How long people are waited for, where the approver says nothing.",
    ),
    Field::new(
        "llm_fail_mode",
        Shape::OneOf(&["closed"]),
        "A judge that fails never allows.",
    ),
    Field::new(
        "human_on_timeout",
        Shape::OneOf(&["deny"]),
        "A question that times out is a denial.",
    ),
    Field::inert("llm_cache_ttl", "The approver's own `cache` says it."),
];

pub(super) static FILE: Table = Table {
    doc: "The top of a file.",
    groups: &[
        OWN,
        DEFAULT,
        &[
            Field::new("schema_version", Shape::Whole, "The grammar's version, 1."),
            Field::new(
                "wg_subnet_cidr",
                Shape::Text,
                "The range of the WireGuard peers; gateway { wireguard { subnet_cidr } } in newer files.",
            ),
            Field::new(
                "wg_endpoint",
                Shape::Text,
                "Where peers reach the listener; gateway { wireguard { endpoint } } in newer files.",
            ),
            Field::inert("authkey", NESTED),
            Field::inert("control_url", NESTED),
            Field::inert("hostname", NESTED),
            Field::inert("tailscale_tags", NESTED),
        ],
    ],
};

pub(super) static DEFAULTS: Table = Table {
    doc: "What happens where nothing else says.",
    groups: &[
        DEFAULT,
        &[Field::new(
            "unmatched",
            Shape::OneOf(&["deny", "allow"]),
            "What an action gets that no rule matched; deny by default.",
        )],
    ],
};

static GATEWAY: Table = Table {
    doc: "The gateway itself: where it listens, what it keeps, its limits.",
    groups: &[
        OWN,
        &[
            Field::new(
                "enrol_listen",
                Shape::Text,
                "Where machines enrol, apart from the admin page.",
            ),
            Field::new(
                "channel_listen",
                Shape::Text,
                "Where decisions come back from channels, on loopback: what is public stands before it.",
            ),
            Field::new(
                "page_url",
                Shape::Text,
                "The URL at which people open the admin page, for links to it.",
            ),
            Field::new(
                "virtual_cidr",
                Shape::Text,
                "The IPv4 range of the endpoints' virtual addresses.",
            ),
            Field::new(
                "virtual_cidr6",
                Shape::Text,
                "The IPv6 range of the endpoints' virtual addresses.",
            ),
            Field::new(
                "reload_guard",
                Shape::Time,
                "Hold a reload back that would change a verdict on what this long a time recorded.",
            ),
            Field::new("wireguard", Shape::Block(&WIREGUARD), "The WireGuard listener."),
            Field::new(
                "tailscale",
                Shape::Block(&TAILSCALE),
                "The tailnet that the gateway is a node of.",
            ),
            Field::new("audit", Shape::Block(&AUDIT), "How long the audit log is kept."),
            Field::new(
                "limits",
                Shape::Block(&LIMITS),
                "Sizes and times that bound what agents can make the gateway hold.",
            ),
        ],
    ],
};

pub(super) static WIREGUARD: Table = Table {
    doc: "The WireGuard listener.",
    groups: &[&[
        Field::new(
            "listen",
            Shape::Text,
            "The UDP address that it listens on; 0.0.0.0:51820 by default.",
        ),
        Field::new("listen_port", Shape::Whole, "The UDP port that it listens on."),
        Field::new("endpoint", Shape::Text, "Where peers reach it, `host:port`."),
        Field::new(
            "subnet_cidr",
            Shape::Text,
            "The IPv4 range of the peers; 10.55.0.0/24 by default.",
        ),
        Field::new("subnet_cidr6", Shape::Text, "The IPv6 range of the peers."),
        Field::new(
            "stack",
            Shape::OneOf(&["auto", "kernel", "userspace"]),
            "Which TCP ends the agents' connections.",
        ),
        Field::new("mtu", Shape::Whole, "The tunnel's MTU in bytes, 1280 to 9000."),
        Field::inert("host_loopback_port", OTHERWISE),
        Field::inert("interface", OTHERWISE),
    ]],
};

static TAILSCALE: Table = Table {
    doc: "The tailnet that the gateway is a node of.",
    groups: &[&[
        Field::new(
            "socket",
            Shape::Text,
            "The LocalAPI socket of the tailscaled beside the gateway.",
        ),
        Field::new("authkey", Shape::Text, "The key that joins the tailnet."),
        Field::new(
            "control_url",
            Shape::Text,
            "The control server; Tailscale's own if not given.",
        ),
        Field::new("hostname", Shape::Text, "The node's name."),
        Field::new("tags", Shape::Texts, "The node's tags, `tag:gateway`."),
        Field::new(
            "redirect_port",
            Shape::Whole,
            "The port to which `tailkeep setup` turns real addresses.",
        ),
        Field::new(
            "routes",
            Shape::Texts,
            "Subnet routes to advertise; by default those that the endpoints' addresses need.",
        ),
        Field::new(
            "via",
            Shape::Block(&VIA),
            "A site's range that is reached as 4via6.",
        ),
        Field::new(
            "operators",
            Shape::Texts,
            "Who reaches the admin page on the tailnet: logins, `*@domain`, `grant:NAME`.",
        ),
        Field::new(
            "oauth_client_secret",
            Shape::Text,
            "The OAuth client's secret, by which the gateway makes itself a key; needs tags.",
        ),
        Field::inert("oauth_client_id", "The client's secret says which client it is."),
        Field::inert(
            "state_dir",
            "The node's state lies in `tailscale` of the gateway's state_dir, or where the tailscaled behind `socket` has it.",
        ),
    ]],
};

static VIA: Table = Table {
    doc: "A site's range that is reached as 4via6.",
    groups: &[&[
        Field::new("site", Shape::Whole, "The site's number, 0 to 65535."),
        Field::new("cidr", Shape::Text, "The site's IPv4 range."),
    ]],
};

static AUDIT: Table = Table {
    doc: "How long the audit log is kept.",
    groups: &[&[
        Field::new(
            "keep_days",
            Shape::Whole,
            "Days that records are kept; 0: for ever.",
        ),
        Field::new("bytes_max", Shape::Whole, "Bytes that the log may take; 0: any."),
    ]],
};

static LIMITS: Table = Table {
    doc: "Sizes and times that bound what agents can make the gateway hold.",
    groups: &[&[
        Field::new(
            "body_bytes_max",
            Shape::Whole,
            "Bytes of a body that are held to be judged.",
        ),
        Field::new(
            "decoded_bytes_max",
            Shape::Whole,
            "Bytes that a compressed body may become.",
        ),
        Field::new("statement_bytes_max", Shape::Whole, "Bytes of an SQL statement."),
        Field::new(
            "message_bytes_max",
            Shape::Whole,
            "Bytes of a Postgres message that is held.",
        ),
        Field::new(
            "connections_max",
            Shape::Whole,
            "Connections of one agent at a time.",
        ),
        Field::new("connect_ms", Shape::Whole, "Milliseconds that a dial may take."),
        Field::new(
            "handshake_ms",
            Shape::Whole,
            "Milliseconds that a handshake may take.",
        ),
        Field::new(
            "idle_s",
            Shape::Whole,
            "Seconds after which a connection without traffic ends.",
        ),
    ]],
};
