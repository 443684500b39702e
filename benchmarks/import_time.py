"""Measure what `from modelport import Model, ChatMessage` adds to the start of the bare interpreter.

    python benchmarks/import_time.py

Each case runs in turn, in a process of its own. The table has medians of the wall time and of the processor time in
milliseconds, and the ratio of the processor time to that of the bare interpreter, which depends least on the machine
and on its load. The import of asyncio is there for comparison.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

BARE = "bare interpreter"
CASES = {
    BARE: "",
    "modelport": "from modelport import Model, ChatMessage",
    "asyncio": "import asyncio",
}
ROUNDS = 21


class Times(NamedTuple):
    """The times of one process, in milliseconds."""

    wall: float
    processor: float


def measure(code: str) -> Times:
    """Run the code in a new interpreter."""
    # Bytecode is cached, as on a user's machine.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", code], env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{code!r} failed")
    return Times(wall * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3)


def main() -> None:
    """Print the table."""
    for code in CASES.values():
        measure(code)  # This writes the bytecode.
    runs: dict[str, list[Times]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, code in CASES.items():
            runs[name].append(measure(code))
    medians = {name: Times(*map(statistics.median, zip(*times, strict=True))) for name, times in runs.items()}
    bare = medians[BARE]
    print(f"{'':18}{'wall, ms':>10}{'over bare':>11}{'processor, ms':>15}{'over bare':>11}{'ratio to bare':>15}")
    for name, median in medians.items():
        print(
            f"{name:18}{median.wall:10.1f}{median.wall - bare.wall:11.1f}{median.processor:15.1f}"
            f"{median.processor - bare.processor:11.1f}{median.processor / bare.processor:15.2f}"
        )


if __name__ == "__main__":
    main()
