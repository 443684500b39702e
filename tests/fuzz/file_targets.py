"""Targets: files of models. They could end the process, so they run only in processes of their own (`worker.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from modelport import LlamaCppModel, MLXModel, TransformersModel
from modelport.local.llamacpp.gguf_header import check_header
from tests.fuzz.folder_inputs import CANARY, folders, small_folder
from tests.fuzz.gguf_inputs import files
from tests.fuzz.target import OpenTarget, Target


def _call(model: Any) -> Any:
    with model:
        return model.generate("hello", max_tokens=2, timeout=20)


@contextmanager
def _open_gguf(load: Callable[[Path], Any]) -> Iterator[Target]:
    """Yield a target that writes GGUF files and loads them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"

        def play(data: bytes) -> Any:
            path.write_bytes(data)
            return load(path)

        yield Target(files(), play)


def _load_gguf(path: Path) -> Any:
    return _call(LlamaCppModel(path, context_length=256, parallel=1, threads=1, retry=False))


@contextmanager
def _open_folder(cls: Callable[..., Any]) -> Iterator[Target]:
    """Yield a target that writes folders of models and loads them."""
    with TemporaryDirectory() as temporary:
        canary = Path(temporary) / "canary"
        os.environ[CANARY] = str(canary)

        def play(changed: dict[str, bytes | None]) -> Any:
            with TemporaryDirectory(dir=temporary) as name:  # A new folder each time: transformers caches by name.
                for file, data in {**small_folder(), **changed}.items():
                    path = Path(name) / file
                    path.parent.mkdir(exist_ok=True)
                    if data is not None:
                        path.write_bytes(data)
                try:
                    return _call(cls(name, retry=False))
                finally:
                    assert not canary.exists(), "code in the folder was run"

        yield Target(folders(), play)


def _check_gguf(path: Path) -> None:
    check_header(str(path))


FILES: dict[str, OpenTarget] = {
    "GGUF: the header": partial(_open_gguf, _check_gguf),
    "GGUF: loaded and called": partial(_open_gguf, _load_gguf),
    "folders: transformers": partial(_open_folder, TransformersModel),
    "folders: MLX": partial(_open_folder, MLXModel),
}
