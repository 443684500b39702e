"""One row of the batch: what goes into it, and what comes out of it."""

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
    """A token of an output.

    Args:
        token: The token's id.
        logprob: The token's log probability, where requested.
        best: The most probable tokens with their log probabilities.
        cached_tokens: How many tokens of the prompt were in the prefix cache; only with the first token.
        finish_reason: `stop` or `length`; only with the last token.
    """

    token: int
    logprob: float | None = None
    best: list[tuple[int, float]] | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None


class BatchRow:
    """One request, which waits or is in the batch.

    Args:
        request: What to generate.
        bias: See `logit_bias_from`.
        matcher: The state of the row's grammar; `None` for free text.
        notify: Receives each `SampledToken`, or the error that ends the request. It returns False once nobody listens.
    """

    processor: LogitsProcessor

    def __init__(
        self,
        request: EngineRequest,
        bias: Mapping[int, float],
        matcher: GrammarMatcher | None,
        notify: Callable[[SampledToken | ModelError], bool],
    ) -> None:
        self.request, self.bias, self.matcher, self.notify = request, bias, matcher, notify
        #: Whether the row waits, or is in the batch.
        self.in_progress = True
        #: The id of the row in mlx-lm's generator.
        self.uid = -1
        #: How many tokens of the prompt were in the prefix cache, until the first token is generated.
        self.cached_tokens: int | None = None
        #: The tokens of prompt and output so far.
        self.length = len(request.prompt.tokens)


def logprobs_of(logits: Any, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the log probability of a token, and the most probable tokens with theirs."""
    import mlx.core as mx
    import numpy as np

    logits = logits.astype(mx.float32)
    values = np.array(logits - mx.logsumexp(logits))
    best = np.argpartition(-values, top)[:top] if top else np.zeros(0, np.int64)
    best = best[np.argsort(-values[best], kind="stable")]
    return float(values[token]), [(int(i), float(values[i])) for i in best]


def engine_error(error: Exception) -> ModelError:
    """Return modelport's error for an exception in the engine's thread."""
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
