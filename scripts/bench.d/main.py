"""Runs the legs in turn, several times, and reports. See scripts/bench."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import report
from host import Hosts, resident_kib
from legs import Bare, Leg, Proxy, Tailkeep, Tunnel, Userspace
from production import Production
from tailnet import OfTailnet, Subnet
from work import TRAINS, WORK, half_load, measured

LEGS = {leg.name: leg for leg in (Leg, Tunnel, Proxy, Bare, Tailkeep, Userspace, Subnet, OfTailnet)}
RULES = [10, 100, 1000, 10000]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="What the gateway costs, beside its peers.")
    parser.add_argument("--quick", action="store_true", help="the table of the README alone")
    parser.add_argument("--legs", default="direct,tunnel,proxy,bare,tailkeep,subnet,tailkeep-tailnet", help=f"of: {', '.join(LEGS)}")
    parser.add_argument("--training", action="store_true", help="the work that the gateway is built by")
    parser.add_argument("--work", help=f"of: {', '.join(WORK)}, rules")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--program", default="target/release/tailkeep", help="the gateway that is measured")
    parser.add_argument("--state", default="target/bench", help="folder on the disk that the audit log is to be durable on")
    parser.add_argument("--out", default="target/bench", help="folder of the results")
    return parser.parse_args()


def say(text: str):
    print(text, file=sys.stderr, flush=True)


def one(hosts: Hosts, leg_type, works: list[str], seconds: float, found: dict, facts: dict):
    """One leg once: every work, so that the legs are interleaved over the repetitions."""
    began = time.monotonic()
    leg = leg_type(hosts)
    if leg_type is Tailkeep:
        facts.setdefault("start_ms", []).append((time.monotonic() - began) * 1000)
    memory = facts.setdefault("memory_kib", {}).setdefault(leg.name, {"started": [], "loaded": []})
    memory["started"].append(resident_kib(leg.gateway))
    try:
        for work in filter(leg.does, works):
            rows = found.setdefault(work, {}).setdefault(leg.name, [])
            try:
                row = measured(leg, WORK[work][2], seconds).row()
            except (RuntimeError, OSError, ValueError, AttributeError) as error:
                row = {"error": str(error).strip().replace("\n", " ")[:300]}
            rows.append(row)
            say(f"  {leg.name:20} {work:14} {json.dumps({k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()})}")
        memory["loaded"].append(resident_kib(leg.gateway))
    finally:
        leg.stop()


def by_rules(hosts: Hosts, seconds: float, found: dict):
    """GET with 16 connections by the number of rules an endpoint."""
    for count in RULES:
        leg_type = type("Rules", (Tailkeep,), {"rules": count, "name": f"tailkeep-{count}"})
        leg = leg_type(hosts)
        try:
            row = measured(leg, WORK["get-16"][2], seconds).row()
        finally:
            leg.stop()
        found.setdefault("rules", {}).setdefault(str(count), []).append(row)
        say(f"  {count} rules {row}")


def main():
    asked = arguments()
    if asked.training:
        works = TRAINS
    else:
        works = asked.work.split(",") if asked.work else [name for name, work in WORK.items() if work[3] or not asked.quick]
    with_rules = "rules" in works or not (asked.work or asked.quick or asked.training)
    works = [work for work in works if work != "rules"]
    unknown = [name for name in asked.legs.split(",") if name not in LEGS] + [name for name in works if name not in WORK]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}")
    folder = Path(tempfile.mkdtemp(prefix="tailkeep-bench."))
    folder.chmod(0o755)
    Path(asked.state).mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="state.", dir=asked.state)).resolve()
    hosts = Hosts(folder)
    hosts.state, hosts.program = state, Path(asked.program).resolve()
    found: dict = {}
    facts: dict = {"disk_us": durable_us(state)}
    try:
        Production(hosts)
        if "paced-16" in works:
            leg = Tailkeep(hosts)
            hosts.half_load = facts["half_load"] = half_load(leg, asked.seconds)
            leg.stop()
        for repetition in range(asked.repetitions):
            say(f"repetition {repetition + 1} of {asked.repetitions}")
            for name in asked.legs.split(","):
                one(hosts, LEGS[name], works, asked.seconds, found, facts)
            if with_rules:
                by_rules(hosts, asked.seconds, found)
    except BaseException:
        keep = Path(asked.out) / "logs"
        shutil.rmtree(keep, ignore_errors=True)
        keep.mkdir(parents=True, exist_ok=True)
        for log in folder.glob("*.log"):
            shutil.copy(log, keep)
        say(f"the logs are in {keep}")
        raise
    finally:
        hosts.close()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
    finish(asked, found, facts)


def durable_us(folder: Path) -> float:
    """Median of what one durable write of 4 KiB takes: no audit log that is durable is quicker."""
    took = []
    with open(folder / "probe", "wb", buffering=0) as file:
        for _ in range(100):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1e6)
    (folder / "probe").unlink()
    return median(took)


def finish(asked, found: dict, facts: dict):
    def middle(rows: list[dict]) -> dict:
        good = [row for row in rows if "error" not in row]
        return report.medians(good) if len(good) * 2 > len(rows) else rows[-1]

    result = {
        "facts": {
            "processors": os.cpu_count(), "kernel": platform.release(), "repetitions": asked.repetitions, "seconds": asked.seconds,
            "binary_mib": binary.stat().st_size / (1 << 20) if (binary := Path(asked.program)).exists() else 0.0,
        },
        "work": {work: {leg: middle(rows) for leg, rows in legs.items()} for work, legs in found.items() if work != "rules"},
        "rules": {count: middle(rows) for count, rows in found.get("rules", {}).items()},
        "raw": found,
    }
    result["facts"].update((key, facts[key]) for key in ("disk_us", "half_load") if key in facts)
    if facts.get("start_ms"):
        result["facts"]["start_ms"] = median(facts["start_ms"])
    result["facts"]["memory_kib"] = {
        leg: {when: median(rows) for when, rows in found.items() if rows} for leg, found in facts["memory_kib"].items()
    }
    titles = {name: work[0] for name, work in WORK.items()}
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report.table(result, titles)
    (out / "table.md").write_text(text)
    (out / "plot.svg").write_text(report.plot(result, titles))
    print(text)
    for count, row in result["rules"].items():
        print(f"{count} rules: {report.number(row.get('gateway_us'))} µs a request")
    if any("error" in row for legs in result["work"].values() for row in legs.values()):
        sys.exit(1)


main()
