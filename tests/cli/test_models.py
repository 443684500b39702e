"""`modelport models`: the backends, and what each still needs."""

from __future__ import annotations

import json

import pytest

from modelport.cli import tables
from modelport.cli.commands import cli
from modelport.cli.tables import REQUIREMENTS
from modelport.registry import BACKENDS
from tests.cli.running import RUNNER, read_terminal


def test_examples_are_never_broken_in_terminal_of_80_columns() -> None:
    shown = read_terminal(80, "models")
    assert all(f"  -m {needed.example}\r\n" in shown for needed in REQUIREMENTS.values())
    assert max(map(len, shown.splitlines())) <= 80
    assert "│ -m openai/gpt-4o " in read_terminal(200, "models")


def test_backend_with_one_missing_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "find_spec", lambda name: None if name == "aiohttp" else name)
    entries = json.loads(RUNNER.invoke(cli, ["models", "--json"]).stdout)
    lacking = {entry["name"] for entry in entries if entry["missing"] == ["aiohttp"] and not entry["installed"]}
    assert lacking == {"azure", "huggingface", "openai"}


def test_models_lists_backends_and_install_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"xllamacpp"}
    monkeypatch.setattr(tables, "find_spec", lambda name: None if name in missing else name)
    monkeypatch.setattr("modelport.registry.backends", lambda: {
        "llamacpp": "modelport.local.llamacpp.model:LlamaCppModel",
        "openai": "modelport.remote.openai.model:OpenAIServerModel",
        "theirs": "theirs.models:TheirModel",
    })  # fmt: skip
    result = RUNNER.invoke(cli, ["models"])
    assert result.exit_code == 0
    assert "LlamaCppModel" in result.stdout and "no: xllamacpp" in result.stdout
    assert "\nFor llamacpp: pip install 'modelport[llamacpp]'\n" in result.stdout
    entries = {entry["name"]: entry for entry in json.loads(RUNNER.invoke(cli, ["models", "--json"]).stdout)}
    assert entries["llamacpp"]["install"] == "pip install 'modelport[llamacpp]'"
    assert not entries["llamacpp"]["installed"]
    assert entries["openai"] == {
        "name": "openai", "class": "OpenAIServerModel", "installed": True, "missing": [], "install": None,
        "example": "openai/gpt-4o",
    }  # fmt: skip
    assert entries["theirs"]["class"] == "TheirModel" and entries["theirs"]["installed"]


def test_requirements_of_every_backend_are_known() -> None:
    assert set(REQUIREMENTS) == set(BACKENDS)
