"""The bounds of the numbers and lists that engines in this process accept.

Some engines allocate as much memory as a parameter says, or compute as long: with `dry_penalty_last_n=2**31-1`
llama.cpp took 8 GB and 17 s before its first token. The bounds are far above all useful values. They apply to calls,
constructors and saved data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from modelport.errors import ContextWindowExceeded, InvalidRequest
from modelport.schema.json_text import json_size_problem
from modelport.types.messages import ChatMessage

#: The largest number that the engines' C++ and Rust code can store in 32 bits.
_INT32 = 2**31 - 1
#: The longest context of any model, in tokens, with a wide margin.
MAX_CONTEXT = 2**27
#: How many tokens backwards a penalty may look. llama.cpp allocates this many entries before the first token.
_MAX_WINDOW = 2**20

#: Name of a number -> the smallest and the largest value that is accepted. A name means the same on each engine.
_NUMBERS: Mapping[str, tuple[int, int]] = {
    # Parameters of calls
    "max_tokens": (1, _INT32), "min_tokens": (0, _INT32), "min_new_tokens": (0, _INT32), "min_length": (0, _INT32),
    "reasoning_budget": (1, _INT32), "thinking_budget_tokens": (-1, _INT32), "thinking_token_budget": (-1, _INT32),
    "top_k": (-1, _INT32), "min_keep": (0, _INT32), "n_keep": (-1, _INT32), "n_predict": (-2, _INT32),
    "n_probs": (0, 1000), "mirostat": (0, 2), "t_max_predict_ms": (-1, _INT32), "id_slot": (-1, 1023),
    "dry_penalty_last_n": (-1, _MAX_WINDOW), "repeat_last_n": (-1, _MAX_WINDOW),
    "dry_allowed_length": (0, _MAX_WINDOW),
    "no_repeat_ngram_size": (0, 100), "num_beams": (1, 64), "num_return_sequences": (1, 64),
    "stream_interval": (1, 10_000),
    # Parameters of constructors
    "context_length": (1, MAX_CONTEXT), "parallel": (1, 1024), "threads": (1, 4096), "queue": (0, 10**6),
    "prefill_step_size": (1, 2**16), "prefix_cache_bytes": (0, 2**50), "gpu_layers": (-2, 10_000),
    # Fields of llama.cpp's `CommonParams`
    "n_ctx": (0, MAX_CONTEXT), "n_batch": (1, 2**16), "n_ubatch": (1, 2**16), "n_parallel": (1, 1024),
    "n_cache_reuse": (0, _INT32), "n_ctx_checkpoints": (0, 1024), "checkpoint_min_step": (0, _INT32),
    "cache_ram_mib": (-1, 2**24), "n_gpu_layers": (-2, 10_000), "grp_attn_n": (1, 2**16), "grp_attn_w": (1, 2**20),
    "image_max_tokens": (-1, 2**17), "image_min_tokens": (-1, 2**17), "fit_params_min_ctx": (0, MAX_CONTEXT),
    "yarn_orig_ctx": (0, MAX_CONTEXT), "moe_cache_size": (0, 2**20), "n_threads_http": (-1, 256),
    # Fields of vLLM's `AsyncEngineArgs`
    "max_model_len": (-1, MAX_CONTEXT), "max_num_batched_tokens": (1, 2**24), "max_num_seqs": (1, 2**16),
    "max_logprobs": (-1, 1000), "block_size": (1, 2**16),
}  # fmt: skip
#: Name of a list or a dict -> how many items it may have; `_size` says how they are counted.
_LENGTHS: Mapping[str, int] = {
    "logit_bias": 2**18, "suppress_tokens": 2**18, "begin_suppress_tokens": 2**18, "allowed_token_ids": 2**18,
    "bad_words_ids": 2**16, "sequence_bias": 2**16, "bad_words": 2**16, "stop_token_ids": 2**10, "eos_token_id": 2**10,
    "samplers": 32, "dry_sequence_breakers": 16, "lora": 64, "trace_decode_token_ids": 2**18,
    "exponential_decay_length_penalty": 2,
}  # fmt: skip
#: Shorter prompts are always passed to the tokenizer, which counts their tokens exactly.
LONG_PROMPT = 2**20


def check_bounds(parameters: Mapping[str, Any], where: str = "") -> None:
    """Check the parameters of a call, a constructor or an engine. A parameter without a bound is accepted.

    Args:
        parameters: The parameters by name.
        where: The name of the dict that contains them, for the error; empty if there is none.

    Raises:
        InvalidRequest: A number is too small or too large, or a list is too long.
    """
    prefix = f"{where}: " if where else ""
    for name, value in parameters.items():
        if name in _NUMBERS and isinstance(value, int | float):
            least, most = _NUMBERS[name]
            if not least <= value <= most:
                raise InvalidRequest(
                    f"{prefix}{name}={value!r}: must be at least {least} and at most {most}", parameter=name
                )
        elif name in _LENGTHS and (size := _size(value)) > _LENGTHS[name]:
            raise InvalidRequest(
                f"{prefix}{name} has {size} items; at most {_LENGTHS[name]} are accepted", parameter=name
            )


def _size(value: Any) -> int:
    """Return how many items a list or a dict has. A list in it counts with its own items, a long text as several."""
    if isinstance(value, str):
        return 1 + len(value) // 100
    if isinstance(value, Mapping | list | tuple):
        return sum(_size(item) if isinstance(item, str | list | tuple) else 1 for item in value)
    return 0


def parsed_arguments(arguments: str) -> Any:
    """Return the arguments of a tool call in a prompt, parsed if they are JSON.

    Raises:
        InvalidRequest: They are too large to be parsed.
    """
    if (problem := json_size_problem(arguments)) is not None:
        raise InvalidRequest(f"the arguments of a tool call in the messages are too large: {problem}")
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def text_size(messages: Iterable[ChatMessage]) -> int:
    """Return how many characters the texts of messages have together."""
    size = 0
    for message in messages:
        content = message.content
        if isinstance(content, tuple):
            size += sum(len(getattr(part, "text", None) or "") for part in content)
        else:
            size += len(content or "")
    return size


def check_prompt_size(characters: int, context_length: int, longest_token: int) -> None:
    """Refuse a prompt that can't fit, before it is encoded: that takes llama.cpp 10 s for 50 MB.

    Args:
        characters: The length of the prompt, or of a part of it.
        context_length: The most tokens of prompt and output.
        longest_token: The length of the longest token of the vocabulary, in bytes; 0 if it is unknown.

    Raises:
        ContextWindowExceeded: Even if each token were the longest one, the prompt would not fit.
    """
    if longest_token and characters > LONG_PROMPT and characters > context_length * longest_token:
        raise ContextWindowExceeded(
            f"the prompt has {characters} characters, which are at least {characters // longest_token} tokens, and the "
            f"model's context holds {context_length} tokens of prompt and output: shorten the conversation",
            hint="The option --set context_length=… makes the context larger.",
        )
