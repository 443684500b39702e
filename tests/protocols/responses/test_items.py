"""The items of a conversation: those that the service returned go back unchanged, in order, without their ids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelport.errors import InvalidRequest
from modelport.inputs.messages import normalise_messages
from modelport.protocols.responses.items import input_items
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.provider_data import ProviderData
from tests.protocols.responses.openai_types import validate_items

THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
CALL = {
    "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": '{"a":1}',
    "status": "completed",
}  # fmt: skip
SECOND_CALL = CALL | {"id": "fc_2", "call_id": "call_2", "arguments": "{}"}
ANSWER = {
    "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "final_answer",
    "content": [{"type": "output_text", "text": "It is 3.", "annotations": []}],
}  # fmt: skip
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}
OUTPUT_CALL = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_9", "name": "give_answer", "input": "12"}


def without_ids(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in item.items() if key != "id"} for item in items]


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


def function_call(call_id: str = "call_1", arguments: Any = None, name: str = "f") -> ChatMessageToolCall:
    return ChatMessageToolCall(ChatMessageToolCallFunction({"a": 1} if arguments is None else arguments, name), call_id)


def items_of(*messages: Any, service: str | None = "openai", **options: Any) -> list[dict[str, Any]]:
    """Return the items of messages, after the openai package's types have accepted them."""
    result = input_items(normalise_messages(list(messages)), service=service, **options)
    validate_items(result)
    return result


def returned(*items: dict[str, Any], content: str | None = None, calls: Any = (), **values: Any) -> ChatMessage:
    data = ProviderData("responses", items, values.pop("service", "openai"))
    return ChatMessage("assistant", content, list(calls) or None, provider_data=data, **values)


def test_messages_without_provider_data() -> None:
    assert items_of(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        ChatMessage("assistant", "Let me see.", [function_call()]),
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "It is 3."},
    ) == [
        {"type": "message", "role": "system", "content": "Be brief."},
        {"type": "message", "role": "user", "content": "Hi"},
        said("Let me see."),
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "3"},
        said("It is 3."),
    ]


def test_returned_items_go_back_unchanged_and_in_order_without_ids() -> None:
    message = returned(SEARCH, THOUGHT, CALL, SECOND_CALL, calls=[function_call(), function_call("call_2", {})])
    assert items_of(message) == without_ids(SEARCH, THOUGHT, CALL, SECOND_CALL)


def test_ids_are_sent_if_the_service_stores() -> None:
    assert items_of(returned(THOUGHT, ANSWER, content="It is 3."), keeps_ids=True) == [THOUGHT, ANSWER]


def test_items_survive_a_dict_and_a_change_of_white_space_in_arguments() -> None:
    message = ChatMessage.from_dict(returned(THOUGHT, CALL, calls=[function_call()]).to_dict())
    assert items_of(message) == without_ids(THOUGHT, CALL)


@pytest.mark.parametrize(
    ("item", "field", "call"),
    [
        (CALL, "arguments", function_call()),
        ({"type": "custom_tool_call", "id": "ctc_2", "call_id": "call_1", "name": "run", "input": '[1]'}, "input",
         function_call(arguments={"input": "[1]"}, name="run")),
    ],
)  # fmt: skip
def test_json_text_that_was_parsed_is_text_again(item: dict[str, Any], field: str, call: Any) -> None:
    """smolagents parses every text that looks like JSON when it saves the memory of an agent."""
    parsed = item | {field: json.loads(item[field])}
    first, second = items_of(returned(THOUGHT, parsed, calls=[call]))
    assert first == without_ids(THOUGHT)[0]
    assert json.loads(second[field]) == parsed[field]
    assert (second["type"], second["name"]) == (item["type"], item["name"])


