"""Tokens that a grammar forces, on `TransformersModel`: they are appended without a pass, and counted as usual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.servers.smollm2 import smollm2_folder

from modelport import InvalidOutput, Lark, TransformersModel

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("transformers"), pytest.mark.timeout(300)]
NAMES = ["first_name", "family_name", "favourite_animal", "is_employed", "year_of_birth"]
KINDS: list[dict[str, Any]] = [{"type": "string", "maxLength": 8}, {"type": "boolean"}, {"enum": ["cat", "dog"]}]
SCHEMA = {
    "type": "object", "properties": {name: KINDS[i % 3] for i, name in enumerate(NAMES)}, "required": NAMES,
    "additionalProperties": False,
}  # fmt: skip
QUESTION = "Make up a person."


@pytest.fixture(scope="module")
def model() -> Iterator[TransformersModel]:
    with TransformersModel(smollm2_folder(), context_length=2048, temperature=0, retry=False) as model:
        yield model


@pytest.fixture
def passes(model: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many new tokens each forward pass has computed."""
    counts: list[int] = []
    forward = model._engine().forward
    run = forward.run

    def count_tokens(chunks: Any) -> Any:
        counts.append(sum(len(chunk.tokens) for chunk in chunks))
        return run(chunks)

    monkeypatch.setattr(forward, "run", count_tokens)
    return counts


def test_forced_tokens_need_no_pass_and_change_no_output(model: TransformersModel, passes: list[int]) -> None:
    forced = model(QUESTION, grammar=SCHEMA)
    used = len(passes)
    sampled = model(QUESTION, grammar=SCHEMA, logprobs=True)
    assert forced.text == sampled.text and forced.finish_reason == sampled.finish_reason == "stop"
    assert forced.token_usage and sampled.token_usage
    assert forced.token_usage.output_tokens == sampled.token_usage.output_tokens
    assert sampled.logprobs and len(sampled.logprobs) == sampled.token_usage.output_tokens == len(passes) - used
    assert forced.token_usage.output_tokens >= 1.4 * used
    with model.generate_stream(QUESTION, grammar=SCHEMA) as stream:
        assert "".join(delta.content or "" for delta in stream) == forced.text


def test_max_tokens_truncates_forced_tokens_exactly(model: TransformersModel) -> None:
    whole = model(QUESTION, grammar=SCHEMA)
    assert whole.token_usage and whole.token_usage.output_tokens
    for most in [1, 2, 3, 5, 8, whole.token_usage.output_tokens - 1]:
        with pytest.raises(InvalidOutput) as caught:
            model(QUESTION, grammar=SCHEMA, max_tokens=most)
        partial = caught.value.partial
        assert partial is not None and partial.token_usage and partial.token_usage.output_tokens == most
        assert partial.finish_reason == "length" and whole.text.startswith(partial.text)
    # Here, the whole output is forced.
    with pytest.raises(InvalidOutput) as caught:
        model(QUESTION, grammar={"const": "a sentence of more than three tokens"}, max_tokens=3)
    assert caught.value.partial is not None and caught.value.partial.finish_reason == "length"


def test_stop_sequence_within_forced_tokens_truncates_exactly(model: TransformersModel) -> None:
    grammar = Lark('start: ("a"|"b") " apple and nothing else: STOP and more that is never seen" ("c"|"d")')
    partials = []
    for logprobs in (None, True):
        with pytest.raises(InvalidOutput, match="truncated by the stop sequence 'STOP'") as caught:
            model(QUESTION, grammar=grammar, stop_sequences=["STOP"], logprobs=logprobs)
        partials.append(caught.value.partial)
    forced, sampled = partials
    assert forced is not None and sampled is not None
    assert forced.text == sampled.text and forced.text.endswith("else: ")
    assert forced.stop_sequence == "STOP" and forced.finish_reason == "stop"
    assert forced.token_usage and sampled.token_usage
    assert forced.token_usage.output_tokens == sampled.token_usage.output_tokens


def test_next_turn_reuses_forced_tokens(model: TransformersModel) -> None:
    first = model(QUESTION, grammar=SCHEMA)
    usage = first.token_usage
    assert usage and usage.input_tokens and usage.output_tokens
    messages = [{"role": "user", "content": QUESTION}, first, {"role": "user", "content": "And another."}]
    second = model(messages, max_tokens=4)
    fresh = TransformersModel(
        model=model._engine()._loaded.model, tokenizer=model._engine().tokenizer, temperature=0, prefix_cache_bytes=0
    )
    with fresh:
        assert fresh(messages, max_tokens=4).text == second.text
    assert second.token_usage and second.token_usage.cached_input_tokens
    # The text of the output may be encoded to other tokens than those that were generated, from some point on.
    assert second.token_usage.cached_input_tokens > usage.input_tokens
