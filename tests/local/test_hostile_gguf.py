"""A GGUF file whose header or template is hostile raises an error in the constructor, and the process lives on."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tests.schema_corpus.tiny import tiny_gguf

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

_TEMPLATES = {
    "recursive macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "long range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "loop for tools": "{% if tools %}{% for i in range(10**9) %}{% endfor %}{% endif %}",
    "deep brackets": "{{ " + "(" * 100_000 + ")" * 100_000 + " }}",
}
_NUMBERS = [("block_count", 0), ("block_count", 2**31), ("block_count", 2**32 - 1), ("context_length", 0),
            ("context_length", 2**31), ("context_length", 2**32 - 1)]  # fmt: skip
#: Loads each file that the command line names, and prints what happens.
_SCRIPT = """
import sys
from modelport import LlamaCppModel, ModelError
from modelport.local import template_budget

template_budget.MAX_SECONDS = 0.2
for path in sys.argv[1:]:
    try:
        LlamaCppModel(path, context_length=256, threads=1)
        print("loaded", flush=True)
    except ModelError as error:
        print(type(error).__name__, str(error).replace(path, "PATH")[:120], flush=True)
"""


def load_in_child(*paths: Path) -> list[str]:
    """Return a line for each file. A child that was killed has printed fewer lines."""
    command = [sys.executable, "-c", _SCRIPT, *map(str, paths)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, f"the process ended with {process.returncode}: {process.stdout}{process.stderr}"
    return process.stdout.splitlines()


def with_template(model: bytes, source: str) -> bytes:
    """Return a GGUF file with another chat template."""
    start = model.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 4
    (length,) = struct.unpack_from("<Q", model, start)
    # The weights that follow the header are aligned to 32 bytes.
    padded = source + " " * ((length - len(source)) % 32)
    return model[:start] + struct.pack("<Q", len(padded)) + padded.encode() + model[start + 8 + length :]


def with_number(model: bytes, name: str, value: int) -> bytes:
    """Return a GGUF file with another number of 32 bits in its header."""
    start = model.index(name.encode()) + len(name) + 4
    return model[:start] + struct.pack("<I", value) + model[start + 4 :]


def test_hostile_gguf_raises_invalid_request_and_does_not_end_the_process(tmp_path: Path) -> None:
    ordinary = tiny_gguf(tmp_path / "ordinary.gguf")
    model = ordinary.read_bytes()
    hostile = {name: with_template(model, source) for name, source in _TEMPLATES.items()}
    hostile |= {f"{name} {value}": with_number(model, f"llama.{name}", value) for name, value in _NUMBERS}
    paths = [tmp_path / f"{name}.gguf" for name in hostile]
    for path, data in zip(paths, hostile.values(), strict=True):
        path.write_bytes(data)
    *lines, last = load_in_child(*paths, ordinary)
    assert last == "loaded"
    for name, line in zip(hostile, lines, strict=True):
        assert line.startswith("InvalidRequest PATH: "), f"{name}: {line}"
