"""The servers do what they say, seen by raw clients: without this, a test against them proves nothing."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from . import llmock as chaos
from .aimock import AimockServer, aimock
from .faults import OK, TWO_CALLS, Call, Fault, FaultServer, Reply
from .llamacpp import LlamaServer, llama_server
from .process import HOST, ServerError, free_port, request_json, serve
from .redis import RedisServer, redis_binary, redis_server
from .tiny_mmproj import write_tiny_mmproj

ROOT = Path(__file__).parents[2]
MESSAGES = [{"role": "user", "content": "hello"}]
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
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


class Answer:
    """What a raw socket read: the head, the bytes of the body without its framing, and how it ended."""

    def __init__(self, raw: bytes, end: str) -> None:
        head, _, rest = raw.partition(b"\r\n\r\n")
        self.end = end
        self.status = int(head.split(b" ", 2)[1]) if head else 0
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        self.headers = {name.lower().decode(): value.strip().decode() for name, _, value in lines}
        if self.headers.get("transfer-encoding") == "chunked":
            self.body, self.framed = _unchunk(rest)
        else:
            self.body = rest
            self.framed = len(rest) == int(self.headers.get("content-length", "-1"))

    @property
    def events(self) -> list[Any]:
        parts = self.body.decode().replace("\r\n", "\n").split("\n\n")
        payloads = [part.removeprefix("data: ") for part in parts if part]
        return ["[DONE]" if payload == "[DONE]" else json.loads(payload) for payload in payloads]

    @property
    def text(self) -> str:
        return "".join(choice["delta"].get("content") or "" for choice in self.choices)

    @property
    def choices(self) -> list[Any]:
        return [choice for event in self.events if event != "[DONE]" for choice in event["choices"]]

    @property
    def call_deltas(self) -> list[Any]:
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


def ask(url: str, *, messages: Any = MESSAGES, timeout_s: float = 5.0, close: bool = True, **fields: Any) -> Answer:
    """One chat completion over a socket of its own, read until the server ends it or `timeout_s` of silence.

    Without `close`, the request asks to keep the connection, and the answer is read to its own end.
    """
    with _connect(url, timeout_s) as client:
        client.sendall(_request(url, messages, close=close, **fields))
        return _read(client, to_the_end=close)


def _connect(url: str, timeout_s: float = 5.0) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    return socket.create_connection((host, int(port)), timeout=timeout_s)


def _request(url: str, messages: Any = MESSAGES, *, close: bool = False, **fields: Any) -> bytes:
    body = json.dumps({"model": "m", "messages": messages, **fields}).encode()
    path = url.removeprefix("http://").partition("/")[2]
    lines = [f"POST /{path}/chat/completions HTTP/1.1", f"Host: {HOST}", "Authorization: Bearer test-key"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] + ["Connection: close"] * close
    return "\r\n".join([*lines, "", ""]).encode() + body


def _read(client: socket.socket, *, to_the_end: bool = True) -> Answer:
    raw = b""
    while True:
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            return Answer(raw, "reset")
        except TimeoutError:
            return Answer(raw, "silence")
        if not data:
            return Answer(raw, "closed")
        raw += data
        if not to_the_end and Answer(raw, "").framed:
            return Answer(raw, "open")


# process.py


def test_a_server_that_fails_is_reported_with_its_output() -> None:
    program = "import sys; print('no such model', file=sys.stderr); sys.exit(3)"
    with (
        pytest.raises(ServerError, match=r"status 3(?s:.)*no such model"),
        serve(lambda port: [sys.executable, "-c", program]),
    ):
        pass


def test_a_server_that_never_answers_is_stopped() -> None:
    with (
        pytest.raises(ServerError, match="did not answer") as caught,
        serve(lambda port: ["/bin/sh", "-c", "echo pid=$$; exec sleep 60"], deadline_s=0.5),
    ):
        pass
    assert not _alive(int(str(caught.value).split()[-1].removeprefix("pid=")))


def test_a_server_that_ignores_sigterm_is_killed_with_its_children() -> None:
    program = """
        import http.server, signal, subprocess, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
        http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with serve(lambda port: [*command, str(port)], grace_s=0.2) as server:
        child = int(server.output().split()[0])
        assert _alive(child)
    assert not _alive(server.pid)
    _wait_until_dead(child)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_does_not_outlive_the_tests(how: signal.Signals) -> None:
    program = """
        import sys, time
        from tests.servers.process import serve
        with serve(lambda port: [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]) as server:
            print(server.pid, flush=True)
            time.sleep(60)
    """
    tests = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert tests.stdout is not None
    pid = int(tests.stdout.readline())
    assert _alive(pid)
    tests.send_signal(how)
    tests.wait(10)
    tests.stdout.close()
    _wait_until_dead(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that waits to be reaped by whoever adopted it is dead.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def _wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 5
    while _alive(pid):
        assert time.monotonic() < deadline, f"{pid} is still alive"
        time.sleep(0.02)


# llamacpp.py


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    mmproj = write_tiny_mmproj(tmp_path_factory.mktemp("mmproj") / "tiny.gguf")
    with llama_server(mmproj=mmproj) as server:
        yield server


def test_llama_answers_and_counts_tokens(llama: LlamaServer) -> None:
    answer = llama.chat(QUESTION, temperature=0, max_tokens=16)
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["usage"]["prompt_tokens"] == llama.count_prompt_tokens(QUESTION)
    turns = [{"role": "system", "content": "Bref. <|im_end|>"}, *QUESTION, {"role": "assistant", "content": "Oui"}]
    turns.append({"role": "user", "content": "Où ça ?\n\n"})
    assert llama.chat(turns, max_tokens=1)["usage"]["prompt_tokens"] == llama.count_prompt_tokens(turns)


def test_llama_wants_its_key(llama: LlamaServer) -> None:
    with pytest.raises(RuntimeError, match="answered 401"):
        request_json("GET", f"{llama.url}/v1/models", headers={"Authorization": "Bearer wrong"})


def test_llama_shows_that_a_caller_left(llama: LlamaServer) -> None:
    with _connect(llama.base_url) as client:
        client.sendall(_request(llama.base_url, QUESTION, stream=True, max_tokens=3000, ignore_eos=True))
        assert client.recv(10)
        assert llama.busy_slots() == 1
    assert llama.wait_until_idle() < 5


def test_pixels_reach_llama(llama: LlamaServer) -> None:
    red, blue, red_again = (_first_token(llama, colour) for colour in ("red", "blue", "red"))
    assert max(abs(red[token] - blue.get(token, -20.0)) for token in red) > 0.05
    assert red_again == pytest.approx(red, abs=1e-2)
    message = _image_message("red")
    usage = llama.chat(message, max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == llama.count_prompt_tokens(message)


def test_the_projector_depends_on_its_seed_only(tmp_path: Path) -> None:
    files = [write_tiny_mmproj(tmp_path / f"{n}.gguf", seed=seed).read_bytes() for n, seed in enumerate((1, 1, 2))]
    assert files[0] == files[1] != files[2]


def _image_message(colour: str) -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "text", "text": "Describe it."}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def _first_token(llama: LlamaServer, colour: str) -> dict[str, float]:
    answer = llama.chat(_image_message(colour), temperature=0, max_tokens=1, logprobs=True, top_logprobs=5)
    return {top["token"]: top["logprob"] for top in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}


# aimock.py


@pytest.fixture(scope="module")
def mock() -> Iterator[AimockServer]:
    if shutil.which("npm") is None and "CI" not in os.environ:
        pytest.skip("no npm")
    with aimock(latency_ms=0) as server:
        yield server


# It keeps a connection for its 5 s, even one that is asked to be closed.
ask_mock = partial(ask, close=False)


def test_aimock_text_and_usage(mock: AimockServer) -> None:
    answer = json.loads(_unpadded(ask_mock(mock.base_url, messages=_user("usage please"))))
    assert answer["choices"][0]["message"]["content"] == "Seven tokens of answer."
    assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    asked = ask_mock(mock.base_url, messages=_user("usage please"), stream=True, **USAGE)
    assert asked.text == "Seven tokens of answer."
    assert asked.events[-1] == "[DONE]"
    assert asked.events[-2]["choices"] == []
    assert asked.events[-2]["usage"]["total_tokens"] == 18
    assert "usage" not in ask_mock(mock.base_url, messages=_user("usage please"), stream=True).events[-2]


def test_aimock_tools(mock: AimockServer) -> None:
    deltas = ask_mock(mock.base_url, messages=_user("two cities"), stream=True, tools=TOOLS).call_deltas
    arguments = ["".join(d["function"]["arguments"] for d in deltas if d["index"] == index) for index in (0, 1)]
    assert [json.loads(text)["city"] for text in arguments] == ["Paris", "Oslo"]
    one = json.loads(_unpadded(ask_mock(mock.base_url, messages=_user("one city"), tools=TOOLS)))
    assert [call["id"] for call in one["choices"][0]["message"]["tool_calls"]] == ["call_paris"]
    assert one["choices"][0]["finish_reason"] == "tool_calls"
    turns = [
        *_user("one city"),
        one["choices"][0]["message"],
        {"role": "tool", "tool_call_id": "call_paris", "content": "21"},
    ]
    assert ask_mock(mock.base_url, messages=turns, stream=True).text == "Paris has 21 °C."


def test_aimock_reasoning_image_schema_and_finish(mock: AimockServer) -> None:
    thought = ask_mock(mock.base_url, messages=_user("think first"), stream=True)
    reasoning = "".join(choice["delta"].get("reasoning_content", "") for choice in thought.choices)
    assert (reasoning, thought.text) == ("Six times seven is forty-two.", "42")
    image = _image_message("red")
    image[0]["content"][0]["text"] = "describe the image"
    assert ask_mock(mock.base_url, messages=image, stream=True).text == "A red square."
    schema = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": {"type": "object"}}}
    invoice = ask_mock(mock.base_url, messages=_user("invoice"), stream=True, response_format=schema)
    assert json.loads(invoice.text)["number"] == "A-17"
    assert (
        ask_mock(mock.base_url, messages=_user("cut by length"), stream=True).choices[-1]["finish_reason"] == "length"
    )


def test_aimock_errors_paths_and_journal(mock: AimockServer) -> None:
    mock.clear_requests()
    assert ask_mock(mock.base_url, messages=_user("too long")).status == 400
    assert ask_mock(mock.base_url, messages=_user("what nobody wrote")).status == 404
    azure = f"{mock.url}/openai/deployments/gpt"
    assert ask_mock(azure).status == 200
    assert ask_mock(f"{mock.url}/openai/v1").status == 200
    assert [entry["response"]["status"] for entry in mock.requests()] == [400, 404, 200, 200]
    assert mock.requests()[-1]["body"]["messages"] == MESSAGES
    with pytest.raises(RuntimeError, match="answered 401"):
        request_json("POST", f"{mock.base_url}/chat/completions", {}, headers={"Authorization": "Bearer wrong"})


def test_aimock_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match=r"need Node.js 20\.15 or newer"), aimock():
        pass


