"""One answer under way on the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from modelport.local.grammar_matching import Matcher
from modelport.local.text import token_text
from modelport.local.token_model import EngineRequest, TokenBatch
from modelport.local.transformers.caches import Cache
from modelport.local.transformers.packing import PrefillChunk
from modelport.local.transformers.prefixes import Keys
from modelport.local.transformers.sampling import Sampler, likeliest, logprobs_of

#: Steps that are told at once where nobody waits for each: waking the caller's loop costs as much as a grammar's mask.
AT_ONCE = 4


class BatchRow:
    """One answer: its tokens, how many of them are computed, and who is told.

    Args:
        job: What to compute.
        sampler: Chooses its tokens.
        matcher: Of its grammar.
        tokenizer: Names tokens in log probabilities.
        eos: The tokens that end it.
        tell: Takes each `TokenBatch`, or the error that ended it; called from the engine's thread.
    """

    cache: Cache
    cached = 0

    def __init__(
        self,
        job: EngineRequest,
        sampler: Sampler,
        matcher: Matcher | None,
        tokenizer: Any,
        eos: list[int],
        tell: Callable[[TokenBatch | BaseException], None],
    ) -> None:
        self.sampler, self.matcher, self._tell = sampler, matcher, tell
        self._tokenizer, self._eos = tokenizer, eos
        self.tokens = list(job.prompt.tokens)
        self._prompt = len(self.tokens)
        self._end = self._prompt + job.max_tokens
        self._inputs = dict(job.prompt.inputs)
        given = self._inputs.pop("keys", None)
        self._keys: Keys = np.array(self.tokens if given is None else given, dtype=np.int64)
        #: From where to where images lie in the prompt; empty for text.
        self.images: tuple[int, ...] = tuple(self._inputs.pop("span", ()))
        self.abandoned = False
        self._most = AT_ONCE if job.whole else 1
        self._untold: list[TokenBatch] = []

    def keys(self) -> Keys:
        """A number for each token so far; see `CachedPrefix.keys`."""
        return np.concatenate([self._keys, np.array(self.tokens[self._prompt :], dtype=np.int64)])

    def started_from(self, cache: Cache, cached: int) -> None:
        """Begins behind what is known already."""
        self.cache, self.cached = cache, cached

    @property
    def left(self) -> int:
        """How many tokens wait to be computed."""
        return len(self.tokens) - self.cache.length

    @property
    def reading(self) -> bool:
        """Whether the prompt is not computed yet."""
        return self.cache.length < self._prompt

    def piece(self, most: int) -> PrefillChunk:
        """The next tokens to compute: at most so many, but images whole."""
        start = self.cache.length
        stop = start + min(self.left, most)
        with_images = bool(self.images) and start <= self.images[0] < stop
        if with_images:
            stop = max(stop, self.images[1])
        inputs = {}
        for name, value in self._inputs.items():
            if value.ndim == 2 and value.shape[1] == self._prompt:  # something about each token
                inputs[name] = _padded(value, stop)[:, start:stop]
            elif with_images:
                inputs[name] = value
        return PrefillChunk(self.cache, self.tokens[start:stop], inputs)

    def advance(self, logits: torch.Tensor, greedy: int) -> bool:
        """Takes the logits behind its last token: chooses the next, and tells.

        Tokens that its grammar forces then come along without a pass of their own; their keys and values are computed
        in the next one. They were not chosen and have no log probability, so where those are asked for, each token is
        computed like any other.

        Args:
            logits: Of shape (vocabulary,), in f32.
            greedy: The most probable token.

        Returns:
            Whether the answer has ended.
        """
        token = self._choose(logits, greedy)
        logprobs = None
        if self.sampler.top_logprobs is not None:
            logprobs = [self._logprob(logits, token, self.sampler.top_logprobs)]
        new = [token]
        if self.matcher is not None and logprobs is None and token not in self._eos:
            new += self.matcher.forced()
        left = self._end - len(self.tokens)
        whole = len(new) <= left
        new = new[:left]
        if ends := [i for i, t in enumerate(new) if t in self._eos]:
            new = new[: ends[0] + 1]
        finish = "stop" if ends or (whole and self.matcher is not None and self.matcher.ended) else None
        self.tokens += new
        if finish is None and len(self.tokens) >= self._end:
            finish = "length"
        cached = self.cached if len(self.tokens) - len(new) == self._prompt else None
        self._untold.append(TokenBatch(new, logprobs, cached, finish))
        if finish is not None or len(self._untold) >= self._most:
            self._tell_all()
        return finish is not None

    def fail(self, error: BaseException) -> None:
        """Ends the answer with this error, after what there is of it."""
        self._tell_all()
        self._tell(error)

    def _tell_all(self) -> None:
        steps, self._untold = self._untold, []
        if not steps:
            return
        first, *others = steps
        for step in others:
            first.tokens += step.tokens
            first.finish = step.finish
            if first.logprobs is not None:
                first.logprobs += step.logprobs or []
        self._tell(first)

    def _choose(self, logits: torch.Tensor, greedy: int) -> int:
        """The next token; the grammar has taken it."""
        # Where the likeliest of all tokens is allowed, it is the likeliest of those allowed: mostly no mask is needed.
        if self.sampler.plain and (self.matcher is None or self.matcher.takes(greedy)):
            return greedy
        if self.sampler.plain and self.matcher is not None:
            token = likeliest(logits, self.matcher)
        else:
            token = self.sampler.choose(logits, self.tokens, self.matcher)
        if self.matcher is not None and token not in self._eos:
            self.matcher.advance(token)
        return token

    def _logprob(self, logits: torch.Tensor, token: int, top: int) -> dict[str, Any]:
        value, best = logprobs_of(logits, token, top)
        alternatives = [{**token_text(self._tokenizer, t), "logprob": v} for t, v in best]
        return {**token_text(self._tokenizer, token), "logprob": value, "top_logprobs": alternatives}


def _padded(value: torch.Tensor, length: int) -> torch.Tensor:
    """A value for each token of the prompt, with zeros for those of the answer."""
    missing = length - value.shape[1]
    return torch.nn.functional.pad(value, (0, missing)) if missing > 0 else value
