"""`ChatModelport`: messages, chunks, tools, output types, errors and settings.

LangChain's own tests are in test_langchain_standard.py.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import enum
import functools
import json
import operator
import pickle
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, Optional, Union

import pytest
from langchain_core import exceptions as lc
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from pydantic import BaseModel, PydanticUserError, SecretStr
from typing_extensions import TypedDict

import modelport
from modelport import (
    Attachment,
    Capabilities,
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    Choice,
    FallbackModel,
    Image,
    JSONSchema,
    Lark,
    ModelError,
    OpenAIServerModel,
    ProviderData,
    Regex,
    Text,
    TokenUsage,
    Tool,
)
from modelport.integrations.langchain import ChatModelport
from modelport.testing import ScriptedModel
from modelport.types.tools import NamedToolChoice
from tests.servers.faults import Fault, FaultServer

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")]

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
DATA = base64.b64encode(b"data").decode()


@tool
def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


def invoke(chat: Any, messages: Any, **options: Any) -> AIMessage:
    return chat.invoke(messages, **options)


def stream(chat: Any, messages: Any, **options: Any) -> AIMessage:
    return functools.reduce(operator.add, chat.stream(messages, **options))


def ainvoke(chat: Any, messages: Any, **options: Any) -> AIMessage:
    return asyncio.run(chat.ainvoke(messages, **options))


def astream(chat: Any, messages: Any, **options: Any) -> AIMessage:
    async def chunks() -> list[AIMessageChunk]:
        return [chunk async for chunk in chat.astream(messages, **options)]

    return functools.reduce(operator.add, asyncio.run(chunks()))


def events(chat: Any, messages: Any, **options: Any) -> AIMessage:
    return chat.stream_events(messages, version="v3", **options).output


WAYS = pytest.mark.parametrize("way", [invoke, stream, ainvoke, astream, events])
STREAMS = pytest.mark.parametrize("way", [stream, astream])
VERSIONS = pytest.mark.parametrize("version", [None, "v1"])


def deltas(*items: Any) -> list[ChatMessageStreamDelta]:
    return [ChatMessageStreamDelta(**item) for item in items]


def piece(index: int | None, arguments: Any, name: str = "", identifier: str | None = None, **values: Any) -> Any:
    function = ChatMessageToolCallFunction(arguments, name)
    return ChatMessageToolCallStreamDelta(index, identifier, "function", function, **values)


# --- responses --------------------------------------------------------------------------------------------------------


@WAYS
@VERSIONS
def test_response_has_reasoning_text_and_calls_as_content_blocks(way: Callable[..., Any], version: str | None) -> None:
    """Reasoning, text and two calls with the indices 0 and 1 stay apart, although LangChain numbers blocks too."""
    answer = deltas(
        {"reasoning": "I must "}, {"reasoning": "look."}, {"content": "Let me "}, {"content": "look."},
        {"tool_calls": [piece(0, '{"city": ', "get_weather", "a")]}, {"tool_calls": [piece(0, '"Rome"}')]},
        {"tool_calls": [piece(1, '{"city": "Oslo"}', "get_weather", "b")]}, {"finish_reason": "tool_calls"},
    )  # fmt: skip
    chat = ChatModelport(model=ScriptedModel(answer), output_version=version).bind_tools([get_weather])
    message = way(chat, "Weather?")
    found = [(b["type"], b.get("reasoning") or b.get("text") or b.get("args")) for b in message.content_blocks]
    assert found == [
        ("reasoning", "I must look."), ("text", "Let me look."),
        ("tool_call", {"city": "Rome"}), ("tool_call", {"city": "Oslo"}),
    ]  # fmt: skip
    assert [(call["id"], call["args"]["city"]) for call in message.tool_calls] == [("a", "Rome"), ("b", "Oslo")]
    assert message.text == "Let me look." and message.response_metadata["finish_reason"] == "tool_calls"


@WAYS
def test_usage_has_details_and_is_missing_where_a_count_is_unknown(way: Callable[..., Any]) -> None:
    answers = [
        deltas({"content": "x", "token_usage": TokenUsage(*counts)}) for counts in [(5, 3, 2, 1), (5, None), (0, 0)]
    ]
    chat = ChatModelport(model=ScriptedModel(*answers))
    known, unknown, zero = (way(chat, "hi").usage_metadata for _ in answers)
    assert known == {
        "input_tokens": 5, "output_tokens": 3, "total_tokens": 8,
        "input_token_details": {"cache_read": 2}, "output_token_details": {"reasoning": 1},
    }  # fmt: skip
    assert unknown is None and zero == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


@WAYS
def test_response_metadata_has_what_modelport_knows(way: Callable[..., Any]) -> None:
    logprob = {"token": "x", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    values = {"model_id": "m-2026", "stop_sequence": "END", "logprobs": [logprob], "finish_reason": "stop"}
    model = ScriptedModel(deltas({"content": "x", **values}), capabilities={"tools": False})
    message = way(ChatModelport(model=model).bind_tools([get_weather]), "hi", logprobs=True)
    metadata = message.response_metadata
    assert metadata["model_name"] == "m-2026" and metadata["model_provider"] == "modelport"
    assert metadata["stop_sequence"] == "END" and metadata["logprobs"]["content"][0]["token"] == "x"
    assert [warning["type"] for warning in metadata["warnings"]] == ["substituted"]
    assert json.dumps(metadata)


# --- a second turn ----------------------------------------------------------------------------------------------------


class Accepting(ScriptedModel):
    """A model that gets all provider data back."""

    def accepts_provider_data(self, data: ProviderData) -> bool:
        return True


@WAYS
@VERSIONS
@pytest.mark.parametrize("saved", [False, True])
def test_provider_data_comes_back_in_the_next_turn(way: Callable[..., Any], version: str | None, saved: bool) -> None:
    # LangChain adds up lists whose items have the same index, so the data must come in one piece.
    items = [{"index": 0, "signature": "s1"}, {"index": 0, "signature": "s2"}]
    own = [ProviderData("chat_completions", ({"reasoning_details": [item]},), "s") for item in items]
    of_call = ProviderData("chat_completions", ({"extra_content": {"signature": "s3"}},), "s")
    answer = deltas(
        {"reasoning": "Think.", "provider_data": own[0]}, {"provider_data": own[1]}, {"content": "Look."},
        {"tool_calls": [piece(0, '{"city": "Rome"}', "get_weather", "a", provider_data=of_call)]},
    )  # fmt: skip
    model = Accepting(answer, "Sunny.")
    chat = ChatModelport(model=model, output_version=version).bind_tools([get_weather])
    message = way(chat, "Weather?")
    if saved:
        message = loads(dumps(message), allowed_objects="messages")
    result = get_weather.invoke(message.tool_calls[0])
    way(chat, [HumanMessage("Weather?"), message, result])
    sent = model.requests[1].messages
    assert [str(m.role) for m in sent] == ["user", "assistant", "tool"]
    assert (sent[1].content, sent[1].reasoning) == ("Look.", "Think.")
    assert sent[1].provider_data.items == (*own[0].items, *own[1].items)
    assert sent[1].tool_calls[0].provider_data == of_call and sent[1].tool_calls[0].id == sent[2].tool_call_id == "a"
    assert sent[2].content == "sunny in Rome"


@pytest.mark.parametrize("name", ["gemini", "deepseek", "openrouter", "proxy", "responses"])
@pytest.mark.parametrize("way", [invoke, stream, events])
def test_strict_service_accepts_a_tool_loop(name: str, way: Callable[..., Any], server: FaultServer) -> None:
    """These services refuse calls whose reasoning or signature does not come back unchanged."""
    pytest.importorskip("smolagents", reason="the services are those of its agents")
    from tests.test_agent_provider_data import AgentService, ResponsesService

    service: Any = ResponsesService() if name == "responses" else AgentService(name)
    server.script(then=service)
    settings: dict[str, Any] = {"api": "responses"} if name == "responses" else {}
    if name == "proxy":
        settings["reasoning_effort"] = "low"
    with OpenAIServerModel("m", server.base_url, "key", retry=False, timeout=20, **settings) as model:
        chat = ChatModelport(model=model).bind_tools([get_weather, final_answer])
        messages: list[BaseMessage] = [HumanMessage("Do I need an umbrella?")]
        while messages[-1].content != "It is sunny.":
            messages.append(loads(dumps(way(chat, messages)), allowed_objects="messages"))
            tools = {"get_weather": get_weather, "final_answer": final_answer}
            messages += [tools[call["name"]].invoke(call) for call in messages[-1].tool_calls]
    assert service.refusals == [] and service.requests == 3


@tool
def final_answer(answer: str) -> str:
    """Gives the final answer."""
    return answer


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


# --- messages ---------------------------------------------------------------------------------------------------------

IMAGE = Image(base64.b64decode(PNG), "image/png")


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ("hi", Text("hi")),
        ({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}, Text("hi", {"type": "ephemeral"})),
        ({"type": "text-plain", "text": "hi", "mime_type": "text/plain"}, Text("hi")),
        ({"type": "image", "base64": PNG, "mime_type": "image/png"}, IMAGE),
        ({"type": "image", "source_type": "base64", "data": PNG, "mime_type": "image/png"}, IMAGE),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}, IMAGE),
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}, IMAGE),
        ({"type": "image_url", "image_url": "https://x.example/a.png"}, Image(url="https://x.example/a.png")),
        ({"type": "image", "url": "https://x.example/a.png"}, Image(url="https://x.example/a.png")),
        (
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}},
            Image(url="https://x.example/a.png", detail="low"),
        ),
        ({"type": "audio", "base64": DATA, "mime_type": "audio/mpeg"}, Attachment("audio", b"data", "mp3")),
        ({"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}, Attachment("audio", b"data", "wav")),
        (
            {"type": "file", "base64": DATA, "mime_type": "application/pdf", "extras": {"filename": "a.pdf"}},
            Attachment("file", b"data", "application/pdf", "a.pdf"),
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{DATA}"}},
            Attachment("file", b"data", "application/pdf", "a.pdf"),
        ),
    ],
)
def test_content_block_becomes_a_part(block: Any, part: Any) -> None:
    model = ScriptedModel("ok", "ok")
    chat = ChatModelport(model=model)
    invoke(chat, [SystemMessage("Be short."), HumanMessage(["Look:", block], name="ann")])
    system, user = model.requests[0].messages
    assert (str(system.role), system.content) == ("system", "Be short.")
    assert (str(user.role), user.name, user.content) == ("user", "ann", (Text("Look:"), part))
    call = {"name": "look", "args": {}, "id": "1"}
    invoke(
        chat, [HumanMessage("hi"), AIMessage("", tool_calls=[call]), ToolMessage(["Look:", block], tool_call_id="1")]
    )
    assert model.requests[1].messages[2].content == (Text("Look:"), part)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (HumanMessage([{"type": "file", "file_id": "f1"}]), r"messages\[0\].content\[0\]: .*file_id"),
        (HumanMessage([{"type": "file", "url": "https://x.example/a.pdf"}]), "by its url is not supported"),
        (HumanMessage(["a", {"type": "video", "base64": DATA, "mime_type": "video/mp4"}]), r"content\[1\]: .*video"),
        (HumanMessage([{"type": "hologram"}]), r"messages\[0\]\['content'\]\[0\]: type 'hologram' is unknown"),
        (RemoveMessage(id="1"), "a RemoveMessage can't be sent"),
    ],
)
def test_message_that_no_model_takes_is_refused_with_its_path(message: BaseMessage, problem: str) -> None:
    model = ScriptedModel("ok")
    with pytest.raises(modelport.InvalidRequest, match=problem):
        ChatModelport(model=model).invoke([message])
    assert not model.requests


@WAYS
def test_block_of_another_service_is_left_out_with_a_warning(way: Callable[..., Any]) -> None:
    redacted = {"type": "redacted_thinking", "data": "…"}
    earlier = AIMessage(
        [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, redacted, {"type": "text", "text": "Hi"}]
    )
    earlier.response_metadata["model_provider"] = "anthropic"
    model = ScriptedModel("ok")
    message = way(ChatModelport(model=model), [HumanMessage("hi"), earlier, HumanMessage("Go on.")])
    (warning,) = message.response_metadata["warnings"]
    assert warning["type"] == "left_out" and warning["text"].startswith("messages[1].content[1] was left out")
    assert model.requests[0].messages[1].content == "Hi"


def test_calls_in_content_blocks_are_sent_once() -> None:
    call = {"type": "tool_call", "name": "f", "args": {"a": 1}, "id": "1"}
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}
    model = ScriptedModel("ok", repeat=True)
    for earlier in (AIMessage(content_blocks=[call]), AIMessage([use], tool_calls=[call]), AIMessage([use])):
        ChatModelport(model=model).invoke([HumanMessage("hi"), earlier, ToolMessage("2", tool_call_id="1")])
    for request in model.requests:
        (sent,) = request.messages[1].tool_calls
        assert (sent.id, sent.function.name, sent.function.arguments) == ("1", "f", '{"a": 1}')


# --- tools ------------------------------------------------------------------------------------------------------------


class GetWeather(BaseModel):
    """Tells the weather of a city."""

    city: str


def weather(city: str) -> str:
    """Tells the weather of a city."""
    return city


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    "given",
    [
        get_weather, weather, GetWeather, Tool("weather", "Tells the weather of a city.", SCHEMA),
        {"name": "weather", "description": "Tells the weather of a city.", "input_schema": SCHEMA},
        {"title": "weather", "description": "Tells the weather of a city.", **SCHEMA},
        {"type": "function", "function": {"name": "weather", "description": "Tells the weather of a city.",
                                          "parameters": SCHEMA}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("choice", ["auto", "any", "required", True, "none", "name", "dict"])
def test_tool_and_choice_reach_the_model(given: Any, choice: Any) -> None:
    name = {"get_weather": "get_weather", "GetWeather": "GetWeather"}.get(
        getattr(given, "__name__", getattr(given, "name", "")), "weather"
    )
    named = {"name": name, "dict": {"type": "function", "function": {"name": name}}}
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Rome"}, name), "1")
    model = ScriptedModel("No." if choice == "none" else ChatMessage("assistant", tool_calls=[call]))
    ChatModelport(model=model).bind_tools([given], tool_choice=named.get(str(choice), choice)).invoke("hi")
    request = model.requests[0]
    (sent,) = request.tools
    assert (sent.name, sent.description) == (name, "Tells the weather of a city.")
    assert sent.parameters["properties"]["city"]["type"] == "string"
    assert sent.parameters.get("additionalProperties", True) is isinstance(given, dict | Tool)
    expected = {"any": "required", "True": "required"}.get(str(choice), choice)
    assert getattr(request.tool_choice, "name", request.tool_choice) == (name if str(choice) in named else expected)


@pytest.mark.parametrize("way", [invoke, ainvoke])
def test_call_that_cannot_be_used_is_returned(way: Callable[..., Any]) -> None:
    """LangChain's agents tell the model what is wrong, so the message comes as the model wrote it."""
    calls = [piece(0, '{"city": 3}', "get_weather", "a"), piece(1, '{"city": "Ro', "get_weather", "b")]
    chat = ChatModelport(model=ScriptedModel(deltas({"tool_calls": calls}), repeat=True)).bind_tools([get_weather])
    message = way(chat, "hi")
    assert [(c["id"], c["args"]) for c in message.tool_calls] == [("a", {"city": 3})]
    (invalid,) = message.invalid_tool_calls
    assert (invalid["id"], invalid["args"]) == ("b", '{"city": "Ro') and "no valid JSON" in invalid["error"]
    assert [w["type"] for w in message.response_metadata["warnings"]] == ["invalid", "invalid"]
    with pytest.raises(modelport.InvalidToolCall):
        way(chat, "hi", tool_errors="raise")


