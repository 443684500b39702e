"""What goes into the batch, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelport.errors import ModelError, ServerError
from modelport.local.grammar_matching import Matcher
from modelport.local.mlx.sampling import Processor
from modelport.local.token_model import EngineRequest


@dataclass(slots=True)
class SampledToken:
    """A token of an answer.

    Args:
        token: Its id.
        logprob: Its log probability, where asked for.
        best: The most likely tokens and theirs.
        cached: How many of the prompt's tokens were not computed, with the first token.
        finish: With the last token `stop` or `length`.
    """

    token: int
    logprob: float | None = None
    best: list[tuple[int, float]] | None = None
    cached: int | None = None
    finish: str | None = None


class BatchRow:
    """One request, waiting or in the batch.

    Args:
        job: What to compute.
        bias: See `logit_bias_from`.
        matcher: Of its grammar.
        tell: Takes each `SampledToken`, or the error that ends the request; False where nobody listens any more.
    """

    processor: Processor

    def __init__(
        self, job: EngineRequest, bias: Mapping[int, float], matcher: Matcher | None, tell: Callable[[Any], bool]
    ) -> None:
        self.job, self.bias, self.matcher, self.tell = job, bias, matcher, tell
        #: Whether it waits, or is in the batch.
        self.under_way = True
        self.uid = -1
        self.cached: int | None = None
        #: Tokens of prompt and answer.
        self.length = len(job.prompt.tokens)


def log_probabilities(logits: Any, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The log probability of a token, and the most likely tokens with theirs."""
    import mlx.core as mx
    import numpy as np

    logits = logits.astype(mx.float32)
    values = np.array(logits - mx.logsumexp(logits))
    best = np.argpartition(-values, top)[:top] if top else np.zeros(0, np.int64)
    best = best[np.argsort(-values[best], kind="stable")]
    return float(values[token]), [(int(i), float(values[i])) for i in best]


def failure(error: Exception) -> ModelError:
    """What went wrong in the thread, as one of our errors."""
    if isinstance(error, ModelError):
        return error
    told = str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError) or any(
        word in told.lower() for word in ("allocat", "out of memory", "insufficient memory")
    ):
        return ServerError(
            f"the memory is used up ({told}): lower parallel, context_length or prefix_cache_bytes", retryable=False
        )
    failed = ServerError(f"MLX failed: {type(error).__name__}: {told}", retryable=False)
    failed.__cause__ = error
    return failed
