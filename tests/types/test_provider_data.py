"""Tests of `ProviderData`, and of the layer that leaves out the data of other services."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest

from modelport import ChatMessage, ProviderData
from modelport.layers.adapt.provider_data import leave_out_foreign_data
from modelport.types.messages import ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.provider_data import join
from modelport.types.request import Request

DATA = ProviderData("chat_completions", ({"reasoning_content": "a secret thought"},), "deepseek")
CALL = ChatMessageToolCall(ChatMessageToolCallFunction({}, "f"), "c1", provider_data=DATA)
MESSAGE = ChatMessage("assistant", "hi", [CALL], provider_data=DATA)


def test_message_copied_in_any_way_keeps_provider_data() -> None:
    """`smolagents` copies messages with `deepcopy`, and converts them with `dataclasses.asdict`."""
    copies = [
        copy.copy(MESSAGE), copy.deepcopy(MESSAGE), pickle.loads(pickle.dumps(MESSAGE)), dataclasses.replace(MESSAGE),
        ChatMessage.from_dict(MESSAGE.to_dict()), ChatMessage.from_dict(json.loads(MESSAGE.model_dump_json())),
        ChatMessage.from_dict(json.loads(json.dumps(dataclasses.asdict(MESSAGE)))),
    ]  # fmt: skip
    for copied in copies:
        assert copied.provider_data == DATA
        assert copied.tool_calls and copied.tool_calls[0].provider_data == DATA


def test_repr_shows_no_item() -> None:
    assert repr(DATA) == "ProviderData('chat_completions', 'deepseek', 1 item)"
    assert "secret" not in repr(MESSAGE)


@pytest.mark.parametrize(
    ("recorded_service", "service", "expected"), [("a", "a", True), (None, "a", True), ("a", "b", False)]
)
def test_fits_same_protocol_and_service(recorded_service: str | None, service: str, expected: bool) -> None:
    data = ProviderData("responses", ({},), recorded_service)
    assert data.fits("responses", service) is expected
    assert data.fits("messages", service) is False


def test_join_discards_items_of_another_service() -> None:
    first, second = ProviderData("responses", ({"a": 1},), "x"), ProviderData("responses", ({"b": 1},), "y")
    assert join([first, first]) == ProviderData("responses", ({"a": 1}, {"a": 1}), "x")
    assert join([first, second]) == second
    assert join([]) is None


def test_leave_out_foreign_data_warns_once_for_each_service() -> None:
    other = ProviderData("responses", ({"type": "reasoning"},), "openai")
    request = Request((MESSAGE, ChatMessage("assistant", "a", provider_data=other), MESSAGE))
    result, warnings = leave_out_foreign_data(request, lambda data: data.service == "openai")
    assert [message.provider_data for message in result.messages] == [None, other, None]
    assert not any(call.provider_data for message in result.messages for call in message.tool_calls or ())
    (warning,) = warnings
    assert (warning.type, warning.feature) == ("left_out", "provider_data")
    assert "messages[0]" in warning.text and "deepseek" in warning.text
    assert MESSAGE.provider_data == CALL.provider_data == DATA, "the caller's messages were changed"


def test_leave_out_foreign_data_returns_request_if_all_is_accepted() -> None:
    request = Request((MESSAGE,))
    assert leave_out_foreign_data(request, lambda data: True) == (request, [])
