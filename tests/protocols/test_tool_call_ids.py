"""IDs of tool calls: calls without one, fragments that do not say to which call they belong, IDs of other services."""

from __future__ import annotations

import re
from typing import Any

import pytest

from modelport import AzureOpenAIServerModel, ChatMessage, OpenAIServerModel
from modelport.inputs.messages import normalise_messages
from modelport.protocols.chat_completions.call_ids import call_id_rule, new_call_id, with_accepted_ids
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.types.deltas import accumulate
from modelport.types.request import Request

PARIS, OSLO = '{"city": "Paris {\\"}"}', '{"city": "Oslo"}'
_MISSING = object()


def entry(name: str | None, arguments: Any, call_id: Any = _MISSING, index: Any = _MISSING) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "function", "function": {"arguments": arguments}}
    if name is not None:
        result["function"]["name"] = name
    return result | ({} if call_id is _MISSING else {"id": call_id}) | ({} if index is _MISSING else {"index": index})


def streamed(*entries: dict[str, Any]) -> ChatMessage:
    reader = ChatResponseReader()
    deltas = [reader.read_chunk({"choices": [{"delta": {"tool_calls": [one]}}]}) for one in entries]
    reader.read_chunk({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    ids: dict[int | None, set[str | None]] = {}
    for delta in filter(None, deltas):
        for piece in delta.tool_calls or ():
            ids.setdefault(piece.index, set()).add(piece.id)
    assert all(len(found - {None}) == 1 for found in ids.values()), "an ID changes within the stream"
    return accumulate([*filter(None, deltas), reader.finish()])


def whole(*entries: dict[str, Any]) -> ChatMessage:
    choice = {"message": {"tool_calls": list(entries)}, "finish_reason": "tool_calls"}
    return accumulate([ChatResponseReader().read_response({"choices": [choice]})])


def calls_of(message: ChatMessage) -> list[tuple[str, Any]]:
    calls = message.tool_calls or []
    ids = [call.id for call in calls]
    assert all(ids) and len(set(ids)) == len(ids)
    return [(call.function.name, call.function.arguments) for call in calls]


TWO = [("f", {"city": 'Paris {"}'}), ("f", {"city": "Oslo"})]


@pytest.mark.parametrize("call_id", ["", None, _MISSING], ids=["empty", "null", "missing"])
@pytest.mark.parametrize("index", [0, None, _MISSING], ids=["index 0", "index null", "no index"])
def test_calls_without_ids_are_distinguished_and_get_ids(call_id: Any, index: Any) -> None:
    def fragments(name: str, arguments: str) -> list[dict[str, Any]]:
        pieces = [arguments[i : i + 4] for i in range(0, len(arguments), 4)]
        return [entry(name, "", call_id, index), *(entry(None, piece, call_id, index) for piece in pieces)]

    both = [entry("f", PARIS, call_id, index), entry("f", OSLO, call_id, index)]
    assert calls_of(whole(*both)) == TWO
    assert calls_of(streamed(*both)) == TWO
    assert calls_of(streamed(*fragments("f", PARIS), *fragments("f", OSLO))) == TWO
    other = [("f", TWO[0][1]), ("g", TWO[1][1])]
    assert calls_of(streamed(*fragments("f", PARIS), *fragments("g", OSLO))) == other
    assert calls_of(streamed(entry("f", {"a": 1}, call_id, index), entry("g", {}, call_id, index)))


@pytest.mark.parametrize("index", [0, _MISSING], ids=["index 0", "no index"])
def test_name_that_every_fragment_repeats_starts_no_call(index: Any) -> None:
    pieces = [PARIS[i : i + 5] for i in range(0, len(PARIS), 5)]
    assert calls_of(streamed(*(entry("f", piece, "", index) for piece in pieces))) == TWO[:1]
    assert calls_of(streamed(*(entry("f", piece, "x", index) for piece in pieces), entry("f", "", "x", index)))


def test_entries_of_a_list_that_is_not_streamed_are_calls_of_their_own() -> None:
    message = whole(entry("f", "{}", "x", 0), entry("f", "{}", "x", 0), entry("f", "", "y", 0))
    assert calls_of(message) == [("f", {})] * 3
    assert message.tool_calls and [message.tool_calls[0].id, message.tool_calls[2].id] == ["x", "y"]


def test_id_that_comes_late_does_not_change_the_id_of_the_call() -> None:
    message = streamed(entry("f", '{"a"', index=0), entry(None, ": 1}", "late", 0))
    assert calls_of(message) == [("f", {"a": 1})]


def test_id_of_the_service_is_kept() -> None:
    message = streamed(entry("f", "{", "a", 0), entry(None, "}", "a", 0), entry("g", "{}", "b", 0))
    assert message.tool_calls and [call.id for call in message.tool_calls] == ["a", "b"]


def test_long_arguments_in_small_pieces_take_linear_time() -> None:
    pieces = 20_000
    fragments = [entry("f", '{"a": ['), *(entry("f", '{"b": "}"},') for _ in range(pieces)), entry("f", "0]}")]
    message = streamed(*fragments)
    assert message.tool_calls and len(message.tool_calls[0].function.arguments["a"]) == pieces + 1


def test_new_ids_are_accepted_by_every_service() -> None:
    ids = {new_call_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", one) for one in ids)


OPENAI_ID, LONG_ID = "call_PTLP8xhu3uwZk4l3nlnrrJha", "fc_0f0e50a1476a6c35006912c58dc9f8819192c25864eb16f07f"
MISTRAL_MODELS = (
    "Mistral-Small-3.2-24B-Instruct-2506", "Open-Mistral-7B", "Magistral-Small-2509", "Codestral-22B-v0.1",
    "Devstral-Small-2507", "Pixtral-12B-2409", "Mixtral-8x7B-Instruct-v0.1", "Voxtral-Mini-3B-2507",
    "labs-devstral-small-2512", "open-mixtral-8x22b", "Leanstral-2603",
)  # fmt: skip


@pytest.mark.parametrize(
    ("service", "model_id", "given", "pattern"),
    [
        ("openai", "gpt-4o", OPENAI_ID, OPENAI_ID),
        ("openai", "gpt-4o", "x" * 40, "x{40}"),
        ("openai", "gpt-4o", "x" * 41, "[a-zA-Z0-9]{24}"),
        ("openai", "gpt-4o", LONG_ID, "[a-zA-Z0-9]{24}"),
        ("azure", "my-deployment", LONG_ID, "[a-zA-Z0-9]{24}"),
        ("openrouter", "openai/gpt-4o-mini", LONG_ID, "[a-zA-Z0-9]{24}"),
        ("mistral", "mistral-large-latest", OPENAI_ID, "[a-zA-Z0-9]{9}"),
        ("mistral", "labs-model", "turn1_0", "[a-zA-Z0-9]{9}"),
        ("mistral", "mistral-large-latest", "D681PevKs", "D681PevKs"),
        ("azure", "Mistral-Large-3", OPENAI_ID, "[a-zA-Z0-9]{9}"),
        ("vllm", "mistralai/Ministral-8B-Instruct-2410", OPENAI_ID, "[a-zA-Z0-9]{9}"),
        ("gemini", "gemini-3-pro", LONG_ID, LONG_ID),
        (None, "my-model", LONG_ID, LONG_ID),
        ("openai", "another-name", LONG_ID, "[a-zA-Z0-9]{24}"),
        *(("openrouter", name, LONG_ID, "[a-zA-Z0-9]{24}") for name in ("openai/o3", "openai/o4-mini")),
        *((None, f"mistralai/{name}", OPENAI_ID, "[a-zA-Z0-9]{9}") for name in MISTRAL_MODELS),
    ],
)
def test_ids_of_other_services_are_mapped_consistently(
    service: str | None, model_id: str, given: str, pattern: str
) -> None:
    history = normalise_messages([
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [entry("f", "{}", given), entry("f", "{}", "other")]},
        {"role": "tool", "content": "1", "tool_call_id": given},
        {"role": "tool", "content": "2", "tool_call_id": "other"},
    ])  # fmt: skip
    mapped = with_accepted_ids(history, call_id_rule(service, model_id))
    body = body_from(Request(mapped), "m")["messages"]
    first, second = (call["id"] for call in body[1]["tool_calls"])
    assert re.fullmatch(pattern, first)
    assert [body[2]["tool_call_id"], body[3]["tool_call_id"]] == [first, second] and first != second
    assert with_accepted_ids(history, call_id_rule(service, model_id)) == mapped  # The same in the next request.
    assert history[1].tool_calls and history[1].tool_calls[0].id == given  # The caller's message is unchanged.


def test_ids_are_mapped_for_the_service_of_the_model() -> None:
    for model in (
        OpenAIServerModel("gpt-4o", api_key="k"),
        AzureOpenAIServerModel("d", "https://a.openai.azure.com", "k"),
    ):
        rule: Any = model._call_id_rule
        assert rule.length == 24
    other: Any = OpenAIServerModel("m", "http://127.0.0.1:1/v1", "k")._call_id_rule
    assert other is None
