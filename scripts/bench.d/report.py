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


def table(result: dict, titles: dict) -> str:
    """A row for each work and leg; the ratios are to the plain proxy of the same run."""
    lines = [
        "| work | leg | rate / s | p50 µs | p99 µs | gateway µs / op | rate to proxy | µs to proxy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work, legs in result["work"].items():
        proxy = legs.get("proxy", {})
        for leg, row in legs.items():
            if "error" in row:
                lines.append(f"| {titles[work]} | {leg} | failed: {row['error']} | | | | | |")
                continue
            cells = [number(row.get(key)) for key in ("rate", "p50_us", "p99_us", "gateway_us")]
            cells += [ratio(row.get(key), proxy.get(key)) for key in ("rate", "gateway_us")]
            if "kib_each" in row:
                cells[0] = f"{row['kib_each']:.1f} KiB each, {row['held_kib'] / 1024:.0f} MiB in all"
            lines.append(f"| {titles[work]} | {leg} | {' | '.join(cells)} |")
    facts = result["facts"]
    lines += ["", f"A durable write of 4 KiB takes this disk {number(facts['disk_us'])} µs (median): an action waits for one. Binary {facts['binary_mib']:.1f} MiB; start to first accepted packet {facts.get('start_ms', 0):.0f} ms; "
              f"{facts['processors']} processors, Linux {facts['kernel']}, medians of {facts['repetitions']}."]
    return "\n".join(lines) + "\n"


COLOURS = {"direct": "#b8c0cc", "tunnel": "#8795a8", "proxy": "#d49a3a", "bare": "#a98bc4", "tailkeep": "#2f7d6b", "tailkeep-userspace": "#7fb8aa"}


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
