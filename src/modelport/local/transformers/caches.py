"""The keys and values of one sequence: what was computed of it, so that it is not computed again."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch


class Cache(Protocol):
    """Keys and values of the first `length` tokens of one sequence."""

    length: int

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        ...

    def fork(self, length: int) -> Cache | None:
        """A copy of the first `length` tokens; `None` where this kind can't be cut there."""
        ...

    def cut(self, length: int) -> bool:
        """Forgets all but the first `length` tokens; whether this kind can be cut there."""
        ...


class PackedCache:
    """Keys and values of one sequence in tensors of its own, a pair for each layer, with room to grow.

    Args:
        room: How many tokens to make room for at first.
    """

    def __init__(self, room: int = 0) -> None:
        self.length = 0
        self._room = room
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """The memory that it holds, room to grow included."""
        return sum(k.nbytes + v.nbytes for k, v in self._layers.values())

    def extend(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes a layer's keys and values behind those of the first `length` tokens.

        Args:
            layer: The layer's number.
            keys: Of shape (heads, tokens, dimension).
            values: Likewise.

        Returns:
            All keys and all values of the layer, these included.
        """
        end = self.length + keys.shape[1]
        pair = self._layers.get(layer)
        if pair is None or pair[0].shape[1] < end:
            pair = self._layers[layer] = self._grown(pair, keys, values, end)
        k, v = pair
        k[:, self.length : end] = keys
        v[:, self.length : end] = values
        return k[:, :end], v[:, :end]

    def _grown(
        self, pair: tuple[torch.Tensor, torch.Tensor] | None, keys: torch.Tensor, values: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        room = max(self._room, end + end // 4 + 32)
        grown = []
        for i, new in enumerate((keys, values)):
            tensor = new.new_empty(new.shape[0], room, new.shape[2])
            if pair is not None:
                tensor[:, : self.length] = pair[i][:, : self.length]
            grown.append(tensor)
        return grown[0], grown[1]

    def fork(self, length: int) -> PackedCache:
        """See `Cache.fork`."""
        other = PackedCache(length + length // 4 + 32)
        for layer, (keys, values) in self._layers.items():
            other.extend(layer, keys[:, :length], values[:, :length])
        other.length = length
        return other

    def cut(self, length: int) -> bool:
        """See `Cache.cut`."""
        self.length = length
        return True


class OwnCache:
    """The library's own cache object, for models that must compute one sequence at a time."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.length = 0

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return sum(t.nbytes for layer in self.inner.layers for t in vars(layer).values() if isinstance(t, torch.Tensor))

    @property
    def _cuttable(self) -> bool:
        from transformers.cache_utils import DynamicLayer

        return all(type(layer) is DynamicLayer for layer in self.inner.layers)

    def fork(self, length: int) -> OwnCache | None:
        """See `Cache.fork`. Sliding windows and linear attention have forgotten what a cut would need."""
        if length != self.length and not self._cuttable:
            return None
        other = OwnCache(copy.deepcopy(self.inner))
        other.length = self.length
        other.cut(length)
        return other

    def cut(self, length: int) -> bool:
        """See `Cache.cut`."""
        if length == self.length:
            return True
        if not self._cuttable:
            return False
        for layer in self.inner.layers:
            if (extra := layer.get_seq_length() - length) > 0:
                layer.crop(-extra)
        self.length = length
        return True
