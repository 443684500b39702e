"""Streams that deviate from the format: signs of life, blanks around the end marker, streams labelled as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelport.errors import MalformedResponse
from modelport.remote.http.bodies import MAX_RESPONSE_SIZE
from modelport.remote.http.responses import EventReader
from tests.remote.http.models import MODELS_BY_KEY_PATH
from tests.servers.faults import Fault, FaultServer

CHUNK = b'data: {"a": 1}\n\n'


def read(*pieces: bytes, content_type: str = "text/event-stream") -> tuple[list[Any], bool]:
    reader: EventReader[Any] = EventReader(lambda data: data, (), content_type)
    events: list[Any] = []
    for piece in pieces:
        reader.feed(piece)
        events += reader.events()
        if reader.done:
            return events, True
    return [*events, *reader.body()], False


@pytest.mark.parametrize(
    "body",
    [
        CHUNK + b"data: [DONE]\n\n", CHUNK + b"data:[DONE]\n\n", CHUNK + b"data: [DONE] \n\n",
        CHUNK + b"data:  [DONE]\t\r\n\r\n", b"data:\n\n" + CHUNK + b"data: \n\ndata:   \n\ndata: [DONE]\n\n",
        b"event: ping\ndata:\n\n" + CHUNK + b"event: error\ndata: \n\ndata: [DONE]\n\n",
        b": comment\n\n" + CHUNK + b"data\n\ndata: [DONE]\n\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json", "application/json; charset=utf-8"])
@pytest.mark.parametrize("size", [1, 1000])
def test_stream_with_deviations_is_read(body: bytes, content_type: str, size: int) -> None:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert read(*pieces, content_type=content_type) == ([{"a": 1}], True)


@pytest.mark.parametrize("body", [b'{"a": 1}', b' \n {"a": 1}', b"[]", b'"data"', b"null", b"true", b"-1"])
def test_json_is_read_as_one_body(body: bytes) -> None:
    assert read(body[:1], body[1:], content_type="application/json") == ([json.loads(body)], False)


def test_json_that_is_broken_or_too_large_raises_malformed_response() -> None:
    for pieces in ([b"{"], [b" "], [], [b"{" + b" " * MAX_RESPONSE_SIZE]):
        with pytest.raises(MalformedResponse):
            read(*pieces, content_type="application/json")


@pytest.mark.server
@pytest.mark.parametrize("key_path", ["http", "sdk", "azure", "huggingface", "own client"])
def test_stream_labelled_as_json_is_read_on_every_transport(server: FaultServer, key_path: str) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    body = b"data:\n\ndata: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE] \n\n"
    server.script(then=Fault(content=body, headers={"Content-Type": "application/json"}, never_streams=True))
    with MODELS_BY_KEY_PATH[key_path](server.base_url) as model, model.generate_stream("hello") as stream:
        assert [delta.content for delta in stream if delta.content] == ["Hi"]
