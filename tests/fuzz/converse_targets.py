"""Targets: Converse responses and events as boto3 parses them, and stored messages of a caller. Nothing is sent."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from modelport import ChatMessage, accumulate
from modelport.errors import InvalidRequest
from modelport.protocols.converse.request import ConverseCall
from modelport.protocols.converse.response import ConverseResponseReader
from modelport.testing import ScriptedModel
from tests.fuzz.chat_targets import RESPONSES as CHAT_RESPONSES
from tests.fuzz.junk import encode, junk, mutated
from tests.fuzz.responses_targets import RESPONSES
from tests.fuzz.socket_targets import CONVERSE, CONVERSE_EVENTS
from tests.fuzz.target import Target

_CALL = ConverseCall({}, allows_tool_calls=True)
_EVENTS: list[Any] = [
    *({kind: data} for kind, data in CONVERSE_EVENTS),
    {"contentBlockDelta": {"contentBlockIndex": 3, "delta": {"reasoningContent": {"redactedContent": "eA=="}}}},
    {"contentBlockStop": {"contentBlockIndex": 3}},
    {"contentBlockStart": {"contentBlockIndex": 2**63, "start": {"toolUse": {"toolUseId": "t1", "name": "f"}}}},
    {"contentBlockDelta": {"contentBlockIndex": -1, "delta": {"toolUse": {"input": "{"}}}},
    {"throttlingException": {"message": "no"}},
    {"SDK_UNKNOWN_MEMBER": {"name": "novelty"}},
]


def _parsed(value: Any) -> Any:
    """Return the value as a parser returns it, with deep lists in the place of their names."""
    try:
        return json.loads(encode(value))
    except (ValueError, RecursionError):
        return value


def _read_response(value: Any) -> ChatMessage:
    return accumulate([ConverseResponseReader(_CALL).read_response(_parsed(value))])


@st.composite
def _events(draw: st.DrawFn) -> list[Any]:
    """Draw events of which some are wrong, some missing, some twice, and some in another place."""
    order = draw(st.lists(st.sampled_from(_EVENTS), max_size=4))
    events = [*draw(st.sampled_from((_EVENTS[:11], _EVENTS[:11], _EVENTS))), *order]
    return [draw(mutated(event)) if draw(st.integers(0, 9)) == 0 else event for event in events]


def _read_events(events: list[Any]) -> ChatMessage:
    reader = ConverseResponseReader(_CALL)
    deltas = [reader.read_event(_parsed(event)) for event in events]
    return accumulate([delta for delta in [*deltas, reader.finish()] if delta is not None])


_DATA = [
    {"protocol": "responses", "items": RESPONSES[1]["output"]},
    {"protocol": "converse", "service": "bedrock", "items": [{"reasoningText": {"text": "a", "signature": "b"}}]},
    {"protocol": "chat_completions", "items": [{"reasoning_content": "a", "reasoning_details": [{"a": 1}]}]},
]
_MESSAGES = [
    {"role": "assistant", "content": "Paris", "reasoning": "r", "provider_data": data, "finish_reason": "stop",
     "tool_calls": CHAT_RESPONSES[1]["choices"][0]["message"]["tool_calls"], "logprobs": [{"token": "a"}],
     "token_usage": {"input_tokens": 1, "output_tokens": 2}, "warnings": [], "attempts": []}
    for data in _DATA
]  # fmt: skip


def _restore(value: Any) -> Any:
    """Restore a stored message, and send it. `from_dict` is documented to raise ValueError."""
    try:
        message = ChatMessage.from_dict(_parsed(value))
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    return ScriptedModel("ok").generate([message, {"role": "user", "content": "and?"}])


CONVERSE_TARGETS = {
    "Converse: a non-streaming response": Target(mutated(*CONVERSE[:2]), _read_response),
    "Converse: events": Target(_events() | st.lists(junk, max_size=3), _read_events),
    "callers: stored messages": Target(mutated(*_MESSAGES), _restore),
}
