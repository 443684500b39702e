"""Keys and values of earlier conversations, so that a prompt which begins like one of them is not computed again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass
class _Entry:
    tokens: np.ndarray
    cache: list[Any]
    nbytes: int


class Prefixes:
    """The most recently used prefixes, as many as fit. For one thread: the one that computes.

    Args:
        limit: Bytes that they and the rows under way may hold together; 0 keeps nothing.
    """

    # mlx-lm's LRUPromptCache does the same on a trie of token ids. It does not count a use as one, and its search takes
    # time and memory by the square of what follows the common part (0.3 s at 32,000 tokens and 1.1 s at 64,000, while
    # every row waits); comparing arrays takes microseconds.

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._entries: list[_Entry] = []  # the least recently used first

    def find(self, tokens: Sequence[int]) -> tuple[list[Any] | None, int, int]:
        """What is there for a prompt, its last token excepted: an answer's first token is computed from that.

        Returns:
            A cache of one's own; how many tokens it holds; and how many tokens the prompt shares with any entry. That
            is more where the entry can't be cut (sliding windows, recurrent states): worth a `put` of its own.
        """
        import numpy as np
        from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

        wanted = np.asarray(tokens[:-1], np.int64)
        best: _Entry | None = None
        length = shared = 0
        for entry in reversed(self._entries):
            common = _common(entry.tokens, wanted)
            shared = max(shared, common)
            if common > length and (common == len(entry.tokens) or can_trim_prompt_cache(entry.cache)):
                best, length = entry, common
        if best is None:
            return None, 0, shared
        self._touch(best)
        cache = copy.deepcopy(best.cache)  # shares the arrays, which no one writes to
        if length < len(best.tokens):
            trim_prompt_cache(cache, len(best.tokens) - length)
        return cache, length, shared

    def put(self, tokens: Sequence[int], cache: list[Any], running: int) -> None:
        """Keeps the keys and values of these tokens, which must all have been computed.

        Args:
            tokens: No others than the cache holds.
            cache: Of them alone.
            running: The bytes of the rows under way.
        """
        import mlx.core as mx
        import numpy as np
        from mlx_lm.models.cache import can_trim_prompt_cache

        nbytes = sum(layer.nbytes for layer in cache)
        if not nbytes or nbytes + running > self.limit:
            return
        held = np.asarray(tokens, np.int64)
        cuttable = can_trim_prompt_cache(cache)
        for entry in list(self._entries):
            common = _common(entry.tokens, held)
            if common == len(held) and (common == len(entry.tokens) or can_trim_prompt_cache(entry.cache)):
                self._touch(entry)
                return
            if common == len(entry.tokens) and cuttable:
                self._drop(entry)
        self.evict(running + nbytes)
        mx.eval([layer.state for layer in cache])  # or it would hold on to the whole batch that it was taken from
        self._entries.append(_Entry(held, cache, nbytes))
        self.nbytes += nbytes

    def evict(self, running: int) -> None:
        """Forgets the least recently used until the rest fits beside the rows under way."""
        while self._entries and self.nbytes + running > self.limit:
            self._drop(self._entries[0])

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.nbytes = 0

    def _touch(self, entry: _Entry) -> None:
        self._entries = [other for other in self._entries if other is not entry] + [entry]

    def _drop(self, entry: _Entry) -> None:
        self._entries = [other for other in self._entries if other is not entry]
        self.nbytes -= entry.nbytes


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """The length of the longest common beginning."""
    shorter = min(len(a), len(b))
    same = a[:shorter] == b[:shorter]
    return shorter if same.all() else int(same.argmin())
