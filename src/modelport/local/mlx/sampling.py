"""Chooses the tokens of an output on MLX: from logits, by a call's parameters and its grammar."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from modelport.errors import InvalidRequest
from modelport.local.grammar_matching import GrammarMatcher


def logit_bias_from(parameters: Mapping[str, Any], vocab_size: int) -> dict[int, float]:
    """Return the `logit_bias` of a call, by token id.

    Raises:
        InvalidRequest: The parameter is not a mapping from the vocabulary's token ids to numbers.
    """
    given = parameters.get("logit_bias") or {}
    try:
        bias = {int(token): float(value) for token, value in given.items()}
    except (AttributeError, TypeError, ValueError):
        raise InvalidRequest(f"logit_bias={given!r}: must be a dict from token ids to numbers") from None
    for token in bias:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(f"logit_bias: the model has no token {token}; its ids are 0 to {vocab_size - 1}")
    return bias


def make_sampler(parameters: Mapping[str, Any], vocab_size: int) -> Callable[[Any], Any]:
    """Return a function from log probabilities of shape (1, vocabulary) to a token.

    Temperature is applied first, then `top_k`, `top_p` and `min_p`, as in transformers and vLLM. Each request has its
    own random generator, so other rows of the batch do not change its output.

    Args:
        parameters: `temperature` (by default 0, which is greedy; 1 where another parameter requests sampling), `top_k`,
            `top_p`, `min_p`, `seed`.
        vocab_size: The length of the logits.
    """
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, greedy_sampler

    top_k, top_p, min_p = (parameters.get(name) for name in ("top_k", "top_p", "min_p"))
    temperature = parameters.get("temperature", 1.0 if top_k or top_p or min_p else 0.0)
    if temperature == 0:
        greedy: Callable[[Any], Any] = (
            greedy_sampler  # The same function for all rows: mlx-lm calls it once for all of them.
        )
        return greedy
    key = mx.random.key(parameters.get("seed", secrets.randbits(64)) % 2**64)

    def sample(logprobs: Any) -> Any:
        nonlocal key
        scaled = logprobs.astype(mx.float32) / temperature
        scaled = scaled - mx.logsumexp(scaled, axis=-1, keepdims=True)
        if top_k and top_k < vocab_size:
            scaled = apply_top_k(scaled, top_k)
        if top_p and top_p < 1:
            scaled = apply_top_p(scaled, top_p)
        if min_p:
            scaled = apply_min_p(scaled, min_p)
        key, draw_key = mx.random.split(key)
        return mx.random.categorical(scaled, key=draw_key)

    return sample


class LogitsProcessor:
    """Changes the logits of one row before its next token is chosen, and advances the row's grammar.

    A call never raises, because an exception in the batch generator would end every row. It sets `error` instead, and
    the row ends with that error. The generator runs one step ahead, so the processor may be called once more after the
    row's last token.

    Args:
        parameters: `repetition_penalty` (over prompt and output), `presence_penalty` and `frequency_penalty` (over the
            output), `logits_processors` (the caller's own), `logprobs`.
        bias: See `logit_bias_from`.
        prompt_length: The number of tokens in the prompt.
        matcher: The state of the row's grammar; `None` for free text.
        eos: The token ids that end an output.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        bias: Mapping[int, float],
        prompt_length: int,
        matcher: GrammarMatcher | None,
        eos: Collection[int],
    ) -> None:
        self._prompt_length, self._matcher, self._eos = prompt_length, matcher, eos
        self._steps = _steps(parameters, bias, prompt_length)
        #: Whether the row needs a processor at all.
        self.is_needed = bool(self._steps or matcher)
        self._stores_logits = bool(parameters.get("logprobs"))
        #: The model's own logits for the next tokens, where log probabilities are requested.
        self.logits: deque[Any] = deque()
        #: Whether the grammar allows nothing to follow.
        self.is_complete = False
        self.error: Exception | None = None

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """Return the logits for the next token, changed as the call requests.

        Args:
            tokens: The tokens of prompt and output so far.
            logits: The model's logits, of shape (1, vocabulary).
        """
        if self._stores_logits:
            self.logits.append(logits[0])
        if self.error is not None or self.is_complete:
            return logits
        try:
            return self._with_mask(tokens, self._with_steps(tokens, logits))
        except Exception as error:
            self.error = error
            return logits

    def _with_steps(self, tokens: Any, logits: Any) -> Any:
        shape = logits.shape
        for step in self._steps:
            logits = step(tokens, logits)
            if logits.shape != shape:  # A wrong shape would fail later, where the rows are joined, for all of them.
                raise InvalidRequest(
                    f"logits_processors: {step!r} returned the shape {logits.shape} for logits of shape {shape}"
                )
        return logits

    def _with_mask(self, tokens: Any, logits: Any) -> Any:
        import mlx.core as mx

        if self._matcher is None:
            return logits
        if len(tokens) > self._prompt_length:
            last = tokens[-1].item()
            if last in self._eos:
                return logits
            self._matcher.consume(last)
            self.is_complete = self._matcher.is_complete
            if self.is_complete:
                return logits
        return mx.where(mx.array(self._matcher.allowed_tokens()), logits, -mx.inf)


def _steps(
    parameters: Mapping[str, Any], bias: Mapping[int, float], prompt_length: int
) -> list[Callable[[Any, Any], Any]]:
    """Return the functions that change a row's logits, in order."""
    from mlx_lm.sample_utils import make_logits_processors

    everything = 2**31 - 1  # By default mlx-lm considers only the last 20 tokens; other engines consider all tokens.
    steps = list(make_logits_processors(dict(bias) or None))
    if (penalty := parameters.get("repetition_penalty", 1.0)) != 1.0:
        steps += make_logits_processors(None, penalty, everything)
    for name in ("presence", "frequency"):
        if penalty := parameters.get(f"{name}_penalty"):
            arguments = {f"{name}_penalty": penalty, f"{name}_context_size": everything}
            steps += [
                lambda tokens, logits, step=step: step(tokens[prompt_length:], logits)
                for step in make_logits_processors(**arguments)
            ]
    return [*steps, *parameters.get("logits_processors", ())]
