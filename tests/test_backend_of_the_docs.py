"""The backends that docs/backends.md teaches, on a server with faults: what the page teaches must be right.

No server of others makes these faults, so a scripted one does. The conformance checks of the backends, on llama.cpp's
server, are in `test_docs`.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import modelport
from modelport import Capabilities, ChatMessageStreamDelta, FallbackModel, Model, Request, TokenUsage, load_model
from modelport.backend import errors
from modelport.cli.commands import cli
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContextWindowExceeded,
    InvalidRequest,
    InvalidToolCall,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
    StreamInterrupted,
    UnsupportedFeature,
)
from modelport.inputs.parameters import KNOWN_PARAMETERS
from modelport.layers.retry import RetryPolicy
from modelport.testing import ScriptedModel
from modelport.testing.checks.images import solid_png
from modelport.testing.checks.runtime import EXPECTED_ERRORS

PAGE = (Path(__file__).parents[1] / "docs" / "backends.md").read_text()
#: The backends of the page: the file of each, and its class.
BACKENDS = {"minimal": ("text_chat.py", "TextChatModel"), "complete": ("chat_server.py", "ChatServerModel")}


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def choice(finish_reason: str | None = None, **delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


def tool_call(index: int, arguments: str, **first: Any) -> bytes:
    """Return the event with a piece of a tool call; the first piece has the `id` and the `name`."""
    function = {"arguments": arguments} | ({"name": first.pop("name")} if first else {})
    return choice(tool_calls=[{"index": index, **first, "function": function}])


USAGE = event({
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
})  # fmt: skip
END = USAGE + event(b"[DONE]")
OK = (200, choice(role="assistant", content=None) + choice(content="Paris") + choice("stop") + END)


class Server(ThreadingHTTPServer):
    """Responds with prepared responses; the last one is repeated."""

    responses: list[tuple[int, bytes]]
    headers: list[dict[str, str]]
    bodies: list[Any]

    @property
    def api_base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.headers.append(dict(self.headers))
        status, body = self.server.responses[min(len(self.server.bodies), len(self.server.responses)) - 1]
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.responses, server.headers, server.bodies = [OK], [], []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def page_block(title: str) -> str:
    """Return the code of the page's block with this title."""
    (code,) = re.findall(rf'```python title="{title}"\n(.*?)```', PAGE, re.DOTALL)
    return str(code)


def docs_model(backend: str, api_base: str, **settings: Any) -> Model:
    file, class_name = BACKENDS[backend]
    names: dict[str, Any] = {"__name__": file.removesuffix(".py")}
    exec(page_block(file), names)
    return names[class_name](api_base=api_base, retry=RetryPolicy(base=0), **settings)  # type: ignore[no-any-return]


both_backends = pytest.mark.parametrize("backend", BACKENDS)

# --- faults -----------------------------------------------------------------------------------------------------------


@both_backends
def test_refusal_for_too_many_requests_is_retried(backend: str, server: Server) -> None:
    server.responses = [(429, b'{"error": {"message": "Slow down"}}'), OK]
    assert docs_model(backend, server.api_base).generate("?").content == "Paris"
    assert len(server.bodies) == 2


@both_backends
def test_refusal_for_too_many_requests_leads_to_the_next_model(backend: str, server: Server) -> None:
    server.responses = [(429, b"Slow down")]
    model = FallbackModel([docs_model(backend, server.api_base), ScriptedModel("Rome")])
    assert model.generate("?").content == "Rome"
    assert len(server.bodies) == 3


@both_backends
@pytest.mark.parametrize("way", ["sync", "streamed"])
@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ((429, b"Slow down"), RateLimited),
        ((401, b"Wrong key"), AuthenticationError),
        ((400, b"No such sampler"), InvalidRequest),
        ((400, b'{"error": {"type": "exceed_context_size_error"}}'), ContextWindowExceeded),
        ((503, b"<title>Busy</title>"), ServerError),
        ((200, event(b"{broken")), MalformedResponse),
        ((200, event({"text": "Paris"})), MalformedResponse),
        ((200, event({"error": {"code": 503, "message": "No slot"}})), ServerError),
        ((200, event({"error": {"code": 429, "message": "Slow down"}})), RateLimited),
        ((200, event({"error": "out of memory"})), ServerError),
        ((200, b""), MalformedResponse),
        ((200, b"<title>Login</title>"), MalformedResponse),
    ],
    ids=[
        "429", "401", "400", "too long", "503", "broken JSON", "missing key", "error event 503", "error event 429",
        "error event with text", "empty", "web page",
    ],
)  # fmt: skip
def test_fault_is_its_error(
    backend: str, server: Server, response: tuple[int, bytes], expected: type[ModelError], way: str
) -> None:
    server.responses = [response]
    model = docs_model(backend, server.api_base)
    with pytest.raises(ModelError) as raised:
        if way == "sync":
            model.generate("?")
        else:
            list(model.generate_stream("?"))
    assert type(raised.value) is expected
    assert len(server.bodies) == (3 if expected in (RateLimited, ServerError) else 1)


