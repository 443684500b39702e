"""Servers that no table knows are asked once of which kind they are, before the first call that depends on it."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from modelport import ChatMessage, Lark, OpenAIServerModel
from modelport.errors import ModelError, UnsupportedFeature
from modelport.remote.server_kind import beside_api
from tests.remote.chat_backends import model_for
from tests.remote.matrix_runner import KEY, ask
from tests.servers.faults import Call, Connection, Fault, FaultServer, Recorded

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"name": "f", "description": "Does it.", "parameters": {"type": "object", "properties": {}}}
PROPS = {"default_generation_settings": {"n_ctx": 9}, "chat_template": "{{ messages }}", "build_info": "b7000-abc"}
OF_VLLM = {"/version": {"version": "0.32.0"}, "/v1/models": {"data": [{"id": "m", "owned_by": "vllm"}]}}
HTML = Fault(headers={"Content-Type": "text/html"}, content=b"<!doctype html><p>Hello")


class KindServer(FaultServer):
    """A server that answers GET requests by a table, and records them."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: Mapping[str, Any] = {}
        self.gets: list[Recorded] = []

    async def _respond(self, connection: Connection, request: Recorded) -> bool:
        if request.method != "GET":
            return await super()._respond(connection, request)
        self.gets.append(request)
        page = self.pages.get(request.target, Fault.status(404))
        return await connection.respond(
            request, page if isinstance(page, Fault) else Fault(content=json.dumps(page).encode())
        )

    @property
    def asked(self) -> list[str]:
        return [request.target for request in self.gets]


@pytest.fixture
def server() -> Iterator[KindServer]:
    with KindServer() as server:
        yield server


@pytest.mark.parametrize("way", ["sync", "async streamed"])
@pytest.mark.parametrize("transport", ["openai", "openai-sdk", "huggingface"])
def test_llama_cpp_server_gets_its_own_grammars(server: KindServer, transport: str, way: str) -> None:
    server.pages = {"/props": PROPS}
    server.script(then=Fault.ok('{"a": 1}'))
    model = model_for(server, transport)
    for _ in range(2):
        message: Any = ask(model, way, response_format=SCHEMA)
        assert (message.parsed, message.enforcement) == ({"a": 1}, "enforced")
    assert server.asked == ["/props"]
    assert all("grammar" in request.json for request in server.requests)


@pytest.mark.parametrize("way", ["sync", "async streamed"])
@pytest.mark.parametrize("transport", ["openai", "openai-sdk", "huggingface"])
def test_vllm_server_gets_its_own_grammars(server: KindServer, transport: str, way: str) -> None:
    server.pages = OF_VLLM
    server.script(then=Fault.ok("yes"))
    message: Any = ask(model_for(server, transport), way, grammar={"type": "regex", "value": "yes|no"})
    assert message.enforcement == "enforced"
    assert server.asked == ["/props", "/version", "/v1/models"]
    assert server.requests[0].json["structured_outputs"] == {"regex": "yes|no"}


OTHERS = {
    "404": {},
    "501": {"/props": Fault.status(501), "/version": Fault.status(501)},
    "web pages": {"/props": HTML, "/version": HTML},
    "hanging": {"/props": Fault.silence()},
    "reset": {"/props": Fault.reset()},
    "huge": {"/props": Fault(content=b" " * 2**24 + b"  ")},
    "wrong key": {"/props": Fault.status(401), "/version": Fault.status(401)},
    "list": {"/props": [], "/version": []},
    "props of another server": {"/props": {"chat_template": "", "default_generation_settings": {}}},
    "models that are no list": {"/version": {"version": "1.2"}, "/v1/models": {"data": 5}},
    "version of another server": {"/version": {"version": "1.2"}, "/v1/models": {"data": [{"owned_by": "sglang"}, 1]}},
}