def _user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _unpadded(answer: Answer) -> bytes:
    assert (answer.status, answer.framed) == (200, True)
    return answer.body


# llmock.py


@pytest.fixture(scope="module")
def running_llmock() -> Iterator[chaos.LlmockServer]:
    with chaos.llmock() as server:
        yield server


@pytest.fixture
def llm(running_llmock: chaos.LlmockServer) -> chaos.LlmockServer:
    running_llmock.reset()
    return running_llmock


def test_llmock_errors_and_journal(llm: chaos.LlmockServer) -> None:
    llm.inject(chaos.Fault.rate_limit(1), chaos.Fault.fail(503), chaos.Fault.fail(404))
    answers = [ask(llm.base_url) for _ in range(4)]
    assert [answer.status for answer in answers] == [429, 503, 404, 200]
    assert answers[0].headers["retry-after"] == "1"
    assert json.loads(answers[3].body)["choices"][0]["message"]["content"] == "Hello! You said: hello"
    assert [request.status for request in llm.requests()] == [429, 503, 404, 200]
    assert llm.pending() == 0


def test_llmock_slowness(llm: chaos.LlmockServer) -> None:
    llm.inject(chaos.Fault.delay(0.3), chaos.Fault.slow_first_token(0.3))
    started = time.monotonic()
    assert ask(llm.base_url).status == 200
    assert time.monotonic() - started > 0.3
    assert ask(llm.base_url, stream=True).events[-1] == "[DONE]"
    assert time.monotonic() - started > 0.6


