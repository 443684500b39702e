"""Random arguments: a call accepts them or raises an error of modelport, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelport.errors import InvalidRequest, ModelError, UnsupportedFeature
from modelport.inputs.parameters import BY_ANY_NAME
from modelport.model import Model
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request
from tests.properties import examples


class AcceptingModel(Model):
    """Accepts every request that reaches the backend."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        yield ChatMessageStreamDelta(content="{}", finish_reason="stop")


KEYS = st.sampled_from([
    "role", "content", "type", "text", "image", "image_url", "url", "path", "base64", "data", "detail", "tool_calls",
    "function", "name", "arguments", "id", "tool_call_id", "reasoning", "input_audio", "format", "file", "file_data",
    "filename", "value", "json_schema", "schema", "properties", "$ref", "enum", "anyOf", "items", "pattern", "x",
])  # fmt: skip
WORDS = st.sampled_from([
    "user", "assistant", "system", "tool", "text", "image", "image_url", "input_audio", "file", "function", "auto",
    "json", "required", "json_schema", "json_object", "regex", "object", "string", "data:image/png;base64,AAAA",
    "http://x", "~x", "(", "", "\0", "#/nowhere", "\ud800",
])  # fmt: skip
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=15,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": WORDS, "content": WORDS | st.lists(st.dictionaries(KEYS, ANY_VALUE, max_size=4), max_size=2)}
    )
    | st.dictionaries(KEYS, ANY_VALUE, max_size=5),
    max_size=3,
)
OPTIONS = st.dictionaries(
    st.sampled_from([*BY_ANY_NAME, "an_unknown_option"]),
    ANY_VALUE,
    max_size=3,
)  # fmt: skip


@settings(examples(700), suppress_health_check=list(HealthCheck))
@given(MESSAGES | ANY_VALUE, OPTIONS)
def test_random_call_is_accepted_or_raises_invalid_request(messages: Any, options: dict[str, Any]) -> None:
    everything = {"text", "image", "audio", "file"}
    model = AcceptingModel(capabilities={"inputs": everything, "image_urls": True, "seed": True, "logprobs": True})
    before = copy.deepcopy((messages, options))
    try:
        model.generate_stream(messages, **options)  # The arguments are checked at once.
    except (InvalidRequest, UnsupportedFeature) as error:
        assert str(error)
    # The reprs are compared, because a NaN is not equal to itself.
    assert repr((messages, options)) == repr(before), "the caller's arguments were changed"


@settings(examples(300), suppress_health_check=list(HealthCheck))
@given(OPTIONS)
def test_random_options_are_accepted_or_raise_model_error(options: dict[str, Any]) -> None:
    try:
        AcceptingModel(retry=False).generate("Hello", **options)
    except ModelError as error:
        assert str(error)
