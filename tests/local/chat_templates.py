"""The chat templates of 70 open models, from the source package of llama_cpp_python.

The package is downloaded once into the user's cache, checked by hash, and not built or installed: pip asks it for its
metadata, and a stub answers in the place of its build system.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from modelport.local.chat_template import ChatTemplate
from modelport.local.template_renderer import rendered

_NAME, _VERSION = "llama_cpp_python", "0.3.36"
_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_FOLDER = f"{_NAME}-{_VERSION}/vendor/llama.cpp/models/templates/"
_TIMEOUT_S = 170
_BUILD_STUB = f"""
import os

def get_requires_for_build_wheel(settings=None):
    return []

def prepare_metadata_for_build_wheel(folder, settings=None):
    name = "{_NAME}-{_VERSION}.dist-info"
    os.mkdir(os.path.join(folder, name))
    with open(os.path.join(folder, name, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {_NAME}\\nVersion: {_VERSION}\\n")
    return name
"""


@cache
def templates_folder() -> Path:
    """Return the folder with the templates, each a file `NAME.jinja`; download them on first use."""
    cache_folder = platformdirs.user_cache_path("modelport-tests", ensure_exists=True)
    target = cache_folder / f"chat-templates-{_SHA256[:12]}"
    with (cache_folder / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache_folder) as folder:
                _extract(_download(Path(folder)), Path(folder) / "templates").rename(target)
    return target


def _download(folder: Path) -> Path:
    stub = folder / "stub" / "scikit_build_core" / "build"
    stub.mkdir(parents=True)
    (stub.parent / "__init__.py").touch()
    (stub / "__init__.py").write_text(_BUILD_STUB)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{_NAME}=={_VERSION} --hash=sha256:{_SHA256}\n")
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-binary=:all:",
            "--no-build-isolation", "--require-hashes", "--dest", str(folder), "-r", str(requirement),
        ],
        env={**os.environ, "PYTHONPATH": str(stub.parents[1])},
        capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    archives = [*folder.glob("*.tar.gz")]
    if done.returncode or not archives:
        raise RuntimeError(f"pip could not fetch {_NAME}=={_VERSION}:\n{done.stdout}{done.stderr}")
    return archives[0]


def _extract(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(archive) as files:
        for member in files:
            name = member.name.removeprefix(_FOLDER)
            if member.isfile() and name.endswith(".jinja") and "/" not in name:
                source = files.extractfile(member)
                assert source is not None
                (folder / name).write_bytes(source.read())
    return folder


def template_source(name: str) -> str:
    return (templates_folder() / f"{name}.jinja").read_text()


def apply_function(source: str) -> Any:
    """Return a function with the arguments of `apply_chat_template`, as `renderer_for` makes it from a tokenizer."""

    def apply(
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Any = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **variables: Any,
    ) -> str:
        reasoning = "reasoning_content"  # The transformers library gives it two more names.
        aliases = [
            {**m, "reasoning": m[reasoning], "thinking": m[reasoning]} if reasoning in m else m for m in messages
        ]
        values = {
            "messages": aliases,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        return rendered(source, {**values, "bos_token": "<BOS>", "eos_token": "<EOS>", **variables})

    return apply


@cache
def load_template(name: str) -> ChatTemplate:
    source = template_source(name)
    return ChatTemplate(apply_function(source), source)
