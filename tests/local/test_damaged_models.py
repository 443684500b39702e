"""Damaged files of a model raise a `ModelError` that names the model, whatever the libraries raise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.schema_corpus.tiny import tiny_folder

from modelport import MLXModel, ModelError, TransformersModel

pytestmark = pytest.mark.engine


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def set_in_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def replace_weights_by_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04garbage")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "half of the weights": lambda folder: cut_in_half(folder / "model.safetensors"),
    "empty weights": lambda folder: empty(folder / "model.safetensors"),
    "weights that are no pickle": replace_weights_by_pickle,
    "half of the tokenizer": lambda folder: cut_in_half(folder / "tokenizer.json"),
    "half of the configuration": lambda folder: cut_in_half(folder / "config.json"),
    "no heads": set_in_config(num_attention_heads=0, num_key_value_heads=0),
    "a text for a number": set_in_config(hidden_size="many"),
    "a list for the layers": set_in_config(num_hidden_layers=[1]),
}


@pytest.mark.parametrize("cls", [TransformersModel, MLXModel])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_model_raises_model_error(cls: Any, damage: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    DAMAGE[damage](Path(folder))
    with pytest.raises(ModelError, match="model"):
        cls(folder)("Hello", max_tokens=2)
