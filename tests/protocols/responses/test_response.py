"""Responses and events of the Responses API, read into deltas. OpenAI's events are validated against its own types."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
)
from modelport.inputs.messages import normalise_messages
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.error_phrases import NEEDS_RESPONSES, means_missing_path, needs_responses
from modelport.protocols.responses.items import input_items
from modelport.protocols.responses.response import ResponsesReader
from modelport.types.deltas import accumulate
from modelport.types.messages import ChatMessage
from modelport.types.usage import TokenUsage
from tests.protocols.responses.openai_types import validate_event
from tests.protocols.responses.test_items import ANSWER, CALL, OUTPUT_CALL, SEARCH, SECOND_CALL, THOUGHT

USAGE = {
    "input_tokens": 30, "output_tokens": 20, "total_tokens": 50,
    "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 12},
}  # fmt: skip
#: The fields of an item that has just begun.
EMPTY: dict[str, dict[str, Any]] = {
    "message": {"content": []},
    "reasoning": {"summary": [], "encrypted_content": ""},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
}
REFUSAL = ANSWER | {"content": [{"type": "refusal", "refusal": "I can't."}]}
SUMMARY = THOUGHT | {"summary": [{"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."}]}


def response(*output: dict[str, Any], status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5.6-2026", "status": status,
        "output": list(output), "usage": USAGE, "error": None, "incomplete_details": None,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], **fields,
    }  # fmt: skip


def events_of(*items: dict[str, Any], end: str = "completed", **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a stream that sends these items in pieces, as OpenAI does."""
    events: list[dict[str, Any]] = [{"type": "response.created", "response": response(status="in_progress")}]
    for index, item in enumerate(items):
        at = {"output_index": index, "item_id": item["id"]}
        empty = EMPTY.get(item["type"], {})
        events.append({"type": "response.output_item.added", "output_index": index, "item": item | empty})
        for number, part in enumerate(item.get("summary", ())):
            name, text = "response.reasoning_summary_text.delta", part["text"]
            events += [{"type": name, **at, "summary_index": number, "delta": piece} for piece in halves(text)]
        for number, part in enumerate(item.get("content", ())):
            name = "response.refusal.delta" if part["type"] == "refusal" else "response.output_text.delta"
            logprobs: dict[str, Any] = {} if part["type"] == "refusal" else {"logprobs": []}
            text = part.get("text") or part.get("refusal")
            events += [{"type": name, **at, "content_index": number, "delta": piece, **logprobs}
                       for piece in halves(text)]  # fmt: skip
        for field, name in (("arguments", "function_call_arguments"), ("input", "custom_tool_call_input")):
            if field in item:
                events += [{"type": f"response.{name}.delta", **at, "delta": piece} for piece in halves(item[field])]
                done = {"type": f"response.{name}.done", **at, field: item[field]}
                events.append(done)
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    last = response(*items, status=end, **fields)
    events.append({"type": f"response.{end}", "response": last})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def halves(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]


def read_stream(events: list[Any], service: str | None = "openai") -> ChatMessage:
    reader = ResponsesReader(error_from, service)
    deltas = [delta for event in events if (delta := reader.read_chunk(event)) is not None]
    return accumulate([*deltas, reader.finish()])


def read_body(data: Any) -> ChatMessage:
    return accumulate([ResponsesReader(error_from, "openai").read_response(data)])


OUTPUTS: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([ANSWER], {"content": "It is 3.", "finish_reason": "stop"}),
    ([THOUGHT, ANSWER], {"content": "It is 3.", "reasoning": None}),
    ([SUMMARY, ANSWER], {"content": "It is 3.", "reasoning": "One.\n\nTwo."}),
    ([THOUGHT, CALL], {"content": None, "finish_reason": "tool_calls"}),
    ([THOUGHT, CALL, SECOND_CALL], {"finish_reason": "tool_calls"}),
    ([SEARCH, ANSWER], {"content": "It is 3.", "finish_reason": "stop"}),
    ([OUTPUT_CALL], {"content": "12", "finish_reason": "stop", "tool_calls": None}),
    ([REFUSAL], {"content": "I can't.", "finish_reason": "content_filter"}),
    ([ANSWER | {"id": "msg_0", "phase": "commentary"}, ANSWER], {"content": "It is 3.\n\nIt is 3."}),
    ([], {"content": "", "finish_reason": "stop"}),
]


