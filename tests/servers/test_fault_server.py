"""The fault server fails exactly as its script says, as raw clients see it."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from .faults import OK, TWO_CALLS, Call, Fault, FaultServer, Reply
from .process import HOST, free_port
from .raw_client import MESSAGES, USAGE, complete_body, connect, read_response, request_bytes, send_chat

pytestmark = pytest.mark.server


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def test_server_without_script_sends_correct_responses(server: FaultServer) -> None:
    plain = send_chat(server.base_url)
    assert json.loads(complete_body(plain))["choices"][0]["message"]["content"] == Reply().text
    stream = send_chat(server.base_url, stream=True, **USAGE)
    assert (stream.text, stream.complete, stream.events[-1]) == (Reply().text, True, "[DONE]")
    assert (stream.events[-2]["choices"], stream.events[-2]["usage"]["total_tokens"]) == ([], 20)
    assert all("usage" not in event for event in send_chat(server.base_url, stream=True).events)
    first, *_ = server.requests
    assert (first.json["messages"], first.headers["authorization"]) == (MESSAGES, "Bearer test-key")
    assert (len(server.requests), server.connections_opened) == (3, 3)
    server.wait_for(lambda: server.open_connections == 0)


def test_connection_is_kept_alive(server: FaultServer) -> None:
    client = http.client.HTTPConnection(HOST, server.port)
    for stream in (False, True, False):
        client.request("POST", "/v1/chat/completions", json.dumps({"messages": MESSAGES, "stream": stream}))
        assert b"Paris" in client.getresponse().read()
    # A body in chunks, as a client without a known length sends it.
    client.request("POST", "/v1/chat/completions", iter([b'{"messages":', b" []}"]), encode_chunked=True, headers={})
    assert client.getresponse().read()
    assert (server.connections_opened, server.open_connections) == (1, 1)
    assert [request.connection for request in server.requests] == [1, 1, 1, 1]
    client.close()
    server.wait_for(lambda: server.open_connections == 0)


def test_status_fault_sends_error_body(server: FaultServer) -> None:
    server.script([Fault.rate_limit(2), Fault.status(529, code="overloaded")], then=Fault.status(500))
    responses = [send_chat(server.base_url, stream=True) for _ in range(4)]
    assert [response.status for response in responses] == [429, 529, 500, 500]
    assert responses[0].headers["retry-after"] == "2"
    assert json.loads(responses[1].body)["error"]["code"] == "overloaded"


def test_slow_fault_delays_headers_or_body(server: FaultServer) -> None:
    server.script([Fault.slow(5), Fault.slow(5, headers_first=True), Fault.slow(0.3)])
    assert send_chat(server.base_url, timeout_s=0.5).status == 0
    late = send_chat(server.base_url, timeout_s=0.5)
    assert (late.status, late.body, late.end) == (200, b"", "silence")
    server.wait_for(lambda: server.open_connections == 0)
    assert all(request.client_left for request in server.requests)
    started = time.monotonic()
    assert send_chat(server.base_url).status == 200
    assert time.monotonic() - started > 0.3


def test_faults_before_headers_send_no_status(server: FaultServer) -> None:
    server.script([Fault.reset(), Fault.hang_up(), Fault.silence()])
    ends = [send_chat(server.base_url, timeout_s=0.5) for _ in range(3)]
    assert [(response.end, response.status) for response in ends] == [("reset", 0), ("closed", 0), ("silence", 0)]


@pytest.mark.parametrize("stream", [False, True])
def test_faults_in_the_body_are_exact_to_the_byte(server: FaultServer, stream: bool) -> None:
    complete = send_chat(server.base_url, stream=stream).body
    endings = {"reset": "reset", "close": "closed", "stall": "silence", "finish": "closed"}
    for kind, end in endings.items():
        server.script([Fault.cut(kind, after_bytes=101), Fault.cut(kind)])  # type: ignore[arg-type]
        response = send_chat(server.base_url, stream=stream, timeout_s=0.5)
        assert (response.body, response.end, response.complete) == (complete[:101], end, kind == "finish")
        assert server.requests[-1].body_bytes_sent == 101
        response = send_chat(server.base_url, stream=stream, timeout_s=0.5)
        assert response.text == "The capital of F" if stream else len(response.body) == len(complete) // 2


def test_body_can_be_framed_by_closing(server: FaultServer) -> None:
    server.script([OK.replace(framing="close"), Fault.cut("close", framing="close")])
    complete, truncated = (send_chat(server.base_url, stream=True, close=False) for _ in range(2))
    assert (complete.events[-1], complete.end) == ("[DONE]", "closed")
    assert truncated.text == "The capital of F"


def test_malformed_faults_send_invalid_json_and_utf8(server: FaultServer) -> None:
    server.script([Fault.malformed(), Fault.malformed(), Fault.bad_utf8(), Fault.bad_utf8()])
    assert send_chat(server.base_url).body.startswith(b"<html>")
    half = send_chat(server.base_url, stream=True)
    assert b'"choi\n\n' in half.body
    assert half.body.endswith(b"data: [DONE]\n\n")
    for stream in (False, True):
        with pytest.raises(UnicodeDecodeError):
            send_chat(server.base_url, stream=stream).body.decode()


def test_error_frames_and_truncated_json_have_complete_framing(server: FaultServer) -> None:
    server.script([Fault.error_frame(), Fault.error_frame(after_events=0), Fault.error_frame(), Fault.truncated_json()])
    late, early, plain, truncated = (send_chat(server.base_url, stream=stream) for stream in (True, True, False, False))
    assert [("error" in event) for event in late.events] == [False, False, False, True]
    assert [("error" in event) for event in early.events] == [True]
    assert json.loads(plain.body)["error"]["code"] == 500
    assert truncated.complete
    with pytest.raises(json.JSONDecodeError):
        json.loads(truncated.body)


def test_tool_calls_follow_dialect_of_indices_and_fragments(server: FaultServer) -> None:
    dialects = ("count", "zero", "null", "absent")
    server.script([Fault.tools(tool_index=dialect) for dialect in dialects])
    indices = [
        [delta.get("index", "absent") for delta in send_chat(server.base_url, stream=True).call_deltas if "id" in delta]
        for _ in dialects
    ]
    assert indices == [[0, 1], [0, 0], [None, None], ["absent", "absent"]]
    server.script([Fault.tools(whole_calls=True), Fault.truncated_arguments(), Fault.tools(Call("f", "{}"))])
    complete = send_chat(server.base_url, stream=True)
    assert [delta["function"]["arguments"] for delta in complete.call_deltas] == [call.arguments for call in TWO_CALLS]
    assert complete.choices[-1]["finish_reason"] == "tool_calls"
    broken = send_chat(server.base_url, stream=True).call_deltas
    assert "".join(delta["function"]["arguments"] for delta in broken) == '{"city": "Par'
    assert (
        json.loads(send_chat(server.base_url).body)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"
    )


def test_streams_follow_dialect_of_usage_and_endings(server: FaultServer) -> None:
    server.script(
        [Fault.ok(usage="cumulative"), Fault.ok(usage="last"), Fault.ok(usage="chunk"), Fault.ok(usage="none")]
    )
    growing, last, chunk, none = (send_chat(server.base_url, stream=True, **USAGE).events[:-1] for _ in range(4))
    counts = [event["usage"]["completion_tokens"] for event in growing]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 8)
    assert [("usage" in event) for event in last[-2:]] == [False, True]
    assert last[-1]["choices"]
    assert (chunk[-1]["choices"], none[-1].get("usage")) == ([], None)
    server.script([Fault.ok(finish_reason=None), Fault.ok(done=False), Fault.ok("é", reasoning="hm", piece=1)])
    unfinished = send_chat(server.base_url, stream=True)
    assert {choice["finish_reason"] for choice in unfinished.choices} == {None}
    assert send_chat(server.base_url, stream=True).choices[-1]["finish_reason"] == "stop"
    reasoning = send_chat(server.base_url, stream=True)
    assert [choice["delta"].get("reasoning_content") for choice in reasoning.choices[1:3]] == ["h", "m"]


def test_unusual_valid_streams_are_sent(server: FaultServer) -> None:
    server.script([OK.replace(split=7, newline=b"\r\n"), Fault.ok(null_choice_first=True)])
    assert send_chat(server.base_url, stream=True).text == Reply().text
    assert send_chat(server.base_url, stream=True).events[0]["choices"] == []


def test_stale_connections_are_closed_or_reset(server: FaultServer) -> None:
    server.script([Fault.stale("at_once"), Fault.stale()])
    with connect(server.base_url) as client:
        client.sendall(request_bytes(server.base_url))
        response = read_response(client)
        assert (response.headers["connection"], response.complete, response.end) == ("keep-alive", True, "closed")
    with connect(server.base_url) as client:
        client.sendall(request_bytes(server.base_url))
        assert read_response(client, to_the_end=False).end == "open"
        client.sendall(request_bytes(server.base_url))
        assert read_response(client).end in ("reset", "closed")
    assert (len(server.requests), server.stale_hits) == (2, 1)


def test_client_that_leaves_is_noticed(server: FaultServer) -> None:
    server.script(then=OK.replace(pace_s=0.05))
    for _ in range(3):
        with connect(server.base_url) as client:
            client.sendall(request_bytes(server.base_url, stream=True))
            assert client.recv(10)
    with connect(server.base_url) as client:
        client.sendall(request_bytes(server.base_url, stream=True))
        assert client.recv(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.wait_for(lambda: server.open_connections == 0)
    assert [(request.client_left, request.done) for request in server.requests] == [(True, False)] * 4


def test_stopped_listener_refuses_connections(server: FaultServer) -> None:
    server.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        send_chat(server.base_url)
    server.start_listening()
    assert send_chat(server.base_url).status == 200
    with pytest.raises(ConnectionRefusedError):
        send_chat(f"http://{HOST}:{free_port()}/v1")


def test_fault_can_depend_on_the_request(server: FaultServer) -> None:
    server.script([OK], then=lambda request: Fault.status(400) if request.stream else OK)
    assert [send_chat(server.base_url, stream=stream).status for stream in (True, True, False)] == [200, 400, 200]
    server.clear()
    assert send_chat(server.base_url, stream=True).status == 200
    assert len(server.requests) == 1


def test_failure_of_the_server_itself_is_raised() -> None:
    with pytest.raises(RuntimeError, match="could not handle"), FaultServer() as server, connect(server.url) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 3\r\n\r\n{]}")
        assert read_response(client).status == 0