@pytest.mark.parametrize("pages", OTHERS.values(), ids=OTHERS)
def test_other_server_is_asked_once_and_no_call_fails(
    server: KindServer, pages: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if pages == OTHERS["hanging"]:
        monkeypatch.setattr("modelport.remote.server_kind.PROBE_TIMEOUT", 0.1)
    server.pages = pages
    server.script(then=Fault.tools(Call("f", "{}")))
    model = model_for(server)
    assert ask(model, "sync", tools=[TOOL]).tool_calls
    asked = list(server.asked)
    assert ask(model, "async streamed", tools=[TOOL]).tool_calls
    assert server.asked == asked
    assert asked[0] == "/props"
    assert all(request.json["tools"][0]["function"]["name"] == "f" for request in server.requests)


def test_question_leaves_half_of_the_time_to_the_call(server: KindServer) -> None:
    server.pages = {"/props": Fault.silence()}
    server.script(then=Fault.tools(Call("f", "{}")))
    assert ask(model_for(server, timeout=0.4), "sync", tools=[TOOL]).tool_calls


def test_server_is_not_asked_without_need(server: KindServer) -> None:
    server.pages = {"/props": PROPS}
    ask(model_for(server), "sync")
    for settings in ({"dialect": "openai"}, {"dialect": "vllm"}):
        server.script(then=Fault.tools(Call("f", "{}")))
        ask(model_for(server, **settings), "sync", tools=[TOOL])
    ask(model_for(server, "azure"), "sync", tools=[TOOL])
    assert server.asked == []


@pytest.mark.parametrize("address", ["https://api.openai.com/v1", "https://api.groq.com/openai/v1"])
def test_known_service_is_not_asked(address: str) -> None:
    assert not OpenAIServerModel("m", address, KEY)._may_identify
    assert OpenAIServerModel("m", "http://10.0.0.1/v1", KEY)._may_identify


def test_error_names_the_dialect(server: KindServer) -> None:
    server.pages = OF_VLLM
    server.script(then=Fault.status(400, message="grammar error"))
    model = model_for(server)
    with pytest.raises(ModelError, match=r"grammar error.*it is vllm.*dialect='openai'"):
        ask(model, "sync", grammar=Lark("start: /a/"))
    server.pages = {}
    with pytest.raises(UnsupportedFeature, match="dialect="):
        ask(model_for(server), "sync", grammar=Lark("start: /a/"))


def test_what_was_observed_before_still_holds(server: KindServer) -> None:
    server.pages = {"/props": PROPS}
    server.script([Fault.status(400, message="Unsupported parameter: 'stop'", code="unsupported_parameter",
                                param="stop")], then=Fault.ok('{"a": 1}'))  # fmt: skip
    model = model_for(server)
    with pytest.warns(UserWarning, match="stop"):
        ask(model, "sync", stop_sequences=["!"])
    ask(model, "sync", stop_sequences=["!"], response_format=SCHEMA)
    assert ("stop" in server.requests[-1].json, "grammar" in server.requests[-1].json) == (False, True)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://a:8080/v1", "/props"),
        ("http://a:8080/v1/", "/props"),
        ("http://a", "/props"),
        ("http://a/models/b/v1", "/models/b/props"),
        ("http://a/b/v1/chat/completions", "/b/props"),
        (None, "/props"),
    ],
)
def test_path_beside_the_api_is_below_the_proxys_prefix(url: str | None, path: str) -> None:
    assert beside_api(url, "/props") == path


def test_mistake_of_the_caller_does_not_name_the_dialect(server: KindServer) -> None:
    server.pages = {"/props": PROPS}
    server.script(then=Fault.ok('{"a": 1}'))
    model = model_for(server)
    ask(model, "sync", response_format=SCHEMA)
    with pytest.raises(ModelError) as caught:
        ask(model, "sync", response_format=SCHEMA, temprature=1)
    assert "llama.cpp" not in str(caught.value)


@pytest.mark.parametrize("settings", [{}, {"dialect": "llama.cpp"}], ids=["unknown", "llama.cpp"])
def test_several_first_calls_ask_once(server: KindServer, settings: Mapping[str, Any]) -> None:
    def respond(request: Recorded) -> Fault:
        is_render = request.target == "/apply-template"
        rendered = Fault(content=b'{"prompt": "no tools"}', never_streams=True)
        return rendered if is_render else Fault.ok('<tool_call>{"name": "f", "arguments": {}}</tool_call>')

    server.paths = ("/chat/completions", "/apply-template")  # type: ignore[misc]
    server.pages = {"/props": PROPS}
    server.script(then=respond)
    model = model_for(server, **settings)

    async def calls() -> list[ChatMessage]:
        return await asyncio.gather(*(model.agenerate("?", tools=[TOOL]) for _ in range(5)))

    messages = asyncio.run(calls())
    assert [[warning.feature for warning in message.warnings] for message in messages] == [["tools"]] * 5
    assert server.asked == ([] if settings else ["/props"])
    assert [request.target for request in server.requests].count("/apply-template") == 1


def test_call_that_is_cancelled_while_it_asks_lets_another_ask(server: KindServer) -> None:
    server.pages = {"/props": Fault.silence()}
    server.script(then=Fault.tools(Call("f", "{}")))
    model = model_for(server)

    async def calls() -> ChatMessage:
        first = asyncio.ensure_future(model.agenerate("?", tools=[TOOL]))
        while not server.gets:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        second = asyncio.ensure_future(model.agenerate("?", tools=[TOOL]))
        server.pages = {}
        await asyncio.sleep(0.01)
        first.cancel()
        return await second

    assert asyncio.run(calls()).tool_calls
    assert server.asked == ["/props", "/props", "/version"]
    assert pickle.loads(pickle.dumps(model)).model_id == model.model_id