@both_backends
@pytest.mark.parametrize(
    ("rest", "cause", "attempts"),
    [
        (event(b"{broken"), MalformedResponse, 1),
        (event({"error": {"code": 500, "message": "gone"}}), ServerError, 3),
        (b"", MalformedResponse, 1),
    ],
    ids=["broken JSON", "error event", "end"],
)
def test_fault_after_output_raises_what_the_page_says(
    backend: str, server: Server, rest: bytes, cause: type[ModelError], attempts: int
) -> None:
    """A stream raises `StreamInterrupted` without a retry. Another call is retried, and raises the error itself."""
    server.responses = [(200, choice(content="Par") + rest)]
    model = docs_model(backend, server.api_base)
    with pytest.raises(StreamInterrupted) as interrupted:
        list(model.generate_stream("?"))
    assert type(interrupted.value.__cause__) is cause
    assert len(server.bodies) == 1
    with pytest.raises(cause) as raised:
        model.generate("?")
    assert len(server.bodies) == 1 + attempts
    for error in (interrupted.value, raised.value):
        assert error.partial is not None and error.partial.content == "Par"


@both_backends
@pytest.mark.parametrize("error", [{"code": 500, "message": "No slot"}, "No slot"], ids=["object", "text"])
def test_message_of_error_event_quotes_the_service(backend: str, server: Server, error: Any) -> None:
    server.responses = [(200, event({"error": error}))]
    with pytest.raises(ServerError, match=r"The service failed: No slot( \(HTTP 500\))?\. \(model: default\)$"):
        docs_model(backend, server.api_base).generate("?")


@both_backends
def test_line_of_a_megabyte_is_read(backend: str, server: Server) -> None:
    """aiohttp's own limit is 512 KiB."""
    text = "x" * 2**20
    server.responses = [(200, choice(content=text) + choice("stop") + END)]
    assert docs_model(backend, server.api_base).generate("?").content == text


@both_backends
def test_server_that_is_not_there_is_a_failed_connection(backend: str) -> None:
    with pytest.raises(ConnectionFailed):
        docs_model(backend, "http://127.0.0.1:9/v1").generate("?")


# --- requests and responses -------------------------------------------------------------------------------------------

WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIME = {**WEATHER, "name": "get_time", "description": "Tells the time in a city."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@both_backends
def test_message_has_text_finish_reason_and_usage(backend: str, server: Server) -> None:
    message = docs_model(backend, server.api_base).generate("?", stop_sequences=["!"], max_tokens=9)
    assert (message.content, message.finish_reason) == ("Paris", "stop")
    assert message.token_usage == TokenUsage(7, 2, 3 if backend == "complete" else None)
    (body,) = server.bodies
    assert (body["stop"], body["max_tokens"]) == (["!"], 9)


def test_minimal_backend_gets_tools_and_schemas_in_its_prompt(server: Server) -> None:
    model = docs_model("minimal", server.api_base)
    call = '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>'
    server.responses = [(200, choice(content=call) + choice("stop") + END)]
    message = model.generate("?", tools=[WEATHER])
    assert message.tool_calls and message.tool_calls[0].function.arguments == {"city": "Rome"}
    server.responses = [(200, choice(content='{"city": "Rome"}') + choice("stop") + END)]
    assert model.generate("?", grammar=SCHEMA).parsed == {"city": "Rome"}
    assert "get_weather" in server.bodies[0]["messages"][0]["content"]
    assert not {"tools", "response_format"} & {key for body in server.bodies for key in body}


def test_minimal_backend_refuses_images(server: Server) -> None:
    part = {"type": "image", "image": solid_png((1, 2, 3))}
    with pytest.raises(UnsupportedFeature):
        docs_model("minimal", server.api_base).generate([{"role": "user", "content": [part]}])
    assert server.bodies == []


@pytest.mark.parametrize(
    ("tool_choice", "expected", "sent"),
    [
        ("auto", "auto", [WEATHER, TIME]),
        ("required", "required", [WEATHER, TIME]),
        ("none", "none", [WEATHER, TIME]),
        ("get_time", "required", [TIME]),
    ],
)
def test_complete_backend_sends_tools(server: Server, tool_choice: str, expected: str, sent: list[Any]) -> None:
    name = "get_time" if tool_choice == "get_time" else "get_weather"
    if tool_choice in ("required", "get_time"):
        server.responses = [(200, tool_call(0, '{"city": "Rome"}', id="c1", name=name) + choice("tool_calls") + END)]
    docs_model("complete", server.api_base).generate("?", tools=[WEATHER, TIME], tool_choice=tool_choice)
    (body,) = server.bodies
    assert body["tool_choice"] == expected
    assert body["tools"] == [{"type": "function", "function": tool} for tool in sent]


def test_complete_backend_streams_pieces_of_tool_calls(server: Server) -> None:
    pieces = [
        tool_call(0, "", id="c1", name="get_weather"), tool_call(0, '{"city": '), tool_call(0, '"Paris"}'),
        tool_call(1, '{"city"', id="c2", name="get_weather"), tool_call(1, ': "Rome"}'),
    ]  # fmt: skip
    server.responses = [(200, b"".join(pieces) + choice("tool_calls") + END)]
    model = docs_model("complete", server.api_base)
    with model.generate_stream("?", tools=[WEATHER]) as stream:
        deltas = list(stream)
    received = [
        (piece.index, piece.function.arguments)
        for delta in deltas for piece in delta.tool_calls or () if piece.function is not None
    ]  # fmt: skip
    assert received == [(0, ""), (0, '{"city": '), (0, '"Paris"}'), (1, '{"city"'), (1, ': "Rome"}')]
    for message in (stream.message, model.generate("?", tools=[WEATHER])):
        assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()] == [
            ("c1", "get_weather", {"city": "Paris"}), ("c2", "get_weather", {"city": "Rome"}),
        ]  # fmt: skip
        assert message.finish_reason == "tool_calls"


def test_complete_backend_sends_calls_and_results_back(server: Server) -> None:
    server.responses = [(200, tool_call(0, '{"city": "Rome"}', id="c1", name="get_weather") + choice("tool_calls")), OK]
    model = docs_model("complete", server.api_base)
    calling = model.generate("?", tools=[WEATHER])
    result = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    model.generate([{"role": "user", "content": "?"}, calling, result])
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    assert server.bodies[1]["messages"] == [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        result,
    ]


@pytest.mark.parametrize("arguments", ['{"city": "Pa', '{"town": "Paris"}'], ids=["truncated", "wrong"])
def test_unusable_arguments_raise_with_their_text(server: Server, arguments: str) -> None:
    server.responses = [(200, tool_call(0, arguments, id="c1", name="get_weather") + choice("tool_calls") + END)]
    with pytest.raises(InvalidToolCall) as raised:
        docs_model("complete", server.api_base).generate("?", tools=[WEATHER])
    assert raised.value.text == arguments


def test_fault_inside_a_tool_call_hands_over_the_call_so_far(server: Server) -> None:
    server.responses = [(200, tool_call(0, '{"city": ', id="c1", name="get_weather"))]
    with pytest.raises(StreamInterrupted) as raised:
        list(docs_model("complete", server.api_base).generate_stream("?", tools=[WEATHER]))
    calls = raised.value.partial.tool_calls
    assert calls and len(calls) == 1
    call = calls[0]
    assert (call.id, call.function.name, call.function.arguments) == ("c1", "get_weather", '{"city": ')


def test_complete_backend_sends_images_as_data_urls(server: Server) -> None:
    png = solid_png((1, 2, 3))
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "image": png}]
    docs_model("complete", server.api_base).generate([{"role": "user", "content": parts}])
    text, image = server.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    head, _, payload = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(payload) == png