@pytest.mark.parametrize(("output", "values"), OUTPUTS, ids=[str([i["type"] for i in o]) for o, _ in OUTPUTS])
def test_body_and_stream_become_the_same_message(output: list[dict[str, Any]], values: dict[str, Any]) -> None:
    events = events_of(*output)
    for event in events:
        validate_event(event)
    for message in (read_body(response(*output)), read_stream(events)):
        assert {name: getattr(message, name) for name in values} == values
        assert message.token_usage == TokenUsage(30, 20, 10, 12)
        assert message.model_id == "gpt-5.6-2026"
        if output:
            assert message.provider_data is not None
            assert (message.provider_data.protocol, message.provider_data.service) == ("responses", "openai")
            assert list(message.provider_data.items) == output
        else:
            assert message.provider_data is None


@pytest.mark.parametrize("output", [[THOUGHT, CALL, SECOND_CALL]])
def test_calls_have_ids_names_and_arguments(output: list[dict[str, Any]]) -> None:
    for message in (read_body(response(*output)), read_stream(events_of(*output))):
        calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        assert calls == [("call_1", "f", {"a": 1}), ("call_2", "f", {})]


@pytest.mark.parametrize("call_id", [None, "", "call_1"])
def test_call_without_an_id_of_its_own_gets_one(call_id: Any) -> None:
    output = [CALL, SECOND_CALL | {"call_id": call_id}]
    for message in (read_body(response(*output)), read_stream(events_of(*output))):
        first, second = message.tool_calls
        assert first.id == "call_1" and second.id and second.id != "call_1"
        assert (first.function.arguments, second.function.arguments) == ({"a": 1}, {})
        items = input_items(normalise_messages([message]), service="openai")
        assert [item["call_id"] for item in items] == [first.id, second.id]


def test_custom_tool_call_has_its_input_as_argument() -> None:
    item = OUTPUT_CALL | {"name": "run", "input": 'print("é\n😀")'}
    for message in (read_body(response(item)), read_stream(events_of(item))):
        (call,) = message.tool_calls
        assert (call.function.name, call.function.arguments) == ("run", {"input": 'print("é\n😀")'})


@pytest.mark.parametrize("changed", ["no item_id", "no output_index", "other item_id", "interleaved"])
def test_events_of_other_servers_find_their_item(changed: str) -> None:
    events = events_of(CALL, SECOND_CALL)
    for number, event in enumerate(events):
        if changed == "no item_id":
            event.pop("item_id", None)
        elif changed == "no output_index":  # llama.cpp
            event.pop("output_index", None)
        elif changed == "other item_id" and "item_id" in event:  # GitHub Copilot
            event["item_id"] = f"changing-{number}"
    if changed == "interleaved":
        events.sort(key=lambda event: (event["type"] == "response.completed", not event["type"].endswith("added")))
    calls = read_stream(events).tool_calls or ()
    assert [call.function.arguments for call in calls] == [{"a": 1}, {}]


def test_events_of_llama_cpp() -> None:
    """They have no `output_index`, and the ID of a call is the `item_id` of its pieces."""
    item = {"type": "function_call", "call_id": "fc_x", "name": "f", "arguments": "", "status": "in_progress"}
    message = read_stream([
        {"type": "response.created", "response": {"id": "resp_1", "object": "response", "status": "in_progress"}},
        {"type": "response.output_item.added", "item": item},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_x", "delta": '{"a":'},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_x", "delta": "1}"},
        {"type": "response.output_item.done", "item": item | {"arguments": '{"a":1}', "status": "completed"}},
        {"type": "response.completed", "response": {"object": "response", "status": "completed", "output": []}},
    ])  # fmt: skip
    (call,) = message.tool_calls
    assert (call.id, call.function.arguments, message.token_usage) == ("fc_x", {"a": 1}, None)


