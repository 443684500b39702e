"""A server in front of another one, which responds to a request itself or forwards it to another path.

It imitates services whose paths and keys no server with real weights has: Azure's deployments (`azure`), and Hugging
Face's router with the Hub's lookup of the providers of a model (`hub`).
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .process import HOST


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes

    @cached_property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Forward:
    """Forward the request to a path of the other server, with other headers; its response is returned unchanged."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    first_event: bytes = b""
    """An event that is sent before those of a stream."""


@dataclass(frozen=True)
class Respond:
    """Respond without asking the other server."""

    status: int
    json: Any


@dataclass(frozen=True)
class Front:
    """A running server."""

    url: str
    requests: list[ReceivedRequest]
    """The requests that arrived, oldest first."""


@contextlib.contextmanager
def front(upstream: str, decide: Callable[[ReceivedRequest], Forward | Respond]) -> Iterator[Front]:
    """Serve in front of another server.

    Args:
        upstream: The URL of the other server.
        decide: Decides for each request whether to forward it or to respond.

    Yields:
        The running server.
    """
    requests: list[ReceivedRequest] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            self.close_connection = True
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            request = ReceivedRequest(self.command, unquote(parts.path), query, headers, body)
            requests.append(request)
            decision = decide(request)
            if isinstance(decision, Forward):
                _forward(self.connection, upstream, request, decision)
                return
            content = json.dumps(decision.json).encode()
            self.send_response(decision.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="front", daemon=True)
    thread.start()
    try:
        yield Front(f"http://{HOST}:{server.server_port}", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _forward(client: socket.socket, upstream: str, request: ReceivedRequest, forward: Forward) -> None:
    """Forward a request on a new connection, and return the bytes of the response until either side closes."""
    parts = urlsplit(upstream)
    headers = {**forward.headers, "Host": parts.netloc, "Connection": "close", "Content-Length": str(len(request.body))}
    lines = [
        f"{request.method} {forward.path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
        "",
        "",
    ]
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection((parts.hostname or "", parts.port or 80)) as server,
    ):
        server.sendall("\r\n".join(lines).encode("latin-1") + request.body)
        buffered = b""
        head_sent = not forward.first_event
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if client in ready:  # A client sends nothing after its request: it has closed the connection.
                return
            data = server.recv(65536)
            if not head_sent:
                buffered, data = buffered + data, b""
                head, end, rest = buffered.partition(b"\r\n\r\n")
                if end:
                    head_sent, data = True, buffered
                    if b"text/event-stream" in head:
                        event = b"%x\r\n%s\r\n" % (len(forward.first_event), forward.first_event)
                        data = head + end + event + rest
                    client.sendall(data)
                    continue
                continue
            if not data:
                return
            client.sendall(data)


# --- Azure ------------------------------------------------------------------------------------------------------------

FIRST_CHUNK = {
    "id": "", "object": "", "created": 0, "model": "", "choices": [],
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
}  # fmt: skip


@contextlib.contextmanager
def azure(upstream: str, upstream_key: str, *, deployment: str, api_key: str, token: str = "") -> Iterator[Front]:
    """Serve an Azure OpenAI resource with one deployment, in front of a server of the chat completions API.

    As in Azure, the key is accepted as `api-key`, and by the v1 API also as a bearer token; Entra's tokens are accepted
    as bearer tokens. The deployments paths require an `api-version`, and the v1 API accepts none with a date. A stream
    begins with a chunk without choices. The Responses API is beside the deployments, whose name is then in the body.

    Args:
        upstream: The URL of the other server.
        upstream_key: The key of the other server.
        deployment: The name of the deployment.
        api_key: The key of the resource.
        token: The Entra token that is accepted, if any.

    Yields:
        The running server.
    """

    def refusal(status: int, code: str, message: str) -> Respond:
        return Respond(status, {"error": {"code": code, "message": message}})

    def decide(request: ReceivedRequest) -> Forward | Respond:
        is_v1 = request.path.startswith("/openai/v1/")
        bearers = {f"Bearer {key}" for key in (token, api_key if is_v1 else "") if key}
        if request.headers.get("api-key") != api_key and request.headers.get("authorization") not in bearers:
            return refusal(401, "401", "Access denied due to invalid subscription key or wrong API endpoint.")
        version = request.query.get("api-version", "")
        is_responses = request.path == f"/openai{'/v1' * is_v1}/responses"
        if is_responses:
            name = request.json["model"]
            known = version in ("", "v1", "preview") if is_v1 else version >= "2025-03-01-preview"
        elif is_v1:
            name, known = request.json["model"], version in ("", "v1", "preview")
            known = known and request.path == "/openai/v1/chat/completions"
        else:
            name = request.path.removeprefix("/openai/deployments/").removesuffix("/chat/completions")
            known = version[:1].isdigit() and request.path == f"/openai/deployments/{name}/chat/completions"
        if not known:
            return refusal(404, "404", "Resource not found")
        if name != deployment:
            return refusal(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        headers = {"Authorization": f"Bearer {upstream_key}", "Content-Type": "application/json"}
        if is_responses:
            return Forward("/v1/responses", headers)
        return Forward("/v1/chat/completions", headers, f"data: {json.dumps(FIRST_CHUNK)}\n\n".encode())

    with front(upstream, decide) as running:
        yield running


# --- Hugging Face -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hub(upstream: str, upstream_key: str, *, token: str, providers: Mapping[str, str]) -> Iterator[Front]:
    """Serve the Hub (`HF_ENDPOINT`) and its router, in front of a server of the chat completions API.

    Args:
        upstream: The URL of the other server.
        upstream_key: The key of the other server.
        token: The token of the user.
        providers: The path of chat completions for each provider.

    Yields:
        The running server.
    """

    def decide(request: ReceivedRequest) -> Forward | Respond:
        if request.path.startswith("/api/models/"):
            if request.path.endswith("nonesuch"):
                return Respond(404, {"error": "Repository not found"})
            mapping = {
                name: {"providerId": f"{name}/the-model", "status": "live", "task": "conversational"}
                for name in providers
            }
            return Respond(200, {"id": request.path.removeprefix("/api/models/"), "inferenceProviderMapping": mapping})
        if request.headers.get("authorization") != f"Bearer {token}":
            return Respond(401, {"error": "Invalid username or password."})
        if request.path != "/v1/chat/completions" and request.path not in providers.values():
            return Respond(404, {"error": "Not Found"})
        headers = {"Authorization": f"Bearer {upstream_key}", "Content-Type": "application/json"}
        return Forward("/v1/chat/completions", headers)

    with front(upstream, decide) as running:
        yield running