def test_llmock_stream_faults(llm: chaos.LlmockServer) -> None:
    faults = chaos.Fault
    llm.inject(faults.disconnect(after_chunks=2), faults.truncate(after_chunks=2), faults.malformed(after_chunks=2))
    llm.inject(faults.stall(5, after_chunks=2))
    cut, short, garbled, stalled = (ask(llm.base_url, stream=True, timeout_s=1.0) for _ in range(4))
    assert (cut.text, cut.framed, cut.end) == ("Hello! ", False, "closed")
    assert (short.text, short.framed) == ("Hello! ", True)
    with pytest.raises(json.JSONDecodeError):
        _ = garbled.events
    assert (stalled.text, stalled.end) == ("Hello! ", "silence")
    names = ["stream:disconnect@2", "stream:truncate@2", "stream:malformed@2", "stream:stall@2"]
    assert [request.fault for request in llm.requests()] == names


def test_llmock_tools(llm: chaos.LlmockServer) -> None:
    llm.inject(chaos.Fault.broken_tool(), chaos.Fault.broken_tool("unknown_tool"))
    broken, unknown = (
        json.loads(ask(llm.base_url, tools=TOOLS).body)["choices"][0]["message"]["tool_calls"][0]["function"]
        for _ in range(2)
    )
    assert broken == {"name": "get_weather", "arguments": '{"city": "'}
    assert unknown["name"] == "llmock_unknown_tool"
    llm.inject(chaos.Fault.call([("a", {"x": 1}), ("b", {"y": 2})]))
    assert {delta["index"] for delta in ask(llm.base_url, stream=True).call_deltas} == {0, 1}