@pytest.mark.parametrize("way", [invoke, ainvoke, stream, astream])
@pytest.mark.parametrize("arguments", ["null", "", "{}"])
def test_call_without_arguments_has_an_empty_object(way: Callable[..., Any], arguments: str) -> None:
    model = ScriptedModel(deltas({"tool_calls": [piece(0, arguments, "get_time", "a")]}))
    message = way(ChatModelport(model=model).bind_tools([Tool("get_time", "", {"type": "object"})]), "hi")
    assert [(c["name"], c["args"]) for c in message.tool_calls] == [("get_time", {})]


BROKEN = deltas(
    {"tool_calls": [piece(0, '{"city": "Rome",}', "get_weather", "a")]},
    {"tool_calls": [piece(1, '{"city": "Oslo"}', "get_weather", "b")]}, {"finish_reason": "tool_calls"},
)  # fmt: skip


@pytest.mark.parametrize("way", [invoke, ainvoke])
@VERSIONS
@pytest.mark.parametrize("has_result", [False, True])
def test_broken_call_goes_back_as_valid_json_with_a_result(
    way: Callable[..., Any], version: str | None, has_result: bool
) -> None:
    """LangChain's agents run only valid calls; services refuse broken arguments, and calls without a result."""
    model = ScriptedModel(BROKEN, "ok")
    chat = ChatModelport(model=model, output_version=version).bind_tools([get_weather])
    answer = loads(dumps(way(chat, "Weather?")), allowed_objects="messages")
    assert [call["id"] for call in answer.invalid_tool_calls] == ["a"]
    results = [ToolMessage("sunny", tool_call_id="b")] + [ToolMessage("mine", tool_call_id="a")] * has_result
    metadata = way(chat, [HumanMessage("Weather?"), answer, *results, HumanMessage("And?")]).response_metadata
    _, call, *sent, last = model.requests[-1].messages
    arguments = [(item.id, json.loads(item.function.arguments_json())) for item in call.tool_calls or ()]
    assert arguments == [("a", {"invalid_arguments": '{"city": "Rome",}'}), ("b", {"city": "Oslo"})]
    found = [(message.tool_call_id, message.text) for message in sent]
    assert last.text == "And?"
    if has_result:
        assert found == [("b", "sunny"), ("a", "mine")]
    else:
        error = answer.invalid_tool_calls[0]["error"]
        assert found == [("a", error), ("b", "sunny")] and "valid JSON" in error
        assert any("Its error was sent as the result" in warning["text"] for warning in metadata["warnings"])


