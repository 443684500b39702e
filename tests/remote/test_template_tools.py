"""Servers of llama.cpp whose chat template has no tools: they drop tools, so the tools go into the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from tests.remote.chat_backends import model_for
from tests.remote.matrix_runner import ask
from tests.servers.faults import Call, Fault, FaultServer

TOOL = {"name": "f", "description": "Does it.", "parameters": {"type": "object", "properties": {}}}
RENDER = "/apply-template"
IN_TEXT = Fault.ok('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')


class LlamaServer(FaultServer):
    """A server whose script applies to the rendering of prompts too."""

    paths: ClassVar[tuple[str, ...]] = ("/chat/completions", RENDER)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with LlamaServer() as server:
        yield server


def rendered(prompt: str) -> Fault:
    return Fault(content=json.dumps({"prompt": prompt}).encode(), never_streams=True)


@pytest.mark.parametrize("way", ["sync", "async streamed"])
@pytest.mark.parametrize("transport", ["openai", "openai-sdk", "huggingface"])
def test_tools_go_into_the_prompt_if_the_template_drops_them(server: FaultServer, transport: str, way: str) -> None:
    server.script([rendered("<|im_start|>user\n?"), IN_TEXT, IN_TEXT])
    model = model_for(server, transport, dialect="llama.cpp")
    for _ in range(2):
        message: Any = ask(model, way, tools=[TOOL])
        assert [call.function.name for call in message.tool_calls] == ["f"]
        assert any(warning.feature == "tools" for warning in message.warnings)
    assert [request.target.endswith(RENDER) for request in server.requests] == [True, False, False]
    assert all("tools" not in request.json for request in server.requests[1:])


@pytest.mark.parametrize(
    "answer",
    [rendered('[{"name": "modelport_looks_for_this_tool"}]'), Fault.status(404), Fault.status(501), rendered("")],
    ids=["has tools", "404", "501", "empty"],
)
def test_server_is_asked_once_whatever_it_answers(server: FaultServer, answer: Fault) -> None:
    is_empty = b'"prompt": ""' in (answer.content or b"")
    server.script([answer, *([IN_TEXT] * 2 if is_empty else [Fault.tools(Call("f", "{}"))] * 2)])
    model = model_for(server, dialect="llama.cpp")
    for _ in range(2):
        assert ask(model, "sync", tools=[TOOL]).tool_calls
    assert [request.target.endswith(RENDER) for request in server.requests] == [True, False, False]
    assert all(("tools" in request.json) is not is_empty for request in server.requests[1:])


def test_server_is_not_asked_without_need(server: FaultServer) -> None:
    calls = Fault.tools(Call("f", "{}"))
    server.script([Fault.ok("Paris"), calls, calls])
    ask(model_for(server, dialect="llama.cpp"), "sync")
    ask(model_for(server, dialect="llama.cpp", capabilities={"tools": True}), "sync", tools=[TOOL])
    ask(model_for(server, dialect="vllm"), "sync", tools=[TOOL])
    assert len(server.requests) == 3
