"""The registry: backends by name, also those of other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import modelport
from modelport import (
    AzureOpenAIModel,
    AzureOpenAIServerModel,
    InvalidRequest,
    LlamaCppModel,
    OpenAIModel,
    OpenAIServerModel,
    load_model,
)
from modelport.registry import class_named
from tests.servers.llamacpp import model_file


def test_load_model_splits_backend_and_model_id() -> None:
    model = load_model("openai/org/gpt-4o", api_key="k", temperature=0.5)
    assert isinstance(model, OpenAIServerModel)
    assert model.model_id == "org/gpt-4o"
    assert model.kwargs == {"temperature": 0.5}


@pytest.mark.engine
def test_load_model_with_llamacpp_loads_a_model_file() -> None:
    with load_model(f"llamacpp/{model_file()}", threads=1, context_length=512) as model:
        assert isinstance(model, LlamaCppModel)


def test_short_class_name_is_the_same_class() -> None:
    assert OpenAIModel is OpenAIServerModel
    assert class_named("OpenAIModel") is class_named("OpenAIServerModel") is OpenAIServerModel
    assert AzureOpenAIModel is AzureOpenAIServerModel
    assert class_named("AzureOpenAIModel") is class_named("AzureOpenAIServerModel") is AzureOpenAIServerModel


@pytest.mark.parametrize("spec", ["nonesuch/x", "", "gpt-4o"])
def test_load_model_with_unknown_backend_names_the_known_ones(spec: str) -> None:
    with pytest.raises(InvalidRequest, match=r"openai"):
        load_model(spec)


def test_all_lists_every_public_name() -> None:
    """Type checkers read `__all__` only as a literal list."""
    assert sorted(modelport._MODULES) == modelport.__all__


def test_misspelt_name_suggests_the_right_one() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'LamaCppModel'\. Did you mean 'LlamaCppModel'\?$"):
        modelport.LamaCppModel  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        modelport.zzz  # noqa: B018


@pytest.mark.parametrize(
    ("entry_point", "missing"),
    [
        ("no_such_package.models:TheirModel", "there is no module 'no_such_package'"),
        ("modelport.no_such_module:TheirModel", "there is no module 'modelport.no_such_module'"),
        ("modelport.testing:TheirModel", "the module 'modelport.testing' has no 'TheirModel'"),
    ],
)
def test_entry_point_without_its_class_raises_invalid_request_that_names_both(
    monkeypatch: pytest.MonkeyPatch, entry_point: str, missing: str
) -> None:
    monkeypatch.setattr("modelport.registry.backends", lambda: {"theirs": entry_point})
    with pytest.raises(InvalidRequest) as raised:
        load_model("theirs/small")
    assert str(raised.value) == f"the entry point {entry_point!r} can't be loaded: {missing}"


def test_entry_point_whose_module_imports_a_missing_module_raises_its_import_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "module_with_missing_import.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("modelport.registry.backends", lambda: {"theirs": "module_with_missing_import:TheirModel"})
    with pytest.raises(ModuleNotFoundError, match="'no_such_package'"):
        load_model("theirs/small")


def test_entry_point_of_another_package_adds_a_backend(tmp_path: Path) -> None:
    """The package is installed as by pip: a module and a dist-info with the entry point."""
    (tmp_path / "parrot.py").write_text(
        "from modelport import ChatMessage, Model\n"
        "class ParrotModel(Model):\n"
        "    def generate(self, messages, stop_sequences=None, **kwargs):\n"
        "        return ChatMessage('assistant', f'{self.model_id} says hello')\n"
    )
    info = tmp_path / "parrot-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[modelport.backends]\nparrot = parrot:ParrotModel\n")
    code = (
        "from modelport import Model, load_model\n"
        "model = load_model('parrot/polly')\n"
        "print(model('hi'))\n"
        "print(type(Model.from_dict(model.to_dict())).__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["polly says hello", "ParrotModel"]
