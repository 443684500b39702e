"""Forward passes over rows of different lengths.

Packed: one pass of shape (1, N) holds every row's new tokens (decoding steps, pieces of prompts, forced tokens), and an
attention function of ours lets each row attend to its own keys and values. Rows join and leave without merging or
padding. A model whose attention can't be packed computes its rows one after another.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from modelport.local.transformers.caches import Cache, OwnCache, PackedCache

NAME = "modelport_packed"
_here = threading.local()


@dataclass
class PrefillChunk:
    """The new tokens of one row.

    Args:
        cache: Of what came before; longer by these tokens after the pass.
        tokens: Their ids.
        inputs: What a processor added for images among these tokens.
    """

    cache: Any
    tokens: Sequence[int]
    inputs: dict[str, Any] = field(default_factory=dict)


class Forward(Protocol):
    """How a model's rows are computed."""

    #: Whether rows share a pass.
    together: bool

    def cache(self, room: int) -> Cache:
        """An empty cache, with room for so many tokens."""
        ...

    def run(self, pieces: Sequence[PrefillChunk]) -> torch.Tensor:
        """Computes the pieces.

        Returns:
            The logits behind the last token of each piece, of shape (pieces, vocabulary), in f32.
        """
        ...


class Packed:
    """One pass for all rows."""

    together = True

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.device

    def cache(self, room: int) -> PackedCache:
        """See `Forward.cache`."""
        return PackedCache(room)

    def run(self, pieces: Sequence[PrefillChunk]) -> torch.Tensor:
        """See `Forward.run`."""
        tokens = [token for piece in pieces for token in piece.tokens]
        positions = [p.cache.length + i for p in pieces for i in range(len(p.tokens))]
        ends, segments, start = [], [], 0
        for piece in pieces:
            segments.append(_Segment(piece.cache, start, len(piece.tokens)))
            start += len(piece.tokens)
            ends.append(start - 1)
        device = self._device
        _here.segments = segments
        try:
            output = self._model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(ends, device=device),
            )
        finally:
            _here.segments = None
        for piece in pieces:  # Not before: after a failure the lengths still say what was computed.
            piece.cache.length += len(piece.tokens)
        return output.logits[0].float()


class Serial:
    """A pass for each row, through the model's own attention and cache."""

    together = False

    def __init__(self, model: Any) -> None:
        self._model = model

    def cache(self, room: int) -> OwnCache:
        """See `Forward.cache`."""
        from transformers import DynamicCache

        return OwnCache(DynamicCache(config=self._model.config.get_text_config()))

    def run(self, pieces: Sequence[PrefillChunk]) -> torch.Tensor:
        """See `Forward.run`."""
        logits = []
        for piece in pieces:
            ids = torch.tensor([piece.tokens], device=self._model.device)
            total = piece.cache.length + len(piece.tokens)
            output = self._model(
                input_ids=ids,
                attention_mask=torch.ones(1, total, dtype=torch.long, device=ids.device),
                past_key_values=piece.cache.inner,
                use_cache=True,
                logits_to_keep=1,
                **piece.inputs,
            )
            piece.cache.length = total
            logits.append(output.logits[0, -1])
        return torch.stack(logits).float()


