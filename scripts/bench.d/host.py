"""Network namespaces, processes in them, and what processes cost."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Hosts:
    """Three hosts: the agent, the gateway between, production. Everything ends with `close`."""

    NETS = {"a": "10.230.1.2", "p": "10.230.2.2"}

    def __init__(self, folder: Path):
        self.folder = self.state = folder
        # The gateway; beside it, `examples/bare`.
        self.program = Path("target/release/tailkeep").resolve()
        mark = f"tkb{os.getpid() % 100000}"
        self.names = {host: f"{mark}{host}" for host in "agp"}
        self.running: list[subprocess.Popen] = []
        for name in self.names.values():
            must("ip", "netns", "add", name)
            must("ip", "-n", name, "link", "set", "lo", "up")
        for host, net in (("a", "10.230.1"), ("p", "10.230.2")):
            inner, outer = f"{mark}i{host}", f"{mark}o{host}"
            gateway = self.names["g"]
            must("ip", "link", "add", outer, "netns", gateway, "type", "veth", "peer", "name", inner, "netns", self.names[host])
            must("ip", "-n", gateway, "addr", "add", f"{net}.1/24", "dev", outer)
            must("ip", "-n", gateway, "link", "set", outer, "up")
            must("ip", "-n", self.names[host], "addr", "add", f"{net}.2/24", "dev", inner)
            must("ip", "-n", self.names[host], "link", "set", inner, "up")
            must("ip", "-n", self.names[host], "route", "add", "default", "via", f"{net}.1")
        self.run("g", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        # Their own view of names: `ip netns exec` binds these files over those of /etc. A tailscaled may write one.
        self.etc = {host: Path("/etc/netns") / self.names[host] for host in "ag"}
        for folder in self.etc.values():
            folder.mkdir(parents=True)
            (folder / "resolv.conf").touch()
        self.resolve({})

    def resolve(self, names: dict[str, str]):
        """What the agent takes names for."""
        lines = ["127.0.0.1 localhost"] + [f"{address} {name}" for name, address in names.items()]
        (self.etc["a"] / "hosts").write_text("\n".join(lines) + "\n")

    def inside(self, host: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.names[host], *map(str, command)]

    def run(self, host: str, *command: str, seconds: float = 120, **more) -> str:
        done = subprocess.run(self.inside(host, *command), capture_output=True, text=True, timeout=seconds, **more)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, host: str, *command: str, log: str, env=None) -> subprocess.Popen:
        out = open(self.folder / f"{log}.log", "ab")
        whole = {**os.environ, **(env or {})}
        process = subprocess.Popen(
            self.inside(host, *command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=whole, start_new_session=True
        )
        self.running.append(process)
        return process

    def stop(self, *processes: subprocess.Popen):
        for process in processes:
            if process in self.running:
                self.running.remove(process)
                end(process)

    def close(self):
        for process in reversed(self.running):
            end(process)
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)
        for folder in self.etc.values():
            shutil.rmtree(folder)


def must(*command: str):
    subprocess.run(list(map(str, command)), check=True)


def end(process: subprocess.Popen):
    for way in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, way)
        except ProcessLookupError:
            break
        try:
            process.wait(8)
            break
        except subprocess.TimeoutExpired:
            continue


def until(what: str, holds, seconds: float = 20):
    began = time.monotonic()
    while True:
        try:
            got = holds()
        except (OSError, RuntimeError, subprocess.SubprocessError):
            got = None
        if got:
            return got
        if time.monotonic() - began > seconds:
            raise RuntimeError(f"not in time: {what}")
        time.sleep(0.05)


def family(process: subprocess.Popen) -> list[int]:
    """A process and all that came of it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [process.pid]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(children.get(pid, []))
    return found


def processor_us(processes: list[subprocess.Popen]) -> float:
    """User and system time of the processes and their children, those that have ended too."""
    ticks = 0
    for process in processes:
        for pid in family(process):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))
    return ticks * 1e6 / TICKS


def resident_kib(processes: list[subprocess.Popen]) -> int:
    total = 0
    for process in processes:
        for pid in family(process):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return total
