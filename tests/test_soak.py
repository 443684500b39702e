"""A small run of the soak; `python benchmarks/soak.py` makes a large one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


def soak(*names: str) -> None:
    """Thirty calls of each backend."""
    command = [sys.executable, str(SOAK), "--calls", str(30 * len(names)), "--only", ",".join(names)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert all(f"| {name} | 30 |" in run.stdout for name in names)
    assert "lost: 0" in run.stdout


@pytest.mark.timeout(600)
def test_nothing_is_left_of_calls_that_fail_or_are_left() -> None:
    soak("openai", "bedrock", "llamacpp", "transformers")
