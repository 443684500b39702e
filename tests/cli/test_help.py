"""The help texts, the version, and what the command line imports for them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import modelport
from modelport.cli.commands import cli
from tests.cli.running import RUNNER, run_process


@pytest.mark.parametrize("command", [[], ["ask"], ["chat"], ["check"], ["models"], ["download"]])
def test_help_has_examples(command: list[str]) -> None:
    for flag in ("-h", "--help"):
        result = RUNNER.invoke(cli, [*command, flag], prog_name="modelport")
        assert result.exit_code == 0 and re.search(r"Examples:\n +(modelport|git)", result.stdout)
    if not command:
        assert all(word in result.stdout for word in ("--schema", "--image", "--api-base", "chat", "check", "models"))


def test_version_option_prints_version() -> None:
    assert run_process("--version").stdout == f"modelport {modelport.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, modelport.cli.commands; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    imported = set(done.stdout.split())
    assert "click" in imported
    heavy = {
        "rich",
        "asyncio",
        "pydantic",
        "jsonschema",
        "aiohttp",
        "xllamacpp",
        "modelport.model",
        "modelport.registry",
    }
    assert not heavy & imported
