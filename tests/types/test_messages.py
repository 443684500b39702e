"""Messages and their deltas: deltas add up to the same message, however it was split into them."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.inputs.messages import normalise_messages
from modelport.types.content import Image, Text
from modelport.types.deltas import (
    ChatMessageStreamDelta,
    ChatMessageToolCallStreamDelta,
    MessageBuilder,
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
from modelport.types.usage import TokenUsage

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
CALLS = st.builds(
    ChatMessageToolCall, st.builds(ChatMessageToolCallFunction, OBJECTS, NAMES), st.text(min_size=1, max_size=8)
)
ANSWERS = st.builds(
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
    warnings=st.lists(NAMES, max_size=2),
    reasoning_details=st.lists(OBJECTS, min_size=1, max_size=3) | st.none(),
)


def call_piece(index: int | None, arguments: Any, name: str = "", identifier: str | None = None) -> Delta:
    function = ChatMessageToolCallFunction(arguments, name)
    return Delta(tool_calls=[ChatMessageToolCallStreamDelta(index, identifier, None, function)])


def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]


@st.composite
def messages_with_deltas(draw: st.DrawFn) -> tuple[ChatMessage, list[Delta]]:
    """Return a message, and deltas that add up to it: text, reasoning and arguments are each split anywhere."""
    message = draw(ANSWERS)
    strands = [
        [Delta(reasoning=piece) for piece in pieces_of(draw, message.reasoning or "")],
        [Delta(content=piece) for piece in pieces_of(draw, message.content)],
        [Delta(logprobs=[one]) for one in message.logprobs or ()],
        [Delta(reasoning_details=[one]) for one in message.reasoning_details or ()],
    ]
    deltas = []
    for index, call in enumerate(message.tool_calls or ()):  # Calls begin in order; then they may come interleaved.
        deltas.append(call_piece(index, "", call.function.name, call.id))
        strands.append([call_piece(index, piece) for piece in pieces_of(draw, call.function.arguments_json())])
    while strands := [strand for strand in strands if strand]:
        deltas.append(draw(st.sampled_from(strands)).pop(0))
    closing = ("token_usage", "finish_reason", "stop_sequence", "parsed", "enforcement", "model_id")
    last = {name: getattr(message, name) for name in closing}
    return message, [*deltas, Delta(**last, warnings=message.warnings or None)]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(messages_with_deltas())
def test_accumulate_returns_the_message_however_it_was_split_into_deltas(
    message_and_deltas: tuple[ChatMessage, list[Delta]],
) -> None:
    message, deltas = message_and_deltas
    before = copy.deepcopy(deltas)
    expected = copy.copy(message)
    expected.content = message.content or (None if message.tool_calls else "")
    assert accumulate(deltas) == expected
    assert accumulate(deltas).logprobs == message.logprobs
    assert deltas == before, "accumulate changed its deltas"


@settings(max_examples=200, derandomize=True, deadline=None)
@given(ANSWERS)
def test_accumulate_of_a_message_as_one_delta_returns_the_message(message: ChatMessage) -> None:
    message_again = accumulate([as_delta(message)])
    expected = copy.copy(message)
    expected.content = message.content or (None if message.tool_calls else "")
    assert message_again == expected


@settings(max_examples=200, derandomize=True, deadline=None)
@given(ANSWERS, st.sampled_from(list(MessageRole)), NAMES | st.none())
def test_a_message_comes_back_from_its_dict(message: ChatMessage, role: MessageRole, name: str | None) -> None:
    message.role, message.name, message.tool_call_id = role, name, name or "c1"
    written = json.loads(message.model_dump_json())
    assert written == message.to_dict() == message.dict()
    assert ChatMessage.from_dict(written) == message
    assert normalise_messages([written]), "what to_dict writes can be sent"


# --- accumulate -------------------------------------------------------------------------------------------------------


def test_accumulate_without_content_returns_empty_text() -> None:
    assert accumulate([]) == accumulate([Delta()]) == ChatMessage(MessageRole.ASSISTANT, "")


def test_accumulate_of_tool_calls_alone_returns_no_text() -> None:
    assert accumulate([call_piece(0, "{}", "f", "c1")]).content is None


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ("  \n", {}),
        ("null", None),
        ('{"a": 1', '{"a": 1'),
        ("[" * 99_999, "[" * 99_999),
    ],
)
def test_accumulate_parses_tool_arguments_that_are_json(text: str, arguments: Any) -> None:
    (call,) = accumulate([call_piece(0, text, "f", "c1")]).tool_calls
    assert call.function.arguments == arguments


def test_accumulate_accepts_parsed_tool_arguments() -> None:
    (call,) = accumulate([call_piece(0, {"a": 1}, "f", "c1")]).tool_calls
    assert call.function.arguments == {"a": 1}


def test_tool_call_pieces_without_index_are_separate_calls() -> None:
    message = accumulate([call_piece(None, "{}", "f", "c1"), call_piece(None, "{}", "g", "c2")])
    assert [(call.function.name, call.id) for call in message.tool_calls or ()] == [("f", "c1"), ("g", "c2")]


def test_model_id_of_a_delta_overrides_the_called_model() -> None:
    assert accumulate([Delta(content="a")], "asked").model_id == "asked"
    assert accumulate([Delta(model_id="answering")], "asked").model_id == "answering"


def test_raw_is_stored_but_neither_printed_nor_compared() -> None:
    message = accumulate([Delta(content="a", raw={"secret": 1})])
    assert message.raw == {"secret": 1}
    assert "secret" not in repr(message)
    assert message == accumulate([Delta(content="a")])


def test_delta_is_empty_without_any_field() -> None:
    assert Delta().is_empty
    for delta in (Delta(content=""), Delta(raw={}), Delta(model_id="m"), Delta(restart=True), Delta(parsed=0)):
        assert not delta.is_empty


def test_restart_discards_the_response_before_it() -> None:
    before = [Delta(content="a", reasoning="b", logprobs=[{}], reasoning_details=[{}], warnings=["w"])]
    message = accumulate([*before, call_piece(0, "{}", "f", "c1"), Delta(content="new", restart=True)])
    assert (message.content, message.reasoning, message.tool_calls) == ("new", None, None)
    assert (message.logprobs, message.reasoning_details, message.warnings) == (None, None, ["w"])


def test_builder_returns_independent_messages_while_deltas_arrive() -> None:
    builder = MessageBuilder("m")
    builder.add(Delta(warnings=["first"], logprobs=[{"token": "a"}]))
    assert not builder.delivered
    early = builder.message()
    for delta in (Delta(content="a", warnings=["second"]), call_piece(0, '{"a": 1}', "f", "c1")):
        builder.add(delta)
    assert builder.delivered
    assert (early.content, early.warnings, early.tool_calls, early.model_id) == ("", ["first"], None, "m")
    assert builder.message().warnings == ["first", "second"]
    raw = builder.message(parse_arguments=False)
    assert [call.function.arguments for call in raw.tool_calls] == ['{"a": 1}']
    assert [call.function.arguments for call in builder.message().tool_calls] == [{"a": 1}]


def test_delta_with_a_part_of_the_response_delivers() -> None:
    for delta in (Delta(content="a"), Delta(reasoning="a"), call_piece(0, "", "f"), Delta(reasoning_details=[{}])):
        assert delta.delivers
    for silent in ({}, {"content": ""}, {"finish_reason": "stop"}, {"token_usage": TokenUsage(1)}, {"model_id": "m"}):
        assert not Delta(**silent).delivers


# --- how messages show themselves -------------------------------------------------------------------------------------


def test_print_shows_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    print(ChatMessage("assistant", "Paris"))
    print(ChatMessage("user", [{"type": "text", "text": "a"}, {"type": "image", "url": "u"}, Text("b")]))
    print(ChatMessage("assistant", None))
    assert capsys.readouterr().out == "Paris\na\nb\n\n"


@pytest.mark.parametrize("make", [list, tuple])
def test_a_repr_shows_no_signature(make: Any) -> None:
    signed = "https://user:S1GN@h.example/S1GN?sig=S1GN"
    parts = [
        {"type": "image_url", "image_url": {"url": signed, "detail": "low"}}, {"type": "image", "url": signed},
        {"type": "image", "image": signed}, {"type": "file", "file": {"file_data": "data:text/plain;base64,S1GN"}},
        {"type": "text", "text": "see https://a.example"}, Image(url=signed),
    ]  # fmt: skip
    message = ChatMessage("user", make(parts))
    shown = repr(message)
    assert "S1GN" not in shown and shown.count("'https://h.example/…'") == 3 and "see https://a.example" in shown
    assert message.content == make(parts) and repr(ChatMessage("user", "https://a/b")).count("https://a/b") == 1
    assert repr(ChatMessage("user", "a")).startswith("ChatMessage(role='user', content='a', tool_calls=None, token")


def test_a_dict_of_a_message_holds_plain_strings() -> None:
    """What is written down is meant to be: YAML and the like refuse other types."""
    (image,) = ChatMessage("user", [Image(url="https://h.example/a?sig=1")]).to_dict()["content"]
    assert type(image["image_url"]["url"]) is str


def test_print_shows_calls_too() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")
    shown = "Call: c1: Calling weather with arguments: {'city': 'Paris'}"
    assert str(ChatMessage("assistant", "Let me see.", [call])) == f"Let me see.\n{shown}"
    assert str(ChatMessage("assistant", None, [call])) == shown


def test_markdown_shows_calls_as_json() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")
    assert ChatMessage("assistant", "So:", [call]).render_as_markdown() == (
        'So:\n{"tool": "weather", "arguments": {"city": "Paris"}}'
    )


def test_roles_are_strings() -> None:
    assert MessageRole.USER == "user"
    assert str(MessageRole.TOOL_CALL) == "tool-call"
    assert MessageRole.roles() == ["user", "assistant", "system", "tool", "tool-call", "tool-response"]


def test_an_unknown_total_is_unknown() -> None:
    assert TokenUsage(3, 4).total_tokens == 7
    assert TokenUsage(3, None).total_tokens is None
    assert TokenUsage(0, 0).total_tokens == 0
    assert TokenUsage(3, 4, 1).dict() == {
        "input_tokens": 3, "output_tokens": 4, "cached_input_tokens": 1, "reasoning_tokens": None, "total_tokens": 7,
    }  # fmt: skip


# --- dicts ------------------------------------------------------------------------------------------------------------


def test_a_dict_holds_only_what_is_set() -> None:
    assert ChatMessage(MessageRole.USER, "a", raw=object()).to_dict() == {"role": "user", "content": "a"}


def test_parts_objects_and_models_are_written_as_json_can_hold_them() -> None:
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


def test_raw_and_usage_can_be_given_apart() -> None:
    usage, raw = TokenUsage(1, 2), object()
    message = ChatMessage.from_dict({"role": "assistant", "content": "a"}, raw=raw, token_usage=usage)
    assert (message.raw, message.token_usage) == (raw, usage)


@pytest.mark.parametrize("data", [{"role": "user", "contents": "a"}, {"role": "nobody", "content": "a"}])
def test_a_dict_that_is_no_message_is_an_error(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"contents|nobody"):
        ChatMessage.from_dict(data)


# --- other libraries' objects -----------------------------------------------------------------------------------------


def test_as_delta_accepts_any_object_with_content() -> None:
    function = SimpleNamespace(name="f", arguments='{"a": 1}')
    answer = SimpleNamespace(content="hi", tool_calls=[SimpleNamespace(id="c1", function=function)])
    message = accumulate([as_delta(answer)])
    assert message.content == "hi"
    assert message.tool_calls == [ChatMessageToolCall(ChatMessageToolCallFunction({"a": 1}, "f"), "c1")]


def test_as_delta_of_an_object_without_content_raises() -> None:
    with pytest.raises(AttributeError):
        as_delta(object())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({}, "needs a 'function'"),
        ({"function": {}}, "needs a 'name'"),
        ({"function": {"name": 5}}, "needs a 'name'"),
        (SimpleNamespace(function=SimpleNamespace(arguments="{}")), "needs a 'name'"),
        ({"id": 5, "function": {"name": "f"}}, "'id' must be a string"),
        ("weather", "needs a 'function'"),
    ],
)
def test_a_call_that_is_none_is_named(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tool_call_from(call)


def test_a_call_without_arguments_has_none() -> None:
    assert tool_call_from({"function": {"name": "f"}}).function.arguments == {}
    assert tool_call_from({"function": {"name": "f", "arguments": None}}).function.arguments == {}


def test_parsed_tool_arguments_are_replaced_by_later_pieces() -> None:
    """Some services send arguments parsed, and then an empty piece, or the same call twice. The last value counts."""
    pieces = [{"city": "Paris"}, "", '{"city": ', '"Oslo"}', {"city": "Rome"}]
    for count, expected in enumerate([{"city": "Paris"}] * 2 + ['{"city": ', {"city": "Oslo"}, {"city": "Rome"}], 1):
        deltas = [
            ChatMessageStreamDelta(
                tool_calls=[ChatMessageToolCallStreamDelta(0, "c", "function", ChatMessageToolCallFunction(piece, "f"))]
            )
            for piece in pieces[:count]
        ]
        (call,) = accumulate(deltas).tool_calls
        assert call.function.arguments == expected