@pytest.mark.parametrize(
    "call, text",
    [
        ({"name": "f", "args": "{x", "id": "a", "error": "bad"}, "bad"),
        ({"name": "f", "args": "{x}", "id": "a", "error": None}, "The call can't be used: its arguments contain"),
        ({"name": None, "args": None, "id": "a", "error": "no name"}, "no name"),
    ],
)
def test_each_invalid_call_has_its_own_result(call: dict[str, Any], text: str) -> None:
    """A later call with the same id has its own result, and the last call has one too."""
    turn = AIMessage("", invalid_tool_calls=[call])
    messages = [HumanMessage("x"), turn, turn, ToolMessage("own", tool_call_id="a"), HumanMessage("y"), turn]
    model = ScriptedModel("ok")
    ChatModelport(model=model).bind_tools([get_weather]).invoke(messages)
    sent = [message for message in model.requests[0].messages if message.role == "tool"]
    assert [message.text[:45] for message in sent] == [text, "own", text]


@STREAMS
def test_stream_raises_where_langchain_would_complete_the_arguments(way: Callable[..., Any]) -> None:
    """`AIMessageChunk` reads `{"city": "Ro` as `{"city": "Ro"}`, without an error."""
    broken = deltas({"tool_calls": [piece(0, '{"city": "Ro', "get_weather", "b")]}, {"finish_reason": "length"})
    chat = ChatModelport(model=ScriptedModel(broken)).bind_tools([get_weather])
    with pytest.raises(modelport.InvalidToolCall, match="no valid JSON") as caught:
        way(chat, "hi")
    assert caught.value.text == '{"city": "Ro' and caught.value.partial.finish_reason == "length"
    assert str(caught.value).count("can't be used") == 1


