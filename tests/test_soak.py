"""A small run of the soak test; `python benchmarks/soak.py` does a large one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.quiet]

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


def run_soak(*names: str) -> None:
    """Run the soak test with fifteen calls of each backend."""
    command = [sys.executable, str(SOAK), "--calls", str(15 * len(names)), "--only", ",".join(names)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert all(f"| {name} | 15 |" in run.stdout for name in names)
    assert "lost: 0" in run.stdout


@pytest.mark.timeout(600)
def test_failed_and_abandoned_calls_leave_nothing_behind() -> None:
    run_soak("openai", "bedrock", "llamacpp", "transformers")
