"""Strategies: folders of models, as transformers and MLX read them, with damaged and hostile files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.gguf_inputs import TEMPLATES
from tests.fuzz.junk import junk, texts
from tests.fuzz.small_models import write_folder

#: The file that hostile code in a folder would write. It is named in an environment variable, because the code runs in
#: the process that loads the folder.
CANARY = "MODELPORT_FUZZ_CANARY"
_CODE = f"import os\nopen(os.environ[{CANARY!r}], 'w').close()\n"
_PICKLE = f"cbuiltins\nexec\n(V{_CODE.encode('unicode_escape').decode()}\ntR.".encode()
_NUMBERS = (0, -1, 1, 3, 2**20, 2**31, 2**63, 1e308, 0.5, None, "many", [1], True)
_HOSTILE: dict[str, bytes] = {
    "pytorch_model.bin": _PICKLE, "modeling_canary.py": _CODE.encode(), "tokenization_canary.py": _CODE.encode(),
    "custom_generate/generate.py": _CODE.encode(), "adapter_config.json": b'{"base_model_name_or_path": "x/y"}',
    "model.safetensors.index.json": b'{"weight_map": {"a": "../../../etc/passwd"}}', "special_tokens_map.json": b"{",
    "added_tokens.json": b'{"a": -1, "b": 99999999}', "processor_config.json": b"{}", "chat_template.json": b"[]",
    "preprocessor_config.json":
        b'{"image_processor_type": "Nonesuch", "auto_map": {"AutoProcessor": "modeling_canary.P"}}',
}  # fmt: skip


@cache
def small_folder() -> Mapping[str, bytes]:
    """Return the files of the small model."""
    with TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in write_folder(Path(folder)).iterdir()}


def _config_with(changes: dict[str, Any]) -> bytes:
    return json.dumps({**json.loads(small_folder()["config.json"]), **changes}).encode()


_CONFIG_NAMES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings", "head_dim", "eos_token_id", "rope_theta", "rms_norm_eps", "dtype", "model_type",
    "rope_parameters", "quantization_config", "architectures", "tie_word_embeddings", "hidden_act", "layer_types",
)  # fmt: skip
_settings = st.dictionaries(st.sampled_from(_CONFIG_NAMES), st.sampled_from(_NUMBERS) | junk, min_size=1, max_size=2)
_CLASSES = {
    "auto_map": {"AutoModelForCausalLM": "modeling_canary.M", "AutoConfig": "modeling_canary.C",
                 "AutoTokenizer": ["tokenization_canary.T", None]},
    "tokenizer_class": "tokenization_canary.T", "processor_class": "modeling_canary.P",
    "model_file": "modeling_canary.py",
}  # fmt: skip


@st.composite
def _weights(draw: st.DrawFn) -> bytes:
    """Draw the file of the weights, whose header is JSON after its length."""
    data = small_folder()["model.safetensors"]
    (length,) = struct.unpack_from("<Q", data)
    change = draw(st.sampled_from(("truncated", "length", "header", "byte")))
    if change == "truncated":
        return data[: draw(st.integers(0, len(data)))]
    if change == "length":
        return struct.pack("<Q", draw(st.sampled_from((0, 1, length - 1, length + 1, 2**40, 2**64 - 1)))) + data[8:]
    if change == "header":
        header = draw(texts(json.loads(data[8 : 8 + length])))
        return struct.pack("<Q", len(header)) + header + data[8 + length :]
    at = draw(st.integers(0, 8 + length - 1))
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes | None]:
    """Draw changed files of a folder by name; `None` for a file that is missing."""
    files = small_folder()
    result: dict[str, bytes | None] = {}
    for _ in range(draw(st.integers(0, 2))):
        change = draw(st.sampled_from(("config", "config", "json", "json", "template", "weights", "missing", "code")))
        if change == "config":
            result["config.json"] = _config_with(draw(_settings))
        elif change == "json":
            name = draw(st.sampled_from(sorted(name for name in files if name.endswith(".json"))))
            result[name] = draw(texts(json.loads(files[name])))
        elif change == "template":
            result["chat_template.jinja"] = draw(st.sampled_from(TEMPLATES)).encode("utf-8", "surrogatepass")
        elif change == "weights":
            result["model.safetensors"] = draw(_weights())
        elif change == "missing":
            result[draw(st.sampled_from(sorted(files)))] = None
        else:
            name = draw(st.sampled_from(sorted(_HOSTILE)))
            result[name] = _HOSTILE[name]
            if name == "pytorch_model.bin":
                result["model.safetensors"] = None
            elif name.endswith(".py"):
                result["config.json"] = _config_with(_CLASSES)
                result["tokenizer_config.json"] = json.dumps(_CLASSES).encode()
    return result