@pytest.mark.parametrize(("length", "is_kept"), [(41, True), (64, True), (65, False), (116, False)])
def test_call_id_that_is_too_long_becomes_the_same_digest_everywhere(length: int, is_kept: bool) -> None:
    call_id = "c" * length
    own = returned(THOUGHT, CALL | {"call_id": call_id}, calls=[function_call(call_id)])
    result = {"role": "tool", "tool_call_id": call_id, "content": "3"}
    for keeps_ids in (False, True):
        thought, call, output = items_of(own, result, keeps_ids=keeps_ids)
        plain_call, _ = items_of(ChatMessage("assistant", None, [function_call(call_id)]), result)
        assert thought["type"] == "reasoning"
        assert call["call_id"] == output["call_id"] == plain_call["call_id"]
        assert (call["call_id"] == call_id) is is_kept and len(call["call_id"]) <= 64
    assert own.provider_data is not None and own.provider_data.items[1]["call_id"] == call_id


@pytest.mark.parametrize("service", ["azure", None])
def test_items_of_another_service_are_not_sent(service: str | None) -> None:
    message = returned(THOUGHT, CALL, calls=[function_call()])
    assert items_of(message, service=service) == [
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}'}
    ]


def test_items_given_by_hand_are_sent_to_every_service() -> None:
    assert items_of(returned(THOUGHT, ANSWER, content="It is 3.", service=None)) == without_ids(THOUGHT, ANSWER)


def test_text_that_a_stop_sequence_truncated_replaces_the_item_and_its_reasoning() -> None:
    assert items_of(returned(THOUGHT, ANSWER, content="It is")) == [said("It is")]


def test_dropped_call_is_not_sent_nor_its_reasoning() -> None:
    """`parallel_tool_calls=False` drops all calls but the first. A call without an output would be rejected."""
    message = returned(THOUGHT, CALL, THOUGHT, SECOND_CALL, calls=[function_call()])
    assert items_of(message) == without_ids(THOUGHT, CALL)


def test_changed_call_is_sent_instead_of_the_item() -> None:
    message = returned(THOUGHT, CALL, calls=[function_call(arguments={"a": 2})])
    assert items_of(message) == [{"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 2}'}]


def test_output_of_the_output_tool_is_sent_as_text() -> None:
    assert items_of(returned(THOUGHT, OUTPUT_CALL, content="12")) == [said("12")]


def test_text_of_a_forced_tool_is_sent_as_text() -> None:
    assert items_of(returned(CALL, content='{"a":1}')) == [said('{"a":1}')]


def test_custom_tool_call_gets_an_output_of_its_own_type() -> None:
    item = {"type": "custom_tool_call", "id": "ctc_2", "call_id": "call_3", "name": "run", "input": 'print("x")'}
    message = returned(item, calls=[function_call("call_3", {"input": 'print("x")'}, "run")])
    result = {"role": "tool", "content": "x", "tool_call_id": "call_3"}
    assert items_of(message, result) == [
        *without_ids(item),
        {"type": "custom_tool_call_output", "call_id": "call_3", "output": "x"},
    ]


def test_reasoning_without_a_following_item_is_not_sent() -> None:
    """The output was truncated by `max_tokens` while the model reasoned."""
    assert items_of(returned(THOUGHT, content="")) == []


def test_reasoning_that_says_nothing_without_its_id_is_not_sent() -> None:
    bare = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None}
    message = returned(bare, ANSWER, content="It is 3.")
    assert items_of(message) == without_ids(ANSWER)
    assert items_of(message, keeps_ids=True) == [bare, ANSWER]


def test_reasoning_text_is_sent_to_models_that_expect_it() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    message = ChatMessage("assistant", "Yes", reasoning="Hm.")
    assert items_of(message, sends_reasoning=True) == [thought, said("Yes")]


def test_images_of_tool_results_are_input_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "see"}, image]}
    assert items_of(ChatMessage("assistant", None, [function_call()]), result)[1]["output"] == [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
    ]


@pytest.mark.parametrize("item", [{"type": "message", "content": 3}, {"type": "function_call", "call_id": []},
                                  {"type": "message", "content": ["text"]}])  # fmt: skip
def test_provider_data_that_has_no_items_is_refused(item: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="provider_data"):
        input_items(normalise_messages([returned(item, content="x", calls=[function_call()])]), service="openai")
