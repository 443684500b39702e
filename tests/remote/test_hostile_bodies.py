"""Bodies without an end, and bombs of gzip and of JSON: each becomes a typed error, in bounded memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.hostile import attacks

PROJECT = Path(__file__).parents[2]
#: MiB by which the memory of a process may grow in all attacks together. Before there were bounds everywhere, it grew
#: by 3,485 MiB through the openai package, and by 3,569 MiB through boto3.
MAX_GROWTH = 400
#: Seconds of processor time of client and server for one attack, on a busy machine.
MAX_CPU = 4.0


def check_attacks(*backends: str, max_cpu: float = MAX_CPU) -> None:
    """Run all attacks on backends in one child process, and check what it reports."""
    command = [sys.executable, "-m", "tests.remote.hostile_bodies", *backends]
    child = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200, check=False)
    reports = [json.loads(line) for line in child.stdout.splitlines()]
    expected = [(backend, name, attack.error) for backend in backends for name, attack in attacks(backend).items()]
    found = [(report["backend"], report["attack"], report["error"]) for report in reports]
    assert found == expected, child.stderr[-2000:]
    assert max(report["grown"] for report in reports) < MAX_GROWTH, reports
    assert max(report["cpu"] for report in reports) < max_cpu, reports
    assert all(len(report["text"]) <= 700 for report in reports)


@pytest.mark.parametrize(
    "backends",
    [
        ["openai", "azure", "huggingface"],
        ["openai-sdk", "OpenAI", "AsyncOpenAI", "AsyncAzureOpenAI"],
        ["bedrock", "boto3 client"],
    ],
    ids=["aiohttp", "openai package", "boto3"],
)
def test_hostile_body_raises_typed_error_in_bounded_memory(backends: list[str]) -> None:
    check_attacks(*backends)
