"""The ways from the agent to production, of which one stands at a time."""

import json
import subprocess
import tempfile
from pathlib import Path

import production
from host import Hosts, must, until

GATEWAY = Hosts.NETS["a"][:-1] + "1"
NAMES = ["api.bench.test", "post.bench.test", "up.bench.test", "orders.bench.test"]
MANY = [f"h{number}.bench.test" for number in range(production.HOSTS)]


class Leg:
    """No gateway: the kernel of the host between forwards."""

    name = "direct"

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        # What stands for the gateway: its cost is what is measured.
        self.gateway: list[subprocess.Popen] = []
        self.agent: list[subprocess.Popen] = []
        self.raw = production.ADDRESS
        self.start()

    def start(self):
        self.everything_at(production.ADDRESS)

    def does(self, work: str) -> bool:
        """Whether this way can be asked that."""
        return True

    def everything_at(self, address: str):
        self.hosts.resolve(dict.fromkeys(NAMES + MANY, address))

    def until_reached(self, url: str, *more: str):
        command = ["curl", "-skf", "-m", "2", "-o", "/dev/null", *more, url]
        until(url, lambda: self.hosts.run("a", *command) is not None)

    def stop(self):
        self.hosts.stop(*self.agent, *self.gateway)

    # -- WireGuard by wireguard-go, the agent's in every leg --------------------------------------

    def wireguard(self, host: str, device: str) -> subprocess.Popen:
        process = self.hosts.start(host, "wireguard-go", "-f", device, log=f"wg-{device}")
        until(device, lambda: self.hosts.run(host, "wg", "show", device) is not None)
        return process

    def agent_tunnel(self, addresses: list[str], gateway_key: str, key_file: Path):
        self.agent.append(self.wireguard("a", "wga"))
        peer = ["peer", gateway_key, "endpoint", f"{GATEWAY}:51820", "allowed-ips", "0.0.0.0/0,::/0"]
        self.hosts.run("a", "wg", "set", "wga", "private-key", str(key_file), *peer)
        space = self.hosts.names["a"]
        for address in addresses:
            must("ip", "-n", space, "addr", "add", address, "dev", "wga")
        must("ip", "-n", space, "link", "set", "wga", "mtu", "1420", "up")
        for net in ("10.230.2.0/24", "10.99.0.0/24", "10.55.0.0/24", "10.78.0.0/16"):
            must("ip", "-n", space, "route", "add", net, "dev", "wga")

    def keys(self, who: str) -> tuple[Path, str]:
        file = self.hosts.folder / f"{who}.key"
        private = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout
        file.write_text(private)
        return file, subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout.strip()


class Tunnel(Leg):
    """wireguard-go ends the tunnel, the kernel forwards."""

    name = "tunnel"

    def start(self):
        self.tunnel()
        self.everything_at(production.ADDRESS)

    def tunnel(self):
        own, own_public = self.keys("gateway")
        agent, agent_public = self.keys("agent")
        self.gateway.append(self.wireguard("g", "wgg"))
        self.hosts.run(
            "g", "wg", "set", "wgg", "private-key", str(own), "listen-port", "51820", "peer", agent_public, "allowed-ips", "10.99.0.2/32"
        )
        space = self.hosts.names["g"]
        must("ip", "-n", space, "addr", "add", "10.99.0.1/24", "dev", "wgg")
        must("ip", "-n", space, "link", "set", "wgg", "mtu", "1420", "up")
        self.agent_tunnel(["10.99.0.2/32"], own_public, agent)
        self.until_reached(f"https://{production.ADDRESS}/1k")


PROXY = """
  upstream production {{ server {address}:443; keepalive 64; keepalive_requests 100000000; }}
  upstream sink {{ server {address}:8443; keepalive 8; }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header Authorization "Bearer {token}";
  proxy_ssl_server_name on; proxy_ssl_name $host; proxy_ssl_verify on; proxy_ssl_trusted_certificate {folder}/ca.pem;
  proxy_request_buffering off; proxy_buffering on; proxy_max_temp_file_size 0;
  server {{ listen 10.99.0.1:443 ssl http2 backlog=4096; http2_max_concurrent_streams 256; location / {{ proxy_pass https://production; }} }}
  server {{ listen 10.99.0.1:8443 ssl; location / {{ proxy_pass https://sink; }} }}
"""

