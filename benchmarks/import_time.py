"""What `from modelport import Model, ChatMessage` costs over the bare interpreter.

    python benchmarks/import_time.py

Runs both in turn, prints medians in milliseconds and, for scale, the import of asyncio in the same run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

CASES = {
    "bare interpreter": "",
    "modelport": "from modelport import Model, ChatMessage",
    "asyncio": "import asyncio",
}
ROUNDS = 21


def once(code: str) -> float:
    # As on a user's machine, where bytecode is cached.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    for code in CASES.values():
        once(code)
    runs: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, code in CASES.items():
            runs[name].append(once(code))
    bare = statistics.median(runs["bare interpreter"])
    for name, times in runs.items():
        median = statistics.median(times)
        print(f"{name:18} {median:6.1f} ms   over the bare interpreter {median - bare:6.1f} ms")


if __name__ == "__main__":
    main()
