"""What the agent does, and what came of it: operations, their rate, p50 and p99 where the client says them."""

import glob
import json
import os
import re
import time
from dataclasses import dataclass

import production
from host import processor_us, resident_kib, until
from legs import MANY, Leg


@dataclass
class Done:
    """`unit` is what one operation is."""

    operations: float
    seconds: float
    p50_us: float | None = None
    p99_us: float | None = None
    gateway_us: float | None = None
    extra: dict | None = None

    def row(self) -> dict:
        row = {"rate": self.operations / self.seconds, "p50_us": self.p50_us, "p99_us": self.p99_us}
        if self.gateway_us is not None and self.operations:
            row["gateway_us"] = self.gateway_us / self.operations
        return {key: value for key, value in {**row, **(self.extra or {})}.items() if value is not None}


def measured(leg: Leg, work, seconds: float) -> Done:
    before = processor_us(leg.gateway)
    done = work(leg, seconds)
    if leg.gateway:
        done.gateway_us = processor_us(leg.gateway) - before
    return done


# -- HTTP ------------------------------------------------------------------------------------------

TIMES = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}
AUTHORIZATION = "Authorization: Bearer {{pat}}"


def wrk(leg: Leg, seconds: float, connections: int, url: str, *more: str) -> Done:
    threads = min(2, connections)
    command = ["wrk", "--latency", f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", *more, url]
    text = leg.hosts.run("a", *command, seconds=seconds + 60)
    if "Non-2xx" in text or re.search(r"Socket errors: .*[1-9]", text):
        raise RuntimeError(text[-300:])
    count, time, unit = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text).groups()
    parts = {part: float(number) * TIMES[unit] for part, number, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)", text)}
    return Done(int(count), float(time) * TIMES[unit] / 1e6, parts.get("50"), parts.get("99"))


def get(connections: int):
    return lambda leg, seconds: wrk(leg, seconds, connections, "https://api.bench.test/1k", "-H", AUTHORIZATION)


