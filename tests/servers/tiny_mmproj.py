"""A tiny random vision projector that llama.cpp accepts for SmolLM2-135M.

It is a LLaVA-style CLIP ("mlp" projector): one 64 x 64 tile, 16 patches, one transformer layer that runs, and a
two-layer MLP into the text model's embedding width. Its weights are random, but pixels reach the model through it: two
different images give different logits. The "idefics3" projector of SmolVLM can't be used: its loader needs the tokens
``<fake_token_around_image>`` and ``<global-img>``, which SmolLM2's vocabulary does not have.

The weights depend on the seed only.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 64
PATCH_SIZE = 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
SMOLLM2_135M_WIDTH = 576

_HIDDEN = 32
_HEADS = 2
_FEED_FORWARD = 64
_LAYERS = 2  # LLaVA uses the output of the second-to-last layer: of two layers, one runs.
_EPSILON = 1e-5


def write_tiny_mmproj(path: Path, *, text_width: int = SMOLLM2_135M_WIDTH, seed: int = 0) -> Path:
    """Write the projector to `path` and return it. The same arguments give the same bytes."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> NDArray[np.float32]:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def ones(*shape: int) -> NDArray[np.float32]:
        return np.ones(shape, dtype=np.float32)

    def zeros(*shape: int) -> NDArray[np.float32]:
        return np.zeros(shape, dtype=np.float32)

    pixels = 3 * PATCH_SIZE * PATCH_SIZE
    wide = _HIDDEN**-0.5
    tensors: dict[str, NDArray[np.float32]] = {
        "v.patch_embd.weight": normal(_HIDDEN, 3, PATCH_SIZE, PATCH_SIZE, scale=2.0 * pixels**-0.5),
        "v.position_embd.weight": normal(IMAGE_TOKENS, _HIDDEN, scale=0.2),
    }
    for layer in range(_LAYERS):
        block = f"v.blk.{layer}"
        for norm in ("ln1", "ln2"):
            tensors[f"{block}.{norm}.weight"] = ones(_HIDDEN)
            tensors[f"{block}.{norm}.bias"] = zeros(_HIDDEN)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors[f"{block}.{name}.weight"] = normal(_HIDDEN, _HIDDEN, scale=wide)
            tensors[f"{block}.{name}.bias"] = zeros(_HIDDEN)
        tensors[f"{block}.ffn_up.weight"] = normal(_FEED_FORWARD, _HIDDEN, scale=wide)
        tensors[f"{block}.ffn_up.bias"] = zeros(_FEED_FORWARD)
        tensors[f"{block}.ffn_down.weight"] = normal(_HIDDEN, _FEED_FORWARD, scale=_FEED_FORWARD**-0.5)
        tensors[f"{block}.ffn_down.bias"] = zeros(_HIDDEN)
    tensors["mm.0.weight"] = normal(_FEED_FORWARD, _HIDDEN, scale=wide)
    tensors["mm.0.bias"] = zeros(_FEED_FORWARD)
    tensors["mm.2.weight"] = normal(text_width, _FEED_FORWARD, scale=_FEED_FORWARD**-0.5)
    tensors["mm.2.bias"] = zeros(text_width)

    writer = gguf.GGUFWriter(str(path), arch="clip")
    writer.add_string("general.type", gguf.GGUFType.MMPROJ)
    writer.add_name("modelport tiny random projector")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    writer.add_uint32("clip.vision.image_size", IMAGE_SIZE)
    writer.add_uint32("clip.vision.patch_size", PATCH_SIZE)
    writer.add_uint32("clip.vision.embedding_length", _HIDDEN)
    writer.add_uint32("clip.vision.feed_forward_length", _FEED_FORWARD)
    writer.add_uint32("clip.vision.projection_dim", text_width)
    writer.add_uint32("clip.vision.block_count", _LAYERS)
    writer.add_uint32("clip.vision.attention.head_count", _HEADS)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", _EPSILON)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
