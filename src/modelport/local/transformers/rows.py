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
from modelport.local.transformers.packing import RowChunk
from modelport.local.transformers.prefixes import Fingerprints
from modelport.local.transformers.sampling import Sampler, best_allowed_token, logprobs_of


class BatchRow:
    """One output: its tokens with those of its prompt, how many of them are computed, and the caller to notify.

    A token counts as computed when its keys and values are in the row's cache.

    Args:
        request: What to generate.
        sampler: Chooses the tokens of this row.
        matcher: Follows the output through its grammar; `None` for free text.
        tokenizer: Decodes the tokens in `ChatMessage.logprobs`.
        eos: The token ids that end the output.
        notify: Passes each `TokenBatch`, or the error that ended the row, to the caller. Called in the engine's thread.
    """

    #: The keys and values of the computed tokens; the engine sets it when the row joins the batch.
    cache: Cache
    #: How many tokens of the prompt were in the prefix cache.
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
        #: The token ids of the prompt and of the output so far.
        self.tokens = list(request.prompt.tokens)
        self._prompt_length = len(self.tokens)
        #: The most tokens of prompt and output together.
        self._max_length = self._prompt_length + request.max_tokens
        #: What the model's processor returned for images. The two values that are for the engine are removed below.
        self._inputs = dict(request.prompt.inputs)
        prompt_fingerprints = self._inputs.pop("fingerprints", None)
        self._prompt_fingerprints: Fingerprints = np.array(
            self.tokens if prompt_fingerprints is None else prompt_fingerprints, dtype=np.int64
        )
        #: The position of the prompt's first image token, and the position after the last; empty for text.
        self.image_span: tuple[int, ...] = tuple(self._inputs.pop("image_span", ()))
        #: Whether nobody waits for the output any more; the engine then removes the row.
        self.abandoned = False
        self._tokens_per_notification = request.tokens_per_notification
        #: Tokens that have not been passed to the caller yet.
        self._pending: list[TokenBatch] = []

    def fingerprints(self) -> Fingerprints:
        """Return the numbers that identify the row's tokens in the prefix cache: token ids, or hashes of images."""
        return np.concatenate([self._prompt_fingerprints, np.array(self.tokens[self._prompt_length :], dtype=np.int64)])

    def set_cache(self, cache: Cache, cached_tokens: int) -> None:
        """Set the row's cache, which already contains the first `cached_tokens` tokens of the prompt."""
        self.cache, self.cached_tokens = cache, cached_tokens

    @property
    def uncomputed_count(self) -> int:
        """How many of the row's tokens are not computed yet."""
        return len(self.tokens) - self.cache.length

    @property
    def in_prefill(self) -> bool:
        """Whether a part of the prompt is not computed yet."""
        return self.cache.length < self._prompt_length

    def next_chunk(self, limit: int) -> RowChunk:
        """Return the next tokens to compute: at most `limit`, or more so that one chunk contains all images."""
        start = self.cache.length
        stop = start + min(self.uncomputed_count, limit)
        with_images = bool(self.image_span) and start <= self.image_span[0] < stop
        if with_images:
            stop = max(stop, self.image_span[1])
        inputs = {}
        for name, value in self._inputs.items():
            if value.ndim == 2 and value.shape[1] == self._prompt_length:  # It has one element per token of the prompt.
                inputs[name] = _extend_with_zeros(value, stop)[:, start:stop]
            elif with_images:
                inputs[name] = value
        return RowChunk(self.cache, self.tokens[start:stop], inputs)

    def advance(self, logits: torch.Tensor, most_probable: int) -> bool:
        """Choose the next token, append it to the output, and pass it to the caller.

        Tokens that the grammar forces after that token are appended too, without a pass of their own: the next pass
        computes their keys and values. Their log probabilities are then unknown, so forced tokens are computed like
        others if the call asks for log probabilities.

        Args:
            logits: The logits after the row's last token, of shape (vocabulary,), in f32.
            most_probable: The most probable token.

        Returns:
            Whether the output has ended.
        """
        token = self._choose(logits, most_probable)
        logprobs = None
        if self.sampler.top_logprobs is not None:
            logprobs = [self._logprobs(logits, token, self.sampler.top_logprobs)]
        new = [token]
        if self.matcher is not None and logprobs is None and token not in self._eos:
            new += self.matcher.consume_forced_tokens()
        remaining = self._max_length - len(self.tokens)
        all_fit = len(new) <= remaining
        new = new[:remaining]
        if ends := [i for i, t in enumerate(new) if t in self._eos]:
            new = new[: ends[0] + 1]
        # The matcher has consumed all forced tokens, even those that do not fit.
        is_complete = all_fit and self.matcher is not None and self.matcher.is_complete
        finish_reason = "stop" if ends or is_complete else None
        self.tokens += new
        if finish_reason is None and len(self.tokens) >= self._max_length:
            finish_reason = "length"
        is_first = len(self.tokens) - len(new) == self._prompt_length
        self._pending.append(TokenBatch(new, logprobs, self.cached_tokens if is_first else None, finish_reason))
        if finish_reason is not None or len(self._pending) >= self._tokens_per_notification:
            self._flush()
        return finish_reason is not None

    def fail(self, error: BaseException) -> None:
        """Pass the pending tokens to the caller, and then this error, which ends the output."""
        self._flush()
        self._notify(error)

    def _flush(self) -> None:
        """Pass all pending tokens to the caller, as one `TokenBatch`."""
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

    def _choose(self, logits: torch.Tensor, most_probable: int) -> int:
        """Return the next token, and advance the grammar by it."""
        # Usually the grammar allows the most probable token. Then the other allowed tokens need not be computed.
        if self.sampler.takes_most_probable and (self.matcher is None or self.matcher.try_consume(most_probable)):
            return most_probable
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


def _extend_with_zeros(value: torch.Tensor, length: int) -> torch.Tensor:
    """Extend a tensor of shape (1, prompt length) to `length` tokens, with zeros for the tokens of the output."""
    missing = length - value.shape[1]
    return torch.nn.functional.pad(value, (0, missing)) if missing > 0 else value
