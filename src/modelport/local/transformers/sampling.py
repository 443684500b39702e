"""Chooses a row's next token, by the library's own processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from modelport.errors import InvalidRequest
from modelport.local.grammar_matching import Matcher

#: Those that are honoured at one value alone: an engine of single answers has it anyhow.
_FIXED = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}


class Sampler:
    """Chooses the tokens of one row.

    Args:
        parameters: The request's.
        defaults: The model's own generation settings, for what the request leaves open.
        prompt: How many tokens the prompt has.
        eos: The tokens that end an answer.
        device: Where the logits are.

    Raises:
        InvalidRequest: A parameter is wrong; the message names it.
    """

    def __init__(
        self, parameters: Mapping[str, Any], defaults: Mapping[str, Any], prompt: int, eos: list[int], device: Any
    ) -> None:
        given = {**parameters}
        for name, only in _FIXED.items():
            if given.get(name, only) != only:
                raise InvalidRequest(f"{name}={given[name]!r}: this engine takes {name}={only!r} alone", parameter=name)
        temperature = given.get("temperature")
        sampled = given.get("do_sample")
        if sampled is None:
            # Who names a temperature wants it; else the model's own settings decide.
            sampled = temperature > 0 if temperature is not None else bool(defaults.get("do_sample"))
        self.samples = bool(sampled) and temperature != 0
        self.top_logprobs: int | None = given.get("top_logprobs", 0) if given.get("logprobs") else None
        settings = {**defaults, **{key: value for key, value in given.items() if value is not None}}
        if not self.samples:
            settings = {k: v for k, v in settings.items() if k not in _WARPERS}
        elif temperature is not None and temperature > 0:
            # The model's own cuts belong to its own temperature unless named.
            settings["temperature"] = temperature
        try:
            self._processors = list(_processors(settings, prompt, eos, device))
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise InvalidRequest(f"a parameter of generation is wrong: {error}") from None
        self._bias = _bias(given.get("logit_bias"), device)
        self._presence = given.get("presence_penalty") or 0.0
        self._frequency = given.get("frequency_penalty") or 0.0
        self._prompt = prompt
        self._generator: torch.Generator | None = None
        if self.samples and (seed := given.get("seed")) is not None:
            self._generator = torch.Generator(device).manual_seed(seed % 2**63)
        self.plain = (
            not (self.samples or self._processors or self._bias or self._presence or self._frequency)
            and self.top_logprobs is None
        )

    def choose(self, logits: torch.Tensor, tokens: list[int], matcher: Matcher | None) -> int:
        """The next token.

        Args:
            logits: Of shape (vocabulary,), in f32.
            tokens: The row's tokens so far, the prompt's included.
            matcher: Of the row's grammar.
        """
        scores = logits[None].clone()
        if self._bias is not None:
            scores[0, self._bias[0]] += self._bias[1]
        if self._presence or self._frequency:
            seen = torch.tensor(tokens[self._prompt :], device=logits.device, dtype=torch.long)
            counts = torch.bincount(seen, minlength=scores.shape[1])[: scores.shape[1]]
            scores -= self._frequency * counts + self._presence * (counts > 0)
        masked = _masked(scores, matcher)
        ids = torch.tensor([tokens], device=logits.device) if self._processors else None
        for processor in self._processors:
            masked = processor(ids, masked)
        if not self.samples:
            return int(masked.argmax())
        probabilities = torch.softmax(masked, dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def likeliest(logits: torch.Tensor, matcher: Matcher) -> int:
    """The likeliest of the tokens that the grammar allows; by numpy, which on a CPU wakes no other threads for it.

    Where a grammar stands against the model's own choice it allows few, and only those are looked at.
    """
    allowed = np.flatnonzero(matcher.allowed())
    return int(allowed[logits.cpu().numpy()[allowed].argmax()])


def _masked(scores: torch.Tensor, matcher: Matcher | None) -> torch.Tensor:
    if matcher is None:
        return scores
    forbidden = ~matcher.allowed()
    if scores.device.type == "cpu":  # numpy does it in a quarter of the time
        np.copyto(scores[0].numpy(), -np.inf, where=forbidden)
        return scores
    return scores.masked_fill_(torch.from_numpy(forbidden).to(scores.device)[None], float("-inf"))


def logprobs_of(logits: torch.Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The log probability of a token, and the most probable tokens with theirs, before any sampling setting."""
    values = torch.log_softmax(logits, dim=-1)
    best = torch.topk(values, top) if top else None
    pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best is not None else []
    return float(values[token]), pairs


_WARPERS = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}


def _processors(settings: Mapping[str, Any], prompt: int, eos: list[int], device: Any) -> Any:
    """The library's processors that these settings ask for, those of sampling last."""
    import transformers.generation.logits_process as p

    ends = torch.tensor(eos, device=device)
    made: dict[str, Callable[[Any], Any]] = {
        "sequence_bias": lambda v: p.SequenceBiasLogitsProcessor(sequence_bias=v),
        "repetition_penalty": lambda v: p.RepetitionPenaltyLogitsProcessor(float(v)) if v != 1.0 else None,
        "no_repeat_ngram_size": lambda v: p.NoRepeatNGramLogitsProcessor(v) if v else None,
        "bad_words_ids": lambda v: p.NoBadWordsLogitsProcessor(v, ends),
        "min_length": lambda v: p.MinLengthLogitsProcessor(v, ends, device=device) if v else None,
        "min_new_tokens": lambda v: p.MinNewTokensLengthLogitsProcessor(prompt, v, ends, device=device) if v else None,
        "remove_invalid_values": lambda v: p.InfNanRemoveLogitsProcessor() if v else None,
        "exponential_decay_length_penalty": lambda v: p.ExponentialDecayLengthPenalty(tuple(v), ends, prompt),
        "suppress_tokens": lambda v: p.SuppressTokensLogitsProcessor(v, device=device),
        "begin_suppress_tokens": lambda v: p.SuppressTokensAtBeginLogitsProcessor(v, prompt, device=device),
        "temperature": lambda v: p.TemperatureLogitsWarper(float(v)) if v != 1.0 else None,
        "top_k": lambda v: p.TopKLogitsWarper(v) if v else None,
        "top_p": lambda v: p.TopPLogitsWarper(float(v)) if v < 1.0 else None,
        "min_p": lambda v: p.MinPLogitsWarper(float(v)) if v else None,
        "typical_p": lambda v: p.TypicalLogitsWarper(float(v)) if v < 1.0 else None,
        "epsilon_cutoff": lambda v: p.EpsilonLogitsWarper(float(v)) if v else None,
        "eta_cutoff": lambda v: p.EtaLogitsWarper(float(v), device=device) if v else None,
        "renormalize_logits": lambda v: p.LogitNormalization() if v else None,
    }
    for name, make in made.items():
        if name == "temperature":  # the user's own stand before those of sampling
            yield from settings.get("logits_processor") or ()
        if settings.get(name) is not None and (processor := make(settings[name])) is not None:
            yield processor


def _bias(given: Any, device: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not given:
        return None
    try:
        ids = torch.tensor([int(token) for token in given], device=device)
        return ids, torch.tensor([float(value) for value in given.values()], device=device)
    except (TypeError, ValueError, AttributeError):
        raise InvalidRequest(
            f"logit_bias={given!r}: must be a dict of token ids and numbers, as {{42: -100}}", parameter="logit_bias"
        ) from None