BOUNCER = """[databases]
postgres = host={address} port=5432 user=bench password={password}
[pgbouncer]
listen_addr = 10.99.0.1
listen_port = 5432
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = session
default_pool_size = 64
max_client_conn = 200
unix_socket_dir =
"""


class Proxy(Tunnel):
    """The same tunnel; nginx ends and opens TLS anew, pgbouncer relays sessions. Neither judges nor records."""

    name = "proxy"

    def start(self):
        self.tunnel()
        folder = self.hosts.folder
        rest = PROXY.format(address=production.ADDRESS, folder=folder, token=production.TOKEN)
        self.gateway.append(production.nginx(self.hosts, "g", "proxy", rest))
        (folder / "users").write_text(f'"bench" "{production.PASSWORD}"\n')
        (folder / "bouncer.ini").write_text(BOUNCER.format(address=production.ADDRESS, password=production.PASSWORD, folder=folder))
        must("chmod", "644", folder / "users", folder / "bouncer.ini")
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        self.gateway.append(self.hosts.start("g", *user, "pgbouncer", str(folder / "bouncer.ini"), log="pgbouncer"))
        self.everything_at("10.99.0.1")


POLICY = """
gateway {{
  state_dir        = "{state}"
  dashboard_listen = "127.0.0.1:8737"
  {ingress}
}}
defaults {{ unknown_host = "passthrough" }}
endpoint "https" "api" {{
  hosts    = ["api.bench.test"]
  upstream = "{production}:443"
  ca_cert  = file("{folder}/ca.pem")
}}
endpoint "https" "many" {{
  hosts    = [{many}]
  upstream = "{production}:443"
  ca_cert  = file("{folder}/ca.pem")
}}
endpoint "https" "post" {{
  hosts    = ["post.bench.test"]
  upstream = "{production}:443"
  ca_cert  = file("{folder}/ca.pem")
}}
endpoint "https" "up" {{
  hosts    = ["up.bench.test:8443"]
  upstream = "{production}:8443"
  ca_cert  = file("{folder}/ca.pem")
}}
endpoint "postgres" "orders" {{
  host     = "orders.bench.test:5432"
  upstream = "{production}:5432"
  sslmode  = "disable"
}}
credential "bearer_token" "pat" {{
  endpoints = [https.api, https.post]
  secret    = env("BENCH_TOKEN")
}}
credential "postgres_credential" "orders" {{
  endpoint = postgres.orders
  user     = "bench"
  secret   = env("BENCH_PASSWORD")
}}
profile "agent" {{
  {who}
  endpoints   = [https.many, https.up]
  credentials = [bearer_token.pat, postgres_credential.orders]
{rules}
}}
"""


def rules(count: int) -> str:
    """`count` rules an endpoint, of which the last matches."""

    def rule(name: str, endpoint: str, condition: str, verdict: str) -> str:
        text = f'rule "{name}" {{\n endpoint = {endpoint}\n condition = "{condition}"\n verdict = "{verdict}"\n}}\n'
        return text

    out = []
    for number in range(count - 1):
        out.append(rule(f"api-{number}", "https.api", f"http.method == 'DELETE' && http.path.startsWith('/a{number}/')", "deny"))
        out.append(rule(f"post-{number}", "https.post", f"http.method == 'POST' && http.body_json.kind == 'k{number}'", "deny"))
        out.append(rule(f"sql-{number}", "postgres.orders", f"'drop' in sql.verbs || 't{number}' in sql.tables", "deny"))
    out.append(rule("api", "https.api", "http.method == 'GET'", "allow"))
    out.append(rule("many", "https.many", "http.method == 'GET'", "allow"))
    out.append(rule("post", "https.post", "http.body_json.amount < 100", "allow"))
    out.append(rule("up", "https.up", "http.method == 'POST'", "allow"))
    out.append(rule("sql", "postgres.orders", "sql.verbs.all(v, v in ['select', 'set', 'show'])", "allow"))
    return "".join(out)


