"""Tokens that a grammar forces, on `TransformersModel`: appended without a pass each, and counted like any others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.servers.smollm2 import smollm2_folder

from modelport import InvalidOutput, Lark, TransformersModel

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
NAMES = ["first_name", "family_name", "favourite_animal", "is_employed", "year_of_birth"]
KINDS: list[dict[str, Any]] = [{"type": "string", "maxLength": 8}, {"type": "boolean"}, {"enum": ["cat", "dog"]}]
SCHEMA = {
    "type": "object", "properties": {name: KINDS[i % 3] for i, name in enumerate(NAMES)}, "required": NAMES,
    "additionalProperties": False,
}  # fmt: skip
ASKED = "Make up a person."


@pytest.fixture(scope="module")
def model() -> Iterator[TransformersModel]:
    with TransformersModel(smollm2_folder(), context_length=2048, temperature=0, retry=False) as model:
        yield model


@pytest.fixture
def passes(model: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many new tokens each pass computed."""
    found: list[int] = []
    forward = model._engine().forward
    run = forward.run

    def counted(pieces: Any) -> Any:
        found.append(sum(len(piece.tokens) for piece in pieces))
        return run(pieces)

    monkeypatch.setattr(forward, "run", counted)
    return found


def test_forced_tokens_take_no_pass_and_change_nothing(model: TransformersModel, passes: list[int]) -> None:
    forced = model(ASKED, grammar=SCHEMA)
    used = len(passes)
    chosen = model(ASKED, grammar=SCHEMA, logprobs=True)
    assert forced.text == chosen.text and forced.finish_reason == chosen.finish_reason == "stop"
    assert forced.token_usage and chosen.token_usage
    assert forced.token_usage.output_tokens == chosen.token_usage.output_tokens
    assert chosen.logprobs and len(chosen.logprobs) == chosen.token_usage.output_tokens == len(passes) - used
    assert forced.token_usage.output_tokens >= 1.4 * used
    with model.generate_stream(ASKED, grammar=SCHEMA) as stream:
        assert "".join(delta.content or "" for delta in stream) == forced.text


def test_max_tokens_cuts_forced_tokens_exactly(model: TransformersModel) -> None:
    whole = model(ASKED, grammar=SCHEMA)
    assert whole.token_usage and whole.token_usage.output_tokens
    for most in [1, 2, 3, 5, 8, whole.token_usage.output_tokens - 1]:
        with pytest.raises(InvalidOutput) as caught:
            model(ASKED, grammar=SCHEMA, max_tokens=most)
        cut = caught.value.partial
        assert cut is not None and cut.token_usage and cut.token_usage.output_tokens == most
        assert cut.finish_reason == "length" and whole.text.startswith(cut.text)
    # Forced to its very end, and cut there.
    with pytest.raises(InvalidOutput) as caught:
        model(ASKED, grammar={"const": "a sentence of more than three tokens"}, max_tokens=3)
    assert caught.value.partial is not None and caught.value.partial.finish_reason == "length"


def test_a_stop_sequence_within_forced_tokens(model: TransformersModel) -> None:
    grammar = Lark('start: ("a"|"b") " apple and nothing else: STOP and more that is never seen" ("c"|"d")')
    cut = []
    for logprobs in (None, True):
        with pytest.raises(InvalidOutput, match="truncated by the stop sequence 'STOP'") as caught:
            model(ASKED, grammar=grammar, stop_sequences=["STOP"], logprobs=logprobs)
        cut.append(caught.value.partial)
    forced, chosen = cut
    assert forced is not None and chosen is not None
    assert forced.text == chosen.text and forced.text.endswith("else: ")
    assert forced.stop_sequence == "STOP" and forced.finish_reason == "stop"
    assert forced.token_usage and chosen.token_usage
    assert forced.token_usage.output_tokens == chosen.token_usage.output_tokens


def test_the_next_turn_finds_what_was_computed(model: TransformersModel) -> None:
    first = model(ASKED, grammar=SCHEMA)
    known = first.token_usage
    assert known and known.input_tokens and known.output_tokens
    messages = [{"role": "user", "content": ASKED}, first, {"role": "user", "content": "And another."}]
    second = model(messages, max_tokens=4)
    fresh = TransformersModel(
        model=model._engine()._loaded.model, tokenizer=model._engine().tokenizer, temperature=0, prefix_cache_bytes=0
    )
    with fresh:
        assert fresh(messages, max_tokens=4).text == second.text
    assert second.token_usage and second.token_usage.cached_input_tokens
    # Up to where the model chose other tokens than its text has on being read again.
    assert second.token_usage.cached_input_tokens > known.input_tokens
