"""Medians, ratios, a table, a plot."""

from statistics import median


def medians(rows: list[dict]) -> dict:
    keys = {key for row in rows for key in row}
    return {key: median(row[key] for row in rows if key in row) for key in sorted(keys)}


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None, other: float | None) -> str:
    return "–" if not value or not other else f"{value / other:.2f}"


# What stands beside the gateway's legs: whose rates, and whose processor time for an operation.
RATES = ["direct", "tunnel", "proxy", "subnet"]
COSTS = ["tunnel", "proxy", "bare", "subnet"]


def row_of(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(result: dict, titles: dict) -> str:
    """A row for each work and leg; then the ratios of the gateway's legs to every other of the same run."""
    lines = [row_of("work", "leg", "rate / s", "p50 µs", "p99 µs", "gateway µs / op"), row_of(*["---"] * 6)]
    ratios = [
        row_of("work", "leg", *(f"rate to {leg}" for leg in RATES), *(f"µs to {leg}" for leg in COSTS)),
        row_of(*["---"] * (2 + len(RATES) + len(COSTS))),
    ]
    for work, legs in result["work"].items():
        for leg, row in legs.items():
            if "error" in row:
                lines.append(row_of(titles[work], leg, f"failed: {row['error']}", "", "", ""))
                continue
            cells = [number(row.get(key)) for key in ("rate", "p50_us", "p99_us", "gateway_us")]
            if "kib_each" in row:
                cells[0] = f"{row['kib_each']:.1f} KiB each, {row['held_kib'] / 1024:.0f} MiB in all"
            lines.append(row_of(titles[work], leg, *cells))
            if leg.startswith("tailkeep") and "kib_each" not in row:
                to = [ratio(row.get(key), legs.get(other, {}).get(key)) for key, others in (("rate", RATES), ("gateway_us", COSTS)) for other in others]
                ratios.append(row_of(titles[work], leg, *to))
    facts = result["facts"]
    lines += ["", *ratios]
    lines += ["", f"A durable write of 4 KiB takes this disk {number(facts['disk_us'])} µs (median): an action waits for one. Binary {facts['binary_mib']:.1f} MiB; half of its rate {number(facts.get('half_load'))} a second; start to first accepted packet {facts.get('start_ms', 0):.0f} ms; "
              f"{facts['processors']} processors, Linux {facts['kernel']}, medians of {facts['repetitions']}."]
    lines += ["", row_of("memory, MiB", "started", "after all work"), row_of(*["---"] * 3)]
    for leg, memory in facts["memory_kib"].items():
        if memory.get("started"):
            lines.append(row_of(leg, *(number(memory[when] / 1024) if when in memory else "–" for when in ("started", "loaded"))))
    return "\n".join(lines) + "\n"


COLOURS = {"direct": "#b8c0cc", "tunnel": "#8795a8", "proxy": "#d49a3a", "bare": "#a98bc4", "tailkeep": "#2f7d6b", "tailkeep-userspace": "#7fb8aa", "subnet": "#c98f8f", "tailkeep-tailnet": "#1f5b9a"}


def plot(result: dict, titles: dict) -> str:
    """The gateway's processor time for an operation, as bars: each work on a scale of its own."""
    rows, y = [], 40
    width, left = 900, 330
    for work, legs in result["work"].items():
        cost = {leg: row["gateway_us"] for leg, row in legs.items() if row.get("gateway_us")}
        if not cost:
            continue
        rows.append(f'<text x="10" y="{y + 12}" font-weight="600">{titles[work]}</text>')
        most = max(cost.values())
        for leg, value in cost.items():
            long = (width - left - 90) * value / most
            rows.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{leg}</text>')
            rows.append(f'<rect x="{left}" y="{y}" width="{long:.0f}" height="15" rx="2" fill="{COLOURS[leg]}"/>')
            rows.append(f'<text x="{left + long + 6:.0f}" y="{y + 12}">{number(value)} µs</text>')
            y += 20
        y += 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 10}" font-family="sans-serif" font-size="12">'
    title = '<rect width="100%" height="100%" fill="white"/><text x="10" y="22" font-size="15">Processor time of the gateway for one operation</text>'
    return "\n".join([head, title, *rows, "</svg>"]) + "\n"
