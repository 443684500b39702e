"""Tiny models with random weights and SmolLM2's tokenizer. Without constrained decoding their output is random text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.servers.llamacpp import model_file
from tests.servers.smollm2 import smollm2_folder

WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 64, 1, 2, 64, 2048


def tiny_folder(folder: Path) -> Path:
    """Write the model as transformers, MLX and vLLM load it."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    real = smollm2_folder()
    config: Any = AutoConfig.from_pretrained(real)
    config.update({
        "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS, "max_position_embeddings": CONTEXT,
    })  # fmt: skip
    torch.manual_seed(7)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(real / name, folder)
    return folder


def tiny_gguf(path: Path) -> Path:
    """Write the model as llama.cpp loads it."""
    import gguf
    import numpy as np

    random = np.random.default_rng(7)
    source = gguf.GGUFReader(model_file())
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {
        "llama.context_length": CONTEXT, "llama.embedding_length": WIDTH, "llama.block_count": LAYERS,
        "llama.feed_forward_length": HIDDEN, "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": HEADS,
    }  # fmt: skip
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[1] if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, sizes.get(field.name, field.contents()), kind, inner)
    vocabulary_size = len(source.fields["tokenizer.ggml.tokens"].data)

    def add_random_tensor(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", (random.standard_normal(shape) * 0.02).astype(np.float32))

    add_random_tensor("token_embd", vocabulary_size, WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for block in (f"blk.{layer}" for layer in range(LAYERS)):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add_random_tensor(f"{block}.{name}", WIDTH, WIDTH)
        add_random_tensor(f"{block}.ffn_up", HIDDEN, WIDTH)
        add_random_tensor(f"{block}.ffn_gate", HIDDEN, WIDTH)
        add_random_tensor(f"{block}.ffn_down", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
