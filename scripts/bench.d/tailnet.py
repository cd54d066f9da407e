"""The tailnet ways: tailscaled at the agent and at the gateway, by the control server of `tailscale/fixture`."""

import json
import shutil
import subprocess
from pathlib import Path

import production
from host import must, until
from legs import GATEWAY, Leg, Tailkeep

PROGRAMS = Path("target/tailnet").resolve()
PRODUCTION = production.ADDRESS.rsplit(".", 1)[0] + ".0/24"
VIRTUAL = ["10.78.0.0/16", "fd7a:7461:696c:78::/64"]
GRANTS = {
    "tagOwners": {"tag:gateway": [], "tag:agent": []},
    "autoApprovers": {"routes": {route: ["tag:gateway"] for route in [PRODUCTION, *VIRTUAL]}},
    "grants": [
        {"src": ["tag:agent"], "dst": [PRODUCTION, *VIRTUAL], "ip": ["tcp:*"]},
        {"src": ["tag:agent"], "dst": ["tag:gateway"], "ip": ["tcp:80", "tcp:443", "tcp:53", "udp:53"]},
    ],
}


class Tailnet(Leg):
    """What both have: a control server, whose cost nobody counts, and a tailscaled with a network device on each host."""

    def tailnet(self, *gateway: str):
        """`gateway` is what its `tailscale up` is told beside."""
        folder = self.hosts.folder
        self.control = folder / f"control-{self.name}.sock"
        self.control.unlink(missing_ok=True)
        (folder / "tailnet.hujson").write_text(json.dumps(GRANTS))
        server = [PROGRAMS / "control", "-ip", GATEWAY, "-relay-port", "8444", "-admin", self.control]
        self.agent.append(self.hosts.start("g", *server, "-policy", folder / "tailnet.hujson", log="control"))
        until("the control server", lambda: self.ask("GET", "nodes"))
        self.gateway.append(self.node("g", "tag:gateway", *gateway))
        self.agent.append(self.node("a", "tag:agent", "--accept-routes"))

    def ask(self, method: str, path: str) -> str:
        command = ["curl", "-sf", "--unix-socket", self.control, "-X", method, f"http://control/{path}"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout

    def socket(self, host: str) -> Path:
        return self.hosts.folder / f"tailscaled-{self.name}-{host}" / "tailscaled.sock"

    def node(self, host: str, tag: str, *more: str) -> subprocess.Popen:
        """A tailscaled that has joined; its state is of this leg alone."""
        socket = self.socket(host)
        shutil.rmtree(socket.parent, ignore_errors=True)
        socket.parent.mkdir()
        daemon = [PROGRAMS / "tailscaled", "--no-logs-no-support", f"--statedir={socket.parent}", f"--socket={socket}", "--tun=tailscale0"]
        env = {"TS_DEBUG_FIREWALL_MODE": "nftables"}
        process = self.hosts.start(host, *map(str, daemon), log=f"tailscaled-{host}", env=env)
        until("tailscaled", socket.exists)
        up = ["--login-server", f"http://{GATEWAY}:8080", "--auth-key", self.ask("POST", "keys?tags="), "--hostname", tag[4:]]
        self.tailscale(host, "up", *up, "--advertise-tags", tag, "--accept-dns=false", *more)
        return process

    def tailscale(self, host: str, *command: str) -> str:
        return self.hosts.run(host, str(PROGRAMS / "tailscale"), f"--socket={self.socket(host)}", *command)

    def until_direct(self):
        """The way through the relay is nobody's way for long."""
        address = self.tailscale("g", "ip", "-4").strip()
        until("a direct path", lambda: " via DERP" not in self.tailscale("a", "ping", "-c", "1", address).splitlines()[-1])


class Subnet(Tailnet):
    """A plain subnet router: tailscaled ends the tunnel, the kernel forwards and puts its own address."""

    name = "subnet"

    def start(self):
        self.tailnet(f"--advertise-routes={PRODUCTION}")
        self.everything_at(production.ADDRESS)
        self.until_reached(f"https://{production.ADDRESS}/1k", "--interface", "tailscale0")
        self.until_direct()


class OfTailnet(Tailnet, Tailkeep):
    """The gateway attached to that tailscaled, by names: both together are what it costs."""

    name = "tailkeep-tailnet"

    def does(self, work: str) -> bool:
        # It advertises names alone here, and passes nothing through.
        return not work.startswith("raw")

    def start(self):
        self.virtual("replace")
        self.tailnet()
        self.run_gateway(f'tailscale {{ socket = "{self.socket("g")}" }}', 'tags = ["tag:agent"]')
        server = self.tailscale("g", "ip", "-4").strip()
        until("names", lambda: self.names_by(server) or True)
        self.until_reached("https://api.bench.test/1k")
        self.until_direct()

    def stop(self):
        super().stop()
        self.virtual("del")

    def virtual(self, change: str):
        """The gateway's own names end on its host."""
        for family, route in zip(("-4", "-6"), VIRTUAL):
            must("ip", family, "-n", self.hosts.names["g"], "route", change, "local", route, "dev", "lo")
