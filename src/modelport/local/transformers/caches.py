"""The attention keys and values of one sequence of tokens, cached so that they are not computed again."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch


class Cache(Protocol):
    """Keys and values of the first `length` tokens of one sequence."""

    #: Forward passes write keys and values, and then advance `length`.
    length: int

    @property
    def nbytes(self) -> int:
        """The memory that the cache occupies, in bytes."""
        ...

    def fork(self, length: int) -> Cache | None:
        """Return a copy with only the first `length` tokens; `None` if this cache can't be truncated to them."""
        ...

    def truncate(self, length: int) -> bool:
        """Drop all but the first `length` tokens; return False if this cache can't be truncated to them."""
        ...


class PackedCache:
    """The cache of a row that is computed in packed forward passes (`PackedForward`).

    For each layer it has a tensor of keys and one of values. They have spare capacity, so that few passes copy them.

    Args:
        capacity: For how many tokens memory is reserved at first.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.length = 0
        self._capacity = capacity
        #: The keys and the values of each layer, by the layer's number; of shape (heads, capacity, dimension).
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """The memory that the cache occupies, including its spare capacity, in bytes."""
        return sum(k.nbytes + v.nbytes for k, v in self._layers.values())

    def extend(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's keys and values after those of the first `length` tokens.

        `length` stays as it is: the forward pass advances it when all layers are written.

        Args:
            layer: The layer's number.
            keys: The keys of the new tokens, of shape (heads, tokens, dimension).
            values: The values of the new tokens, of the same shape.

        Returns:
            All keys and all values of the layer, including the new ones.
        """
        end = self.length + keys.shape[1]
        pair = self._layers.get(layer)
        if pair is None or pair[0].shape[1] < end:
            pair = self._layers[layer] = self._grow(pair, keys, values, end)
        k, v = pair
        k[:, self.length : end] = keys
        v[:, self.length : end] = values
        return k[:, :end], v[:, :end]

    def _grow(
        self, pair: tuple[torch.Tensor, torch.Tensor] | None, keys: torch.Tensor, values: torch.Tensor, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tensors with space for at least `end` tokens, which contain what `pair` contains so far."""
        capacity = max(self._capacity, end + end // 4 + 32)
        larger = []
        for i, new in enumerate((keys, values)):
            tensor = new.new_empty(new.shape[0], capacity, new.shape[2])
            if pair is not None:
                tensor[:, : self.length] = pair[i][:, : self.length]
            larger.append(tensor)
        return larger[0], larger[1]

    def fork(self, length: int) -> PackedCache:
        """See `Cache.fork`."""
        other = PackedCache(length + length // 4 + 32)
        for layer, (keys, values) in self._layers.items():
            other.extend(layer, keys[:, :length], values[:, :length])
        other.length = length
        return other

    def truncate(self, length: int) -> bool:
        """See `Cache.truncate`."""
        self.length = length
        return True


class LibraryCache:
    """The cache of a row that is computed in forward passes of its own (`SerialForward`).

    Args:
        inner: An empty cache of the transformers library.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.length = 0

    @property
    def nbytes(self) -> int:
        """The memory that the cache occupies, in bytes."""
        return sum(t.nbytes for layer in self.inner.layers for t in vars(layer).values() if isinstance(t, torch.Tensor))

    @property
    def _can_be_truncated(self) -> bool:
        from transformers.cache_utils import DynamicLayer

        # Other layers (with sliding windows or linear attention) discard what a shorter cache would need.
        return all(type(layer) is DynamicLayer for layer in self.inner.layers)

    def fork(self, length: int) -> LibraryCache | None:
        """See `Cache.fork`."""
        if length != self.length and not self._can_be_truncated:
            return None
        other = LibraryCache(copy.deepcopy(self.inner))
        other.length = self.length
        other.truncate(length)
        return other

    def truncate(self, length: int) -> bool:
        """See `Cache.truncate`."""
        if length == self.length:
            return True
        if not self._can_be_truncated:
            return False
        for layer in self.inner.layers:
            if (surplus := layer.get_seq_length() - length) > 0:
                layer.crop(-surplus)  # A negative argument says how many tokens to remove.
        self.length = length
        return True
