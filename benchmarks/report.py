"""Writes the tables and the plot of `remote.py`, and puts them into the pages."""

from __future__ import annotations

import math
import platform
import re
import statistics
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
BASE = "openai SDK"
Result = dict[str, Any]
#: The cases of the plot, and the columns of the README's table.
SHORT = {
    "call": "call, µs",
    "call, agent's size": "agent's size, µs",
    "chunk, parse alone": "chunk, µs",
    "async call, 200 at once": "async call, µs",
    "async chunk, 100 streams": "async chunk, µs",
    "cold process, ms": "cold start, ms",
    "RSS, 1,000 streams, MB": "1,000 streams, MB",
}


def machine() -> str:
    import os

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def base_of(peer: str, peers: dict[str, Any]) -> str:
    """Return the client that a peer is compared with: OpenAI's SDK, or the first client of the same vendor."""
    vendor, colon, _ = peer.partition(":")
    return next(p for p in peers if p.startswith(f"{vendor}:")) if colon else BASE


def ratio(values: dict[str, list[float]], peer: str) -> tuple[float, float, float] | None:
    """Return the median, the minimum and the maximum of the rounds' ratios to the base."""
    base = base_of(peer, values) if values else BASE
    if base not in values or peer not in values:
        return None
    ratios = [a / b for a, b in zip(values[peer], values[base], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def table(group: str, result: Result) -> str:
    """Return a table of all cases: medians, and ratios with their range."""
    cases = {case: values for case, values in result["cases"].items() if not case.startswith("growth")}
    peers = list(dict.fromkeys(peer for values in cases.values() for peer in values))
    compared = "its vendor's client" if group == "vendors" else f"the {BASE}"
    lines = [
        f"Medians of {result['rounds']} interleaved rounds; below each, its ratio to {compared} (lowest–highest).",
        "",
        "| | " + " | ".join(case if case.endswith(("ms", "MB")) else f"{case}, µs" for case in cases) + " |",
        "| --- |" + " --- |" * len(cases),
    ]
    for peer in peers:
        cells = []
        for values in cases.values():
            if peer not in values:
                cells.append("")
                continue
            cell = _figure(statistics.median(values[peer]))
            if (found := ratio(values, peer)) and base_of(peer, values) != peer:
                cell += f"<br>{found[0]:.2f} ({found[1]:.2f}–{found[2]:.2f})"
            cells.append(cell)
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *_growth(result["cases"])])


def _growth(cases: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return how the cost of a call grows with its messages: the µs for each, and the exponent (1 is linear)."""
    lines = []
    counts = [int(case.split()[1]) for case in cases if case.startswith("growth")]
    for peer in cases.get("growth 10", {}):
        costs = [statistics.median(cases[f"growth {count}"][peer]) for count in counts]
        slope = (costs[-1] - costs[0]) / (counts[-1] - counts[0])
        exponent = math.log(costs[-1] / costs[-2]) / math.log(counts[-1] / counts[-2])
        shown = ", ".join(f"{count}: {_figure(cost)}" for count, cost in zip(counts, costs, strict=True))
        lines.append(
            f"{peer}: {slope:.1f} µs more for each message of 1,000 bytes; from {counts[-2]} to {counts[-1]} messages "
            f"it grows with the power {exponent:.2f} (µs a call: {shown})."
        )
    return ["", *lines] if lines else []


def short_table(result: Result) -> str:
    """Return the table of the README: the figures of OpenAI's SDK, and the other clients' ratios to them."""
    cases = {case: title for case, title in SHORT.items() if case in result["cases"]}
    peers = list(dict.fromkeys(peer for case in cases for peer in result["cases"][case]))
    lines = ["| | " + " | ".join(cases.values()) + " |", "| --- |" + " --- |" * len(cases)]
    for peer in peers:
        cells = []
        for case in cases:
            values = result["cases"][case]
            found = ratio(values, peer) if peer in values else None
            cells.append(
                _figure(statistics.median(values[peer])) if peer == BASE else f"× {found[0]:.2f}" if found else ""
            )
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def versions_line(result: Result) -> str:
    """Return the machine and the versions of the packages."""
    named = ", ".join(f"{name} {number}" for name, number in sorted(result["versions"].items()))
    return f"{result['machine']}; {named}."


def plot(result: Result) -> str:
    """Return an SVG with bars of the ratios to OpenAI's SDK, on a logarithmic scale."""
    cases = [case for case in SHORT if case in result["cases"]]
    peers = [p for p in ("raw aiohttp + json", "smolagents", "LangChain", "pydantic-ai", "LiteLLM", "modelport")]
    colours = {
        "modelport": "#1b7f5c",
        "smolagents": "#c98b2b",
        "LangChain": "#5b7fb5",
        "pydantic-ai": "#8a5bb5",
        "LiteLLM": "#b5483a",
    }
    bar, gap, left, width = 13, 16, 190, 720
    scale = lambda value: left + (math.log10(min(max(value, 0.01), 20)) + 2) / 3.31 * (width - left - 60)  # noqa: E731
    rows, y = [], 46
    for case in cases:
        values = result["cases"][case]
        shown = [(peer, found[0]) for peer in peers if peer in values and (found := ratio(values, peer))]
        rows.append(f'<text x="{left - 8}" y="{y + bar * len(shown) / 2 + 4}" text-anchor="end">{case}</text>')
        for peer, value in shown:
            x0, x1 = sorted((scale(1), scale(value)))
            rows.append(
                f'<rect x="{x0:.1f}" y="{y}" width="{max(x1 - x0, 1):.1f}" height="{bar - 3}" '
                f'fill="{colours.get(peer, "#9aa5ad")}"><title>{peer}: {value:.2f}</title></rect>'
            )
            rows.append(f'<text x="{max(x1, scale(1)) + 4:.1f}" y="{y + 9}" class="s">{value:.2f} {peer}</text>')
            y += bar
        y += gap
    ticks = "".join(
        f'<line x1="{scale(t):.1f}" x2="{scale(t):.1f}" y1="34" y2="{y}" stroke="{"#555" if t == 1 else "#ddd"}"/>'
        f'<text x="{scale(t):.1f}" y="28" text-anchor="middle" class="s">{t:g}</text>'
        for t in (0.01, 0.1, 1, 10)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 120}" height="{y}" font-family="sans-serif" '
        f'font-size="12"><style>.s{{font-size:10px;fill:#444}}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="8" y="14">Cost of the client, {BASE} = 1 (less is better)</text>{ticks}{"".join(rows)}</svg>\n'
    )


def replace_between(page: Path, mark: str, text: str) -> None:
    """Replace the text of a page between `<!-- mark -->` and `<!-- /mark -->`."""
    old = page.read_text()
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
    if not pattern.search(old):
        raise SystemExit(f"{page.name} lacks the marks <!-- {mark} --> and <!-- /{mark} -->")
    page.write_text(pattern.sub(lambda m: f"{m[1]}{text}\n{m[2]}", old))


def write(found: dict[str, Result]) -> None:
    docs = PROJECT / "docs"
    for group, result in found.items():
        replace_between(docs / "benchmarks.md", group, f"{table(group, result)}\n\n{versions_line(result)}")
    if "peers" in found:
        (docs / "benchmarks.svg").write_text(plot(found["peers"]))
        replace_between(
            PROJECT / "README.md", "speed", f"{short_table(found['peers'])}\n\n{versions_line(found['peers'])}"
        )
