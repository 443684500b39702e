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


def test_a_model_by_name() -> None:
    model = load_model("openai/org/gpt-4o", api_key="k", temperature=0.5)
    assert isinstance(model, OpenAIServerModel)
    assert model.model_id == "org/gpt-4o"
    assert model.kwargs == {"temperature": 0.5}


def test_a_backend_alone_is_its_default_model() -> None:
    with load_model(f"llamacpp/{model_file()}", threads=1, context_length=512) as model:
        assert isinstance(model, LlamaCppModel)


def test_the_short_alias_is_the_class() -> None:
    assert OpenAIModel is OpenAIServerModel
    assert class_named("OpenAIModel") is class_named("OpenAIServerModel") is OpenAIServerModel
    assert AzureOpenAIModel is AzureOpenAIServerModel
    assert class_named("AzureOpenAIModel") is class_named("AzureOpenAIServerModel") is AzureOpenAIServerModel


@pytest.mark.parametrize("spec", ["nonesuch/x", "", "gpt-4o"])
def test_an_unknown_backend_names_those_there_are(spec: str) -> None:
    with pytest.raises(InvalidRequest, match=r"openai"):
        load_model(spec)


def test_every_name_is_written_out() -> None:
    """Type checkers read `__all__` only so."""
    assert sorted(modelport._MODULES) == modelport.__all__


def test_a_name_that_is_mistyped() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'LamaCppModel'\. Did you mean 'LlamaCppModel'\?$"):
        modelport.LamaCppModel  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        modelport.zzz  # noqa: B018


def test_another_package_adds_a_backend(tmp_path: Path) -> None:
    """As pip would install it: a module and a dist-info with the entry point."""
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
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[:2] == ["polly says hello", "ParrotModel"]
