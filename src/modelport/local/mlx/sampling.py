"""How an answer's tokens are chosen on MLX: from logits, by a request's parameters and its grammar."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from modelport.errors import InvalidRequest
from modelport.local.grammar_matching import Matcher


def logit_bias_from(parameters: Mapping[str, Any], vocab_size: int) -> dict[int, float]:
    """The `logit_bias` of a request, by token id.

    Raises:
        InvalidRequest: It is no mapping of the vocabulary's ids to numbers.
    """
    given = parameters.get("logit_bias") or {}
    try:
        bias = {int(token): float(value) for token, value in given.items()}
    except (AttributeError, TypeError, ValueError):
        raise InvalidRequest(f"logit_bias={given!r}: must be a dict of token ids and numbers") from None
    for token in bias:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(f"logit_bias: the model has no token {token}; its ids are 0 to {vocab_size - 1}")
    return bias


def make_sampler(parameters: Mapping[str, Any], vocab_size: int) -> Callable[[Any], Any]:
    """A function from log probabilities `[1, vocabulary]` to a token.

    Temperature comes first, then `top_k`, `top_p` and `min_p`, as in transformers and vLLM. Each request draws from a
    generator of its own, so that its neighbours in the batch don't change what it draws.

    Args:
        parameters: `temperature` (0, greedy, by default; 1 where one of the others asks for sampling), `top_k`,
            `top_p`, `min_p`, `seed`.
        vocab_size: The length of the logits.
    """
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, greedy_sampler

    top_k, top_p, min_p = (parameters.get(name) for name in ("top_k", "top_p", "min_p"))
    temperature = parameters.get("temperature", 1.0 if top_k or top_p or min_p else 0.0)
    if temperature == 0:
        greedy: Callable[[Any], Any] = greedy_sampler  # the same for all rows, which then take one call together
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
        key, now = mx.random.split(key)
        return mx.random.categorical(scaled, key=now)

    return sample


class Processor:
    """Changes the logits of one row before its next token is chosen, and follows the row's grammar.

    It never raises: an exception in the batch generator would end every row. It keeps its `error`, and the row ends
    with that. The generator runs one step ahead, so it may be called once more after the row's last token.

    Args:
        parameters: `repetition_penalty` (over prompt and answer), `presence_penalty` and `frequency_penalty` (over the
            answer), `logits_processors` (the caller's own), `logprobs`.
        bias: See `logit_bias_from`.
        prompt_length: In tokens.
        matcher: Of the grammar.
        eos: The tokens that end an answer.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        bias: Mapping[int, float],
        prompt_length: int,
        matcher: Matcher | None,
        eos: Collection[int],
    ) -> None:
        self._prompt_length, self._matcher, self._eos = prompt_length, matcher, eos
        self._changes = _changes(parameters, bias, prompt_length)
        self.needed = bool(self._changes or matcher)
        self._keeps = bool(parameters.get("logprobs"))
        #: The model's own logits for the tokens to come, where log probabilities are asked for.
        self.logits: deque[Any] = deque()
        #: Whether the grammar allows nothing to follow.
        self.complete = False
        self.error: Exception | None = None

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """The logits as the request wants them.

        Args:
            tokens: Of prompt and answer.
            logits: `[1, vocabulary]`, for the token that follows.
        """
        if self._keeps:
            self.logits.append(logits[0])
        if self.error is not None or self.complete:
            return logits
        try:
            return self._masked(tokens, self._changed(tokens, logits))
        except Exception as error:
            self.error = error
            return logits

    def _changed(self, tokens: Any, logits: Any) -> Any:
        shape = logits.shape
        for change in self._changes:
            logits = change(tokens, logits)
            if logits.shape != shape:  # which would fail where the rows come together
                raise InvalidRequest(f"logits_processors: {change!r} gave {logits.shape} for logits of {shape}")
        return logits

    def _masked(self, tokens: Any, logits: Any) -> Any:
        import mlx.core as mx

        if self._matcher is None:
            return logits
        if len(tokens) > self._prompt_length:
            last = tokens[-1].item()
            if last in self._eos:
                return logits
            self._matcher.advance(last)
            self.complete = self._matcher.ended
            if self.complete:
                return logits
        return mx.where(mx.array(self._matcher.allowed()), logits, -mx.inf)


def _changes(
    parameters: Mapping[str, Any], bias: Mapping[int, float], prompt_length: int
) -> list[Callable[[Any, Any], Any]]:
    from mlx_lm.sample_utils import make_logits_processors

    whole = 2**31 - 1  # mlx-lm looks at the last 20 tokens unless told otherwise; other engines at all
    changes = list(make_logits_processors(dict(bias) or None))
    if (penalty := parameters.get("repetition_penalty", 1.0)) != 1.0:
        changes += make_logits_processors(None, penalty, whole)
    for name in ("presence", "frequency"):
        if penalty := parameters.get(f"{name}_penalty"):
            arguments = {f"{name}_penalty": penalty, f"{name}_context_size": whole}
            changes += [
                lambda tokens, logits, change=change: change(tokens[prompt_length:], logits)
                for change in make_logits_processors(**arguments)
            ]
    return [*changes, *parameters.get("logits_processors", ())]
