"""The prefix cache: keys and values of earlier sequences, for requests that begin with the same tokens.

A conversation that continues takes over the cached sequence without a copy. A branch, and a prompt that begins like a
running one, gets a copy of the common part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelport.local.common_prefix import common_prefix_length
from modelport.local.transformers.caches import Cache

#: A number for each token of a sequence: its id, or for an image's token a hash of the pixels.
TokenKeys = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(eq=False)
class CachedPrefix:
    """The cache of a sequence that no row is using.

    Args:
        token_keys: A number for each token that `cache` contains.
        cache: The keys and values.
    """

    token_keys: TokenKeys
    cache: Cache


class PrefixCache:
    """Caches of sequences; the least recently used is evicted first. Only the engine's thread uses this class.

    Args:
        limit: The most bytes that these caches and those of running rows may occupy together; 0 disables the cache.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.entries: list[CachedPrefix] = []  # The least recently used entry comes first.

    @property
    def nbytes(self) -> int:
        """The memory of all entries, in bytes."""
        return sum(entry.cache.nbytes for entry in self.entries)

    def acquire(
        self, token_keys: TokenKeys, running: Iterable[tuple[TokenKeys, Cache]], image_span: Sequence[int] = ()
    ) -> Cache | None:
        """Return the cache of the longest known beginning of this sequence; its `length` says how long that is.

        An entry that this sequence continues is removed and returned. Of an entry that this sequence branches off from,
        and of a running row, the common part is copied.

        Args:
            token_keys: Of the sequence. Its last token always remains to be computed.
            running: The token keys and caches of the rows in progress.
            image_span: The first and the last position of images, between which the beginning must not end, because
                images are computed as a whole.
        """
        if not self.limit:
            return None
        best: tuple[int, CachedPrefix | None, Cache] | None = None
        sources: list[tuple[TokenKeys, CachedPrefix | None, Cache]] = [
            (entry.token_keys, entry, entry.cache) for entry in self.entries
        ]
        sources += [(row_keys, None, cache) for row_keys, cache in running]
        for known, entry, cache in sources:
            common = common_prefix_length(known[: cache.length], token_keys)
            common = _outside_images(min(common, len(token_keys) - 1), image_span)
            if common > 0 and (best is None or common > best[0]):
                best = common, entry, cache
        if best is None:
            return None
        common, entry, cache = best
        if entry is not None:
            self.entries.remove(entry)
            # The new sequence contains the whole entry, except perhaps the last token, whose logits are needed.
            if common >= cache.length - 1 and cache.truncate(common):
                return cache
            self.entries.append(entry)  # It was used just now, so it is evicted last.
        return cache.fork(common)

    def store(self, token_keys: TokenKeys, cache: Cache, running: int) -> None:
        """Store a row's cache, and evict older entries that exceed the limit.

        Args:
            token_keys: Of the tokens that `cache` contains, and perhaps of more tokens.
            cache: The cache, which its row does not use any more.
            running: The bytes of the rows in progress.
        """
        if not self.limit or not cache.length:
            return
        token_keys = token_keys[: cache.length]
        if any(common_prefix_length(entry.token_keys, token_keys) == len(token_keys) for entry in self.entries):
            return
        self.entries = [
            entry
            for entry in self.entries
            if common_prefix_length(entry.token_keys, token_keys) < len(entry.token_keys)
        ]
        self.entries.append(CachedPrefix(token_keys, cache))
        self.evict(running)

    def evict(self, running: int) -> None:
        """Remove the least recently used entries until all caches fit the limit.

        Args:
            running: The bytes of the rows in progress.
        """
        sizes = [entry.cache.nbytes for entry in self.entries]
        total = sum(sizes) + running
        while self.entries and total > self.limit:
            total -= sizes.pop(0)
            self.entries.pop(0)

    def clear(self) -> None:
        """Remove all entries."""
        self.entries.clear()


def _outside_images(length: int, image_span: Sequence[int]) -> int:
    """Return the length of a beginning, shortened so that it does not end between images."""
    if len(image_span) == 2 and image_span[0] < length < image_span[1]:
        return image_span[0]
    return length
