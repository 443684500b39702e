"""Asks a model for an answer of every schema of the sample, and holds each answer against the schema."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from modelport import InvalidOutput, InvalidRequest, Model, StreamInterrupted, UnsupportedFeature
from tests.schema_corpus import Sampled
from tests.servers.smollm2 import smollm2_folder

#: How likely a model of random weights, to which all tokens are alike, ends strings, lists and objects.
_ENDS = {
    '"': 10.0,
    '",': 7.0,
    "}": 2.0,
    "]": 2.0,
    ",": 1.5,
    "@": 8.0,
    ":": 8.0,
    "//": 8.0,
    ".": 4.0,
    "-": 4.0,
    "T": 4.0,
}
MAX_TOKENS = 400
TRIES = 5


@dataclass(frozen=True)
class Outcome:
    """What came of one schema.

    Args:
        kind: `answered`, `refused` (before anything was computed), `cut` (by `max_tokens`, at every try) or `invalid`.
        told: The answer, or the refusal.
        problem: Why it is invalid.
    """

    sampled: Sampled
    kind: str
    told: str
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.sampled}: {self.kind}: {self.told} {self.problem}"


def ask_all(model: Model, sample: Iterable[Sampled], *, random: bool = True, tries: int = TRIES) -> list[Outcome]:
    """Asks for all, eight at once.

    Args:
        model: Whom.
        sample: Of what.
        random: Whether the model's weights are random: it is drawn from, and helped to find an end.
        tries: How often an answer that `max_tokens` cut is asked for again, with more help.
    """
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(_ask, model, one, i, random, tries) for i, one in enumerate(sample)]
        return [job.result() for job in jobs]


def _ask(model: Model, sampled: Sampled, seed: int, random: bool, tries: int) -> Outcome:
    outcome = Outcome(sampled, "cut", "")
    for attempt in range(tries):
        options: dict[str, Any] = {"temperature": 0.0}
        if random or attempt:
            options = {"temperature": 1.0, "seed": seed + 1000 * attempt}
        if random:
            options["logit_bias"] = {token: bias * (1 + attempt / 4) for token, bias in _bias().items()}
        outcome = _answer(model, sampled, options)
        if outcome.kind != "cut":
            break
    return outcome


def _answer(model: Model, sampled: Sampled, options: dict[str, Any]) -> Outcome:
    try:
        message = model.generate(
            f"Give an example for {sampled.name}.", grammar=sampled.schema, max_tokens=MAX_TOKENS, **options
        )
    except (UnsupportedFeature, InvalidRequest) as error:
        return Outcome(sampled, "refused", error.message)
    except StreamInterrupted as error:  # an engine's answer was found to depart from its grammar
        return Outcome(sampled, "invalid", error.partial.text if error.partial else "", error.message)
    except InvalidOutput as error:
        if error.partial is not None and error.partial.finish_reason == "length":
            return Outcome(sampled, "cut", error.text or "")
        return Outcome(sampled, "invalid", error.text or "", error.message)
    assert message.enforcement == "enforced"
    problem = problem_of(sampled.schema, message.text)
    return Outcome(sampled, "invalid" if problem else "answered", message.text, problem)


def hold(outcomes: list[Outcome], refused: Collection[Sampled]) -> None:
    """What is not refused was answered, and validly."""
    wrong = [outcome for outcome in outcomes if outcome.kind not in ("answered", "refused")]
    assert not wrong, f"{len(wrong)} of {len(outcomes)}:\n" + "\n".join(map(str, wrong[:20]))
    assert {outcome.sampled for outcome in outcomes if outcome.kind == "refused"} == set(refused)


def problem_of(schema: dict[str, Any], text: str) -> str:
    """What is wrong with an answer, by the `jsonschema` package, formats included; empty where nothing is."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    kind = validator_for(schema, default=Draft202012Validator)
    return "; ".join(e.message for e in kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(value))


@cache
def _bias() -> dict[int, float]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2_folder() / "tokenizer.json"))
    ids = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in _ENDS}
    return {ids[text][0]: bias for text, bias in _ENDS.items() if len(ids[text]) == 1}