# faults.py


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def test_faults_in_good_order(server: FaultServer) -> None:
    plain = ask(server.base_url)
    assert json.loads(_unpadded(plain))["choices"][0]["message"]["content"] == Reply().text
    stream = ask(server.base_url, stream=True, **USAGE)
    assert (stream.text, stream.framed, stream.events[-1]) == (Reply().text, True, "[DONE]")
    assert (stream.events[-2]["choices"], stream.events[-2]["usage"]["total_tokens"]) == ([], 20)
    assert all("usage" not in event for event in ask(server.base_url, stream=True).events)
    first, *_ = server.requests
    assert (first.json["messages"], first.headers["authorization"]) == (MESSAGES, "Bearer test-key")
    assert (len(server.requests), server.connections_opened) == (3, 3)
    server.wait_for(lambda: server.open_connections == 0)


def test_faults_keep_alive(server: FaultServer) -> None:
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


def test_faults_status(server: FaultServer) -> None:
    server.script([Fault.rate_limit(2), Fault.status(529, code="overloaded")], then=Fault.status(500))
    answers = [ask(server.base_url, stream=True) for _ in range(4)]
    assert [answer.status for answer in answers] == [429, 529, 500, 500]
    assert answers[0].headers["retry-after"] == "2"
    assert json.loads(answers[1].body)["error"]["code"] == "overloaded"


def test_faults_slow(server: FaultServer) -> None:
    server.script([Fault.slow(5), Fault.slow(5, headers_first=True), Fault.slow(0.3)])
    assert ask(server.base_url, timeout_s=0.5).status == 0
    late = ask(server.base_url, timeout_s=0.5)
    assert (late.status, late.body, late.end) == (200, b"", "silence")
    server.wait_for(lambda: server.open_connections == 0)
    assert all(request.client_left for request in server.requests)
    started = time.monotonic()
    assert ask(server.base_url).status == 200
    assert time.monotonic() - started > 0.3


