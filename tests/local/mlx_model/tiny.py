"""Tiny MLX models with random weights and SmolLM2's tokenizer, and helpers that several tests share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fast_products import preload
from tests.servers.smollm2 import smollm2_folder

from modelport import MLXModel

CAPITAL = "What is the capital of France? Answer in one sentence."
STORY = "The fox went to the river and drank. " * 12

#: The bytes of one token's keys and values in `DENSE`: two layers, one head of 32, keys and values, f32.
BYTES_PER_TOKEN = 2 * 1 * 32 * 2 * 4
_SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
DENSE = {
    "model_type": "llama", "num_hidden_layers": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, **_SIZES
}  # fmt: skip
SLIDING_WINDOW = {**DENSE, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}
HYBRID = {
    "model_type": "lfm2", "num_hidden_layers": 2, "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3,
    "block_dim": 64, "block_ff_dim": 64, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False, "full_attn_idxs": [1], "rope_theta": 1e6, **_SIZES,
}  # fmt: skip


def write_tiny_model(folder: Path, config: dict[str, Any]) -> Path:
    """Write a model with random weights and SmolLM2's tokenizer."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    config = {"vocab_size": 49152, "eos_token_id": 2, "max_position_embeddings": 2048, **config}
    model_class, arguments = _get_classes(config)
    mx.random.seed(7)
    weights = dict(tree_flatten(model_class(arguments.from_dict(config)).parameters()))
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2_folder() / name, folder)
    return folder


def copy_folder(source: Path, folder: Path, name: str) -> Path:
    """Return a new folder with links to all files of a model."""
    copy = folder / name
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).symlink_to(file)
    return copy


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def wait_until_idle(model: MLXModel, seconds: float = 30.0) -> None:
    engine = model._engine()
    end = time.monotonic() + seconds
    while engine.busy and time.monotonic() < end:
        time.sleep(0.005)
    assert engine.busy == 0


def cached_and_new(model: MLXModel, messages: Any, **options: Any) -> tuple[int, int]:
    """Return how many tokens of the prompt were cached, and how many were not."""
    usage = model(messages, max_tokens=4, **options).token_usage
    assert usage is not None and usage.input_tokens is not None and usage.cached_input_tokens is not None
    return usage.cached_input_tokens, usage.input_tokens - usage.cached_input_tokens


class FailingProcessor:
    """A logits processor that raises at its nth call."""

    def __init__(self, call: int) -> None:
        self._remaining = call

    def __call__(self, tokens: Any, logits: Any) -> Any:
        self._remaining -= 1
        if self._remaining == 0:
            raise ZeroDivisionError("not today")
        return logits


class WritingProcessor:
    """A logits processor with which the model generates these tokens, and then ends."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = iter(tokens)

    def __call__(self, tokens: Any, logits: Any) -> Any:
        import mlx.core as mx

        token = next(self._tokens, 2)
        return mx.where(mx.arange(logits.shape[1]) == token, mx.zeros_like(logits), -mx.inf)


def row_counter(model: MLXModel) -> tuple[list[int], Callable[[Any, Any], Any]]:
    """Return a list and a logits processor that appends the number of rows in the batch to it at each call."""
    counts: list[int] = []

    def count_rows(tokens: Any, logits: Any) -> Any:
        counts.append(len(model._engine().batch._rows))
        return logits

    return counts, count_rows


def active_memory() -> int:
    """Return the bytes that MLX uses in this process."""
    import mlx.core as mx

    return int(mx.get_active_memory())


def run_python(
    code: str, *arguments: str, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **preload(), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