# --- output types -----------------------------------------------------------------------------------------------------


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class PersonDict(TypedDict):
    name: str
    age: int


class Color(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


# Other objects than `Person | None`.
OPTIONAL = Optional[Person]  # noqa: UP045
UNION = Union[int, str]  # noqa: UP007
PERSON = '{"name": "Ann", "age": 3}'
AS_DICT = {"name": "Ann", "age": 3}


@pytest.mark.parametrize(
    ("schema", "answer", "expected"),
    [
        (Person, PERSON, Person(name="Ann", age=3)),
        (PersonDict, PERSON, AS_DICT),
        (Person.model_json_schema(), PERSON, AS_DICT),
        ({"type": "object", "properties": {"age": {"type": "integer"}}}, PERSON, AS_DICT),
        ({"name": "person", "description": "A person", "parameters": Person.model_json_schema()}, PERSON, AS_DICT),
        ({"type": "json_schema", "json_schema": {"name": "p", "schema": Person.model_json_schema()}}, PERSON, AS_DICT),
        (JSONSchema(Person.model_json_schema()), PERSON, AS_DICT),
        (Color, '"red"', Color.RED),
        (list[int], "[1, 2]", [1, 2]),
        (Literal["red", "blue"], '"red"', "red"),
        (OPTIONAL, "null", None),
        (OPTIONAL, PERSON, Person(name="Ann", age=3)),
        (Person | None, "null", None),
        (UNION, "3", 3),
        (Point, '{"x": 1}', Point(1)),
        (Regex("a+"), "aa", "aa"),
        (Lark('start: "a"'), "a", "a"),
        (Choice("yes", "no"), "yes", "yes"),
    ],
)
@VERSIONS
def test_structured_output_is_an_object(schema: Any, answer: str, expected: Any, version: str | None) -> None:
    model = ScriptedModel(answer, repeat=True)
    chat = ChatModelport(model=model, output_version=version).with_structured_output(schema)
    assert chat.invoke("hi") == expected and list(chat.stream("hi")) == [expected]
    assert asyncio.run(chat.ainvoke("hi")) == expected
    assert all(request.grammar is not None for request in model.requests)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("answer", ['{"name": "Ann", "age": "x"}', '{"name": "An'])
def test_invalid_output_raises_or_is_returned_with_include_raw(streamed: bool, answer: str) -> None:
    def call(chat: Any) -> Any:
        return functools.reduce(operator.add, chat.stream("hi")) if streamed else chat.invoke("hi")

    chat = ChatModelport(model=ScriptedModel(answer, repeat=True))
    with pytest.raises(lc.OutputParserException) as caught:
        call(chat.with_structured_output(Person))
    assert isinstance(caught.value, modelport.InvalidOutput) and vars(caught.value)["llm_output"] == answer
    result = call(chat.with_structured_output(Person, include_raw=True))
    assert result["raw"].text == answer and result["parsed"] is None
    assert isinstance(result["parsing_error"], modelport.InvalidOutput)
    valid = ChatModelport(model=ScriptedModel(PERSON)).with_structured_output(Person, include_raw=True)
    assert (result := call(valid))["parsed"] == Person(name="Ann", age=3) and result["parsing_error"] is None


def test_methods_of_structured_output() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction(AS_DICT, "Person"), "1")
    model = ScriptedModel(ChatMessage("assistant", tool_calls=[call]), PERSON)
    chat = ChatModelport(model=model)
    assert chat.with_structured_output(Person, method="function_calling").invoke("hi") == Person(name="Ann", age=3)
    assert chat.with_structured_output(Person, method="json_mode").invoke("hi") == Person(name="Ann", age=3)
    forced, json_mode = model.requests
    assert forced.grammar is None and forced.tool_choice == NamedToolChoice("Person")
    assert json_mode.grammar == JSONSchema({"type": "object"}, name="json_object")
    with pytest.raises(modelport.InvalidRequest, match="method='xml' is unknown"):
        chat.with_structured_output(Person, method="xml")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("schema", [Person, Person.model_json_schema()])
