"""Generated conversations and options: AWS would accept each request that is sent, or a typed error is raised."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modelport import ModelError
from tests.protocols.converse.examples import (
    CLAUDE,
    LLAMA,
    NOVA,
    PDF_PART,
    PNG,
    WEATHER_TOOL,
    call_message,
    recording_model,
    result_message,
    text_part,
    user_message,
)
from tests.servers.bedrock_rules import redacted_reasoning, signature_of

TEXTS = st.sampled_from(["", " ", "\n\t", "a", "Hello there.", "é世界", "\ud800", "x" * 30])
PARTS = st.one_of(
    TEXTS.map(text_part),
    st.sampled_from([{"type": "image", "image": PNG}, {"type": "image", "image": b"BM" + b"\0" * 9}, PDF_PART,
                     {"type": "image", "url": "https://example.com/a.png"},
                     {"type": "file", "file": {"file_data": "data:text/x-python;base64,AA=="}},
                     {"type": "file", "file": {"filename": "../a  _b.t", "file_data": "data:text/plain;base64,AA=="}}]),
)  # fmt: skip
CONTENTS = st.one_of(TEXTS, st.lists(PARTS, max_size=4))
IDS = st.sampled_from(["a", "b", "a|b", "", "x" * 70])
ARGUMENTS = st.sampled_from(['{"city": "Rome"}', "{}", "", "[1]", "{", "null", {"city": 1}, {}])
CALLS = st.builds(
    lambda call_id, name, arguments: {"id": call_id, "function": {"name": name, "arguments": arguments}},
    IDS, st.sampled_from(["get_weather", "f", "a b", ""]), ARGUMENTS,
)  # fmt: skip
DETAILS = st.sampled_from([
    {"reasoningText": {"text": "hm", "signature": signature_of("hm")}}, {"reasoningText": {"text": 3}}, {"x": 1},
    {"redactedContent": base64.b64encode(redacted_reasoning("x")).decode()}, {"redactedContent": "!"},
])  # fmt: skip
ANY_MESSAGE = st.one_of(
    st.builds(lambda content: {"role": "system", "content": content}, CONTENTS),
    st.builds(lambda content: {"role": "user", "content": content}, CONTENTS),
    st.builds(
        lambda content, calls, details: {
            "role": "assistant", "content": content, "tool_calls": calls,
            "provider_data": {"protocol": "converse", "items": details},
        },
        CONTENTS, st.lists(CALLS, max_size=2), st.lists(DETAILS, max_size=2),
    ),
    st.builds(lambda content, call_id: result_message(call_id, content), CONTENTS, IDS),
)  # fmt: skip
SCHEMAS = st.sampled_from([
    {"type": "object", "properties": {"a": {"type": "integer", "maximum": 3}}},
    {"type": "object"}, {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "maxLength": 3}}},
    {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}},
])  # fmt: skip
TEXTS_NOT_BLANK = st.sampled_from(["a", "Hello there.", "é世界", "\ud800", " x "])
ACCEPTED_PARTS = st.lists(
    st.one_of(TEXTS.map(text_part), st.sampled_from([{"type": "image", "image": PNG}, PDF_PART])), max_size=3
).flatmap(lambda parts: TEXTS_NOT_BLANK.map(lambda text: [text_part(text), *parts]))  # fmt: skip


@st.composite
def valid_messages(draw: st.DrawFn) -> list[Any]:
    """Messages that are valid anywhere after the first message: tool calls come with their results."""
    kind = draw(st.sampled_from(["user", "assistant", "system", "calls"]))
    if kind != "calls":
        return [{"role": kind, "content": draw(ACCEPTED_PARTS if kind == "user" else TEXTS)}]
    ids = draw(st.lists(IDS.filter(bool), min_size=1, max_size=3, unique=True))
    calls = call_message(*ids, content=draw(TEXTS))
    contents = st.one_of(TEXTS, ACCEPTED_PARTS)
    return [calls, *(result_message(call["id"], draw(contents)) for call in draw(st.permutations(calls["tool_calls"])))]


@st.composite
def conversations(draw: st.DrawFn) -> list[Any]:
    """A conversation that AWS would accept; in one of five, any message is inserted."""
    rest = draw(st.lists(valid_messages(), max_size=4))
    messages = [user_message(*draw(ACCEPTED_PARTS)), *(message for messages in rest for message in messages)]
    if draw(st.integers(0, 4)) == 0:
        messages.insert(draw(st.integers(0, len(messages))), draw(ANY_MESSAGE))
    return messages


OPTIONS = st.fixed_dictionaries({}, optional={
    "tools": st.sampled_from([[WEATHER_TOOL], [WEATHER_TOOL], [WEATHER_TOOL, {"name": "f"}], [{"name": "a b"}], []]),
    "tool_choice": st.sampled_from(["auto", "none", "none"]),
    "stop_sequences": st.lists(st.sampled_from(["\n", "END", " ", "é"]), max_size=6),
    "temperature": st.sampled_from([0, 0.5, 1, 1, 1.5]), "max_tokens": st.just(5),
    "cache_points": st.sampled_from([["tools", "system", "messages"], {"messages": "1h"}]),
    "inference_config": st.sampled_from([{"maxTokens": 3}, {"temperature": 0.2}]),
    "guardrail_config": st.just({"guardrailIdentifier": "abc", "guardrailVersion": "1"}),
})  # fmt: skip
OUTPUT_OPTIONS = st.one_of(
    st.just({}), st.just({}),
    st.fixed_dictionaries({"grammar": SCHEMAS}),
    st.sampled_from(["get_weather", "required"]).map(lambda choice: {"tools": [WEATHER_TOOL], "tool_choice": choice}),
)  # fmt: skip
EXAMPLES = 6 * settings().max_examples


def test_generated_request_is_accepted_by_aws_rules_or_raises_model_error() -> None:
    """The recording models check each request, and raise an error that is not a `ModelError` for a refused one."""
    models = {model_id: recording_model(model_id) for model_id in (CLAUDE, NOVA, LLAMA, "mistral.mixtral-8x7b-v0:1")}

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(list(models)), conversations(), OPTIONS, OUTPUT_OPTIONS, st.booleans())
    @example(
        CLAUDE,
        [user_message(text_part("a")), call_message("a|b"), result_message("a|b", " ")],
        {},
        {"tool_choice": "none", "tools": [WEATHER_TOOL]},
        True,
    )
    def send(
        model_id: str, messages: list[Any], options: dict[str, Any], output_options: dict[str, Any], stream: bool
    ) -> None:
        model, options = models[model_id], {**options, **output_options}
        try:
            if stream:
                list(model.generate_stream(messages, **options))
            else:
                model.generate(messages, **options)
        except ModelError:
            pass

    send()
    sent = sum(len(model.sent) for model in models.values())
    assert sent > EXAMPLES / 4, "too few of the generated requests were sent for the test to show anything"
