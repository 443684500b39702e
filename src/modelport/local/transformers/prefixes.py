"""What was computed before, kept for requests that begin with the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelport.local.transformers.caches import Cache

Keys = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(eq=False)
class CachedPrefix:
    """The cache of a sequence that is not being worked on.

    Args:
        keys: A number for each token that `cache` holds: its id, or for an image's token a hash of the pixels.
        cache: Its keys and values.
    """

    keys: Keys
    cache: Cache


class Prefixes:
    """Caches of sequences, least recently used out first. Used by the engine's thread alone.

    Args:
        limit: Bytes that these caches and those of running rows may hold together; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: list[CachedPrefix] = []  # the least recently used first

    @property
    def nbytes(self) -> int:
        """What is kept, in bytes."""
        return sum(kept.cache.nbytes for kept in self._kept)

    def take(self, keys: Keys, running: Iterable[tuple[Keys, Cache]], cuts: Sequence[int] = ()) -> Cache | None:
        """The cache of the longest beginning of this sequence that is known; its `length` says how long.

        A kept sequence that goes on in this one is handed over; of one that branches off, and of a running row, the
        common part is copied.

        Args:
            keys: Of the sequence; its last token is always left to compute.
            running: What rows under way have computed.
            cuts: Where the beginning must not end: between these two positions lie images, which are computed whole.
        """
        if not self.limit:
            return None
        best: tuple[int, CachedPrefix | None, Cache] | None = None
        sources: list[tuple[Keys, CachedPrefix | None, Cache]] = [(kept.keys, kept, kept.cache) for kept in self._kept]
        sources += [(row_keys, None, cache) for row_keys, cache in running]
        for known, kept, cache in sources:
            common = _allowed(min(_common(known[: cache.length], keys), len(keys) - 1), cuts)
            if common > 0 and (best is None or common > best[0]):
                best = common, kept, cache
        if best is None:
            return None
        common, kept, cache = best
        if kept is not None:
            self._kept.remove(kept)
            # All of it is in the new sequence but for the last token, which is computed for its logits.
            if common >= cache.length - 1 and cache.cut(common):
                return cache
            self._kept.append(kept)  # used just now
        return cache.fork(common)

    def keep(self, keys: Keys, cache: Cache, running: int) -> None:
        """Keeps a row's cache, and forgets what is older than the limit allows.

        Args:
            keys: Of the tokens that `cache` holds; never more.
            cache: Is not used by its row any more.
            running: The bytes of rows under way.
        """
        if not self.limit or not cache.length:
            return
        keys = keys[: cache.length]
        if any(_common(kept.keys, keys) == len(keys) for kept in self._kept):
            return
        self._kept = [kept for kept in self._kept if _common(kept.keys, keys) < len(kept.keys)]
        self._kept.append(CachedPrefix(keys, cache))
        self.evict(running)

    def evict(self, running: int) -> None:
        """Forgets the least recently used until all fits the limit beside the rows under way."""
        sizes = [kept.cache.nbytes for kept in self._kept]
        total = sum(sizes) + running
        while self._kept and total > self.limit:
            total -= sizes.pop(0)
            self._kept.pop(0)

    def clear(self) -> None:
        """Forgets everything."""
        self._kept.clear()


def _common(a: Keys, b: Keys) -> int:
    """How many numbers the two begin with alike."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length


def _allowed(common: int, cuts: Sequence[int]) -> int:
    if len(cuts) == 2 and cuts[0] < common < cuts[1]:
        return cuts[0]
    return common
