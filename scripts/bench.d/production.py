"""What stands behind the gateway: nginx, a sink for uploads, PostgreSQL with SCRAM, iperf3."""

import os
import subprocess
from pathlib import Path

from host import Hosts, must, until

ADDRESS = Hosts.NETS["p"]
PASSWORD = "of-production"
TOKEN = "of-production-too"
HOSTS = 500

NGINX = """
worker_processes 1; worker_rlimit_nofile 40000; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}-error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 0; sendfile on;
  client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy; fastcgi_temp_path {folder}/{name}-f;
  uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;
  ssl_certificate {folder}/leaf.pem; ssl_certificate_key {folder}/leaf.key; ssl_session_cache shared:bench:4m;
{rest}
}}
"""

SERVED = """
  server {{
    listen {address}:443 ssl http2 backlog=4096; root {folder}/www; default_type application/octet-stream;
    location = /post {{ return 200 "taken"; }}
    http2_max_concurrent_streams 256;
  }}
"""

SINK = """
import http.server,ssl,sys
class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version='HTTP/1.1'
    def do_POST(self):
        left=int(self.headers['content-length'])
        while left:
            piece=self.rfile.read(min(left,1<<18))
            if not piece: return
            left-=len(piece)
        self.send_response(200); self.send_header('content-length','0'); self.end_headers()
    def log_message(self,*_): pass
server=http.server.ThreadingHTTPServer((sys.argv[1],8443),Sink)
context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(sys.argv[2],sys.argv[3])
server.socket=context.wrap_socket(server.socket,server_side=True,do_handshake_on_connect=False)
server.serve_forever()
"""


def certificates(folder: Path):
    quiet = {"check": True, "stderr": subprocess.DEVNULL}
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-days", "2", "-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-subj", "/CN=bench"],
        **quiet,
    )
    subprocess.run(["openssl", "req", *key, "-keyout", folder / "leaf.key", "-out", folder / "leaf.csr", "-subj", "/CN=bench"], **quiet)
    (folder / "san").write_text("subjectAltName=DNS:*.bench.test")
    subprocess.run(
        ["openssl", "x509", "-req", "-in", folder / "leaf.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key"]
        + ["-CAcreateserial", "-days", "2", "-out", folder / "leaf.pem", "-extfile", folder / "san"],
        **quiet,
    )


def nginx(hosts: Hosts, host: str, name: str, rest: str):
    (hosts.folder / f"{name}.conf").write_text(NGINX.format(folder=hosts.folder, name=name, rest=rest))
    return hosts.start(host, "nginx", "-e", str(hosts.folder / f"{name}-error.log"), "-c", str(hosts.folder / f"{name}.conf"), log=name)


class Production:
    def __init__(self, hosts: Hosts):
        self.hosts, folder = hosts, hosts.folder
        certificates(folder)
        www = folder / "www"
        www.mkdir()
        (www / "1k").write_bytes(os.urandom(1024))
        (www / "100m").write_bytes(os.urandom(1 << 20) * 100)
        nginx(hosts, "p", "production", SERVED.format(address=ADDRESS, folder=folder))
        hosts.start("p", "python3", "-c", SINK, ADDRESS, str(folder / "leaf.pem"), str(folder / "leaf.key"), log="sink")
        hosts.start("p", "iperf3", "-s", "-B", ADDRESS, log="iperf3")
        self.database()
        until("nginx", lambda: hosts.run("a", "curl", "-skf", "-o", "/dev/null", f"https://{ADDRESS}/1k") is not None)

    def database(self):
        folder = self.hosts.folder / "pg"
        folder.mkdir()
        (self.hosts.folder / "pgpass").write_text(PASSWORD)
        (self.hosts.folder / "pgpass").chmod(0o644)
        must("chown", "postgres", folder)
        where = sorted(Path("/usr/lib/postgresql").iterdir(), key=lambda path: float(path.name))[-1] / "bin"
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        make = [where / "initdb", "-D", folder, "-U", "bench", f"--pwfile={self.hosts.folder}/pgpass", "-A", "scram-sha-256", "--no-sync"]
        subprocess.run([*user, *make], check=True, stdout=subprocess.DEVNULL)
        (folder / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
        settings = ["fsync=off", f"listen_addresses={ADDRESS}", "unix_socket_directories=", "max_connections=200"]
        options = [part for setting in settings for part in ("-c", setting)]
        self.hosts.start("p", *user, str(where / "postgres"), "-D", str(folder), *options, log="postgres")
        load = ["pgbench", "-i", "-s", "10", "-q", "-h", ADDRESS, "-U", "bench", "postgres"]
        env = {**os.environ, "PGPASSWORD": PASSWORD}
        until("PostgreSQL", lambda: self.hosts.run("a", *load, env=env) is not None)
