"""Chooses a row's next token, with the logits processors of the transformers library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from modelport.errors import InvalidRequest
from modelport.local.grammar_matching import GrammarMatcher

#: Parameters for which this engine supports only one value.
_ONLY_VALUES = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}


class Sampler:
    """Chooses the tokens of one row.

    Args:
        parameters: The parameters of the call.
        defaults: The model's own generation settings, for parameters that the call does not set.
        prompt_length: The number of tokens in the prompt.
        eos: The token ids that end an output.
        device: The device of the logits.

    Raises:
        InvalidRequest: A parameter is wrong; the message names it.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        defaults: Mapping[str, Any],
        prompt_length: int,
        eos: list[int],
        device: Any,
    ) -> None:
        given = {**parameters}
        for name, only in _ONLY_VALUES.items():
            if given.get(name, only) != only:
                raise InvalidRequest(
                    f"{name}={given[name]!r}: this engine supports only {name}={only!r}", parameter=name
                )
        temperature = given.get("temperature")
        do_sample = given.get("do_sample")
        if do_sample is None:
            # A temperature above 0 in the call requests sampling, and 0 requests greedy decoding. Without a
            # temperature, another parameter of sampling requests it too, because it would have no effect otherwise;
            # and without one, the model's own settings decide.
            requested = any(given.get(name) is not None for name in _WARPERS)
            do_sample = temperature > 0 if temperature is not None else requested or bool(defaults.get("do_sample"))
        self._do_sample = bool(do_sample) and temperature != 0
        self.top_logprobs: int | None = given.get("top_logprobs", 0) if given.get("logprobs") else None
        settings = {**defaults, **{key: value for key, value in given.items() if value is not None}}
        if not self._do_sample:
            settings = {k: v for k, v in settings.items() if k not in _WARPERS}
        try:
            self._processors = list(_processors(settings, prompt_length, eos, device))
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise InvalidRequest(f"a generation parameter is wrong: {error}") from None
        self._bias = _bias(given.get("logit_bias"), device)
        self._presence_penalty = given.get("presence_penalty") or 0.0
        self._frequency_penalty = given.get("frequency_penalty") or 0.0
        self._prompt_length = prompt_length
        self._generator: torch.Generator | None = None
        if self._do_sample and (seed := given.get("seed")) is not None:
            self._generator = torch.Generator(device).manual_seed(seed % 2**63)
        #: Whether the next token is always the most probable one that the grammar allows, and no log probabilities are
        #: requested. Then the row takes that token without calling `choose`.
        self.takes_most_probable = (
            not (self._do_sample or self._processors or self._bias)
            and not (self._presence_penalty or self._frequency_penalty)
            and self.top_logprobs is None
        )

    def choose(self, logits: torch.Tensor, tokens: list[int], matcher: GrammarMatcher | None) -> int:
        """Return the next token.

        Args:
            logits: The logits after the row's last token, of shape (vocabulary,), in f32.
            tokens: The row's tokens so far, including the prompt.
            matcher: Follows the row's output through its grammar; `None` for free text.
        """
        scores = logits[None].clone()
        if self._bias is not None:
            scores[0, self._bias[0]] += self._bias[1]
        if self._presence_penalty or self._frequency_penalty:
            generated = torch.tensor(tokens[self._prompt_length :], device=logits.device, dtype=torch.long)
            counts = torch.bincount(generated, minlength=scores.shape[1])[: scores.shape[1]]
            scores -= self._frequency_penalty * counts + self._presence_penalty * (counts > 0)
        scores = _with_mask(scores, matcher)
        ids = torch.tensor([tokens], device=logits.device) if self._processors else None
        for processor in self._processors:
            scores = processor(ids, scores)
        if not self._do_sample:
            return int(scores.argmax())
        probabilities = torch.softmax(scores, dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def best_allowed_token(logits: torch.Tensor, matcher: GrammarMatcher) -> int:
    """Return the most probable token that the grammar allows.

    Only allowed tokens are compared: a grammar that forbids the most probable token of all usually allows few tokens.
    numpy compares them, because torch would wake other threads on a CPU.
    """
    allowed = np.flatnonzero(matcher.allowed_tokens())
    return int(allowed[logits.cpu().numpy()[allowed].argmax()])


def _with_mask(scores: torch.Tensor, matcher: GrammarMatcher | None) -> torch.Tensor:
    """Set the scores of tokens that the grammar forbids to -inf."""
    if matcher is None:
        return scores
    forbidden = ~matcher.allowed_tokens()
    if scores.device.type == "cpu":  # numpy takes a quarter of the time that torch takes.
        np.copyto(scores[0].numpy(), -np.inf, where=forbidden)
        return scores
    return scores.masked_fill_(torch.from_numpy(forbidden).to(scores.device)[None], float("-inf"))


def logprobs_of(logits: torch.Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the log probability of a token, and the `top` most probable tokens with their log probabilities.

    They are computed from the model's logits, so parameters such as `temperature` have no effect on them.
    """
    values = torch.log_softmax(logits, dim=-1)
    best = torch.topk(values, top) if top else None
    pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best is not None else []
    return float(values[token]), pairs


#: Parameters of the processors that the library calls warpers: they change with which probability a token is sampled,
#: and are ignored if the most probable token is chosen.
_WARPERS = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}


def _processors(settings: Mapping[str, Any], prompt_length: int, eos: list[int], device: Any) -> Any:
    """Yield the logits processors for these settings, in the order of `factories`.

    The caller's own processors (`logits_processor`) run after the other processors, but before the warpers
    (`temperature`, `top_k`, …).
    """
    import transformers.generation.logits_process as p

    eos_ids = torch.tensor(eos, device=device)
    factories: dict[str, Callable[[Any], Any]] = {
        "sequence_bias": lambda v: p.SequenceBiasLogitsProcessor(sequence_bias=v),
        "repetition_penalty": lambda v: p.RepetitionPenaltyLogitsProcessor(float(v)) if v != 1.0 else None,
        "no_repeat_ngram_size": lambda v: p.NoRepeatNGramLogitsProcessor(v) if v else None,
        "bad_words_ids": lambda v: p.NoBadWordsLogitsProcessor(v, eos_ids),
        "min_length": lambda v: p.MinLengthLogitsProcessor(v, eos_ids, device=device) if v else None,
        "min_new_tokens": lambda v: (
            p.MinNewTokensLengthLogitsProcessor(prompt_length, v, eos_ids, device=device) if v else None
        ),
        "remove_invalid_values": lambda v: p.InfNanRemoveLogitsProcessor() if v else None,
        "exponential_decay_length_penalty": lambda v: p.ExponentialDecayLengthPenalty(tuple(v), eos_ids, prompt_length),
        "suppress_tokens": lambda v: p.SuppressTokensLogitsProcessor(v, device=device),
        "begin_suppress_tokens": lambda v: p.SuppressTokensAtBeginLogitsProcessor(v, prompt_length, device=device),
        "temperature": lambda v: p.TemperatureLogitsWarper(float(v)) if v != 1.0 else None,
        "top_k": lambda v: p.TopKLogitsWarper(v) if v else None,
        "top_p": lambda v: p.TopPLogitsWarper(float(v)) if v < 1.0 else None,
        "min_p": lambda v: p.MinPLogitsWarper(float(v)) if v else None,
        "typical_p": lambda v: p.TypicalLogitsWarper(float(v)) if v < 1.0 else None,
        "epsilon_cutoff": lambda v: p.EpsilonLogitsWarper(float(v)) if v else None,
        "eta_cutoff": lambda v: p.EtaLogitsWarper(float(v), device=device) if v else None,
        "renormalize_logits": lambda v: p.LogitNormalization() if v else None,
    }
    for name, make in factories.items():
        if name == "temperature":  # The first warper: the caller's own processors run before it.
            yield from settings.get("logits_processor") or ()
        if settings.get(name) is not None and (processor := make(settings[name])) is not None:
            yield processor


def _bias(given: Any, device: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the token ids of a `logit_bias`, and the numbers to add to their logits."""
    if not given:
        return None
    try:
        ids = torch.tensor([int(token) for token in given], device=device)
        return ids, torch.tensor([float(value) for value in given.values()], device=device)
    except (TypeError, ValueError, AttributeError):
        raise InvalidRequest(
            f"logit_bias={given!r}: must be a dict from token ids to numbers, as {{42: -100}}", parameter="logit_bias"
        ) from None
