"""Reasoning between `<think>` and `</think>` in the text of a response."""

from __future__ import annotations

import re
from typing import Any

import pytest

from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.protocols.chat_completions.think_tags import ThinkTagSplitter
from modelport.types.deltas import accumulate
from modelport.types.messages import ChatMessage

CASES = [
    ("<think>It is Paris.</think>Paris", "It is Paris.", "Paris"),
    ("<think>\nIt is\n\nParis.\n</think>\n\nParis\n", "It is\n\nParis.", "Paris\n"),
    ("\n <think>a</think> b", "a", "b"),
    ("<think>\n\n</think>\n\nParis", "", "Paris"),
    ("<think></think>", "", ""),
    ("<think>cut off </thi", "cut off </thi", ""),
    ("<think>a < b </ think> c</think>d", "a < b </ think> c", "d"),
    ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    ("The tag <think> opens, </think> closes.", "", "The tag <think> opens, </think> closes."),
    ("<thinking>a</thinking>", "", "<thinking>a</thinking>"),
    ("<thi", "", "<thi"),
    ("  \n ", "", "  \n "),
    (" Paris", "", " Paris"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(("text", "reasoning", "content"), CASES)
def test_reasoning_is_split_however_the_text_is_cut(text: str, reasoning: str, content: str, size: int) -> None:
    splitter = ThinkTagSplitter()
    pairs = [splitter.feed(text[i : i + size]) for i in range(0, len(text), size)] + [splitter.finish()]
    assert ("".join(pair[0] for pair in pairs), "".join(pair[1] for pair in pairs)) == (reasoning, content)


OPENED = [
    ("It is Paris.</think>Paris", "It is Paris.", "Paris"),
    ("\nIt is\n\nParis.\n</think>\n\nParis\n", "It is\n\nParis.", "Paris\n"),
    ("<think>a</think>b", "a", "b"),
    ("\n<think>\na</think>b", "a", "b"),
    ("</think>b", "", "b"),
    ("a</think>b</think>c<think>", "a", "b</think>c<think>"),
    ("a <think> b</think>c", "a <think> b", "c"),
    ("cut off </thi", "cut off </thi", ""),
    ("<thi", "<thi", ""),
    ("never closed", "never closed", ""),
    ("", "", ""),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(("text", "reasoning", "content"), OPENED)
def test_text_that_begins_inside_the_reasoning_is_split(text: str, reasoning: str, content: str, size: int) -> None:
    splitter = ThinkTagSplitter(opened=True)
    pairs = [splitter.feed(text[i : i + size]) for i in range(0, len(text), size)] + [splitter.finish()]
    assert ("".join(pair[0] for pair in pairs), "".join(pair[1] for pair in pairs)) == (reasoning, content)


def read(text: str, streamed: bool, split: Any, **fields: Any) -> ChatMessage:
    """Return the message of a response with this text. In a stream, the tags come in one piece, as tokens do."""
    reader = ChatResponseReader(split_reasoning=split)
    if not streamed:
        choice = {"message": {"content": text, **fields}, "finish_reason": "stop"}
        return accumulate([reader.read_response({"choices": [choice]})])
    pieces = [{"content": piece} for piece in re.split(r"(</?think>)", text) if piece]
    parts = [*([fields] if fields else ()), *pieces]
    deltas = [reader.read_chunk({"choices": [{"delta": part}]}) for part in parts]
    reader.read_chunk({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    return accumulate([*filter(None, deltas), reader.finish()])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("text", "split", "fields", "warned"),
    [
        ("It is.</think>Paris", True, {}, True),
        ("It is.</think>Paris", "opened", {}, False),
        ("It is.</think>Paris", False, {}, False),
        ("It is.</think>Paris", True, {"reasoning": "a"}, False),
        ("<think>a</think>b</think>", True, {}, False),
        ("Paris", True, {}, False),
    ],
)
def test_closing_tag_alone_is_text_with_a_warning(
    text: str, split: Any, fields: dict[str, Any], warned: bool, streamed: bool
) -> None:
    message = read(text, streamed, split, **fields)
    assert [warning.feature for warning in message.warnings] == ["reasoning"] * warned
    assert (message.content == text) is (split != "opened" and not text.startswith("<think>"))


@pytest.mark.parametrize(("split", "expected"), [(True, ("It is.", "Paris")), (False, (None, CASES[0][0]))])
@pytest.mark.parametrize("streamed", [False, True])
def test_reader_splits_reasoning_unless_switched_off(
    split: bool, expected: tuple[str | None, str], streamed: bool
) -> None:
    reader, text = ChatResponseReader(split_reasoning=split), CASES[0][0]
    text, expected = ("<think>It is.</think>Paris", expected) if split else (text, expected)
    if streamed:
        chunks = [{"choices": [{"delta": {"content": text[i : i + 5]}}]} for i in range(0, len(text), 5)]
        deltas = [reader.read_chunk(chunk) for chunk in chunks]
        reader.read_chunk({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        message = accumulate([*filter(None, deltas), reader.finish()])
    else:
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        message = accumulate([reader.read_response({"choices": [choice]})])
    assert (message.reasoning, message.content) == expected


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_tag_is_text_beside_reasoning_in_its_own_field(field: str) -> None:
    reader = ChatResponseReader(split_reasoning=True)
    choice = {"message": {field: "a", "content": "<think>b</think>c"}, "finish_reason": "stop"}
    delta = reader.read_response({"choices": [choice]})
    assert (delta.reasoning, delta.content) == ("a", "<think>b</think>c")


def test_tag_is_text_after_streamed_reasoning_in_its_own_field() -> None:
    reader = ChatResponseReader(split_reasoning=True)
    parts = ({"reasoning": "a"}, {"content": "<think>b</think>"})
    deltas = [reader.read_chunk({"choices": [{"delta": part}]}) for part in parts]
    assert [(delta.reasoning, delta.content) for delta in deltas if delta] == [("a", None), (None, "<think>b</think>")]


@pytest.mark.parametrize("size", [9, 12, 100])
def test_reasoning_in_tags_and_in_its_own_field_occurs_once(size: int) -> None:
    """MiniMax sends both unless `reasoning_split` is set. The field has the text between the tags."""
    text = "<think>\nIt is Paris, so I say it.\n</think>\n\nParis"
    reader = ChatResponseReader(split_reasoning=True)
    choice = {"message": {"content": text, "reasoning_content": "It is Paris, so I say it.\n"}, "finish_reason": "stop"}
    delta = reader.read_response({"choices": [choice]})
    assert (delta.reasoning, delta.content) == ("It is Paris, so I say it.\n", "Paris")

    reader, open_tag = ChatResponseReader(split_reasoning=True), len("<think>\n")
    end = text.index("</think>")
    chunks = []
    for i in range(0, len(text), size):
        piece = {"content": text[i : i + size]}
        if field := text[max(i, open_tag) : min(i + size, end)]:
            piece["reasoning_content"] = field
        chunks.append({"choices": [{"delta": piece}]})
    deltas = [reader.read_chunk(chunk) for chunk in chunks]
    reader.read_chunk({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    message = accumulate([*filter(None, deltas), reader.finish()])
    assert (message.reasoning, message.content) == ("It is Paris, so I say it.\n", "Paris")


def test_repeated_reasoning_without_a_closing_tag_is_no_text() -> None:
    reader = ChatResponseReader(split_reasoning=True)
    choice = {"message": {"content": "<think>It is", "reasoning_content": "It is"}, "finish_reason": "length"}
    delta = reader.read_response({"choices": [choice]})
    assert (delta.reasoning, delta.content) == ("It is", None)
