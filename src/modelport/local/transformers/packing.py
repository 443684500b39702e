"""Forward passes over rows of different lengths.

`PackedForward` computes all rows in one pass of shape (1, N). The pass contains every row's new tokens (decoding steps,
chunks of prompts, forced tokens), and modelport's attention function lets each row attend to its own keys and values.
Rows join and leave without merging or padding. `SerialForward` computes one row after another, for models whose
attention can't be packed. `choose_forward` decides by comparing logits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from modelport.local.transformers.caches import Cache, LibraryCache, PackedCache

#: The name under which modelport's attention function is registered in the library.
ATTENTION_NAME = "modelport_packed"
#: `segments` is set during a packed pass of this thread.
_current_pass = threading.local()


@dataclass
class PrefillChunk:
    """The new tokens of one row in a pass: a part of its prompt, or the tokens of a decoding step.

    Args:
        cache: The row's keys and values so far; the pass extends it by these tokens.
        tokens: Token ids.
        inputs: What a processor added for images among these tokens.
    """

    cache: Any
    tokens: Sequence[int]
    inputs: dict[str, Any] = field(default_factory=dict)


class Forward(Protocol):
    """How a model's rows are computed."""

    #: Whether rows share a pass.
    is_packed: bool

    def cache(self, capacity: int) -> Cache:
        """Return an empty cache with memory for so many tokens."""
        ...

    def run(self, chunks: Sequence[PrefillChunk]) -> torch.Tensor:
        """Compute the chunks.

        Returns:
            The logits after the last token of each chunk, of shape (chunks, vocabulary), in f32.
        """
        ...


class PackedForward:
    """One pass for all rows."""

    is_packed = True

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.device

    def cache(self, capacity: int) -> PackedCache:
        """See `Forward.cache`."""
        return PackedCache(capacity)

    def run(self, chunks: Sequence[PrefillChunk]) -> torch.Tensor:
        """See `Forward.run`."""
        tokens = [token for chunk in chunks for token in chunk.tokens]
        positions = [chunk.cache.length + i for chunk in chunks for i in range(len(chunk.tokens))]
        ends, segments, start = [], [], 0
        for chunk in chunks:
            segments.append(_Segment(chunk.cache, start, len(chunk.tokens)))
            start += len(chunk.tokens)
            ends.append(start - 1)
        device = self._device
        _current_pass.segments = segments
        try:
            output = self._model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(ends, device=device),
            )
        finally:
            _current_pass.segments = None
        for chunk in chunks:  # Only after the pass: if it fails, the lengths still say what was computed.
            chunk.cache.length += len(chunk.tokens)
        return output.logits[0].float()


class SerialForward:
    """A pass for each row, through the model's own attention and cache."""

    is_packed = False

    def __init__(self, model: Any) -> None:
        self._model = model

    def cache(self, capacity: int) -> LibraryCache:
        """See `Forward.cache`."""
        from transformers import DynamicCache

        return LibraryCache(DynamicCache(config=self._model.config.get_text_config()))

    def run(self, chunks: Sequence[PrefillChunk]) -> torch.Tensor:
        """See `Forward.run`."""
        logits = []
        for chunk in chunks:
            ids = torch.tensor([chunk.tokens], device=self._model.device)
            total = chunk.cache.length + len(chunk.tokens)
            output = self._model(
                input_ids=ids,
                attention_mask=torch.ones(1, total, dtype=torch.long, device=ids.device),
                past_key_values=chunk.cache.inner,
                use_cache=True,
                logits_to_keep=1,
                **chunk.inputs,
            )
            chunk.cache.length = total
            logits.append(output.logits[0, -1])
        return torch.stack(logits).float()