def paced(leg: Leg, seconds: float) -> Done:
    """At a rate that every leg keeps, what each adds to the time of a request is not the time in a queue: half of what the
    gateway did at most, see `half_load`."""
    log = leg.hosts.folder / "paced.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-c16", "-t1", f"--rps={leg.hosts.half_load / 16}", f"-D{max(1, round(seconds))}", f"--log-file={log}"]
    leg.hosts.run("a", *command, "-H", AUTHORIZATION, "https://api.bench.test/1k", seconds=seconds + 60)
    lines = [line.split() for line in log.read_text().splitlines()]
    if any(line[1] != "200" for line in lines):
        raise RuntimeError("not all were answered by 200")
    times = sorted(int(line[2]) for line in lines)
    return Done(len(times), max(1, round(seconds)), times[len(times) // 2], times[len(times) * 99 // 100])


def half_load(leg: Leg, seconds: float) -> int:
    """Requests a second, of 16 connections."""
    return round(get(16)(leg, seconds).row()["rate"] / 2, -2)


def post(connections: int):
    def work(leg: Leg, seconds: float) -> Done:
        body = json.dumps({"kind": "order", "amount": 7, "lines": [{"item": f"item-{number}", "note": "x" * 40} for number in range(50)]})
        body = body[:-1] + ', "pad": "' + "p" * (4096 - len(body) - 11) + '"}'
        script = leg.hosts.folder / "post.lua"
        script.write_text(f"wrk.method='POST'\nwrk.headers['Content-Type']='application/json'\nwrk.body=[==[{body}]==]\n")
        return wrk(leg, seconds, connections, "https://post.bench.test/post", "-H", AUTHORIZATION, "-s", str(script))

    return work


def reconnect(leg: Leg, seconds: float) -> Done:
    return wrk(leg, seconds, 8, "https://api.bench.test/1k", "-H", AUTHORIZATION, "-H", "Connection: close")


def many_hosts(leg: Leg, seconds: float) -> Done:
    text = leg.hosts.run("a", "python3", "-c", CONNECT, str(seconds), *MANY, seconds=seconds + 60)
    return Done(int(text), seconds)


# A new TLS connection for each request, each to another host.
CONNECT = """
import socket,ssl,sys,time,itertools,threading
context=ssl.create_default_context(); context.check_hostname=False; context.verify_mode=ssl.CERT_NONE
end=time.time()+float(sys.argv[1]); names=sys.argv[2:]; counts=[0]*4
def go(me):
    for name in itertools.cycle(names[me::4]):
        if time.time()>=end: return
        with socket.create_connection((name,443),20) as raw, context.wrap_socket(raw,server_hostname=name) as link:
            link.sendall(b'GET /1k HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n'%name.encode())
            got=b''
            while piece:=link.recv(65536): got+=piece
        if not got.startswith(b'HTTP/1.1 200'): raise SystemExit(got)
        counts[me]+=1
threads=[threading.Thread(target=go,args=(me,)) for me in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(counts))
"""


def bulk(up: bool):
    def work(leg: Leg, seconds: float) -> Done:
        size = leg.hosts.folder / "www" / "100m"
        # Of what is no form: where a rule reads the method, that of a form is held for it.
        way = ["--data-binary", f"@{size}", "-H", "Expect:", "-H", "Content-Type: application/octet-stream", "https://up.bench.test:8443/up"] if up else ["https://api.bench.test/100m", "-H", AUTHORIZATION]
        mib, time = 0, 0.0
        while time < seconds:
            text = leg.hosts.run("a", "curl", "-skf", "-o", "/dev/null", "-w", "%{time_total} %{size_download} %{size_upload}", *way)
            took, down, sent = map(float, text.split())
            if max(down, sent) < 100 << 20:
                raise RuntimeError(f"only {max(down, sent)} bytes")
            mib, time = mib + 100, time + took
        return Done(mib, time)

    return work


def h2(leg: Leg, seconds: float) -> Done:
    command = ["h2load", "-c1", "-m100", "-t1", f"-D{max(1, round(seconds))}", "-H", AUTHORIZATION, "https://api.bench.test/1k"]
    text = leg.hosts.run("a", *command, seconds=seconds + 60)
    count = int(re.search(r"(\d+) succeeded", text).group(1))
    if not count or not re.search(r" 0 failed, 0 errored", text):
        raise RuntimeError(text[-300:])
    return Done(count, max(1, round(seconds)))


# -- Postgres --------------------------------------------------------------------------------------


def pgbench(mode: str, clients: int, *more: str):
    def work(leg: Leg, seconds: float) -> Done:
        prefix = leg.hosts.folder / "pgbench"
        for old in glob.glob(f"{prefix}.*"):
            os.unlink(old)
        command = ["pgbench", "-n", "-S", "-M", mode, "-c", clients, "-j", min(2, clients), "-T", max(1, round(seconds)), *more]
        command += ["-l", f"--log-prefix={prefix}", "-h", "orders.bench.test", "-U", "bench", "postgres"]
        env = {**os.environ, "PGPASSWORD": production.PASSWORD, "PGSSLMODE": "disable"}
        text = leg.hosts.run("a", *command, seconds=seconds + 60, env=env)
        count = int(re.search(r"actually processed: (\d+)", text).group(1))
        times = sorted(int(line.split()[2]) for log in glob.glob(f"{prefix}.*") for line in open(log))
        return Done(count, max(1, round(seconds)), times[len(times) // 2], times[len(times) * 99 // 100])

    return work


# -- bytes that nobody reads ------------------------------------------------------------------------


def raw(streams: int):
    def work(leg: Leg, seconds: float) -> Done:
        command = ["iperf3", "-J", "-c", leg.raw, "-P", streams, "-t", max(1, round(seconds))]
        end = json.loads(leg.hosts.run("a", *command, seconds=seconds + 60))["end"]["sum_received"]
        return Done(end["bytes"] / (1 << 20), end["seconds"])

    return work


# -- memory ----------------------------------------------------------------------------------------


# Seconds that connections were idle for when their memory is looked at: what they are rid of goes within that.
IDLE_FOR = 20


def idle(count: int):
    def work(leg: Leg, seconds: float) -> Done:
        before = resident_kib(leg.gateway)
        holder = leg.hosts.start("a", "python3", "-c", IDLE, str(count), log="idle")
        ready = leg.hosts.folder / "idle.log"
        until("idle connections", lambda: ready.read_text().endswith("held\n") or holder.poll() is not None, 120)
        if holder.poll() is not None:
            raise RuntimeError(ready.read_text()[-400:])
        time.sleep(IDLE_FOR)
        after = resident_kib(leg.gateway)
        leg.hosts.stop(holder)
        ready.unlink()
        extra = {"before_kib": before, "kib_each": (after - before) / count, "held_kib": after} if leg.gateway else {}
        return Done(count, 1, extra=extra)

    return work


IDLE = """
import socket,ssl,sys,time,resource
hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE,(hard,hard))
context=ssl.create_default_context(); context.check_hostname=False; context.verify_mode=ssl.CERT_NONE
held=[]
for _ in range(int(sys.argv[1])):
    link=context.wrap_socket(socket.create_connection(('api.bench.test',443),20),server_hostname='api.bench.test')
    link.sendall(b'GET /1k HTTP/1.1\\r\\nHost: api.bench.test\\r\\nAuthorization: Bearer {{pat}}\\r\\n\\r\\n')
    got=b''
    while len(got.partition(b'\\r\\n\\r\\n')[2])<1024: got+=link.recv(65536)
    held.append(link)
print('held',flush=True); time.sleep(600)
"""

# name: (what it is, the unit of one operation, the work, in the quick set, legs that it is for)
WORK = {
    "get-1": ("GET 1 KiB, 1 connection", "request", get(1), False),
    "get-16": ("GET 1 KiB, 16 connections", "request", get(16), True),
    "get-64": ("GET 1 KiB, 64 connections", "request", get(64), False),
    "paced-16": ("GET 1 KiB at half of the gateway's rate", "request", paced, True),
    "post-16": ("POST 4 KiB JSON, body rule, 16 connections", "request", post(16), True),
    "tls": ("a new TLS connection for each request", "request", reconnect, True),
    "tls-500": ("the same, over 500 hosts", "request", many_hosts, False),
    "down": ("100 MiB down", "MiB", bulk(False), True),
    "up": ("100 MiB up", "MiB", bulk(True), False),
    "h2-100": ("HTTP/2, 100 streams", "request", h2, False),
    "pg-simple-1": ("Postgres simple, 1 client", "transaction", pgbench("simple", 1), False),
    "pg-simple-8": ("Postgres simple, 8 clients", "transaction", pgbench("simple", 8), True),
    "pg-simple-32": ("Postgres simple, 32 clients", "transaction", pgbench("simple", 32), False),
    "pg-extended-8": ("Postgres extended, 8 clients", "transaction", pgbench("extended", 8), False),
    "pg-prepared-8": ("Postgres prepared, 8 clients", "transaction", pgbench("prepared", 8), True),
    "pg-connect": ("Postgres, a connection for each transaction", "transaction", pgbench("simple", 4, "-C"), False),
    "raw-1": ("raw TCP, 1 stream (passthrough)", "MiB", raw(1), True),
    "raw-8": ("raw TCP, 8 streams (passthrough)", "MiB", raw(8), False),
    "idle-1000": ("1,000 idle TLS connections", "connection", idle(1000), True),
    "idle-10000": ("10,000 idle TLS connections", "connection", idle(10000), False),
}

# What the program that is released is built by: all ways of an action that are here.
TRAINS = ["get-16", "post-16", "h2-100", "tls", "down", "up", "pg-simple-8", "pg-extended-8", "pg-prepared-8", "pg-connect", "raw-1"]