@pytest.mark.parametrize("output", [output for output, _ in OUTPUTS if output], ids=lambda output: output[0]["type"])
@pytest.mark.parametrize("kept", ["added and done", "done", "completed"])
def test_output_without_pieces_is_emitted(output: list[dict[str, Any]], kept: str) -> None:
    """Some servers send only complete items, or only the complete response."""
    endings = {"added and done": ("added", "done", "completed"), "done": ("item.done", "completed")}
    whole = read_body(response(*output))
    events = [event for event in events_of(*output) if event["type"].endswith(endings.get(kept, ("completed",)))]
    message = read_stream(events)
    assert (message.content, message.reasoning, message.tool_calls) == (
        whole.content,
        whole.reasoning,
        whole.tool_calls,
    )
    assert message.provider_data == whole.provider_data


def test_non_streaming_answer_to_a_streaming_request_is_read() -> None:
    assert read_stream([response(ANSWER)]).content == "It is 3."


def test_logprobs_have_the_keys_of_chat_completions() -> None:
    logprobs = [{"token": "Hé", "logprob": -0.5, "top_logprobs": [{"token": "Hé", "logprob": -0.5}]}]
    expected = {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": []}
    delta = ResponsesReader(error_from).read_chunk(
        {"type": "response.output_text.delta", "output_index": 0, "delta": "Hé", "logprobs": logprobs}
    )
    assert delta is not None and delta.logprobs == [expected | {"top_logprobs": [expected]}]
    item = ANSWER | {"content": [{"type": "output_text", "text": "Hé", "annotations": [], "logprobs": logprobs}]}
    assert read_body(response(item)).logprobs == delta.logprobs


@pytest.mark.parametrize(
    ("reason", "finish", "warned"),
    [
        ("max_output_tokens", "length", False),
        ("max_messages", "length", False),
        ("content_filter", "content_filter", False),
        ("steered", "length", True),
        (None, "length", True),
    ],
)
def test_incomplete_response_has_finish_reason(reason: Any, finish: str, warned: bool) -> None:
    details = {"incomplete_details": {"reason": reason}}
    for message in (
        read_body(response(ANSWER, status="incomplete", **details)),
        read_stream(events_of(ANSWER, end="incomplete", **details)),
    ):
        assert (message.content, message.finish_reason, bool(message.warnings)) == ("It is 3.", finish, warned)


@pytest.mark.parametrize(("max_tokens", "finish"), [(20, "length"), (21, "stop"), (None, "stop")])
def test_server_without_incomplete_details_truncated_output_of_as_many_tokens(max_tokens: Any, finish: str) -> None:
    data = response(ANSWER)
    del data["incomplete_details"]
    for read in ("read_response", "read_chunk"):
        reader = ResponsesReader(error_from, max_tokens=max_tokens)
        getattr(reader, read)(data if read == "read_response" else {"type": "response.completed", "response": data})
        assert reader.finish().finish_reason == finish


@pytest.mark.parametrize("count", range(1, 5))
def test_stream_without_last_event_is_interrupted(count: int) -> None:
    with pytest.raises(MalformedResponse, match=r"before the event response\.completed"):
        read_stream(events_of(THOUGHT, ANSWER)[:-count])


ERRORS: list[tuple[dict[str, Any], type[ModelError]]] = [
    ({"code": "server_error", "message": "It failed."}, ServerError),
    ({"code": "rate_limit_exceeded", "message": "Slow down."}, RateLimited),
    ({"code": "invalid_image_url", "message": "No such image."}, InvalidRequest),
    ({"code": "image_too_large", "message": "Too large."}, InvalidRequest),
    ({"code": "context_length_exceeded", "message": "Too long."}, ContextWindowExceeded),
    ({"code": "content_filter", "message": "No."}, ContentFiltered),
    ({"code": "insufficient_quota", "message": "No money."}, RateLimited),
    ({"code": None, "message": "It failed."}, ServerError),
    ({"code": None, "type": "invalid_request_error", "message": "Wrong."}, InvalidRequest),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=[str(error["code"]) for error, _ in ERRORS])
@pytest.mark.parametrize("place", ["body", "failed status", "response.failed", "flat event", "nested event", "typed"])
def test_error_is_raised_with_its_type(error: dict[str, Any], kind: type[ModelError], place: str) -> None:
    failed = response(status="failed", error=error)
    with pytest.raises(kind, match=error["message"]) as caught:
        if place == "body":
            read_body({"error": error})
        elif place == "failed status":
            read_body(failed)
        elif place == "response.failed":
            read_stream([{"type": "response.failed", "response": failed}])
        elif place == "flat event":
            read_stream([{"type": "error", "sequence_number": 2, **{k: v for k, v in error.items() if k != "type"}}]
                        if "type" not in error else [{"type": "error", "error": error}])  # fmt: skip
        elif place == "nested event":
            read_stream([{"type": "error", "error": error}])
        else:  # As `EventReader` passes an event of type `error` on.
            read_stream([{"error": error}])
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "data",
    [
        None, [], "text", 3, {}, {"output": {}}, {"output": None}, {"object": "chat.completion", "choices": []},
        response(ANSWER, status="in_progress"), response(ANSWER, status="queued"), response(ANSWER, usage=3),
        response(ANSWER | {"content": 3}), response(ANSWER | {"content": [{"type": "output_text", "text": 3}]}),
        response(CALL | {"call_id": 3}), response(CALL | {"name": None}), response("text"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_malformed_body_raises(data: Any) -> None:
    with pytest.raises(MalformedResponse):
        read_body(data)


@pytest.mark.parametrize(
    "event",
    [
        None, [], {"choices": [{"delta": {"content": "x"}}]},
        {"type": "response.output_text.delta", "output_index": 0, "delta": 3},
        {"type": "response.output_text.delta", "output_index": 0},
        {"type": "response.output_text.delta", "output_index": [], "delta": "x"},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"},
        {"type": "response.output_item.added", "output_index": 0}, {"type": "response.completed"},
        {"type": "response.completed", "response": []}, {"type": "response.created", "response": 3},
    ],
)  # fmt: skip
def test_malformed_event_raises(event: Any) -> None:
    with pytest.raises(MalformedResponse):
        read_stream([event, *events_of(ANSWER)])


@pytest.mark.parametrize("kind", ["response.web_search_call.searching", "response.output_text.annotation.added",
                                  "response.in_progress", "keepalive", "new.type"])  # fmt: skip
def test_other_events_are_ignored(kind: str) -> None:
    assert ResponsesReader(error_from).read_chunk({"type": kind, "output_index": 0, "delta": "x"}) is None


#: The texts of chat completions that refuse a model or a request which the Responses API answers, as in the reports.
REFUSALS = [
    "Function tools with reasoning_effort are not supported for gpt-5.4 in /v1/chat/completions. Please use "
    "/v1/responses instead.",
    "Function tools with reasoning_effort are not supported for gpt-5.6 in /v1/chat/completions. To use function "
    "tools, use /v1/responses or set reasoning_effort to 'none'.",
    "This model is only supported in v1/responses and not in v1/chat/completions.",
    "model gpt-5.3-codex is not accessible via the /chat/completions endpoint",
    'model "gpt-5.3-codex" is not accessible via the /chat/completions endpoint',
    "The chatCompletion operation does not work with the specified model, gpt-5-codex. Please choose different model.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusal_asks_for_responses(text: str) -> None:
    assert needs_responses(text)


@pytest.mark.parametrize(
    "text",
    [
        "The model `x` does not exist or you do not have access to it.",
        "This is not a chat model and thus not supported in the v1/chat/completions endpoint.",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "Not Found",
    ],
)
def test_other_refusal_does_not_ask_for_responses(text: str) -> None:
    assert not needs_responses(text)


def test_refusals_have_sources() -> None:
    assert [refusal for refusal in NEEDS_RESPONSES if not refusal.source.startswith("https://")] == []


@pytest.mark.parametrize(
    ("text", "is_missing"),
    [
        ("Invalid URL (POST /v1/responses)", True),
        ("Not Found", True),
        ("Resource not found", True),
        ("Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.", False),
        ("Previous response with id 'resp_1' not found.", False),
        ("The model `x` does not exist or you do not have access to it.", False),
        ("The API deployment for this resource does not exist.", False),
    ],
)
def test_404_says_whether_the_path_is_missing(text: str, is_missing: bool) -> None:
    assert means_missing_path(text) is is_missing