def test_faults_before_the_headers(server: FaultServer) -> None:
    server.script([Fault.reset(), Fault.hang_up(), Fault.silence()])
    ends = [ask(server.base_url, timeout_s=0.5) for _ in range(3)]
    assert [(answer.end, answer.status) for answer in ends] == [("reset", 0), ("closed", 0), ("silence", 0)]


@pytest.mark.parametrize("stream", [False, True])
def test_faults_in_the_body_are_exact(server: FaultServer, stream: bool) -> None:
    whole = ask(server.base_url, stream=stream).body
    cuts = {"reset": "reset", "close": "closed", "stall": "silence", "finish": "closed"}
    for how, end in cuts.items():
        server.script([Fault.cut(how, after_bytes=101), Fault.cut(how)])  # type: ignore[arg-type]
        answer = ask(server.base_url, stream=stream, timeout_s=0.5)
        assert (answer.body, answer.end, answer.framed) == (whole[:101], end, how == "finish")
        assert server.requests[-1].body_bytes_sent == 101
        answer = ask(server.base_url, stream=stream, timeout_s=0.5)
        assert answer.text == "The capital of F" if stream else len(answer.body) == len(whole) // 2


def test_faults_framed_by_closing(server: FaultServer) -> None:
    server.script([OK.replace(framing="close"), Fault.cut("close", framing="close")])
    whole, cut = (ask(server.base_url, stream=True, close=False) for _ in range(2))
    assert (whole.events[-1], whole.end) == ("[DONE]", "closed")
    assert cut.text == "The capital of F"


def test_faults_garbled(server: FaultServer) -> None:
    server.script([Fault.malformed(), Fault.malformed(), Fault.bad_utf8(), Fault.bad_utf8()])
    assert ask(server.base_url).body.startswith(b"<html>")
    half = ask(server.base_url, stream=True)
    assert b'"choi\n\n' in half.body
    assert half.body.endswith(b"data: [DONE]\n\n")
    for stream in (False, True):
        with pytest.raises(UnicodeDecodeError):
            ask(server.base_url, stream=stream).body.decode()


def test_faults_error_frames_and_cut_json(server: FaultServer) -> None:
    server.script([Fault.error_frame(), Fault.error_frame(after_events=0), Fault.error_frame(), Fault.truncated_json()])
    late, early, plain, cut = (ask(server.base_url, stream=stream) for stream in (True, True, False, False))
    assert [("error" in event) for event in late.events] == [False, False, False, True]
    assert [("error" in event) for event in early.events] == [True]
    assert json.loads(plain.body)["error"]["code"] == 500
    assert cut.framed
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut.body)


def test_faults_dialects_of_tools(server: FaultServer) -> None:
    dialects = ("count", "zero", "null", "absent")
    server.script([Fault.tools(tool_index=dialect) for dialect in dialects])
    indices = [
        [delta.get("index", "absent") for delta in ask(server.base_url, stream=True).call_deltas if "id" in delta]
        for _ in dialects
    ]
    assert indices == [[0, 1], [0, 0], [None, None], ["absent", "absent"]]
    server.script([Fault.tools(whole_calls=True), Fault.truncated_arguments(), Fault.tools(Call("f", "{}"))])
    whole = ask(server.base_url, stream=True)
    assert [delta["function"]["arguments"] for delta in whole.call_deltas] == [call.arguments for call in TWO_CALLS]
    assert whole.choices[-1]["finish_reason"] == "tool_calls"
    broken = ask(server.base_url, stream=True).call_deltas
    assert "".join(delta["function"]["arguments"] for delta in broken) == '{"city": "Par'
    assert json.loads(ask(server.base_url).body)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"


