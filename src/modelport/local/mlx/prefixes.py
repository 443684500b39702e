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
    """An entry of the prefix cache: the keys and values of a token sequence.

    Args:
        tokens: The token sequence.
        cache: The keys and values, as mlx-lm's cache objects, one for each layer of the model.
        nbytes: The memory of `cache`.
    """

    tokens: np.ndarray
    cache: list[Any]
    nbytes: int


class PrefixCache:
    """The most recently used prefixes, as many as the limit allows. Only the batch's thread uses this class.

    Args:
        limit: The most bytes that the entries and the keys and values in mlx-lm's generator may occupy together; 0
            disables the cache.
    """

    # mlx-lm's own LRUPromptCache is not used. Finding an entry there does not make it the most recently used. Its
    # search, in a trie of token ids, takes time and memory proportional to the square of the number of tokens that
    # differ (0.3 s at 32,000 tokens and 1.1 s at 64,000, during which every row waits). Comparing arrays takes
    # microseconds.

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self.entries: list[CachedPrefix] = []  # The least recently used entry comes first.

    def find(self, tokens: Sequence[int]) -> tuple[list[Any] | None, int, int]:
        """Find the longest beginning of a prompt whose keys and values are cached.

        The prompt's last token is never part of it: that token must be computed, because its logits give the output's
        first token.

        Returns:
            A copy of the keys and values of that beginning, or `None`; the beginning's length in tokens; and the most
            tokens that the prompt shares with an entry. The third number is greater than the second if that entry can't
            be truncated to the shared tokens (models with sliding windows or recurrent states).
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
        cache = copy.deepcopy(best.cache)  # This does not copy MLX's arrays, which are never modified.
        if length < len(best.tokens):
            trim_prompt_cache(cache, len(best.tokens) - length)
        return cache, length, shared

    def store(self, tokens: Sequence[int], cache: list[Any], reserved: int) -> None:
        """Store keys and values, unless they exceed the limit or an entry contains them already.

        Args:
            tokens: The token sequence.
            cache: The keys and values of exactly these tokens.
            reserved: The bytes of the limit that the generator needs.
        """
        import mlx.core as mx
        import numpy as np
        from mlx_lm.models.cache import can_trim_prompt_cache

        nbytes = sum(layer.nbytes for layer in cache)
        if not nbytes or nbytes + reserved > self.limit:
            return
        new_tokens = np.asarray(tokens, np.int64)
        can_be_trimmed = can_trim_prompt_cache(cache)
        for entry in list(self.entries):
            common = common_prefix_length(entry.tokens, new_tokens)
            if common == len(new_tokens) and (common == len(entry.tokens) or can_trim_prompt_cache(entry.cache)):
                self._mark_used(entry)  # The entry serves every prompt that the new one would serve.
                return
            if common == len(entry.tokens) and can_be_trimmed:
                self._remove(entry)  # The new entry serves every prompt that this one serves.
        self.evict(reserved + nbytes)
        # MLX's arrays are lazy: without `eval`, they would keep the arrays of the whole batch in memory.
        mx.eval([layer.state for layer in cache])
        self.entries.append(CachedPrefix(new_tokens, cache, nbytes))
        self.nbytes += nbytes

    def evict(self, reserved: int) -> None:
        """Remove the least recently used entries until the others fit into the limit.

        Args:
            reserved: The bytes of the limit that must stay free of entries.
        """
        while self.entries and self.nbytes + reserved > self.limit:
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
