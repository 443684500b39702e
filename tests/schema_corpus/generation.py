"""Generates output for every schema of the sample, and validates it against the schema."""

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
from tests.schema_corpus import SampleSchema
from tests.servers.smollm2 import smollm2_folder

#: Added to the logits of tokens that end strings, lists and objects. To a model with random weights all tokens are
#: equally likely, so without this it would rarely end its output.
_END_BIAS = {
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
MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class Outcome:
    """The result for one schema.

    Args:
        sample: The schema.
        kind: `valid`, `refused` (before anything was computed), `truncated` (by `max_tokens`, in every attempt) or
            `invalid`.
        text: The output, or the message of the refusal.
        problem: Why the output is invalid.
    """

    sample: SampleSchema
    kind: str
    text: str
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.sample}: {self.kind}: {self.text} {self.problem}"


def generate_all(
    model: Model,
    samples: Iterable[SampleSchema],
    *,
    random: bool = True,
    max_attempts: int = MAX_ATTEMPTS,
    max_tokens: int = MAX_TOKENS,
) -> list[Outcome]:
    """Generate output for all schemas, eight at once.

    Args:
        model: The model.
        samples: The schemas.
        random: Whether the model's weights are random. Then tokens are sampled, and tokens that end the output are
            preferred.
        max_attempts: How often a truncated output is generated again; each time, ends of the output are preferred more.
        max_tokens: The most tokens of one output.
    """
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(_generate, model, sample, seed, random, max_attempts, max_tokens)
            for seed, sample in enumerate(samples)
        ]
        return [future.result() for future in futures]


def _generate(
    model: Model, sample: SampleSchema, seed: int, random: bool, max_attempts: int, max_tokens: int
) -> Outcome:
    outcome = Outcome(sample, "truncated", "")
    for attempt in range(max_attempts):
        options: dict[str, Any] = {"temperature": 0.0}
        if random or attempt:
            options = {"temperature": 1.0, "seed": seed + 1000 * attempt}
        options["max_tokens"] = max_tokens
        if random:
            options["logit_bias"] = {token: bias * (1 + attempt / 4) for token, bias in _logit_bias().items()}
        outcome = _generate_once(model, sample, options)
        if outcome.kind != "truncated":
            break
    return outcome


def _generate_once(model: Model, sample: SampleSchema, options: dict[str, Any]) -> Outcome:
    try:
        message = model.generate(f"Give an example for {sample.name}.", grammar=sample.schema, **options)
    except (UnsupportedFeature, InvalidRequest) as error:
        return Outcome(sample, "refused", error.message)
    except StreamInterrupted as error:  # The engine's output did not follow the grammar.
        return Outcome(sample, "invalid", error.partial.text if error.partial else "", error.message)
    except InvalidOutput as error:
        if error.partial is not None and error.partial.finish_reason == "length":
            return Outcome(sample, "truncated", error.text or "")
        return Outcome(sample, "invalid", error.text or "", error.message)
    assert message.enforcement == "enforced"
    problem = find_problem(sample.schema, message.text)
    return Outcome(sample, "invalid" if problem else "valid", message.text, problem)


def check_outcomes(outcomes: list[Outcome], refused: Collection[SampleSchema]) -> None:
    """Check that exactly the schemas in `refused` were refused, and that the output is valid for all others."""
    wrong = [outcome for outcome in outcomes if outcome.kind not in ("valid", "refused")]
    assert not wrong, f"{len(wrong)} of {len(outcomes)}:\n" + "\n".join(map(str, wrong[:20]))
    assert {outcome.sample for outcome in outcomes if outcome.kind == "refused"} == set(refused)


def find_problem(schema: dict[str, Any], text: str) -> str:
    """Return what is wrong with the output by the `jsonschema` package, formats included, or an empty string."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"not valid JSON: {error}"
    validator = validator_for(schema, default=Draft202012Validator)
    errors = validator(schema, format_checker=validator.FORMAT_CHECKER).iter_errors(value)
    return "; ".join(error.message for error in errors)


@cache
def _logit_bias() -> dict[int, float]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2_folder() / "tokenizer.json"))
    ids = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in _END_BIAS}
    return {ids[text][0]: bias for text, bias in _END_BIAS.items() if len(ids[text]) == 1}
