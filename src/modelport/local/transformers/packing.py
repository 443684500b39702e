"""Forward passes over rows of different lengths.

`PackedForward` computes all rows in one pass of shape (1, N). The pass contains every row's new tokens: its last token,
a chunk of its prompt, or tokens that a grammar forces. modelport's attention function lets each row attend to its own
keys and values. A row (the sequence of one request) can join or leave between passes: caches are not merged, and
nothing is padded. `SerialForward` computes one row after another, for models that accept images, or whose attention
can't be packed. `choose_forward` tries `PackedForward`, and compares its logits with those of
the model's own attention.
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
#: Passes data from `PackedForward.run` to `packed_attention`, which the model calls. Its attribute `segments` is a list
#: of `_Segment` during a packed pass of this thread, and otherwise `None` or missing.
_current_pass = threading.local()


@dataclass
class RowChunk:
    """The new tokens of one row in a pass: its last token, a chunk of its prompt, or forced tokens.

    Args:
        cache: The row's keys and values so far; the pass extends it by these tokens.
        tokens: Token ids.
        inputs: What the model's processor returned for images among these tokens, such as `pixel_values`.
            Empty in packed passes.
    """

    cache: Any
    tokens: Sequence[int]
    inputs: dict[str, Any] = field(default_factory=dict)


class Forward(Protocol):
    """Computes the forward passes of a model."""

    #: Whether one pass computes several rows.
    is_packed: bool

    def new_cache(self, capacity: int) -> Cache:
        """Return an empty cache for a row. A `PackedCache` reserves memory for `capacity` tokens."""
        ...

    def run(self, chunks: Sequence[RowChunk]) -> torch.Tensor:
        """Compute chunks of different rows, and add their keys and values to the rows' caches.

        Returns:
            The logits after the last token of each chunk, of shape (chunks, vocabulary), in f32.
        """
        ...


class PackedForward:
    """Computes all rows in one pass."""

    is_packed = True

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.device

    def new_cache(self, capacity: int) -> PackedCache:
        """See `Forward.new_cache`."""
        return PackedCache(capacity)

    def run(self, chunks: Sequence[RowChunk]) -> torch.Tensor:
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
        for chunk in chunks:  # Only after the pass: if the pass fails, its tokens do not count as computed.
            chunk.cache.length += len(chunk.tokens)
        return output.logits[0].float()


class SerialForward:
    """Computes each row in a pass of its own, with the library's attention and cache."""

    is_packed = False

    def __init__(self, model: Any) -> None:
        self._model = model

    def new_cache(self, capacity: int) -> LibraryCache:
        """See `Forward.new_cache`."""
        from transformers import DynamicCache

        return LibraryCache(DynamicCache(config=self._model.config.get_text_config()))

    def run(self, chunks: Sequence[RowChunk]) -> torch.Tensor:
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
    """The new tokens of one row in a packed pass.

    Args:
        cache: The row's keys and values before the pass.
        start: The position of the row's first new token among all tokens of the pass.
        count: How many new tokens the row has.
    """

    __slots__ = ("cache", "start", "count", "_masks")

    def __init__(self, cache: PackedCache, start: int, count: int) -> None:
        self.cache, self.start, self.count = cache, start, count
        self._masks: dict[Any, torch.Tensor | None] = {}

    def mask(self, window: int | None, groups: int, like: torch.Tensor) -> torch.Tensor | None:
        """Return the attention mask of the new tokens, computed once per pass for all layers with the same window.

        Args:
            window: The length of the sliding window in tokens; `None` for full attention.
            groups: How many query heads share a key head.
            like: A tensor with the mask's dtype and device.

        Returns:
            A mask of shape (groups × new tokens, all tokens of the row); `None` if nothing is masked.
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

    The library calls this function for each attention layer. Outside packed passes, it uses the library's attention.

    Args:
        module: The attention layer.
        query: The queries of the pass, of shape (1, heads, tokens, dimension).
        key: The keys, of the same shape, but perhaps with fewer heads.
        value: The values, of the same shape, but perhaps with fewer heads.
        attention_mask: Not used in packed passes, in which each row has its own mask.
        scaling: The factor of the attention scores.
        dropout: Not used in packed passes.
        sliding_window: How many tokens a token attends to, itself and those just before it; `None` for all.
        **more: Arguments that only some models pass.

    Raises:
        NotImplementedError: This kind of attention can't be packed. It is raised in the trial of `choose_forward`,
            which then returns a `SerialForward`.
    """
    segments = getattr(_current_pass, "segments", None)
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    if unsupported := [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]:
        raise NotImplementedError(f"this model's attention has {unsupported[0]}")
    layer_types = getattr(getattr(module, "config", None), "layer_types", None)
    if layer_types and layer_types[module.layer_idx] not in ("full_attention", "sliding_attention"):
        raise NotImplementedError(f"this model has layers of {layer_types[module.layer_idx]}")
    if layer_types and layer_types[module.layer_idx] == "sliding_attention" and sliding_window is None:
        raise NotImplementedError("this model does not pass the length of its sliding window")
    heads, kv_heads = query.shape[1], key.shape[1]
    groups = heads // kv_heads
    out = query.new_empty(1, query.shape[2], heads, value.shape[3])
    for segment in segments:
        span = slice(segment.start, segment.start + segment.count)
        keys, values = segment.cache.extend(module.layer_idx, key[0, :, span], value[0, :, span])
        # Query heads that share a key head are arranged as if they were further tokens, so that the keys need not be
        # copied for each of them.
        q = query[0, :, span].reshape(1, kv_heads, groups * segment.count, query.shape[3])
        result = scaled_dot_product_attention(
            q, keys[None], values[None], attn_mask=segment.mask(sliding_window, groups, query), scale=scaling
        )
        out[0, span] = result.reshape(heads, segment.count, -1).transpose(0, 1)
    return out, None


