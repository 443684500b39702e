"""One row of the batch: its request, its state, and the tokens and errors that its caller receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelport.errors import ModelError, ServerError
from modelport.local.grammar_matching import GrammarMatcher
from modelport.local.mlx.sampling import LogitsProcessor
from modelport.local.token_engine import EngineRequest


@dataclass(slots=True)
class SampledToken:
    """One token of an output.

    Args:
        token: The token's id.
        logprob: The token's log probability, if the call requests log probabilities.
        best: The ids and log probabilities of the most probable tokens, if the call requests them.
        cached_tokens: How many tokens of the prompt were in the prefix cache; only with the first token.
        finish_reason: `stop` or `length`; only with the last token.
    """

    token: int
    logprob: float | None = None
    best: list[tuple[int, float]] | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None


class BatchRow:
    """One request, which waits or is in mlx-lm's generator.

    Args:
        request: What to generate.
        bias: The numbers to add to logits, by token id.
        matcher: Follows the output through its grammar; `None` for free text.
        notify: Called with each `SampledToken`, or with the error that ends the row. It returns False if the caller no
            longer listens.
    """

    #: Changes the row's logits. The batch sets it when it inserts the row into the generator.
    processor: LogitsProcessor

    def __init__(
        self,
        request: EngineRequest,
        bias: Mapping[int, float],
        matcher: GrammarMatcher | None,
        notify: Callable[[SampledToken | ModelError], bool],
    ) -> None:
        self.request, self.bias, self.matcher, self.notify = request, bias, matcher, notify
        #: Whether the row is neither waiting nor in the generator any more.
        self.ended = False
        #: The id of the row in the generator; -1 before the row is inserted.
        self.uid = -1
        #: How many tokens of the prompt were in the prefix cache. This is `None` before the row is inserted into the
        #: generator, and after the first token, with which the number is reported.
        self.cached_tokens: int | None = None
        #: How many tokens prompt and output have so far.
        self.length = len(request.prompt.tokens)

    @property
    def is_prefilling(self) -> bool:
        """Whether the row is in the generator, and its prompt is not completely computed."""
        return self.cached_tokens is not None  # It is set from the insertion until the first token.


def logprobs_of(logits: Any, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the log probability of a token, and the ids and log probabilities of the most probable tokens.

    Args:
        logits: The logits, or log probabilities, of all tokens of the vocabulary.
        token: The token's id.
        top: How many of the most probable tokens to return.
    """
    import mlx.core as mx
    import numpy as np

    logits = logits.astype(mx.float32)
    values = np.array(logits - mx.logsumexp(logits))
    best = np.argpartition(-values, top)[:top] if top else np.zeros(0, np.int64)
    best = best[np.argsort(-values[best], kind="stable")]
    return float(values[token]), [(int(i), float(values[i])) for i in best]


def engine_error(error: Exception) -> ModelError:
    """Return modelport's error for an exception in the batch's thread."""
    if isinstance(error, ModelError):
        return error
    text = str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError) or any(
        phrase in text.lower() for phrase in ("allocat", "out of memory", "insufficient memory")
    ):
        return ServerError(
            f"out of memory ({text}): lower parallel, context_length or prefix_cache_bytes", retryable=False
        )
    failed = ServerError(f"MLX failed: {type(error).__name__}: {text}", retryable=False)
    failed.__cause__ = error
    return failed
