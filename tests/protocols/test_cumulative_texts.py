"""Streams of MiniMax with `reasoning_split`, whose chunks repeat the text so far or have only the new piece."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.types.deltas import accumulate
from modelport.types.messages import ChatMessage

#: https://platform.minimax.io/docs/api-reference/text-openai-api
ENTRY = {"type": "reasoning.text", "id": "reasoning-text-1", "format": "MiniMax-response-v1", "index": 0}


def read(deltas: list[dict[str, Any]], service: str | None = "minimax", last: Any = None) -> ChatMessage:
    reader = ChatResponseReader(split_reasoning=True, service=service)
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append(
        {"choices": [{"index": 0, "finish_reason": "stop", **({"message": last} if last else {"delta": {}})}]}
    )
    return accumulate([*filter(None, map(reader.read_chunk, chunks)), reader.finish()])


def thought(*texts: str) -> list[dict[str, Any]]:
    return [{"reasoning_details": [{**ENTRY, "text": text}]} for text in texts]


def said(*texts: str, name: str = "content") -> list[dict[str, Any]]:
    return [{name: text} for text in texts]


CASES: list[tuple[str, list[dict[str, Any]], str | None, str | None]] = [
    # The example of the documentation: each chunk has the text so far.
    ("cumulative", [*thought("Let me", "Let me think.", "Let me think. Yes."), *said("It", "It is", "It is so")],
     "Let me think. Yes.", "It is so"),
    # MiniMax-M2.7, https://github.com/MiniMax-AI/MiniMax-M2/issues/95
    ("pieces", [*thought("The user", " is asking how I am,", " a greeting."), *said("Hi", ", fine")],
     "The user is asking how I am, a greeting.", "Hi, fine"),
    ("pieces that share a beginning", [*thought("a", "and", " b"), *said("1", "11", ".")], "aand b", "111."),
    ("cumulative from one letter", thought("a", "ab", "abc"), "abc", None),
    ("cumulative in two chunks", [*thought("a", "ab"), *said("c", "cd")], "ab", "cd"),
    ("cumulative repeated", thought("Let me think", "Let me think", "Let me think."), "Let me think.", None),
    ("pieces repeated", thought("ha", "ha", "ho"), "hahaho", None),
    ("one chunk", [*thought("All of it."), *said("Hi")], "All of it.", "Hi"),
    ("cumulative text field", [*said("Let me", "Let me think", name="reasoning_content"), *said("Hi", "Hi!", "Hi!?")],
     "Let me think", "Hi!?"),
]  # fmt: skip


@pytest.mark.parametrize("service", ["minimax", "litellm/minimax"])
@pytest.mark.parametrize(("deltas", "reasoning", "content"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_each_text_arrives_once(
    deltas: list[dict[str, Any]], reasoning: str | None, content: str | None, service: str
) -> None:
    message = read(deltas, service)
    assert (message.reasoning, message.content or None) == (reasoning, content)
    if "reasoning_details" in deltas[0]:
        assert message.provider_data is not None
        assert message.provider_data.items == ({"reasoning_details": [{**ENTRY, "text": reasoning}]},)


def test_final_message_repeats_nothing() -> None:
    last = {"role": "assistant", "content": "Hi", "reasoning_details": [{**ENTRY, "text": "Let me think"}]}
    message = read([*thought("Let me", " think"), *said("Hi")], last=last)
    assert (message.reasoning, message.content) == ("Let me think", "Hi")


def test_chunks_of_other_services_are_pieces() -> None:
    assert read(said("aaaaaaaaa", "aaaaaaaaaa"), "openrouter").content == "a" * 19