def test_call_that_does_not_fit_the_schema_of_structured_output_raises(schema: Any, streamed: bool) -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"name": "Ann", "age": "x"}, "Person"), "1")
    chat = ChatModelport(model=ScriptedModel(ChatMessage("assistant", tool_calls=[call])))
    objects = chat.with_structured_output(schema, method="function_calling")
    with pytest.raises(modelport.InvalidToolCall, match=r"\$\.age"):
        list(objects.stream("hi")) if streamed else objects.invoke("hi")
    chat = ChatModelport(model=ScriptedModel(ChatMessage("assistant", tool_calls=[call])))
    objects = chat.with_structured_output(schema, method="function_calling", include_raw=True)
    result = functools.reduce(operator.add, objects.stream("hi")) if streamed else objects.invoke("hi")
    assert result["raw"].tool_calls[0]["args"] == {"name": "Ann", "age": "x"} and result["parsed"] is None
    assert isinstance(result["parsing_error"], modelport.InvalidToolCall)


def with_raw(schema: Any, answer: Any, streamed: bool, version: str | None = None, **options: Any) -> dict[str, Any]:
    chat = ChatModelport(model=ScriptedModel(answer), output_version=version)
    objects = chat.with_structured_output(schema, include_raw=True, **options)
    return functools.reduce(operator.add, objects.stream("hi")) if streamed else objects.invoke("hi")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
@pytest.mark.parametrize(("schema", "text"), [(Person, '{"name": "An'), (list[int], "[1"), (int, "12")])
def test_truncated_output_has_the_error_of_modelport(schema: Any, text: str, streamed: bool, method: str) -> None:
    result = with_raw(schema, deltas({"content": text}, {"finish_reason": "length"}), streamed, method=method)
    if method == "json_schema" or schema is Person:
        assert isinstance(result["parsing_error"], modelport.InvalidOutput) and result["parsed"] is None
        assert "truncated by max_tokens" in str(result["parsing_error"]) and result["raw"].text == text


@pytest.mark.parametrize("streamed", [False, True])
@VERSIONS
@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (piece(0, '{"name": "Ann", "age": ', "Person", "a"), "contain no valid JSON"),
        (piece(0, "[1]", "Person", "a"), "is not of type 'object'"),
        (piece(0, PERSON, "Other", "a"), "there is no such tool"),
        (None, "the model made none"),
    ],
)
@pytest.mark.parametrize("schema", [Person, PersonDict, Person.model_json_schema()])
def test_call_that_cannot_be_used_has_a_parsing_error(
    schema: Any, answer: Any, problem: str, version: str | None, streamed: bool
) -> None:
    name = "PersonDict" if schema is PersonDict else "Person"
    if answer is not None:
        function = dataclasses.replace(answer.function, name=answer.function.name.replace("Person", name))
        answer = dataclasses.replace(answer, function=function)
    script = deltas({"tool_calls": [answer]} if answer else {"content": "No."}, {"finish_reason": "tool_calls"})
    result = with_raw(schema, script, streamed, version, method="function_calling")
    assert isinstance(result["parsing_error"], modelport.InvalidToolCall) and result["parsed"] is None
    assert problem in str(result["parsing_error"]) and str(result["parsing_error"]).count("can't be used") <= 1
    raw = result["raw"]
    if problem == "contain no valid JSON":
        assert [call["args"] for call in raw.invalid_tool_calls] == [answer.function.arguments] and not raw.tool_calls
        assert [block["type"] for block in raw.content_blocks] == ["invalid_tool_call"]


@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize(
    ("schema", "name", "arguments", "expected"),
    [
        (Person, "Person", AS_DICT, Person(name="Ann", age=3)),
        (PersonDict, "PersonDict", AS_DICT, AS_DICT),
        ({"type": "object", "properties": {"age": {"type": "integer"}}}, "answer", {"age": 1}, {"age": 1}),
        (JSONSchema(Person.model_json_schema(), name="p"), "p", AS_DICT, AS_DICT),
        (Point, "Point", {"x": 1}, Point(1)),
        (Color, "Color", {"value": "red"}, Color.RED),
        (list[Point], None, {"value": [{"x": 1}]}, [Point(1)]),
        (Literal["red", "blue"], None, {"value": "red"}, "red"),
        (OPTIONAL, None, {"value": None}, None),
        (UNION, None, {"value": 3}, 3),
    ],
)
def test_function_calling_takes_each_output_type_with_a_schema(
    schema: Any, name: str | None, arguments: Any, expected: Any, include_raw: bool
) -> None:
    def answer(request: Any) -> ChatMessage:
        names.append(request.tools[0].name)
        function = ChatMessageToolCallFunction(arguments, names[0])
        return ChatMessage("assistant", tool_calls=[ChatMessageToolCall(function, "1")])

    names: list[str] = []
    chat = ChatModelport(model=ScriptedModel(answer))
    result = chat.with_structured_output(schema, method="function_calling", include_raw=include_raw).invoke("hi")
    assert (result["parsed"] if include_raw else result) == expected and name in (None, names[0])
    with pytest.raises(modelport.InvalidRequest, match="Regex has none"):
        chat.with_structured_output(Regex("a"), method="function_calling")


def test_strict_is_refused_where_nothing_enforces_the_schema() -> None:
    model = ScriptedModel(PERSON, capabilities=Capabilities())
    with pytest.raises(modelport.UnsupportedFeature):
        ChatModelport(model=model).with_structured_output(Person, strict=True).invoke("hi")
    assert ChatModelport(model=model).with_structured_output(Person).invoke("hi").age == 3
    with pytest.raises(modelport.InvalidRequest, match="'json_mode' enforces no schema"):
        ChatModelport(model=model).with_structured_output(Person, method="json_mode", strict=True)