class Bare(Tunnel):
    """The gateway's own libraries and tunnel, TLS in and TLS out over HTTP/1.1, and nothing else (`examples/bare.rs`)."""

    name = "bare"

    def does(self, work: str) -> bool:
        return work in {"get-1", "get-16", "get-64", "paced-16", "post-16", "tls", "down"}

    def start(self):
        own, own_public = self.keys("gateway")
        agent, agent_public = self.keys("agent")
        folder, address = self.hosts.folder, "10.99.0.2"
        program = self.hosts.program.parent / "examples" / "bare"
        tls = [folder / "leaf.pem", folder / "leaf.key", folder / "ca.pem"]
        command = [program, f"{GATEWAY}:51820", own, agent_public, address, f"{production.ADDRESS}:443", *tls, production.TOKEN]
        self.gateway.append(self.hosts.start("g", *command, log="bare"))
        self.agent_tunnel([f"{address}/32"], own_public, agent)
        self.everything_at(production.ADDRESS)
        self.until_reached(f"https://{production.ADDRESS}/1k")


class Tailkeep(Leg):
    """The gateway: ten rules an endpoint, credentials swapped, a durable audit log."""

    name = "tailkeep"
    stack = "auto"
    rules = 10

    def start(self):
        ingress = f'wireguard {{\n listen = "{GATEWAY}"\n endpoint = "{GATEWAY}:51820"\n stack = "{self.stack}"\n }}'
        program, socket = self.run_gateway(ingress, 'peers = ["agent"]')
        key, public = self.keys("agent")
        command = [program, "peers", "add", "agent", "--public-key", public, "--format", "json", "--socket", socket]
        added = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        self.agent_tunnel([f"{added['address_v4']}/32"], added["gateway_public_key"], key)
        self.names_by(added["dns"][0])

    def names_by(self, server: str):
        """The agent takes names for what the gateway says."""
        asked = self.hosts.run("a", "python3", "-c", ASK, server, *NAMES, *MANY)
        self.hosts.resolve(dict(line.split() for line in asked.splitlines()))

    def run_gateway(self, ingress: str, who: str) -> tuple[Path, Path]:
        """Starts it; the program, and its admin socket."""
        folder = self.hosts.folder
        # A short path: the admin socket is in it.
        self.state = Path(tempfile.mkdtemp(dir=self.hosts.state)) / "s"
        policy = folder / f"policy-{self.name}.hcl"
        many = ", ".join(f'"{name}"' for name in MANY)
        policy.write_text(
            POLICY.format(
                state=self.state, ingress=ingress, who=who, production=production.ADDRESS, folder=folder, many=many,
                rules=rules(self.rules),
            )
        )
        program = self.hosts.program
        env = {"BENCH_TOKEN": production.TOKEN, "BENCH_PASSWORD": production.PASSWORD, "RUST_LOG": "warn"}
        process = self.hosts.start("g", str(program), "gateway", "-c", str(policy), log=f"gateway-{self.name}", env=env)
        self.gateway.append(process)
        socket = self.state / "admin.sock"
        until("the gateway", lambda: socket.exists() or process.poll() is not None, 60)
        return program, socket


class Userspace(Tailkeep):
    """The same over the userspace TCP."""

    name = "tailkeep-userspace"
    stack = "userspace"


# Asks a name server for the IPv4 address of each name.
ASK = """
import socket,struct,sys
server,names=sys.argv[1],sys.argv[2:]
link=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); link.settimeout(2); link.connect((server,53))
for number,name in enumerate(names):
    question=struct.pack('>6H',number,0x100,1,0,0,0)+b''.join(bytes([len(l)])+l.encode() for l in name.split('.'))+b'\\0\\0\\1\\0\\1'
    for _ in range(10):
        link.send(question)
        try: answer=link.recv(512)
        except TimeoutError: continue
        if answer[:2]==question[:2] and len(answer)>len(question): break
    else: sys.exit('no answer for '+name)
    print(name,socket.inet_ntoa(answer[-4:]))
"""