class _Segment:
    """The place of one row in a packed pass."""

    __slots__ = ("cache", "start", "count", "_masks")

    def __init__(self, cache: PackedCache, start: int, count: int) -> None:
        self.cache, self.start, self.count = cache, start, count
        self._masks: dict[Any, torch.Tensor | None] = {}

    def mask(self, window: int | None, groups: int, like: torch.Tensor) -> torch.Tensor | None:
        """What each new token may attend to, once per pass for all layers alike; `None` for everything."""
        key = window, groups
        if key not in self._masks:
            self._masks[key] = self._mask(window, groups, like)
        return self._masks[key]

    def _mask(self, window: int | None, groups: int, like: torch.Tensor) -> torch.Tensor | None:
        past, count = self.cache.length, self.count
        if count == 1 and (window is None or past < window):
            return None
        here = torch.arange(past, past + count, device=like.device)[:, None]
        there = torch.arange(past + count, device=like.device)[None, :]
        hidden = there > here
        if window is not None:
            hidden |= there <= here - window
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
    """Attention of packed rows, each to its own keys and values; outside our passes, the library's own.

    Args:
        module: The attention layer.
        query: Of shape (1, heads, tokens, dimension); `key` and `value` likewise, with their own number of heads.
        key: See `query`.
        value: See `query`.
        attention_mask: Not looked at: the segments say who attends to what.
        scaling: Of the scores.
        dropout: Not for us, who do not train.
        sliding_window: How far back a token sees.
        **more: What only some models pass.
    """
    segments = getattr(_here, "segments", None)
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    if odd := [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]:
        raise NotImplementedError(f"this model's attention has {odd[0]}")
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    if kinds and kinds[module.layer_idx] not in ("full_attention", "sliding_attention"):
        raise NotImplementedError(f"this model has layers of {kinds[module.layer_idx]}")
    if kinds and kinds[module.layer_idx] == "sliding_attention" and sliding_window is None:
        raise NotImplementedError("this model does not say how far its sliding window reaches")
    heads, kv_heads = query.shape[1], key.shape[1]
    groups = heads // kv_heads
    out = query.new_empty(1, query.shape[2], heads, value.shape[3])
    for segment in segments:
        span = slice(segment.start, segment.start + segment.count)
        keys, values = segment.cache.extend(module.layer_idx, key[0, :, span], value[0, :, span])
        # The query heads of a group stand beside each other as if they were tokens, so that keys need no copies.
        q = query[0, :, span].reshape(1, kv_heads, groups * segment.count, query.shape[3])
        answer = scaled_dot_product_attention(
            q, keys[None], values[None], attn_mask=segment.mask(sliding_window, groups, query), scale=scaling
        )
        out[0, span] = answer.reshape(heads, segment.count, -1).transpose(0, 1)
    return out, None


def packed_mask(*args: Any, **kwargs: Any) -> Any:
    """No mask in our passes; the library's own outside them."""
    if getattr(_here, "segments", None) is not None:
        return None
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **kwargs)


def forward_of(model: Any) -> Forward:
    """How this model's rows can be computed: packed where a trial gives the same logits as its own attention."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, packed_mask)
    before = model.config._attn_implementation
    try:
        trial = _trial_tokens(model)
        expected = [_own_logits(model, tokens) for tokens in trial]
        model.set_attn_implementation(NAME)
        found = _packed_logits(Packed(model), trial)
    except Exception:  # Of any kind: each architecture has its own way to refuse.
        model.set_attn_implementation(before)
        return Serial(model)
    if all(_close(a, b, model.dtype) for a, b in zip(expected, found, strict=True)):
        return Packed(model)
    model.set_attn_implementation(before)
    return Serial(model)


def _trial_tokens(model: Any) -> list[list[int]]:
    """Two rows, of which one is longer than a short sliding window would be in a test's model."""
    top = model.config.get_text_config().vocab_size
    return [[(7 * i * i + 3) % top for i in range(count)] for count in (23, 5)]


def _own_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1].float()


def _packed_logits(packed: Packed, trial: list[list[int]]) -> list[torch.Tensor]:
    """The rows in pieces, as they would come: two prompts in parts, then single tokens beside each other."""
    long, short = trial
    a, b = packed.cache(0), packed.cache(0)
    packed.run([PrefillChunk(a, long[:9])])
    packed.run([PrefillChunk(b, short[:-1]), PrefillChunk(a, long[9:-1])])
    logits = packed.run([PrefillChunk(a, long[-1:]), PrefillChunk(b, short[-1:])])
    return [logits[0], logits[1]]


def _close(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> bool:
    difference = (a - b).abs().max() / a.abs().max().clamp(min=1.0)
    return bool(difference < (1e-3 if dtype == torch.float32 else 5e-2))
