# How the gateway runs, and what holds for everyone. Read together with the other files here.

schema_version = 1

gateway {
  state_dir        = ".tailkeep"
  dashboard_listen = "127.0.0.1:8737"

  # Where `tailkeep join` reaches this machine.
  enrol_listen = "0.0.0.0:8738"
  public_url   = "https://gateway.example.com:8738"

  wireguard {
    subnet_cidr = "10.55.0.0/24"
    listen_port = 51820
    endpoint    = "gateway.example.com:51820"
  }

  # On a tailnet, with a tailscaled of its own (the package `tailscale`): no root, and a person logs it in by the
  # link that it shows. `socket = "/run/tailscale/tailscaled.sock"` instead attaches to the one beside it.
  # tailscale {
  #   hostname = "gateway"
  #   tags     = ["tag:gateway"]
  # }

  limits {
    body_bytes_max = 1048576
  }

  # The oldest audit records go first; the chain of hashes stays whole. 0 is no limit.
  audit {
    keep_days = 365
    bytes_max = 17179869184
  }
}

defaults {
  # What no rule matched is denied, and so is what no endpoint claims. "passthrough" is for TCP: UDP is
  # refused whatever stands here, so that QUIC falls back at once.
  unmatched     = "deny"
  unknown_host  = "deny"
  human_timeout = 600
}
