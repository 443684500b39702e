"""Chooses the next token of an output from MLX's logits, by the parameters of the call and its grammar."""

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
    logit_bias = parameters.get("logit_bias") or {}
    try:
        bias = {int(token): float(value) for token, value in logit_bias.items()}
    except (AttributeError, TypeError, ValueError):
        raise InvalidRequest(f"logit_bias={logit_bias!r}: must be a dict from token ids to numbers") from None
    for token in bias:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(f"logit_bias: the model has no token {token}; its ids are 0 to {vocab_size - 1}")
    return bias


def make_sampler(parameters: Mapping[str, Any], vocab_size: int) -> Callable[[Any], Any]:
    """Return a function that chooses a token, given log probabilities of shape (1, vocabulary).

    Temperature is applied first, then `top_k`, `top_p` and `min_p`, as in transformers and vLLM. Each request has its
    own random number generator, so other rows of the batch do not change its output.

    Args:
        parameters: `temperature`, `top_k`, `top_p`, `min_p` and `seed`. A temperature of 0 means greedy decoding. The
            default temperature is 1 if `top_k`, `top_p` or `min_p` is set, otherwise 0.
        vocab_size: The length of the logits.
    """
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, greedy_sampler

    top_k, top_p, min_p = (parameters.get(name) for name in ("top_k", "top_p", "min_p"))
    temperature = parameters.get("temperature", 1.0 if top_k or top_p or min_p else 0.0)
    if temperature == 0:
        # All greedy rows must have the same function: then mlx-lm calls it once for all rows.
        greedy: Callable[[Any], Any] = greedy_sampler
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

    mlx-lm's generator calls the processor in each step. The processor never raises, because an exception in the
    generator would end every row. It sets `error` instead, and the batch ends the row with that error. The generator
    computes one step ahead, so it may call the processor once more after the row's last token.

    Args:
        parameters: `repetition_penalty` (over prompt and output), `presence_penalty` and `frequency_penalty` (over the
            output), `logits_processors` (the caller's own functions), and `logprobs`.
        bias: The numbers to add to logits, by token id.
        prompt_length: The number of tokens in the prompt.
        matcher: Follows the output through its grammar; `None` for free text.
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
        self._adjustments = _adjustments(parameters, bias, prompt_length)
        #: Whether the processor changes logits. If not, the batch does not pass it to the generator.
        self.is_needed = bool(self._adjustments or matcher)
        self._stores_logits = bool(parameters.get("logprobs"))
        #: The logits before the processor changed them, if the call requests log probabilities. The processor adds an
        #: element in each step; the batch removes it when it reads the token of that step.
        self.original_logits: deque[Any] = deque()
        #: Whether the output is complete: the grammar allows no further token.
        self.is_complete = False
        #: The error that a call of the processor caught.
        self.error: Exception | None = None

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """Return the logits for the next token, changed as the call requests.

        Args:
            tokens: The tokens of prompt and output so far.
            logits: The model's logits, of shape (1, vocabulary).
        """
        if self._stores_logits:
            self.original_logits.append(logits[0])
        if self.error is not None or self.is_complete:
            return logits
        try:
            return self._mask(tokens, self._adjust(tokens, logits))
        except Exception as error:
            self.error = error
            return logits

    def _adjust(self, tokens: Any, logits: Any) -> Any:
        shape = logits.shape
        for adjust in self._adjustments:
            logits = adjust(tokens, logits)
            if logits.shape != shape:  # The generator could not join these logits with those of other rows.
                raise InvalidRequest(
                    f"logits_processors: {adjust!r} returned the shape {logits.shape} for logits of shape {shape}"
                )
        return logits

    def _mask(self, tokens: Any, logits: Any) -> Any:
        """Advance the grammar by the last token, and exclude the tokens that the grammar does not allow next."""
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


def _adjustments(
    parameters: Mapping[str, Any], bias: Mapping[int, float], prompt_length: int
) -> list[Callable[[Any, Any], Any]]:
    """Return the functions that change a row's logits, in order. Each takes the tokens so far and the logits."""
    from mlx_lm.sample_utils import make_logits_processors

    # By default mlx-lm's penalties consider only the last 20 tokens; those of other engines consider all tokens.
    all_tokens = 2**31 - 1
    adjustments = list(make_logits_processors(logit_bias=dict(bias) or None))
    if (penalty := parameters.get("repetition_penalty", 1.0)) != 1.0:
        adjustments += make_logits_processors(repetition_penalty=penalty, repetition_context_size=all_tokens)
    for name in ("presence", "frequency"):
        if penalty := parameters.get(f"{name}_penalty"):
            arguments = {f"{name}_penalty": penalty, f"{name}_context_size": all_tokens}
            adjustments += [
                lambda tokens, logits, adjust=adjust: adjust(tokens[prompt_length:], logits)
                for adjust in make_logits_processors(**arguments)
            ]
    return [*adjustments, *parameters.get("logits_processors", ())]