def test_strict_of_function_calling_is_that_of_the_tool() -> None:
    """A service enforces the schema if it can; the call is not refused where it is not known."""
    call = ChatMessageToolCall(ChatMessageToolCallFunction(AS_DICT, "Person"), "1")
    model = ScriptedModel(ChatMessage("assistant", tool_calls=[call]), capabilities=Capabilities(tools=True))
    objects = ChatModelport(model=model).with_structured_output(Person, method="function_calling", strict=True)
    assert objects.invoke("hi").age == 3 and model.requests[0].tools[0].strict is True


# --- errors -----------------------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (modelport.ContextWindowExceeded("x"), "ContextOverflowError"),
        (modelport.AuthenticationError("x", status=401), "ModelAuthenticationError"),
        (modelport.AuthenticationError("x", status=403), "ModelPermissionDeniedError"),
        (modelport.NotFoundError("x"), "ModelNotFoundError"),
        (modelport.InvalidRequest("x"), "ModelInvalidRequestError"),
        (modelport.UnsupportedFeature("x"), "ModelInvalidRequestError"),
        (modelport.RateLimited("x", retry_after=3.0), "ModelRateLimitError"),
        (modelport.ServerError("x", status=500), "ModelAPIError"),
        (modelport.ConnectionFailed("x"), "ModelConnectionError"),
        (modelport.DeadlineExceeded("x"), "ModelTimeoutError"),
        (modelport.ContentFiltered("x"), "ModelError"),
        (modelport.MissingDependency("p", "e"), "ModelError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_error_has_the_classes_of_both_libraries(way: Callable[..., Any], error: ModelError, name: str) -> None:
    chat = ChatModelport(model=ScriptedModel(error, retry=False))
    with pytest.raises(getattr(lc, name)) as caught:
        way(chat, "hi")
    for found in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(found, type(error)) and isinstance(found, getattr(lc, name))
        assert (found.status, found.retry_after, found.message) == (error.status, error.retry_after, error.message)
        assert vars(found)["is_retryable"] is error.retryable and type(found).__name__ == type(error).__name__


@STREAMS
def test_interrupted_stream_has_the_partial_message(way: Callable[..., Any]) -> None:
    def fail(request: Any) -> Iterator[Any]:
        yield ChatMessageStreamDelta(content="So ")
        raise modelport.ConnectionFailed("gone")

    with pytest.raises(lc.ModelError) as caught:
        way(ChatModelport(model=ScriptedModel(fail)), "hi")
    assert isinstance(caught.value, modelport.StreamInterrupted) and caught.value.partial.content == "So "
    assert isinstance(caught.value.__cause__, modelport.ConnectionFailed)


@STREAMS
def test_stream_that_starts_anew_raises(way: Callable[..., Any]) -> None:
    def fail(request: Any) -> Iterator[Any]:
        yield ChatMessageStreamDelta(content="So ")
        raise modelport.ConnectionFailed("gone")

    model = FallbackModel([ScriptedModel(fail, retry=False), ScriptedModel("Yes.")], on_interrupted="restart")
    with pytest.raises(modelport.StreamInterrupted, match="can't discard"):
        way(ChatModelport(model=model), "hi")


def test_stream_that_is_left_early_is_closed() -> None:
    closed = []

    class Endless(ScriptedModel):
        async def deltas(self, request: Any) -> AsyncIterator[Any]:  # type: ignore[override]
            try:
                while True:
                    yield ChatMessageStreamDelta(content="x")
                    await asyncio.sleep(0)
            finally:
                closed.append(request)

    chunks = ChatModelport(model=Endless()).stream("hi")
    assert next(chunks).text == "x"
    chunks.close()

    async def read() -> None:
        chunks = ChatModelport(model=Endless()).astream("hi")
        assert (await anext(chunks)).text == "x"
        await chunks.aclose()

    asyncio.run(read())
    assert len(closed) == 2


# --- settings ---------------------------------------------------------------------------------------------------------


@WAYS
def test_options_of_the_call_override_those_of_the_constructor(way: Callable[..., Any]) -> None:
    model = ScriptedModel("a b c", repeat=True, seed=1)
    chat = ChatModelport(model=model, temperature=0.5, max_tokens=9, stop=["c"], reasoning_effort="low")
    assert way(chat, "hi").text == "a b "
    assert way(chat, "hi", stop=["b"]).text == "a "
    assert way(chat.bind(stop=["a"], max_completion_tokens=5, reasoning_budget=7), "hi").text == ""
    first, _, third = (dict(request.parameters) for request in model.requests)
    assert first == {"temperature": 0.5, "max_tokens": 9, "seed": 1, "reasoning_effort": "low"}
    assert third == {"temperature": 0.5, "max_tokens": 5, "seed": 1, "reasoning_budget": 7}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model": ScriptedModel(), "api_key": "sk-1"}, "'api_key' is no option of a call"),
        ({"model": ScriptedModel(), "temprature": 1}, "'temprature' is no option of a call"),
        ({"model": ScriptedModel(), "temperature": "hot"}, "temperature"),
        ({"model": ScriptedModel(), "extra_headers": {"Authorization": "sk-1"}}, "'extra_headers' contains a secret"),
        ({"model": 3}, "not int"),
        ({}, "not NoneType"),
        ({"model": "openai/gpt-4o", "api_key": "k", "temperature": "hot"}, "temperature"),
        ({"model": "bedrock/x", "use_responses_api": True}, "no Responses API"),
        ({"model": ScriptedModel(), "google_api_key": "sk-1"}, ": write api_key"),
    ],
)
def test_wrong_setting_is_refused_without_secrets(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(modelport.InvalidRequest, match=problem) as caught:
        ChatModelport(**settings)
    assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"max_retries": "3"}, "max_retries='3': must be an integer of at least 0"),
        ({"max_retries": True}, "max_retries=True: must be"),
        ({"max_retries": -1}, "max_retries=-1: must be"),
        ({"max_retries": 1, "retry": 2}, "both set 'retry'"),
        ({"base_url": "http://a/v1", "api_base": "http://b/v1"}, "both set 'api_base'"),
        ({"temperature": 1, "model_kwargs": {"temperature": 2}}, "both set 'temperature'"),
        ({"model_kwargs": 3}, "model_kwargs must be"),
        ({"model_kwargs": {"http_client": 3}}, "'http_client' is a setting of another chat model"),
        ({"stream_usage": False}, "stream_usage=False: modelport always"),
        ({"use_responses_api": "yes"}, "use_responses_api must be"),
        ({"anthropic_api_key": "sk-1"}, "'anthropic_api_key' .*: write api_key"),
        ({"openai_api_base": "http://a"}, "'openai_api_base' .*: write base_url"),
        ({"openai_organization": "o"}, ": write organization"),
        ({"openai_proxy": "http://a"}, "HTTPS_PROXY"),
        ({"stream_chunk_timeout": 3}, ": write idle_timeout"),
        ({"tiktoken_model_name": "x"}, "custom_get_token_ids"),
    ],
)
def test_wrong_setting_of_a_model_by_name_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(modelport.InvalidRequest, match=problem) as caught:
        ChatModelport(**{"model": "openai/gpt-4o", "api_key": "sk-1", **settings})
    assert "sk-1" not in str(caught.value)