class _Segment:
    """The positions of one row in a packed pass.

    Args:
        cache: The row's keys and values before the pass.
        start: The position of the row's first new token.
        count: How many new tokens the row has.
    """

    __slots__ = ("cache", "start", "count", "_masks")

    def __init__(self, cache: PackedCache, start: int, count: int) -> None:
        self.cache, self.start, self.count = cache, start, count
        self._masks: dict[Any, torch.Tensor | None] = {}

    def mask(self, window: int | None, groups: int, like: torch.Tensor) -> torch.Tensor | None:
        """Return the attention mask of the new tokens, computed once per pass for all layers of one kind.

        Args:
            window: The length of the sliding window, if there is one.
            groups: How many query heads share a key head.
            like: A tensor with the mask's dtype and device.

        Returns:
            A mask of shape (groups × new tokens, all tokens); `None` if nothing is masked.
        """
        key = window, groups
        if key not in self._masks:
            self._masks[key] = self._make_mask(window, groups, like)
        return self._masks[key]

    def _make_mask(self, window: int | None, groups: int, like: torch.Tensor) -> torch.Tensor | None:
        past, count = self.cache.length, self.count
        if count == 1 and (window is None or past < window):
            return None
        query_positions = torch.arange(past, past + count, device=like.device)[:, None]
        key_positions = torch.arange(past + count, device=like.device)[None, :]
        hidden = key_positions > query_positions
        if window is not None:
            hidden |= key_positions <= query_positions - window
        mask = torch.zeros(count, past + count, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(hidden, float("-inf")).repeat(groups, 1)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of packed rows, each over its own keys and values.

    Outside modelport's packed passes, the library's own attention is used.

    Args:
        module: The attention layer.
        query: Of shape (1, heads, tokens, dimension).
        key: Of the same shape, with its own number of heads.
        value: Of the same shape, with its own number of heads.
        attention_mask: Unused: the segments say which tokens attend to which.
        scaling: The factor of the scores.
        dropout: Unused: there is no training.
        sliding_window: How many tokens back a token attends.
        **more: Arguments that only some models pass.
    """
    segments = getattr(_current_pass, "segments", None)
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    if unsupported := [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]:
        raise NotImplementedError(f"this model's attention has {unsupported[0]}")
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    if kinds and kinds[module.layer_idx] not in ("full_attention", "sliding_attention"):
        raise NotImplementedError(f"this model has layers of {kinds[module.layer_idx]}")
    if kinds and kinds[module.layer_idx] == "sliding_attention" and sliding_window is None:
        raise NotImplementedError("this model does not pass the length of its sliding window")
    heads, kv_heads = query.shape[1], key.shape[1]
    groups = heads // kv_heads
    out = query.new_empty(1, query.shape[2], heads, value.shape[3])
    for segment in segments:
        span = slice(segment.start, segment.start + segment.count)
        keys, values = segment.cache.extend(module.layer_idx, key[0, :, span], value[0, :, span])
        # The query heads of a group are arranged like further tokens, so that keys need not be copied for each head.
        q = query[0, :, span].reshape(1, kv_heads, groups * segment.count, query.shape[3])
        result = scaled_dot_product_attention(
            q, keys[None], values[None], attn_mask=segment.mask(sliding_window, groups, query), scale=scaling
        )
        out[0, span] = result.reshape(heads, segment.count, -1).transpose(0, 1)
    return out, None


def packed_mask(*args: Any, **kwargs: Any) -> Any:
    """Return no mask within packed passes, and the library's own mask outside them."""
    if getattr(_current_pass, "segments", None) is not None:
        return None
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **kwargs)


def choose_forward(model: Any) -> Forward:
    """Return how this model's rows are computed: packed, if a trial gives the logits of the model's own attention."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, packed_mask)
    before = model.config._attn_implementation
    try:
        trial = _trial_tokens(model)
        expected = [_own_logits(model, tokens) for tokens in trial]
        model.set_attn_implementation(ATTENTION_NAME)
        found = _packed_logits(PackedForward(model), trial)
    except Exception:  # Architectures refuse in different ways, with exceptions of any kind.
        model.set_attn_implementation(before)
        return SerialForward(model)
    if all(_are_close(a, b, model.dtype) for a, b in zip(expected, found, strict=True)):
        return PackedForward(model)
    model.set_attn_implementation(before)
    return SerialForward(model)


def _trial_tokens(model: Any) -> list[list[int]]:
    """Return two rows; one is longer than the short sliding window of a test's model."""
    vocab_size = model.config.get_text_config().vocab_size
    return [[(7 * i * i + 3) % vocab_size for i in range(count)] for count in (23, 5)]


def _own_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1].float()


def _packed_logits(packed: PackedForward, trial: list[list[int]]) -> list[torch.Tensor]:
    """Compute the rows in chunks, as in real use: two prompts in parts, then single tokens next to each other."""
    long, short = trial
    a, b = packed.cache(0), packed.cache(0)
    packed.run([PrefillChunk(a, long[:9])])
    packed.run([PrefillChunk(b, short[:-1]), PrefillChunk(a, long[9:-1])])
    logits = packed.run([PrefillChunk(a, long[-1:]), PrefillChunk(b, short[-1:])])
    return [logits[0], logits[1]]


def _are_close(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> bool:
    difference = (a - b).abs().max() / a.abs().max().clamp(min=1.0)
    return bool(difference < (1e-3 if dtype == torch.float32 else 5e-2))
