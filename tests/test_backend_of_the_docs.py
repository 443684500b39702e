"""The backend that docs/backends.md teaches, on a server with faults: what the page teaches must be right.

No server of others makes these faults, so a scripted one does. The conformance checks of the backend, on llama.cpp's
server, are in `test_docs`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelport import FallbackModel, Model
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.layers.retry import RetryPolicy
from modelport.testing import ScriptedModel

PAGE = Path(__file__).parents[1] / "docs" / "backends.md"
LAST: dict[str, Any] = {
    "content": "", "stop": True, "stop_type": "eos", "stopping_word": "", "tokens_predicted": 1,
    "timings": {"cache_n": 0, "prompt_n": 3},
}  # fmt: skip


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


OK = (200, event({"content": "Paris"}) + event(LAST))


class Server(ThreadingHTTPServer):
    """Responds to requests for a completion with prepared responses; the last one is repeated."""

    responses: list[tuple[int, bytes]]
    requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = 200, b'{"prompt": "?"}'
        if self.path == "/completion":
            self.server.requests += 1
            status, body = self.server.responses[min(self.server.requests, len(self.server.responses)) - 1]
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
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def docs_model(url: str, **settings: Any) -> Model:
    (code,) = re.findall(r'```python title="llama_server.py"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "llama_server"}
    exec(code, names)
    return names["LlamaServerModel"](url=url, retry=RetryPolicy(base=0), **settings)  # type: ignore[no-any-return]


def test_refusal_for_too_many_requests_is_retried(server: Server) -> None:
    server.responses = [(429, b'{"error": {"message": "Slow down"}}'), OK]
    assert docs_model(server.url).generate("?").content == "Paris"
    assert server.requests == 2


def test_refusal_for_too_many_requests_leads_to_the_next_model(server: Server) -> None:
    server.responses = [(429, b"Slow down")]
    model = FallbackModel([docs_model(server.url), ScriptedModel("Rome")])
    assert model.generate("?").content == "Rome"
    assert server.requests == 3


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
        ((200, b""), MalformedResponse),
    ],
    ids=[
        "429", "401", "400", "too long", "503", "broken JSON", "missing key", "error event 503", "error event 429",
        "empty",
    ],
)  # fmt: skip
def test_fault_is_its_error(server: Server, response: tuple[int, bytes], expected: type[ModelError], way: str) -> None:
    server.responses = [response]
    model = docs_model(server.url)
    with pytest.raises(ModelError) as raised:
        if way == "sync":
            model.generate("?")
        else:
            list(model.generate_stream("?"))
    assert type(raised.value) is expected
    assert server.requests == (3 if expected in (RateLimited, ServerError) else 1)


@pytest.mark.parametrize("rest", [event(b"{broken"), event({"error": {"code": 500, "message": "gone"}}), b""])
def test_fault_in_mid_stream_hands_over_what_had_arrived(server: Server, rest: bytes) -> None:
    server.responses = [(200, event({"content": "Par"}) + rest)]
    with pytest.raises(StreamInterrupted) as raised:
        list(docs_model(server.url).generate_stream("?"))
    assert raised.value.partial is not None and raised.value.partial.content == "Par"


def test_server_that_is_not_there_is_a_failed_connection() -> None:
    with pytest.raises(ConnectionFailed):
        docs_model("http://127.0.0.1:9").generate("?")
