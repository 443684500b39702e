"""A raw HTTP client for the tests of the servers: it shows exactly which bytes a server sends, and how it ends."""

from __future__ import annotations

import base64
import io
import json
import socket
from typing import Any

from PIL import Image

from .process import HOST

MESSAGES = [{"role": "user", "content": "hello"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


class RawResponse:
    """A response as a raw socket received it.

    Args:
        raw: The bytes that were received.
        end: How the response ended: `closed`, `reset`, `silence` (nothing more came), or `open`.

    Attributes:
        status: The HTTP status; 0 where no head was received.
        headers: The headers, by their names in lower case.
        body: The body without its framing.
        complete: Whether the framing of the body is complete.
    """

    def __init__(self, raw: bytes, end: str) -> None:
        head, _, rest = raw.partition(b"\r\n\r\n")
        self.end = end
        self.status = int(head.split(b" ", 2)[1]) if head else 0
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        self.headers = {name.lower().decode(): value.strip().decode() for name, _, value in lines}
        if self.headers.get("transfer-encoding") == "chunked":
            self.body, self.complete = _unchunk(rest)
        else:
            self.body = rest
            self.complete = len(rest) == int(self.headers.get("content-length", "-1"))

    @property
    def events(self) -> list[Any]:
        """The server-sent events of the body, parsed."""
        parts = self.body.decode().replace("\r\n", "\n").split("\n\n")
        payloads = [part.removeprefix("data: ") for part in parts if part]
        return ["[DONE]" if payload == "[DONE]" else json.loads(payload) for payload in payloads]

    @property
    def text(self) -> str:
        """The text of the events."""
        return "".join(choice["delta"].get("content") or "" for choice in self.choices)

    @property
    def choices(self) -> list[Any]:
        """The choices of the events."""
        return [choice for event in self.events if event != "[DONE]" for choice in event["choices"]]

    @property
    def call_deltas(self) -> list[Any]:
        """The deltas of tool calls in the events."""
        return [delta for choice in self.choices for delta in choice["delta"].get("tool_calls") or []]


def _unchunk(data: bytes) -> tuple[bytes, bool]:
    body = b""
    while data:
        size, separator, data = data.partition(b"\r\n")
        if not separator:
            break
        if size == b"0":
            return body, data == b"\r\n"
        body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return body, False


def send_chat(
    url: str, *, messages: Any = MESSAGES, timeout_s: float = 5.0, close: bool = True, **fields: Any
) -> RawResponse:
    """Send a request for a chat completion over a new connection, and return the response.

    Args:
        url: The base URL of the server.
        messages: The messages of the request.
        timeout_s: The time without data after which the response counts as silent.
        close: Whether the request asks the server to close the connection. Otherwise the response ends where its
            framing is complete.
        **fields: Further fields of the request.
    """
    with connect(url, timeout_s) as client:
        client.sendall(request_bytes(url, messages, close=close, **fields))
        return read_response(client, to_the_end=close)


def connect(url: str, timeout_s: float = 5.0) -> socket.socket:
    """Open a connection to a server."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    return socket.create_connection((host, int(port)), timeout=timeout_s)


def request_bytes(url: str, messages: Any = MESSAGES, *, close: bool = False, **fields: Any) -> bytes:
    """Return the bytes of a request for a chat completion."""
    body = json.dumps({"model": "m", "messages": messages, **fields}).encode()
    path = url.removeprefix("http://").partition("/")[2]
    lines = [f"POST /{path}/chat/completions HTTP/1.1", f"Host: {HOST}", "Authorization: Bearer test-key"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] + ["Connection: close"] * close
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_response(client: socket.socket, *, to_the_end: bool = True) -> RawResponse:
    """Read a response until the connection ends; without `to_the_end`, until its framing is complete."""
    raw = b""
    while True:
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            return RawResponse(raw, "reset")
        except TimeoutError:
            return RawResponse(raw, "silence")
        if not data:
            return RawResponse(raw, "closed")
        raw += data
        if not to_the_end and RawResponse(raw, "").complete:
            return RawResponse(raw, "open")


def user_message(text: str) -> list[dict[str, Any]]:
    """Return a conversation of one message."""
    return [{"role": "user", "content": text}]


def image_message(colour: str) -> list[dict[str, Any]]:
    """Return a conversation of one message with an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "text", "text": "Describe it."}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def complete_body(response: RawResponse) -> bytes:
    """Return the body of a response, which must be complete and have status 200."""
    assert (response.status, response.complete) == (200, True)
    return response.body
