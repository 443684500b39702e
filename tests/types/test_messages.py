"""Messages, and the deltas from which they are accumulated: the message does not depend on how it was split."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport import Choice, InvalidRequest, OpenAIServerModel, Regex
from modelport.inputs.messages import normalise_messages
from modelport.types.content import Image, Text
from modelport.types.deltas import (
    ChatMessageStreamDelta,
    ChatMessageToolCallStreamDelta,
    accumulate,
    as_delta,
)
from modelport.types.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    tool_call_from,
)
from modelport.types.provider_data import ProviderData
from modelport.types.usage import TokenUsage
from modelport.types.warnings import CallWarning, WarningType
from tests.properties import examples

Delta = ChatMessageStreamDelta
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)
COUNTS = st.none() | st.integers(0, 1000)
USAGES = st.builds(TokenUsage, COUNTS, COUNTS, COUNTS, COUNTS)
NAMES = st.text(min_size=1, max_size=8)
PROVIDER_DATA = st.builds(
    ProviderData,
    st.sampled_from(["chat_completions", "responses", "messages", "converse"]),
    st.lists(OBJECTS, min_size=1, max_size=3),
    st.none() | NAMES,
)
CALLS = st.builds(
    ChatMessageToolCall, st.builds(ChatMessageToolCallFunction, OBJECTS, NAMES), st.text(min_size=1, max_size=8),
    provider_data=PROVIDER_DATA | st.none(),
)  # fmt: skip
#: `MessageBuilder` drops a warning of the other type about a parameter that was left out in the end.
WARNING_TYPES = sorted({*get_args(WarningType)} - {"forwarded"})
MESSAGES = st.builds(
    ChatMessage,
    st.just(MessageRole.ASSISTANT),
    content=st.text(max_size=20),
    tool_calls=st.lists(CALLS, min_size=1, max_size=3) | st.none(),
    token_usage=USAGES | st.none(),
    reasoning=st.text(min_size=1, max_size=10) | st.none(),
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]) | st.none(),
    stop_sequence=NAMES | st.none(),
    parsed=OBJECTS | st.none(),
    enforcement=st.sampled_from(["enforced", "validated"]) | st.none(),
    logprobs=st.lists(st.fixed_dictionaries({"token": st.text(max_size=3), "logprob": st.just(-0.5)}), min_size=1)
    | st.none(),
    model_id=NAMES | st.none(),
    warnings=st.lists(st.builds(CallWarning, st.sampled_from(WARNING_TYPES), st.none() | NAMES, NAMES), max_size=2),
    provider_data=PROVIDER_DATA | st.none(),
)


def call_delta(index: int | None, arguments: Any, name: str = "", identifier: str | None = None) -> Delta:
    function = ChatMessageToolCallFunction(arguments, name)
    return Delta(tool_calls=[ChatMessageToolCallStreamDelta(index, identifier, None, function)])


def split(draw: st.DrawFn, text: str) -> list[str]:
    positions = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in pairwise([0, *positions, len(text)])]


def split_data(data: ProviderData | None) -> list[ProviderData]:
    return [ProviderData(data.protocol, (item,), data.service) for item in data.items] if data is not None else []


@st.composite
def messages_in_deltas(draw: st.DrawFn) -> tuple[ChatMessage, list[Delta]]:
    """Return a message and deltas with the same content: text, reasoning and arguments are split anywhere."""
    message = draw(MESSAGES)
    sequences = [
        [Delta(reasoning=part) for part in split(draw, message.reasoning or "")],
        [Delta(content=part) for part in split(draw, message.content)],
        [Delta(logprobs=[entry]) for entry in message.logprobs or ()],
        [Delta(provider_data=part) for part in split_data(message.provider_data)],
    ]
    deltas = []
    for index, call in enumerate(message.tool_calls or ()):
        # Calls begin in order; their arguments may then come interleaved.
        deltas.append(call_delta(index, "", call.function.name, call.id))
        sequences.append([call_delta(index, part) for part in split(draw, call.function.arguments_json())])
        pieces = [ChatMessageToolCallStreamDelta(index, provider_data=part) for part in split_data(call.provider_data)]
        sequences.append([Delta(tool_calls=[piece]) for piece in pieces])
    while sequences := [sequence for sequence in sequences if sequence]:
        deltas.append(draw(st.sampled_from(sequences)).pop(0))
    last_fields = ("token_usage", "finish_reason", "stop_sequence", "parsed", "enforcement", "model_id")
    last = {name: getattr(message, name) for name in last_fields}
    return message, [*deltas, Delta(**last, warnings=message.warnings or None)]


@examples(200)
@given(messages_in_deltas())
def test_accumulate_message_in_any_deltas_returns_message(message_and_deltas: tuple[ChatMessage, list[Delta]]) -> None:
    message, deltas = message_and_deltas
    before = copy.deepcopy(deltas)
    expected = copy.copy(message)
    expected.content = message.content or (None if message.tool_calls else "")
    assert accumulate(deltas) == expected
    assert accumulate(deltas).logprobs == message.logprobs
    assert deltas == before, "accumulate changed its argument"


@examples(200)
@given(MESSAGES)
def test_accumulate_message_as_one_delta_returns_message(message: ChatMessage) -> None:
    accumulated = accumulate([as_delta(message)])
    expected = copy.copy(message)
    expected.content = message.content or (None if message.tool_calls else "")
    assert accumulated == expected


@examples(200)
@given(MESSAGES, st.sampled_from(list(MessageRole)), NAMES | st.none())
def test_message_dict_round_trips(message: ChatMessage, role: MessageRole, name: str | None) -> None:
    message.role, message.name, message.tool_call_id = role, name, name or "c1"
    written = json.loads(message.model_dump_json())
    assert written == message.to_dict() == message.dict()
    assert ChatMessage.from_dict(written) == message
    assert normalise_messages([written]), "the result of to_dict can't be sent"


def test_accumulate_without_content_gives_empty_text() -> None:
    assert accumulate([]) == accumulate([Delta()]) == ChatMessage(MessageRole.ASSISTANT, "")


def test_accumulate_calls_without_text_gives_no_content() -> None:
    assert accumulate([call_delta(0, "{}", "f", "c1")]).content is None


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ("  \n", {}),
        ("null", {}),
        ('{"a": 1', '{"a": 1'),
        ("[" * 99_999, "[" * 99_999),
    ],
)
def test_accumulate_parses_arguments_that_are_json(text: str, arguments: Any) -> None:
    (call,) = accumulate([call_delta(0, text, "f", "c1")]).tool_calls
    assert call.function.arguments == arguments


def test_accumulate_arguments_given_as_object_are_kept() -> None:
    (call,) = accumulate([call_delta(0, {"a": 1}, "f", "c1")]).tool_calls
    assert call.function.arguments == {"a": 1}


def test_accumulate_calls_without_index_are_separate_calls() -> None:
    message = accumulate([call_delta(None, "{}", "f", "c1"), call_delta(None, "{}", "g", "c2")])
    assert [(call.function.name, call.id) for call in message.tool_calls or ()] == [("f", "c1"), ("g", "c2")]


def test_accumulate_model_id_of_delta_takes_precedence() -> None:
    assert accumulate([Delta(content="a")], "requested").model_id == "requested"
    assert accumulate([Delta(model_id="responding")], "requested").model_id == "responding"


def test_accumulate_raw_is_kept_but_not_printed_or_compared() -> None:
    message = accumulate([Delta(content="a", raw={"secret": 1})])
    assert message.raw == {"secret": 1}
    assert "secret" not in repr(message)
    assert message == accumulate([Delta(content="a")])


def test_delta_has_output_for_content_only() -> None:
    for delta in (
        Delta(content="a"),
        Delta(reasoning="a"),
        call_delta(0, "", "f"),
        Delta(provider_data=ProviderData("responses", ({},))),
    ):
        assert delta.has_output
    for other in ({}, {"content": ""}, {"finish_reason": "stop"}, {"token_usage": TokenUsage(1)}, {"model_id": "m"}):
        assert not Delta(**other).has_output


def test_message_str_is_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    print(ChatMessage("assistant", "Paris"))
    print(ChatMessage("user", [{"type": "text", "text": "a"}, {"type": "image", "url": "u"}, Text("b")]))
    print(ChatMessage("assistant", None))
    assert capsys.readouterr().out == "Paris\na\nb\n\n"


@pytest.mark.parametrize("make", [list, tuple])
def test_message_repr_hides_signed_urls(make: Any) -> None:
    signed = "https://user:S1GN@h.example/S1GN?sig=S1GN"
    parts = [
        {"type": "image_url", "image_url": {"url": signed, "detail": "low"}}, {"type": "image", "url": signed},
        {"type": "image", "image": signed}, {"type": "file", "file": {"file_data": "data:text/plain;base64,S1GN"}},
        {"type": "text", "text": "see https://a.example"}, Image(url=signed),
    ]  # fmt: skip
    message = ChatMessage("user", make(parts))
    text = repr(message)
    assert "S1GN" not in text and text.count("'https://h.example/…'") == 3 and "see https://a.example" in text
    assert message.content == make(parts) and repr(ChatMessage("user", "https://a/b")).count("https://a/b") == 1
    assert repr(ChatMessage("user", "a")).startswith("ChatMessage(role='user', content='a', tool_calls=None, token")


def test_to_dict_url_is_plain_str() -> None:
    """YAML writers refuse subclasses of `str`."""
    (image,) = ChatMessage("user", [Image(url="https://h.example/a?sig=1")]).to_dict()["content"]
    assert type(image["image_url"]["url"]) is str


def test_message_str_includes_calls() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")
    call_text = "Call: c1: Calling weather with arguments: {'city': 'Paris'}"
    assert str(ChatMessage("assistant", "Let me see.", [call])) == f"Let me see.\n{call_text}"
    assert str(ChatMessage("assistant", None, [call])) == call_text


def test_render_as_markdown_writes_calls_as_json() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")
    assert ChatMessage("assistant", "So:", [call]).render_as_markdown() == (
        'So:\n{"tool": "weather", "arguments": {"city": "Paris"}}'
    )


def test_message_roles_are_strings() -> None:
    assert MessageRole.USER == "user"
    assert str(MessageRole.TOOL_CALL) == "tool-call"
    assert MessageRole.roles() == ["user", "assistant", "system", "tool", "tool-call", "tool-response"]


def test_token_usage_total_is_unknown_if_a_count_is() -> None:
    assert TokenUsage(3, 4).total_tokens == 7
    assert TokenUsage(3, None).total_tokens is None
    assert TokenUsage(0, 0).total_tokens == 0
    assert TokenUsage(3, 4, 1).dict() == {
        "input_tokens": 3, "output_tokens": 4, "cached_input_tokens": 1, "reasoning_tokens": None, "total_tokens": 7,
    }  # fmt: skip


def test_to_dict_leaves_out_unset_fields() -> None:
    assert ChatMessage(MessageRole.USER, "a", raw=object()).to_dict() == {"role": "user", "content": "a"}


def test_to_dict_converts_parts_and_objects_to_json_types() -> None:
    @dataclass
    class Pair:
        a: int
        b: str | None = None

    image = Image(b"\x89PNG\r\n\x1a\n", "image/png")
    message = ChatMessage("user", (Text("a"), image), parsed=[Pair(1), MessageRole.USER, {"x": (1, 2)}, {3}])
    written = message.to_dict()
    assert written["content"][0] == {"type": "text", "text": "a"}
    assert written["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert written["parsed"] == [{"a": 1}, "user", {"x": [1, 2]}, "{3}"]
    json.dumps(written)
    (again,) = normalise_messages([{**written, "parsed": None}])
    assert again.content == (Text("a"), image)


def test_from_dict_takes_raw_and_token_usage_as_arguments() -> None:
    usage, raw = TokenUsage(1, 2), object()
    message = ChatMessage.from_dict({"role": "assistant", "content": "a"}, raw=raw, token_usage=usage)
    assert (message.raw, message.token_usage) == (raw, usage)


@pytest.mark.parametrize("data", [{"role": "user", "contents": "a"}, {"role": "nobody", "content": "a"}])
def test_from_dict_invalid_dict_raises(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"contents|nobody"):
        ChatMessage.from_dict(data)


@pytest.mark.parametrize(
    "data",
    [
        {"content": "x"}, [], None, 5, "role", {}, {"role": None}, {"role": ["a"]}, {"role": {}}, {"role": 5},
        {1: 2, "role": "user", "z": 1}, {None: 1, "role": "user"}, {"role": "user", "attempts": [{"x": 1}]},
        {"role": "user", "attempts": 5}, {"role": "user", "attempts": [5]}, {"role": "user", "attempts": [{1: 2}]},
        {"role": "user", "attempts": {}}, {"role": "user", "warnings": 5}, {"role": "user", "warnings": "text"},
        {"role": "user", "tool_calls": 5}, {"role": "user", "tool_calls": [5]}, {"role": "user", "tool_calls": "abc"},
        {"role": "user", "tool_calls": {"a": 1}}, {"role": "user", "tool_calls": [{"function": 5}]},
        {"role": "user", "token_usage": {"input_tokens": "x"}}, {"role": "user", "token_usage": 5},
        {"role": "user", "content": b"x"}, {"role": "user", "content": 5}, {"role": "user", "content": {}},
        {"role": "user", "logprobs": 5}, {"role": "user", "reasoning_details": "x"}, {"role": "user", "name": 5},
        {"role": "user", "reasoning": []}, {"role": "user", "finish_reason": 1}, {"role": "user", "tool_call_id": {}},
    ],
    ids=str,
)  # fmt: skip
def test_from_dict_of_anything_else_raises_value_error(data: Any) -> None:
    with pytest.raises(ValueError, match=r"message|attempt|tool call|MessageRole|reasoning"):
        ChatMessage.from_dict(data)


def test_as_delta_any_object_with_content_is_accepted() -> None:
    function = SimpleNamespace(name="f", arguments='{"a": 1}')
    response = SimpleNamespace(content="hi", tool_calls=[SimpleNamespace(id="c1", function=function)])
    message = accumulate([as_delta(response)])
    assert message.content == "hi"
    assert message.tool_calls == [ChatMessageToolCall(ChatMessageToolCallFunction({"a": 1}, "f"), "c1")]


def test_as_delta_object_without_content_raises() -> None:
    with pytest.raises(AttributeError):
        as_delta(object())


@pytest.mark.parametrize(
    ("call", "error_text"),
    [
        ({}, "needs a 'function'"),
        ({"function": {}}, "needs a 'name'"),
        ({"function": {"name": 5}}, "needs a 'name'"),
        (SimpleNamespace(function=SimpleNamespace(arguments="{}")), "needs a 'name'"),
        ({"id": 5, "function": {"name": "f"}}, "'id' must be a string"),
        ("weather", "needs a 'function'"),
    ],
)
def test_tool_call_from_invalid_call_raises(call: Any, error_text: str) -> None:
    with pytest.raises(ValueError, match=error_text):
        tool_call_from(call)


def test_tool_call_from_call_without_arguments_has_empty_dict() -> None:
    assert tool_call_from({"function": {"name": "f"}}).function.arguments == {}
    assert tool_call_from({"function": {"name": "f", "arguments": None}}).function.arguments == {}


def test_accumulate_parsed_arguments_are_replaced_not_concatenated() -> None:
    """Some services send parsed arguments and then an empty string, or the same call twice."""
    arguments = [{"city": "Paris"}, "", '{"city": "Oslo"}']
    for count, expected in ((1, {"city": "Paris"}), (2, {"city": "Paris"}), (3, {"city": "Oslo"})):
        deltas = [
            ChatMessageStreamDelta(
                tool_calls=[ChatMessageToolCallStreamDelta(0, "c", "function", ChatMessageToolCallFunction(value, "f"))]
            )
            for value in arguments[:count]
        ]
        (call,) = accumulate(deltas).tool_calls
        assert call.function.arguments == expected


def test_errors_do_not_quote_long_texts_whole() -> None:
    long = "x" * 200_000
    wrong: list[Callable[[], Any]] = [
        lambda: ChatMessage.from_dict({"role": "user", long: 1}),
        lambda: ChatMessage.from_dict({"role": "user", "attempts": [{long: 1}]}),
        lambda: ChatMessage.from_dict({"role": long}),
        lambda: Choice("a").parse(long),
        lambda: Regex("a+").parse(long),
        lambda: Choice(long, ""),
        lambda: OpenAIServerModel("m", api_key="k", capabilities={"tools": long}),
        lambda: OpenAIServerModel("m", api_key="k", capabilities=long),
    ]
    for call in wrong:
        with pytest.raises((ValueError, InvalidRequest)) as raised:
            call()
        assert len(str(raised.value)) < 1500
