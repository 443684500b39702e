"""The prefix cache: keys and values of earlier sequences, for requests that begin with the same tokens.

A request that continues a cached sequence, as an agent's next turn does, takes that sequence's cache without a copy. A
request that begins like a cached sequence but goes on differently gets a copy of the common part. So does a request
that begins like a row that is still being computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelport.local.common_prefix import common_prefix_length
from modelport.local.transformers.caches import Cache

#: Numbers that identify the tokens of a sequence: the token's id, or for a token of an image a hash of that image and
#: of all images before it.
Fingerprints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(eq=False)
class CachedPrefix:
    """The cache of a sequence that no row is using.

    Args:
        fingerprints: The fingerprints of the tokens that `cache` contains.
        cache: The attention keys and values.
    """

    fingerprints: Fingerprints
    cache: Cache


class PrefixCache:
    """Caches of sequences; the least recently used is evicted first. Only the engine's thread uses this class.

    Args:
        limit: The most bytes of these caches and of those of the engine's rows together; 0 disables the prefix cache.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.entries: list[CachedPrefix] = []  # The least recently used entry comes first.

    @property
    def nbytes(self) -> int:
        """The memory of all entries, in bytes."""
        return sum(entry.cache.nbytes for entry in self.entries)

    def acquire(
        self,
        fingerprints: Fingerprints,
        row_caches: Iterable[tuple[Fingerprints, Cache]],
        image_span: Sequence[int] = (),
    ) -> Cache | None:
        """Return a cache with the longest beginning of this sequence that is cached; `None` if no beginning is.

        An entry that this sequence continues is removed and returned. Of other entries, and of rows, the common part is
        copied.

        Args:
            fingerprints: The fingerprints of the sequence's tokens. The returned cache never contains the last token,
                whose logits must be computed.
            row_caches: The fingerprints and caches of the engine's rows.
            image_span: The position of the first image token and the position after the last; empty for text. The
                returned cache does not end between these positions, because one pass must compute all images.
        """
        if not self.limit:
            return None
        best: tuple[int, CachedPrefix | None, Cache] | None = None
        # Entries of the prefix cache, and the caches of rows, which have `None` as their entry.
        sources: list[tuple[Fingerprints, CachedPrefix | None, Cache]] = [
            (entry.fingerprints, entry, entry.cache) for entry in self.entries
        ]
        sources += [(row_fingerprints, None, cache) for row_fingerprints, cache in row_caches]
        for source_fingerprints, entry, cache in sources:
            common = common_prefix_length(source_fingerprints[: cache.length], fingerprints)
            common = _outside_images(min(common, len(fingerprints) - 1), image_span)
            if common > 0 and (best is None or common > best[0]):
                best = common, entry, cache
        if best is None:
            return None
        common, entry, cache = best
        if entry is not None:
            self.entries.remove(entry)
            # The sequence begins with all tokens of the entry, except perhaps the entry's last: a prompt that is
            # repeated must compute its last token again.
            if common >= cache.length - 1 and cache.truncate(common):
                return cache
            self.entries.append(entry)  # The entry is now the most recently used, so it is evicted last.
        return cache.fork(common)

    def store(self, fingerprints: Fingerprints, cache: Cache, row_bytes: int) -> None:
        """Store the cache of a row that has ended, and evict older entries that exceed the limit.

        Args:
            fingerprints: The fingerprints of the row's tokens. `cache` may lack the last tokens.
            cache: The row's cache.
            row_bytes: The bytes of the caches of the engine's other rows.
        """
        if not self.limit or not cache.length:
            return
        fingerprints = fingerprints[: cache.length]
        if any(common_prefix_length(entry.fingerprints, fingerprints) == len(fingerprints) for entry in self.entries):
            return  # An entry already contains all these tokens.
        # Entries that the new cache contains are removed.
        self.entries = [
            entry
            for entry in self.entries
            if common_prefix_length(entry.fingerprints, fingerprints) < len(entry.fingerprints)
        ]
        self.entries.append(CachedPrefix(fingerprints, cache))
        self.evict(row_bytes)

    def evict(self, row_bytes: int) -> None:
        """Remove the least recently used entries until all caches fit the limit.

        Args:
            row_bytes: The bytes of the caches of the engine's rows.
        """
        sizes = [entry.cache.nbytes for entry in self.entries]
        total = sum(sizes) + row_bytes
        while self.entries and total > self.limit:
            total -= sizes.pop(0)
            self.entries.pop(0)

    def clear(self) -> None:
        """Remove all entries."""
        self.entries.clear()


def _outside_images(length: int, image_span: Sequence[int]) -> int:
    """Return `length`, or if a beginning of that length has only a part of the images, the length before them."""
    if len(image_span) == 2 and image_span[0] < length < image_span[1]:
        return image_span[0]
    return length