UNSAVED = OpenAIServerModel("x", api_key=lambda: "k")


@pytest.mark.parametrize(
    "settings",
    [
        [{"model": OpenAIServerModel(name, api_key=lambda: "k")} for name in "xy"],
        [{"model": f"openai/{name}", "api_key": "k", "extra_headers": {"Authorization": "b"}} for name in "xy"],
        [{"model": UNSAVED, "temperature": temperature} for temperature in (0, 1)],
    ],
)
def test_models_that_cannot_be_saved_share_no_cached_response(settings: list[dict[str, Any]]) -> None:
    first, second = (ChatModelport(**values) for values in settings)
    assert first._get_llm_string() == first._get_llm_string() != second._get_llm_string()
    assert ChatModelport(**settings[0])._get_llm_string() != second._get_llm_string()


@pytest.mark.parametrize("key", ["", "  ", SecretStr(""), SecretStr("\n")])
def test_blank_key_is_refused(key: Any) -> None:
    with pytest.raises(modelport.AuthenticationError, match="No key was given"):
        ChatModelport(model="openai/gpt-4o", api_key=key)


@pytest.mark.parametrize("settings", [{"model": "openai/x", "api_key": "k"}, {"model": ScriptedModel()}])
def test_other_names_of_langchain_are_options(settings: dict[str, Any]) -> None:
    given = {"model_kwargs": {"top_p": 0.5}, "request_timeout": 3, "max_tokens_to_sample": 4, "stream_usage": True}
    chat = ChatModelport(**settings, **given)
    assert {**chat.model.kwargs, **chat.options} == {"top_p": 0.5, "timeout": 3, "max_tokens": 4}


@WAYS
def test_other_names_of_langchain_are_options_of_a_call(way: Callable[..., Any]) -> None:
    model = ScriptedModel("ok")
    way(ChatModelport(model=model).bind(model_kwargs={"top_p": 0.5}, max_tokens_to_sample=4, stream_usage=True), "hi")
    assert dict(model.requests[0].parameters) == {"top_p": 0.5, "max_tokens": 4}
    with pytest.raises(modelport.InvalidRequest, match="a call can't change 'base_url'"):
        way(ChatModelport(model=model).bind(base_url="http://a/v1"), "hi")


@pytest.mark.parametrize(("use_responses_api", "api"), [(True, "responses"), (False, "chat"), (None, "auto")])
def test_use_responses_api_chooses_the_api(use_responses_api: bool | None, api: str) -> None:
    chat = ChatModelport(model_name="openai/gpt-4o", api_key="k", use_responses_api=use_responses_api)
    assert chat.model.api == api and chat.model_name == "gpt-4o"


def test_configurable_model_is_refused_because_its_settings_would_be_lost() -> None:
    chat = ChatModelport(model=ScriptedModel("a", "b"), temperature=0.5)
    with pytest.raises(modelport.InvalidRequest, match="configurable_alternatives"):
        chat.configurable_fields(model=ConfigurableField(id="m"))
    try:
        other = chat.configurable_fields(options=ConfigurableField(id="o"))
    except PydanticUserError:  # LangChain can't configure any model with the oldest pydantic.
        assert version("pydantic").startswith("2.9.")
        return
    assert other.with_config(configurable={"o": {"temperature": 1}}).invoke("hi").text == "a"
    assert other.invoke("hi").text == "b"
    assert [request.parameters["temperature"] for request in chat.model.requests] == [1, 0.5]


SECRET = "sk-very-secret-0123456789"
UNREACHABLE = {"model": "openai/x", "base_url": "http://127.0.0.1:1/v1", "max_retries": 0}


def frames_with_the_secret(failing: Callable[[], Any]) -> list[str]:
    """Return the variables of all frames outside this file in whose `repr` a failing call leaves the secret."""
    found, errors = [], []
    with pytest.raises(Exception) as caught:
        failing()
    error: BaseException | None = caught.value
    while error is not None and error not in errors:
        errors.append(error)
        assert SECRET not in str(error)
        frames = [item[0] for item in traceback.walk_tb(error.__traceback__)]
        for frame in (frame for frame in frames if frame.f_code.co_filename != __file__):
            names = [name for name, value in frame.f_locals.items() if SECRET in repr(value)]
            found += [f"{frame.f_code.co_name} {name}" for name in names]
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "opnai/x", "api_key": SECRET},
        {"model": "openai/x", "api_key": SECRET, "bogus": object(), "retry": 0},
        {"model": "openai/x", "openai_api_key": SECRET},
        {"model": "openai/x", "api_key": SecretStr(SECRET), "retry": 0},
        {"model": "openai/x", "api_key": SECRET, "streaming": "sometimes"},
        {"model": 3, "api_key": SECRET},
        {"model": OpenAIServerModel("x", api_key="k"), "extra_headers": {"Authorization": SECRET}},
        {"model": OpenAIServerModel("x", api_key="k"), "options": {"api_key": SECRET}},
        {"model": "openai/x", "base_url": f"http://u:{SECRET}@host/v1", "api_key": "k"},
    ],
)
def test_refused_constructor_leaves_no_secret_in_frames(settings: dict[str, Any]) -> None:
    assert frames_with_the_secret(lambda: ChatModelport(**settings)) == []


