"""One row of the engine's batch: one output that is being generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from modelport.local.detokenizer import logprobs_entry
from modelport.local.grammar_matching import GrammarMatcher
from modelport.local.token_engine import EngineRequest, TokenBatch
from modelport.local.transformers.caches import Cache
from modelport.local.transformers.packing import PrefillChunk
from modelport.local.transformers.prefixes import TokenKeys
from modelport.local.transformers.sampling import Sampler, best_allowed_token, logprobs_of


class BatchRow:
    """One output: its tokens, how many of them are computed, and the caller to notify.

    Args:
        request: What to generate.
        sampler: Chooses the tokens of this row.
        matcher: The state of the row's grammar; `None` for free text.
        tokenizer: Gives the text of tokens in log probabilities.
        eos: The token ids that end the output.
        notify: Receives each `TokenBatch`, or the error that ended the row. The engine's thread calls it.
    """

    cache: Cache
    cached_tokens = 0

    def __init__(
        self,
        request: EngineRequest,
        sampler: Sampler,
        matcher: GrammarMatcher | None,
        tokenizer: Any,
        eos: list[int],
        notify: Callable[[TokenBatch | BaseException], None],
    ) -> None:
        self.sampler, self.matcher, self._notify = sampler, matcher, notify
        self._tokenizer, self._eos = tokenizer, eos
        self.tokens = list(request.prompt.tokens)
        self._prompt_length = len(self.tokens)
        self._end = self._prompt_length + request.max_tokens
        self._inputs = dict(request.prompt.inputs)
        prompt_keys = self._inputs.pop("token_keys", None)
        self._prompt_keys: TokenKeys = np.array(self.tokens if prompt_keys is None else prompt_keys, dtype=np.int64)
        #: The first position of the prompt's images, and the position after the last; empty for text.
        self.image_span: tuple[int, ...] = tuple(self._inputs.pop("image_span", ()))
        #: Whether the caller has left.
        self.abandoned = False
        self._tokens_per_notification = request.tokens_per_notification
        self._pending: list[TokenBatch] = []

    def token_keys(self) -> TokenKeys:
        """Return a number for each token so far; see `CachedPrefix.token_keys`."""
        return np.concatenate([self._prompt_keys, np.array(self.tokens[self._prompt_length :], dtype=np.int64)])

    def start_from(self, cache: Cache, cached_tokens: int) -> None:
        """Set the row's cache, which already contains so many tokens."""
        self.cache, self.cached_tokens = cache, cached_tokens

    @property
    def uncomputed(self) -> int:
        """How many tokens are not computed yet."""
        return len(self.tokens) - self.cache.length

    @property
    def in_prefill(self) -> bool:
        """Whether a part of the prompt is not computed yet."""
        return self.cache.length < self._prompt_length

    def next_chunk(self, limit: int) -> PrefillChunk:
        """Return the next tokens to compute: at most `limit`, but images always as a whole."""
        start = self.cache.length
        stop = start + min(self.uncomputed, limit)
        with_images = bool(self.image_span) and start <= self.image_span[0] < stop
        if with_images:
            stop = max(stop, self.image_span[1])
        inputs = {}
        for name, value in self._inputs.items():
            if value.ndim == 2 and value.shape[1] == self._prompt_length:  # It has one element for each token.
                inputs[name] = _padded(value, stop)[:, start:stop]
            elif with_images:
                inputs[name] = value
        return PrefillChunk(self.cache, self.tokens[start:stop], inputs)

    def advance(self, logits: torch.Tensor, greedy: int) -> bool:
        """Choose the next token from the logits after the last one, and notify the caller.

        Tokens that the grammar forces are appended without a pass of their own; their keys and values are computed in
        the next pass. They were not sampled and have no log probability. So where log probabilities are requested, each
        token is computed like any other.

        Args:
            logits: Of shape (vocabulary,), in f32.
            greedy: The most probable token.

        Returns:
            Whether the output has ended.
        """
        token = self._choose(logits, greedy)
        logprobs = None
        if self.sampler.top_logprobs is not None:
            logprobs = [self._logprobs(logits, token, self.sampler.top_logprobs)]
        new = [token]
        if self.matcher is not None and logprobs is None and token not in self._eos:
            new += self.matcher.consume_forced_tokens()
        remaining = self._end - len(self.tokens)
        all_fit = len(new) <= remaining
        new = new[:remaining]
        if ends := [i for i, t in enumerate(new) if t in self._eos]:
            new = new[: ends[0] + 1]
        is_complete = all_fit and self.matcher is not None and self.matcher.is_complete
        finish_reason = "stop" if ends or is_complete else None
        self.tokens += new
        if finish_reason is None and len(self.tokens) >= self._end:
            finish_reason = "length"
        is_first = len(self.tokens) - len(new) == self._prompt_length
        self._pending.append(TokenBatch(new, logprobs, self.cached_tokens if is_first else None, finish_reason))
        if finish_reason is not None or len(self._pending) >= self._tokens_per_notification:
            self._flush()
        return finish_reason is not None

    def fail(self, error: BaseException) -> None:
        """End the output with this error, after the tokens that were generated."""
        self._flush()
        self._notify(error)

    def _flush(self) -> None:
        """Notify the caller of all pending tokens, as one batch."""
        batches, self._pending = self._pending, []
        if not batches:
            return
        first, *others = batches
        for batch in others:
            first.tokens += batch.tokens
            first.finish_reason = batch.finish_reason
            if first.logprobs is not None:
                first.logprobs += batch.logprobs or []
        self._notify(first)

    def _choose(self, logits: torch.Tensor, greedy: int) -> int:
        """Return the next token, and advance the grammar by it."""
        # If the most probable token of all is allowed, it is also the most probable allowed token: mostly no mask is
        # needed.
        if self.sampler.takes_most_probable and (self.matcher is None or self.matcher.try_consume(greedy)):
            return greedy
        if self.sampler.takes_most_probable and self.matcher is not None:
            token = best_allowed_token(logits, self.matcher)
        else:
            token = self.sampler.choose(logits, self.tokens, self.matcher)
        if self.matcher is not None and token not in self._eos:
            self.matcher.consume(token)
        return token

    def _logprobs(self, logits: torch.Tensor, token: int, top: int) -> dict[str, Any]:
        value, best = logprobs_of(logits, token, top)
        return logprobs_entry(self._tokenizer, token, value, best)


def _padded(value: torch.Tensor, length: int) -> torch.Tensor:
    """Return a value for each token, with zeros for the tokens of the output."""
    missing = length - value.shape[1]
    return torch.nn.functional.pad(value, (0, missing)) if missing > 0 else value
