"""`modelport models`: the backends, and what each still needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelport.cli import tables
from modelport.cli.commands import cli
from modelport.cli.tables import REQUIREMENTS
from modelport.providers import PROVIDERS
from modelport.registry import BACKENDS
from tests.cli.running import RUNNER, read_terminal


def test_examples_are_never_broken_in_terminal_of_80_columns() -> None:
    shown = read_terminal(80, "models")
    assert all(f"  -m {needed.example}\r\n" in shown for needed in REQUIREMENTS.values())
    assert all(f"  -m {name}/{provider.example}\r\n" in shown for name, provider in PROVIDERS.items())
    assert max(map(len, shown.splitlines())) <= 80
    assert "│ -m openai/gpt-4o " in read_terminal(200, "models")


def test_backend_with_one_missing_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "find_spec", lambda name: None if name == "aiohttp" else name)
    entries = json.loads(RUNNER.invoke(cli, ["models", "--json"]).stdout)
    lacking = {entry["name"] for entry in entries if entry["missing"] == ["aiohttp"] and not entry["installed"]}
    assert lacking - PROVIDERS.keys() == {"azure", "huggingface", "openai"}
    assert PROVIDERS.keys() - lacking == {"anthropic"}


def test_models_lists_backends_and_install_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"xllamacpp"}
    monkeypatch.setattr(tables, "find_spec", lambda name: None if name in missing else name)
    monkeypatch.setattr("modelport.registry.backends", lambda: {
        "llamacpp": "modelport.local.llamacpp.model:LlamaCppModel",
        "openai": "modelport.remote.openai.model:OpenAIServerModel",
        "theirs": "modelport.testing:ScriptedModel",
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
    assert entries["theirs"]["class"] == "ScriptedModel" and entries["theirs"]["installed"]


@pytest.mark.parametrize(
    ("entry_point", "missing"),
    [
        ("no_such_package.models:TheirModel", "no_such_package"),
        ("modelport.no_such_module:TheirModel", "modelport.no_such_module:TheirModel"),
        ("modelport.testing:TheirModel", "modelport.testing:TheirModel"),
        ("module_with_missing_import:TheirModel", "another_missing_package"),
        ("module_that_fails:TheirModel", "module_that_fails:TheirModel"),
    ],
)
def test_backend_of_another_package_without_its_class_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entry_point: str, missing: str
) -> None:
    (tmp_path / "module_with_missing_import.py").write_text("import another_missing_package\n")
    (tmp_path / "module_that_fails.py").write_text("raise RuntimeError('no GPU')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("modelport.registry.backends", lambda: {"theirs": entry_point})
    (entry,) = json.loads(RUNNER.invoke(cli, ["models", "--json"]).stdout)
    assert (entry["installed"], entry["missing"], entry["install"]) == (False, [missing], None)
    assert f"no: {missing}" in RUNNER.invoke(cli, ["models"]).stdout


def test_models_lists_providers_with_their_keys() -> None:
    result = RUNNER.invoke(cli, ["models"])
    assert "GROQ_API_KEY" in result.stdout and "OLLAMA_API_KEY (optional)" in result.stdout
    entries = {entry["name"]: entry for entry in json.loads(RUNNER.invoke(cli, ["models", "--json"]).stdout)}
    assert entries.keys() >= PROVIDERS.keys()
    together = entries["together"]
    assert (together["class"], together["key_variable"]) == ("OpenAIServerModel", "TOGETHER_API_KEY")
    assert (together["api_base"], together["litellm_names"]) == ("https://api.together.ai/v1", ["together_ai"])
    assert entries["anthropic"]["class"] == "LiteLLMModel"


def test_requirements_of_every_backend_are_known() -> None:
    assert set(REQUIREMENTS) == set(BACKENDS)