def test_faults_dialects_of_usage_and_endings(server: FaultServer) -> None:
    server.script(
        [Fault.ok(usage="cumulative"), Fault.ok(usage="last"), Fault.ok(usage="chunk"), Fault.ok(usage="none")]
    )
    growing, last, chunk, none = (ask(server.base_url, stream=True, **USAGE).events[:-1] for _ in range(4))
    counts = [event["usage"]["completion_tokens"] for event in growing]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 8)
    assert [("usage" in event) for event in last[-2:]] == [False, True]
    assert last[-1]["choices"]
    assert (chunk[-1]["choices"], none[-1].get("usage")) == ([], None)
    server.script([Fault.ok(finish_reason=None), Fault.ok(done=False), Fault.ok("é", reasoning="hm", piece=1)])
    unfinished = ask(server.base_url, stream=True)
    assert {choice["finish_reason"] for choice in unfinished.choices} == {None}
    assert ask(server.base_url, stream=True).choices[-1]["finish_reason"] == "stop"
    thought = ask(server.base_url, stream=True)
    assert [choice["delta"].get("reasoning_content") for choice in thought.choices[1:3]] == ["h", "m"]


def test_faults_odd_but_valid_streams(server: FaultServer) -> None:
    server.script([OK.replace(split=7, newline=b"\r\n"), Fault.ok(null_choice_first=True)])
    assert ask(server.base_url, stream=True).text == Reply().text
    assert ask(server.base_url, stream=True).events[0]["choices"] == []


def test_faults_stale_connections(server: FaultServer) -> None:
    server.script([Fault.stale("at_once"), Fault.stale()])
    with _connect(server.base_url) as client:
        client.sendall(_request(server.base_url))
        answer = _read(client)
        assert (answer.headers["connection"], answer.framed, answer.end) == ("keep-alive", True, "closed")
    with _connect(server.base_url) as client:
        client.sendall(_request(server.base_url))
        assert _read(client, to_the_end=False).end == "open"
        client.sendall(_request(server.base_url))
        assert _read(client).end in ("reset", "closed")
    assert (len(server.requests), server.stale_hits) == (2, 1)


def test_faults_a_client_that_leaves(server: FaultServer) -> None:
    server.script(then=OK.replace(pace_s=0.05))
    for _ in range(3):
        with _connect(server.base_url) as client:
            client.sendall(_request(server.base_url, stream=True))
            assert client.recv(10)
    with _connect(server.base_url) as client:
        client.sendall(_request(server.base_url, stream=True))
        assert client.recv(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.wait_for(lambda: server.open_connections == 0, timeout_s=1.0)
    assert [(request.client_left, request.done) for request in server.requests] == [(True, False)] * 4


def test_faults_refuse_connections(server: FaultServer) -> None:
    server.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        ask(server.base_url)
    server.start_listening()
    assert ask(server.base_url).status == 200
    with pytest.raises(ConnectionRefusedError):
        ask(f"http://{HOST}:{free_port()}/v1")


def test_faults_by_request(server: FaultServer) -> None:
    server.script([OK], then=lambda request: Fault.status(400) if request.stream else OK)
    assert [ask(server.base_url, stream=stream).status for stream in (True, True, False)] == [200, 400, 200]
    server.clear()
    assert ask(server.base_url, stream=True).status == 200
    assert len(server.requests) == 1


def test_faults_reports_its_own_failures() -> None:
    with pytest.raises(RuntimeError, match="could not handle"), FaultServer() as server, _connect(server.url) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 3\r\n\r\n{]}")
        assert _read(client).status == 0


# --- redis ------------------------------------------------------------------------------------------------------------


def test_redis_keeps_what_it_is_told() -> None:
    with redis_server() as server:
        assert server.keys() == []
        assert server.command("SET", "a", "1") == "OK"
        assert (server.command("INCR", "a"), server.command("GET", "a"), server.command("GET", "b")) == (2, "2", None)
        assert server.keys("*") == ["a"]


def test_redis_wants_its_password() -> None:
    with redis_server(password="open sesame") as server:
        assert server.command("PING") == "PONG"
        with pytest.raises(RuntimeError, match="NOAUTH"):
            RedisServer(server.process).command("PING")


def test_redis_comes_out_of_a_wheel_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.redis.shutil.which", lambda name: None)
    version = subprocess.run([redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("Redis server v=6.2")