@WAYS
@pytest.mark.parametrize("options", [{"extra_headers": {"x-any": SECRET}}, {"extra_body": {"api_key": SECRET}}])
def test_failed_call_leaves_no_secret_in_frames(way: Callable[..., Any], options: Any) -> None:
    chat = ChatModelport(api_key="k", **UNREACHABLE)
    assert frames_with_the_secret(lambda: way(chat.bind(**options), "hi")) == []
    if way is not events:  # A method that only passes its options to the others.
        assert frames_with_the_secret(lambda: way(chat, "hi", **options)) == []
        assert frames_with_the_secret(lambda: chat.batch(["hi"], **options)) == []


def test_cached_response_is_not_that_of_another_secret() -> None:
    cache = InMemoryCache()
    chat = ChatModelport(model=ScriptedModel("one", "two", "three"), cache=cache)
    users = ["a", "b", "a"]
    assert [chat.invoke("hi", extra_headers={"x-user": SECRET + user}).text for user in users] == ["one", "two", "one"]
    assert SECRET not in repr(cache._cache)


def test_model_is_not_changed_by_a_call() -> None:
    model = ScriptedModel("x")
    with pytest.raises(modelport.InvalidRequest, match="can't change the model"):
        ChatModelport(model=model).invoke("hi", model="other")
    assert not model.requests


def test_saved_chat_model_has_no_key_and_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatModelport(model="openai/gpt-4o", api_key="sk-secret", base_url="http://x.example/v1", max_retries=1)
    assert (chat.model.api_base, chat.model.retry) == ("http://x.example/v1", 2)
    own = ChatModelport(model=chat.model, temperature=0, stop=["x"], output_version="v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    for one in (chat, own):
        text = dumps(one) + repr(one) + str(one) + json.dumps(one._identifying_params) + repr(dumpd(one))
        assert "sk-secret" not in text and "sk-secret" not in pickle.dumps(one).decode("latin-1")
        loaded = load(dumpd(one), allowed_objects=[ChatModelport], valid_namespaces=["modelport"])
        assert (loaded.model.to_dict(), loaded.options) == (one.model.to_dict(), one.options)
        assert loaded.output_version == one.output_version
        saved = one.model_dump_json()
        assert "sk-secret" not in saved
        loaded = ChatModelport.model_validate_json(saved)
        assert (loaded.model.to_dict(), loaded.options) == (one.model.to_dict(), one.options)


def test_model_that_cannot_be_saved_is_not_saved() -> None:
    chat = ChatModelport(model=ScriptedModel("x"))
    chat.model.kwargs = {"extra_headers": {"Authorization": "sk-secret"}}
    saved = dumpd(chat)
    assert saved["type"] == "not_implemented" and "sk-secret" not in json.dumps(saved)


def test_callbacks_get_tokens_and_parameters_without_secrets() -> None:
    class Handler(BaseCallbackHandler):
        seen: list[Any]

        def __init__(self) -> None:
            self.seen = []

        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            self.seen.append(json.dumps([serialized, kwargs["invocation_params"], kwargs["metadata"]]))

        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            self.seen.append(token)

    handler = Handler()
    chat = ChatModelport(model=ScriptedModel("a b", temperature=0), streaming=True)
    bound = chat.bind(extra_headers={"Authorization": "sk-secret"})
    assert bound.invoke("hi", config={"callbacks": [handler]}).text == "a b"
    assert handler.seen[1:3] == ["a ", "b"] and "sk-secret" not in handler.seen[0]
    assert '"ls_model_name": "scripted"' in handler.seen[0] and '"ls_temperature": 0' in handler.seen[0]


def test_tokens_are_counted_by_the_model_or_the_callers_tokenizer() -> None:
    class Counting(ScriptedModel):
        def count_tokens(self, text: str) -> int:
            return len(text.split())

    assert ChatModelport(model=Counting()).get_num_tokens("a b c") == 3
    kept = trim_messages(
        [HumanMessage("a b c d e f"), HumanMessage("a b")], max_tokens=4, token_counter=ChatModelport(model=Counting())
    )
    assert [m.content for m in kept] == ["a b"]
    assert ChatModelport(model=ScriptedModel(), custom_get_token_ids=lambda text: [1, 2]).get_num_tokens("x") == 2
    with pytest.raises(modelport.UnsupportedFeature, match="custom_get_token_ids"):
        ChatModelport(model=ScriptedModel()).get_num_tokens("x")
    with pytest.raises(modelport.UnsupportedFeature, match="custom_get_token_ids"):
        ChatModelport(model=Counting()).get_token_ids("x")
    assert ChatModelport(model=ScriptedModel(), custom_get_token_ids=lambda text: [1, 2]).get_token_ids("x") == [1, 2]


def test_model_with_only_generate_works() -> None:
    class Own(modelport.Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
            return ChatMessage("assistant", "fine. And more")

    chat = ChatModelport(model=Own(), stop=["."])
    assert [way(chat, "hi").text for way in (invoke, stream, ainvoke, astream)] == ["fine"] * 4


def test_service_is_called_with_what_was_asked(server: FaultServer) -> None:
    server.script(then=lambda request: Fault.ok("Paris"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat = ChatModelport(model="openai/gpt-4o", base_url=server.base_url, api_key="k", temperature=0, max_retries=0)
        assert chat.invoke([("system", "Be short."), ("user", "Capital?")], seed=3).text == "Paris"
    body = server.requests[-1].json
    assert body["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Capital?"}]
    assert (body["temperature"], body["seed"]) == (0, 3)
    chat.model.close()
