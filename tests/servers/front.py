"""A server in front of another one: it looks at each request, and answers it itself or passes it on to another path.

For services whose paths and keys no server with real weights has: Azure's deployments (`azure`), and Hugging Face's
router with the Hub's own answer to where a provider has a model (`hub`).
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
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class PassOn:
    """To this path of the other server, with these headers instead of the request's; its answer goes back as it is."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    first_event: bytes = b""
    """Put before a stream's own events."""


@dataclass(frozen=True)
class Answer:
    """An answer of this server's own."""

    status: int
    json: Any


@dataclass(frozen=True)
class Front:
    """A running server."""

    url: str
    requests: list[Seen]
    """What came, oldest first."""


@contextlib.contextmanager
def front(upstream: str, decide: Callable[[Seen], PassOn | Answer]) -> Iterator[Front]:
    """Serve in front of `upstream`, a URL."""
    requests: list[Seen] = []

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
            seen = Seen(self.command, unquote(parts.path), query, headers, body)
            requests.append(seen)
            decided = decide(seen)
            if isinstance(decided, PassOn):
                _pass_on(self.connection, upstream, seen, decided)
                return
            content = json.dumps(decided.json).encode()
            self.send_response(decided.status)
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


def _pass_on(client: socket.socket, upstream: str, seen: Seen, to: PassOn) -> None:
    """One request on a connection of its own, whose bytes go back as they come, until either side has enough."""
    parts = urlsplit(upstream)
    headers = {**to.headers, "Host": parts.netloc, "Connection": "close", "Content-Length": str(len(seen.body))}
    lines = [f"{seen.method} {to.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection((parts.hostname or "", parts.port or 80)) as server,
    ):
        server.sendall("\r\n".join(lines).encode("latin-1") + seen.body)
        held = b""
        head_sent = not to.first_event
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if client in ready:  # It has nothing more to say: it has left, and so must we.
                return
            data = server.recv(65536)
            if not head_sent:
                held, data = held + data, b""
                head, end, rest = held.partition(b"\r\n\r\n")
                if end:
                    head_sent, data = True, held
                    if b"text/event-stream" in head:
                        event = b"%x\r\n%s\r\n" % (len(to.first_event), to.first_event)
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
    """An Azure OpenAI resource with one deployment, in front of a server that speaks chat completions.

    It takes its key as `api-key` (with the v1 API as a bearer token too, as Azure does) and Entra's tokens as a bearer
    token, wants an `api-version` on the deployments paths and no dated one on the v1 API, and knows no other
    deployment. A stream begins with a chunk without choices.
    """

    def refusal(status: int, code: str, message: str) -> Answer:
        return Answer(status, {"error": {"code": code, "message": message}})

    def decide(seen: Seen) -> PassOn | Answer:
        is_v1 = seen.path.startswith("/openai/v1/")
        bearers = {f"Bearer {key}" for key in (token, api_key if is_v1 else "") if key}
        if seen.headers.get("api-key") != api_key and seen.headers.get("authorization") not in bearers:
            return refusal(401, "401", "Access denied due to invalid subscription key or wrong API endpoint.")
        version = seen.query.get("api-version", "")
        if is_v1:
            name, known = seen.json["model"], version in ("", "v1", "preview")
            known = known and seen.path == "/openai/v1/chat/completions"
        else:
            name = seen.path.removeprefix("/openai/deployments/").removesuffix("/chat/completions")
            known = version[:1].isdigit() and seen.path == f"/openai/deployments/{name}/chat/completions"
        if not known:
            return refusal(404, "404", "Resource not found")
        if name != deployment:
            return refusal(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        headers = {"Authorization": f"Bearer {upstream_key}", "Content-Type": "application/json"}
        return PassOn("/v1/chat/completions", headers, f"data: {json.dumps(FIRST_CHUNK)}\n\n".encode())

    with front(upstream, decide) as running:
        yield running


# --- Hugging Face -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hub(upstream: str, upstream_key: str, *, token: str, providers: Mapping[str, str]) -> Iterator[Front]:
    """The Hub (`HF_ENDPOINT`) and its router, in front of a server that speaks chat completions.

    Args:
        upstream: The other server's URL.
        upstream_key: Its key.
        token: The user's.
        providers: The path of each provider's chat completions.
    """

    def decide(seen: Seen) -> PassOn | Answer:
        if seen.path.startswith("/api/models/"):
            if seen.path.endswith("nonesuch"):
                return Answer(404, {"error": "Repository not found"})
            mapping = {
                name: {"providerId": f"{name}/the-model", "status": "live", "task": "conversational"}
                for name in providers
            }
            return Answer(200, {"id": seen.path.removeprefix("/api/models/"), "inferenceProviderMapping": mapping})
        if seen.headers.get("authorization") != f"Bearer {token}":
            return Answer(401, {"error": "Invalid username or password."})
        if seen.path != "/v1/chat/completions" and seen.path not in providers.values():
            return Answer(404, {"error": "Not Found"})
        headers = {"Authorization": f"Bearer {upstream_key}", "Content-Type": "application/json"}
        return PassOn("/v1/chat/completions", headers)

    with front(upstream, decide) as running:
        yield running