def test_complete_backend_separates_reasoning(server: Server) -> None:
    reasoning = choice(reasoning_content="Six times ") + choice(reasoning_content="seven.")
    server.responses = [(200, reasoning + choice(content="42") + choice("stop") + END)]
    model = docs_model("complete", server.api_base)
    with model.generate_stream("?", reasoning_budget=64) as stream:
        deltas = list(stream)
    assert [delta.reasoning for delta in deltas if delta.reasoning] == ["Six times ", "seven."]
    assert (stream.message.content, stream.message.reasoning) == ("42", "Six times seven.")
    model.generate("?", reasoning_effort="none")
    model.generate("?", reasoning_effort="low")
    first, second, third = server.bodies
    assert first["thinking_budget_tokens"] == 64 and "reasoning_budget" not in first
    assert second["chat_template_kwargs"] == {"enable_thinking": False} and "reasoning_effort" not in second
    assert third["thinking_budget_tokens"] > 0


def test_complete_backend_sends_the_schema(server: Server) -> None:
    server.responses = [(200, choice(content='{"city": "Rome"}') + choice("stop") + END)]
    message = docs_model("complete", server.api_base).generate("?", grammar=SCHEMA)
    assert (message.parsed, message.enforcement) == ({"city": "Rome"}, "enforced")
    assert server.bodies[0]["response_format"]["json_schema"] == {"name": "answer", "schema": SCHEMA}


def test_complete_backend_sends_its_key_and_stores_only_the_variable(server: Server) -> None:
    model = docs_model("complete", server.api_base, api_key="sk-docs-1234567890")
    model.generate("?")
    assert server.headers[0]["Authorization"] == "Bearer sk-docs-1234567890"
    assert model.to_dict()["api_key"] == {"env": "CHAT_SERVER_KEY"}
    docs_model("complete", server.api_base).generate("?")
    assert "Authorization" not in server.headers[1]


# --- the rest of the page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "cls"),
    [
        ("| field of `Request` ", Request),
        ("| field of a delta ", ChatMessageStreamDelta),
        ("| capability ", Capabilities),
    ],
    ids=["Request", "delta", "Capabilities"],
)
def test_table_explains_every_field(head: str, cls: type) -> None:
    table = PAGE[PAGE.index(head) :].partition("\n\n")[0]
    explained = re.findall(r"^\| `(\w+)` \| .*\w", table, re.MULTILINE)
    assert sorted(explained) == sorted(item.name for item in fields(cls))


def test_page_names_every_parameter_of_every_backend() -> None:
    (sentence,) = re.findall(r"These names may come in `parameters` for every backend: (.*?)\.", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", sentence)) == KNOWN_PARAMETERS


def test_page_names_every_fault_of_a_subject() -> None:
    (sentence,) = re.findall(r"Their names are (.*?)\.", PAGE, re.DOTALL)
    assert re.findall(r"`(\w+)`", sentence) == [*EXPECTED_ERRORS]


def test_module_errors_shows_only_errors_and_from_status() -> None:
    public = {
        name
        for name, kind in vars(modelport.errors).items()
        if isinstance(kind, type) and issubclass(kind, ModelError) and not name.startswith("_")
    }
    assert set(dir(errors)) == set(errors.__all__) == {*public, "from_status"}


def test_registered_backend_can_be_loaded_and_is_listed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is installed as by pip: its modules, and a dist-info with the entry point of the page."""
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    ((group, points),) = tomllib.loads(block)["project"]["entry-points"].items()
    ((name, entry_point),) = points.items()
    (tmp_path / "your_package").mkdir()
    (tmp_path / "your_package" / "chat_server.py").write_text(page_block("chat_server.py"))
    info = tmp_path / "your_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: your-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {entry_point}\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert load_model(f"{name}/my-model", api_base=server.api_base).generate("?").content == "Paris"
        assert server.bodies[0]["model"] == "my-model"
        assert re.search(rf"{name}\b.*ChatServerModel", CliRunner().invoke(cli, ["models"]).stdout)
        result = CliRunner().invoke(cli, ["-m", f"{name}/my-model", "--api-base", server.api_base, "Hello"])
        assert result.stdout == "Paris\n", result.output
        arguments = ["check", f"{name}/my-model", "--api-base", server.api_base, "--only", "generate"]
        assert CliRunner().invoke(cli, arguments).stdout.endswith("my-model: passed 1\n")
    finally:
        for module in ("your_package", "your_package.chat_server"):
            sys.modules.pop(module, None)
