"""The prefix cache: keys and values of earlier sequences, for prompts that begin with the same tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelport.local.common_prefix import common_prefix_length

if TYPE_CHECKING:
    import numpy as np


@dataclass
class CachedPrefix:
    """The keys and values of a sequence that no row is using.

    Args:
        tokens: The tokens that `cache` contains.
        cache: mlx-lm's caches, one for each layer.
        nbytes: The memory of `cache`.
    """

    tokens: np.ndarray
    cache: list[Any]
    nbytes: int


class PrefixCache:
    """The most recently used prefixes, as many as the limit allows. Only the engine's thread uses this class.

    Args:
        limit: The most bytes that the entries and the rows in progress may occupy together; 0 disables the cache.
    """

    # mlx-lm's LRUPromptCache does the same with a trie of token ids. It does not count a use as recent, and its search
    # takes time and memory proportional to the square of the length after the common part (0.3 s at 32,000 tokens and
    # 1.1 s at 64,000, during which every row waits). Comparing arrays takes microseconds.

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self.entries: list[CachedPrefix] = []  # The least recently used entry comes first.

    def find(self, tokens: Sequence[int]) -> tuple[list[Any] | None, int, int]:
        """Find the longest known beginning of a prompt.

        The last token of the prompt is always left to compute, because the output's first token is sampled from it.

        Returns:
            A copy of the cache of that beginning, or `None`; its length in tokens; and how many tokens the prompt
            shares with any entry. The last number is greater than the length where an entry can't be truncated (sliding
            windows, recurrent states); then storing the shared part as an entry of its own pays off.
        """
        import numpy as np
        from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

        beginning = np.asarray(tokens[:-1], np.int64)
        best: CachedPrefix | None = None
        length = shared = 0
        for entry in reversed(self.entries):
            common = common_prefix_length(entry.tokens, beginning)
            shared = max(shared, common)
            if common > length and (common == len(entry.tokens) or can_trim_prompt_cache(entry.cache)):
                best, length = entry, common
        if best is None:
            return None, 0, shared
        self._mark_used(best)
        cache = copy.deepcopy(best.cache)  # The copy shares the arrays, which are never modified.
        if length < len(best.tokens):
            trim_prompt_cache(cache, len(best.tokens) - length)
        return cache, length, shared

    def store(self, tokens: Sequence[int], cache: list[Any], running: int) -> None:
        """Store the keys and values of these tokens, all of which must have been computed.

        Args:
            tokens: Exactly the tokens that the cache contains.
            cache: The keys and values of these tokens alone.
            running: The bytes of the rows in progress.
        """
        import mlx.core as mx
        import numpy as np
        from mlx_lm.models.cache import can_trim_prompt_cache

        nbytes = sum(layer.nbytes for layer in cache)
        if not nbytes or nbytes + running > self.limit:
            return
        new_tokens = np.asarray(tokens, np.int64)
        can_be_trimmed = can_trim_prompt_cache(cache)
        for entry in list(self.entries):
            common = common_prefix_length(entry.tokens, new_tokens)
            if common == len(new_tokens) and (common == len(entry.tokens) or can_trim_prompt_cache(entry.cache)):
                self._mark_used(entry)
                return
            if common == len(entry.tokens) and can_be_trimmed:
                self._remove(entry)
        self.evict(running + nbytes)
        # Evaluated now: a lazy array would keep the whole batch that it was extracted from in memory.
        mx.eval([layer.state for layer in cache])
        self.entries.append(CachedPrefix(new_tokens, cache, nbytes))
        self.nbytes += nbytes

    def evict(self, running: int) -> None:
        """Remove the least recently used entries until all fit the limit.

        Args:
            running: The bytes of the rows in progress.
        """
        while self.entries and self.nbytes + running > self.limit:
            self._remove(self.entries[0])

    def clear(self) -> None:
        """Remove all entries."""
        self.entries.clear()
        self.nbytes = 0

    def _mark_used(self, entry: CachedPrefix) -> None:
        self.entries = [other for other in self.entries if other is not entry] + [entry]

    def _remove(self, entry: CachedPrefix) -> None:
        self.entries = [other for other in self.entries if other is not entry]
        self.nbytes -= entry.nbytes