def packed_mask(*args: Any, **kwargs: Any) -> Any:
    """Return no mask within packed passes, in which each `_Segment` makes its own; outside them, the library's mask."""
    if getattr(_current_pass, "segments", None) is not None:
        return None
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **kwargs)


def choose_forward(model: Any) -> Forward:
    """Return a `PackedForward` if a trial gives the logits of the model's own attention, else a `SerialForward`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, packed_mask)
    own_implementation = model.config._attn_implementation
    try:
        trial = _trial_tokens(model)
        expected = [_own_logits(model, tokens) for tokens in trial]
        model.set_attn_implementation(ATTENTION_NAME)
        found = _packed_logits(PackedForward(model), trial)
    except Exception:  # Models that can't be packed raise exceptions of any kind.
        model.set_attn_implementation(own_implementation)
        return SerialForward(model)
    if all(_are_close(a, b, model.dtype) for a, b in zip(expected, found, strict=True)):
        return PackedForward(model)
    model.set_attn_implementation(own_implementation)
    return SerialForward(model)


def _trial_tokens(model: Any) -> list[list[int]]:
    """Return two rows of tokens. One has 23, more than the sliding windows of the small models in modelport's tests."""
    vocab_size = model.config.get_text_config().vocab_size
    return [[(7 * i * i + 3) % vocab_size for i in range(count)] for count in (23, 5)]


def _own_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1].float()


def _packed_logits(packed: PackedForward, trial: list[list[int]]) -> list[torch.Tensor]:
    """Compute the rows in chunks, as in real use: two prompts in parts, then single tokens next to each other."""
    long, short = trial
    long_cache, short_cache = packed.new_cache(0), packed.new_cache(0)
    packed.run([RowChunk(long_cache, long[:9])])
    packed.run([RowChunk(short_cache, short[:-1]), RowChunk(long_cache, long[9:-1])])
    logits = packed.run([RowChunk(long_cache, long[-1:]), RowChunk(short_cache, short[-1:])])
    return [logits[0], logits[1]]


def _are_close(expected: torch.Tensor, found: torch.Tensor, dtype: torch.dtype) -> bool:
    difference = (expected - found).abs().max() / expected.abs().max().clamp(min=1.0)
    return bool(difference < (1e-3 if dtype == torch.float32 else 5e-2))
