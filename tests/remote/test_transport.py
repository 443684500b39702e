"""The way to the wire: what reaches it, through which proxy and under which certificate; connections; no key shown."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import gzip
import inspect
import json
import logging
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import openai
import pytest

from modelport import AzureOpenAIServerModel, InferenceClientModel, OpenAIServerModel
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.remote.chat_model import ChatCompletionsModel
from modelport.remote.http.bodies import MAX_RESPONSE_SIZE
from modelport.remote.http.environment import environment_proxy
from modelport.runtime.per_loop import PerLoop
from modelport.runtime.portal import run
from tests.remote import leaking
from tests.servers.faults import OK, Fault, FaultServer, Reply, sse

KEY = "sk-test-0123456789abcdef"
ANSWER = Reply().text
MESSAGES = [{"role": "user", "content": "hello"}]
TRANSPORTS: dict[str, dict[str, Any]] = {"http": {}, "sdk": {"client_kwargs": {"timeout": 20.0}}}
_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "SSL_CERT_")) or name.upper() in _VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(running: FaultServer) -> Iterator[FaultServer]:
    running.settle()
    yield running
    running.start_listening()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def model_for(url: str, transport: str = "http", **settings: Any) -> Iterator[OpenAIServerModel]:
    model = OpenAIServerModel("m", url, **{"retry": False, "timeout": 20, **TRANSPORTS[transport], **settings})
    with model:
        yield model


# --- a relay, which sees what a server's own reader may hide ----------------------------------------------------------


class Relay:
    """Passes bytes on to a server and keeps them: as a plain wire, as a proxy (also CONNECT), or ending TLS."""

    def __init__(self, upstream: int, tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[str] = []
        """The heads of the requests, CONNECTs included, as they came."""
        self._upstream, self._tls = upstream, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connected in self._sockets:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            connected.close()

    def headers(self, number: int = 0) -> dict[str, list[str]]:
        """Every value of every header; names in lower case."""
        result: dict[str, list[str]] = {}
        for line in self.heads[number].split("\r\n")[1:]:
            name, _, value = line.partition(":")
            result.setdefault(name.lower(), []).append(value.strip())
        return result

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._sockets.append(client)
        with contextlib.suppress(OSError):
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            data = b""
            while b"\r\n\r\n" not in data:
                if not (piece := client.recv(65536)):
                    return client.close()
                data += piece
            head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
            port = self._upstream
            if head.startswith("CONNECT"):
                self.heads.append(head)
                port = int(head.split()[1].rpartition(":")[2])
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                data = b""
            upstream = socket.create_connection(("127.0.0.1", port))
            self._sockets.append(upstream)
            threading.Thread(target=_pump, args=(upstream, client), daemon=True).start()
            if not head.startswith("CONNECT"):
                data = self._keep(data)
            upstream.sendall(data)
            _pump(client, upstream, keep=None if head.startswith("CONNECT") else self._keep)

    def _keep(self, data: bytes) -> bytes:
        head, _, _ = data.partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            self.heads.append(head.decode("latin-1"))
        return data


def _pump(source: socket.socket, target: socket.socket, keep: Callable[[bytes], bytes] | None = None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(keep(data) if keep else data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


# --- what reaches the wire --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Settings for the SDK and for us, whose requests must not differ."""

    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "key from the environment": Case(),
    "key": Case(settings={"api_key": "sk-argument-0123456789"}),
    "organization and project": Case({"OPENAI_ORG_ID": "org-env", "OPENAI_PROJECT_ID": "proj-env"}),
    "organization and project, given": Case(
        {"OPENAI_ORG_ID": "org-env", "OPENAI_PROJECT_ID": "proj-env"}, {"organization": "org-a", "project": "proj-a"}
    ),
    "custom headers": Case(
        {"OPENAI_CUSTOM_HEADERS": "X-A: 1\nX-B:  two words \nno colon\nX-C: a:b\nauthorization: Bearer custom"}
    ),
    "precedence": Case(
        {"OPENAI_CUSTOM_HEADERS": "X-One: env\nX-Two: env\nX-Three: env", "OPENAI_ORG_ID": "org-env"},
        {"default_headers": {"x-two": "settings", "X-THREE": "settings", "OpenAI-Organization": "org-settings"}},
        {"extra_headers": {"x-three": "call"}},
    ),
    "authorization in default_headers": Case(settings={"default_headers": {"authorization": "Bearer mine"}}),
    "authorization in extra_headers": Case(call={"extra_headers": {"AUTHORIZATION": "Bearer mine"}}),
    "content type": Case(settings={"default_headers": {"content-type": "application/json; charset=utf-8"}}),
    "user agent": Case(settings={"default_headers": {"user-agent": "mine"}}),
    "a header taken away": Case(
        settings={"default_headers": {"X-A": "1", "X-B": "2"}}, call={"extra_headers": {"x-a": openai.Omit()}}
    ),
    "query": Case(
        settings={"default_query": {"a": "1", "b": True, "c": [1, 2], "d": {"e": "f"}, "n": None, "v": "x y/ü&"}},
        call={"extra_query": {"a": "2", "g": 1.5}},
    ),
    "body": Case(call={"extra_body": {"temperature": 0.25, "nested": {"list": [1, None, "ü"]}}}),
    "base URL from the environment": Case({"OPENAI_BASE_URL": "{}/elsewhere"}),
    "base URL with a slash": Case(settings={"base_url": "{}/v1/"}),
}
#: What tells one HTTP library from another, and nothing else.
_OWN = ("user-agent", "connection", "accept-encoding", "host")


def wire(relay: Relay, body: Any) -> dict[str, Any]:
    """A request, as far as clients must agree on it."""
    headers = {name: v for name, v in relay.headers().items() if not name.startswith("x-stainless-")}
    if headers["user-agent"] != ["mine"]:
        headers.pop("user-agent")
    target = urlsplit(relay.heads[0].split()[1])
    kept = {name: value for name, value in headers.items() if name not in _OWN or name == "user-agent"}
    # Both are JSON, in other orders and so of other lengths.
    kept.pop("content-length")
    return {"path": target.path, "query": sorted(parse_qsl(target.query)), "headers": kept, "body": body}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", CASES)
def test_the_wire_is_that_of_the_sdk(
    server: FaultServer, transport: str, monkeypatch: pytest.MonkeyPatch, name: str, streamed: bool
) -> None:
    case = CASES[name]
    seen = []
    for ours in (False, True):
        with Relay(server.port) as relay:
            for variable, value in case.environment.items():
                monkeypatch.setenv(variable, value.format(relay.url))
            settings = dict(case.settings)
            given = settings.pop("base_url", None if "OPENAI_BASE_URL" in case.environment else "{}/v1")
            url = given and given.format(relay.url)
            server.clear()
            if ours:
                with model_for(url, transport, **settings) as model:
                    if streamed:
                        list(model.generate_stream("hello", **case.call))
                    else:
                        model.generate("hello", **case.call)
            else:
                call: dict[str, Any] = {"model": "m", "messages": MESSAGES, **case.call}
                with openai.OpenAI(base_url=url, max_retries=0, **settings) as client:
                    if streamed:
                        call |= {"stream": True, "stream_options": {"include_usage": True}}
                        list(client.chat.completions.create(**call))
                    else:
                        client.chat.completions.create(**call)
            seen.append(wire(relay, server.requests[0].json))
    assert seen[1] == seen[0]
    assert all(len(values) == 1 for values in seen[1]["headers"].values())


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_function_gives_the_key_of_each_call(server: FaultServer, is_async: bool) -> None:
    keys = iter(["first", "second", "third"])

    async def later() -> str:
        await asyncio.sleep(0)
        return next(keys)

    with model_for(server.base_url, api_key=later if is_async else lambda: next(keys)) as model:
        model.generate("hello")
        list(model.generate_stream("hello"))
        asyncio.run(model.agenerate("hello"))
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer first", "Bearer second", "Bearer third"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_function_gives_the_key_through_the_sdk(server: FaultServer, is_async: bool) -> None:
    async def later() -> str:
        return "from a function"

    with model_for(server.base_url, "sdk", api_key=later if is_async else lambda: "from a function") as model:
        model.generate("hello")
    assert server.requests[0].headers["authorization"] == "Bearer from a function"


def test_a_missing_key_is_found_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        OpenAIServerModel("m")


def test_a_missing_key_through_the_sdk(monkeypatch: pytest.MonkeyPatch, server: FaultServer) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ModelError, match="api_key"), model_for(server.base_url, "sdk") as model:
        model.generate("hello")
    assert server.requests == []


@pytest.mark.parametrize("value", ["sk-with-a-line-break\n", "a\r\nX-Injected: 1", "nul\0"])
def test_a_header_is_one_line(server: FaultServer, transport: str, value: str) -> None:
    """A key read from a file often ends in a line break. Nothing is sent, and the value is not shown."""
    with (
        pytest.raises(InvalidRequest, match="one line") as caught,
        model_for(server.base_url, transport, api_key=value, retry=True) as model,
    ):
        model.generate("hello")
    assert value.strip() not in shown(caught.value)
    assert server.requests == []


def test_a_header_without_a_value_is_refused(server: FaultServer) -> None:
    with model_for(server.base_url) as model, pytest.raises(InvalidRequest, match="X-A"):
        model.generate("hello", extra_headers={"X-A": None})
    assert server.requests == []


def test_a_body_that_is_no_json_is_refused(server: FaultServer) -> None:
    with model_for(server.base_url) as model, pytest.raises(InvalidRequest, match="JSON"):
        model.generate("hello", extra_body={"what": object()})
    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    ["api.openai.com/v1", "ftp://host/v1", "http://", "https:///v1", "http://a..b/v1", f"http://{'a' * 70}.com/v1",
     "http://[::1/v1", "http://host:99999/v1", "http://ex ample/v1", 5],
)  # fmt: skip
def test_a_base_that_is_no_url(url: str) -> None:
    with pytest.raises(InvalidRequest, match="api_base"):
        OpenAIServerModel("m", url)


def test_a_base_with_parameters(transport: str) -> None:
    with pytest.raises(InvalidRequest, match=r"api_base.*default_query") as caught:
        OpenAIServerModel("m", "http://host/v1?key=hush-hush", **TRANSPORTS[transport])
    assert "hush" not in str(caught.value)


def test_a_base_with_a_password(transport: str) -> None:
    with pytest.raises(InvalidRequest, match="api_base: a user or a password") as caught:
        OpenAIServerModel("m", "http://user:hush-hush@host/v1", **TRANSPORTS[transport])
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [{"X\n": "a"}, {"X Y": "a"}, {5: "a"}, {"": "a"}, {"X": "\ud800"}, {"X": None}, {"X": b"a"}, {"X": "a\n"},
     {"Content-Length": "3"}, {"transfer-encoding": "chunked"}, {"Expect": "100-continue"}],
    ids=ascii,
)  # fmt: skip
def test_a_header_that_is_none(server: FaultServer, transport: str, headers: Any) -> None:
    for settings in ({"default_headers": headers}, {"extra_headers": headers}):
        with pytest.raises(InvalidRequest, match="header"), model_for(server.base_url, transport, **settings) as model:
            model.generate("hello")
    assert server.requests == []


@pytest.mark.parametrize("given", [None, 5, "", RuntimeError("no")], ids=str)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_function_that_gives_no_key(server: FaultServer, transport: str, given: Any, asynchronous: bool) -> None:
    def key() -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    async def akey() -> Any:
        return key()

    with (
        model_for(server.base_url, transport, api_key=akey if asynchronous else key) as model,
        pytest.raises(AuthenticationError, match=r"api_key: the function (gave|failed)") as caught,
    ):
        model.generate("hello")
    assert caught.value.__cause__ is (given if isinstance(given, Exception) else None)
    assert server.requests == []


@pytest.mark.parametrize("settings", [{"client": 5}, {"organization": 5}], ids=str)
def test_a_setting_of_another_kind_is_named(server: FaultServer, settings: Any) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(settings))):
        OpenAIServerModel("m", server.base_url, **settings).generate("hello")


def test_what_no_request_can_hold_is_not_blamed_on_the_service(server: FaultServer, transport: str) -> None:
    for value in ({"extra_body": {"a": object()}}, {"extra_body": {"a": "\ud800"}}, {"extra_query": {"a": "\ud800"}}):
        with pytest.raises(InvalidRequest), model_for(server.base_url, transport, **value) as model:
            model.generate("hello")
    assert server.requests == []


@pytest.mark.parametrize("name", ["default_headers", "default_query"])
def test_headers_and_queries_are_dicts(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} must be a dict.* not list"):
        OpenAIServerModel("m", **{name: ["a"]})


@pytest.mark.parametrize("code", ["²", "9" * 5000, "٤٠٠"])
def test_an_error_frame_with_any_code(server: FaultServer, transport: str, code: str) -> None:
    server.script(then=Fault.error_frame(after_events=0, code=code))
    with model_for(server.base_url, transport) as model:
        for ask in (model.generate, lambda text: list(model.generate_stream(text))):
            with pytest.raises(ModelError):
                ask("hello")


# --- proxies ----------------------------------------------------------------------------------------------------------

PROXIED = [
    ({"HTTP_PROXY": "{}"}, True),
    ({"http_proxy": "{}"}, True),
    ({"HTTP_PROXY": "{bare}"}, True),
    ({"ALL_PROXY": "{}"}, True),
    ({"HTTPS_PROXY": "{}"}, False),
    ({"HTTP_PROXY": "{}", "NO_PROXY": "127.0.0.1"}, False),
    ({"HTTP_PROXY": "{}", "NO_PROXY": "*"}, False),
    ({"HTTP_PROXY": "{}", "no_proxy": "example.com, 127.0.0.1"}, False),
    ({"ALL_PROXY": "{}", "NO_PROXY": "example.com,localhost"}, True),
]


@pytest.mark.parametrize(("environment", "expected"), PROXIED, ids=[" ".join(env) for env, _ in PROXIED])
def test_the_proxy_of_the_environment(
    server: FaultServer,
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
    environment: Mapping[str, str],
    expected: bool,
) -> None:
    with Relay(server.port) as proxy:
        for name, value in environment.items():
            monkeypatch.setenv(name, value.format(proxy.url, bare=f"127.0.0.1:{proxy.port}"))
        with model_for(server.base_url, transport) as model:
            assert model.generate("hello").content == ANSWER
            assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
        assert len(server.requests) == 2
        assert len(proxy.heads) == (2 if expected else 0)
        assert all(head.startswith(f"POST {server.url}/v1/") for head in proxy.heads)


def test_a_proxy_with_a_password(server: FaultServer, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Relay(server.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:pass@127.0.0.1:{proxy.port}")
        with model_for(server.base_url, transport) as model:
            model.generate("hello")
        assert proxy.headers()["proxy-authorization"] == ["Basic dXNlcjpwYXNz"]
        assert proxy.headers()["authorization"] == [f"Bearer {KEY}"]


def test_a_proxy_that_is_not_there(server: FaultServer, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    with model_for(server.base_url, transport) as model, pytest.raises(ConnectionFailed):
        model.generate("hello")
    assert server.requests == []


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, server: FaultServer) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with model_for(server.base_url) as model, pytest.raises(InvalidRequest, match=r"socks5.*client_kwargs"):
        model.generate("hello")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert environment_proxy(server.base_url) is None


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key in one file, alone in its folder, under its hash as well."""
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "server.pem"
    key = folder.parent / "server.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", path], check=True, capture_output=True)
    digest = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", path], check=True, capture_output=True)
    (folder / f"{digest.stdout.decode().strip()}.0").write_text(path.read_text())
    return path


@pytest.fixture
def tls(server: FaultServer, certificate: Path) -> Iterator[Relay]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.parent.parent / "server.key")
    with Relay(server.port, context) as relay:
        yield relay


def test_a_certificate_that_nobody_vouches_for(server: FaultServer, tls: Relay, transport: str) -> None:
    """It is refused at once: trying again would not make it better."""
    with (
        model_for(f"{tls.url}/v1", transport, retry=True) as model,
        pytest.raises(ConnectionFailed, match="certificate") as caught,
    ):
        model.generate("hello")
    assert not caught.value.retryable
    assert server.requests == []


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_certificate_named_in_the_environment(
    server: FaultServer, tls: Relay, transport: str, certificate: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(certificate if variable == "SSL_CERT_FILE" else certificate.parent))
    with openai.OpenAI(base_url=f"{tls.url}/v1", max_retries=0) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[arg-type]
    with model_for(f"{tls.url}/v1", transport) as model:
        assert model.generate("hello").content == ANSWER
        assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
    assert len(server.requests) == 3


def test_a_certificate_of_another_host(
    tls: Relay, transport: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with model_for(f"https://127.0.0.2:{tls.port}/v1", transport) as model, pytest.raises(ConnectionFailed):
        model.generate("hello")


def test_a_certificate_file_that_is_not_there(tls: Relay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with model_for(f"{tls.url}/v1") as model, pytest.raises(InvalidRequest, match=r"SSL_CERT_FILE.*missing\.pem"):
        model.generate("hello")


def test_tls_through_a_proxy(
    server: FaultServer, tls: Relay, transport: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy learns the host and nothing more."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Relay(0) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with model_for(f"{tls.url}/v1", transport) as model:
            assert model.generate("hello").content == ANSWER
        assert [head.split("\r\n")[0] for head in proxy.heads] == [f"CONNECT 127.0.0.1:{tls.port} HTTP/1.1"]
        assert KEY not in str(proxy.heads)


def test_a_proxy_that_refuses(server: FaultServer, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.recv(65536)
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, args=(listener,), daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with model_for("https://127.0.0.1:1/v1", transport) as model, pytest.raises(ConnectionFailed, match=r"roxy"):
            model.generate("hello")
        listener.shutdown(socket.SHUT_RDWR)


# --- connections ------------------------------------------------------------------------------------------------------


def test_calls_share_a_connection(server: FaultServer, transport: str) -> None:
    with model_for(server.base_url, transport) as model:
        for _ in range(5):
            model.generate("hello")
            list(model.generate_stream("hello"))
        assert (len(server.requests), server.connections_opened) == (10, 1)

        async def the_same() -> None:
            for _ in range(5):
                await model.agenerate("hello")
                async with model.agenerate_stream("hello") as stream:
                    async for _ in stream:
                        pass

        asyncio.run(the_same())
    assert (len(server.requests), server.connections_opened) == (20, 2)


def test_a_response_is_read_to_its_true_end(transport: str) -> None:
    """The framing may end some time after [DONE]; a connection left before that could not be kept."""
    connections: list[int] = []

    def serve(client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), client:
            while client.recv(65536):
                connections.append(number)
                events = [*Reply().events("m", include_usage=True)]
                chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                client.sendall(head + chunks)
                threading.Event().wait(0.05)
                client.sendall(b"0\r\n\r\n")

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for number in range(10):
                threading.Thread(target=serve, args=(listener.accept()[0], number), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        with model_for(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", transport) as model:
            for _ in range(3):
                assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
        listener.shutdown(socket.SHUT_RDWR)
    # Not one for each; a busy machine may be too late for one of them.
    assert len(set(connections)) < len(connections)


def test_errors_give_their_connection_back(server: FaultServer, transport: str) -> None:
    server.script([Fault.status(400), Fault.status(500), Fault.rate_limit()])
    with model_for(server.base_url, transport) as model:
        for _ in range(3):
            with pytest.raises(ModelError):
                model.generate("hello")
        model.generate("hello", stop_sequences=["zzz"])
        model.generate("hello")
    assert server.connections_opened == 1


def test_a_stream_cut_by_us_gives_up_its_connection_alone(server: FaultServer) -> None:
    """A stop sequence that the server does not know ends the stream early; the next call opens a new connection."""
    server.script([Fault.cut("stall", stall_s=9.0)])
    with model_for(server.base_url, capabilities={"stop": False}) as model:
        assert "".join(d.content or "" for d in model.generate_stream("hello", stop_sequences=["tal"])) == "The capi"
        server.wait_for(lambda: server.open_connections == 0)
        assert model.generate("hello").content == ANSWER


@pytest.mark.parametrize("when", ["at_once", "on_next_request"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_stale_connection_earns_one_free_retry(server: FaultServer, when: Any, streamed: bool) -> None:
    """Though retries are off: the server had closed it before it saw the request."""
    server.script([Fault.stale(when), Fault.stale(when), OK])
    with model_for(server.base_url, retry=False) as model:
        for _ in range(3):
            if streamed:
                assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
            else:
                assert model.generate("hello").content == ANSWER
    assert len(server.requests) == 3
    assert server.connections_opened == 3
    assert server.stale_hits == (2 if when == "on_next_request" else 0)


def test_many_stale_connections(server: FaultServer) -> None:
    """Each of them gives way to the next, and the last one to a new one."""
    server.script(then=Fault.stale("on_next_request").replace(delay_s=0.1))
    with model_for(server.base_url, retry=False) as model:

        async def go() -> None:
            await asyncio.gather(*(model.agenerate("hello") for _ in range(8)))
            server.script()
            assert (await model.agenerate("hello")).content == ANSWER

        asyncio.run(go())
    assert len(server.requests) == 9


def test_a_server_that_reads_and_hangs_up_gets_a_request_twice_at_most(server: FaultServer) -> None:
    """However many connections are kept: the second goes out on a new one, and earns none."""
    with model_for(server.base_url, retry=False) as model:

        async def go() -> None:
            server.script(then=Fault.slow(0.1))
            await asyncio.gather(*(model.agenerate("hello") for _ in range(8)))
            before, opened = len(server.requests), server.connections_opened
            server.script(then=Fault.hang_up())
            with pytest.raises(ConnectionFailed):
                await model.agenerate("hello")
            assert len(server.requests) - before == 2
            assert server.connections_opened - opened == 1

        asyncio.run(go())


def test_a_new_connection_that_breaks_earns_none(server: FaultServer) -> None:
    server.script(then=Fault.hang_up())
    with model_for(server.base_url, retry=False) as model, pytest.raises(ConnectionFailed):
        model.generate("hello")
    assert len(server.requests) == 1


def test_a_stale_connection_through_the_sdk_is_retried(server: FaultServer) -> None:
    """The SDK does not tell a stale connection from a broken one: the retry layer makes up for both."""
    server.script([Fault.stale("on_next_request"), OK])
    with model_for(server.base_url, "sdk", retry=2) as model:
        model.generate("hello")
        assert model.generate("hello").content == ANSWER
    assert server.stale_hits == 1


def test_a_pool_is_not_filled_by_callers_who_leave(server: FaultServer, transport: str) -> None:
    with model_for(server.base_url, transport) as model:

        async def go() -> None:
            await model.agenerate("hello")
            tasks = len(asyncio.all_tasks())
            server.script(then=Fault.cut("stall", stall_s=9.0))
            for _ in range(50):
                async with model.agenerate_stream("hello") as stream:
                    async for delta in stream:
                        if delta.content:
                            break
            await asyncio.to_thread(server.wait_for, lambda: server.open_connections <= 1)
            assert len(asyncio.all_tasks()) == tasks
            server.script()
            opened = server.connections_opened
            for _ in range(3):
                await model.agenerate("hello")
            assert server.connections_opened <= opened + 1

        asyncio.run(go())


def test_a_stream_that_is_left_leaves_no_generators(server: FaultServer, transport: str) -> None:
    """Python would end those of the HTTP library in any order, in tasks of their own, and complain where two meet."""
    server.script(then=Fault.cut("stall", stall_s=9.0))

    async def go() -> list[str]:
        begin, end = sys.get_asyncgen_hooks()
        left: list[str] = []

        def finalizer(generator: Any) -> None:
            left.append(generator.__qualname__)
            assert end is not None
            end(generator)

        sys.set_asyncgen_hooks(begin, finalizer)
        async with model.agenerate_stream("hello") as stream:
            async for delta in stream:
                if delta.content:
                    break
        gc.collect()
        return left

    with model_for(server.base_url, transport) as model:
        assert asyncio.run(go()) == []


def test_one_client_for_each_loop(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Counted(openai.AsyncOpenAI):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            made.append(self)

    monkeypatch.setattr(openai, "AsyncOpenAI", Counted)
    with model_for(server.base_url, "sdk") as model:

        async def several() -> None:
            await asyncio.gather(*(model.agenerate("hello") for _ in range(5)))

        for _ in range(3):
            model.generate("hello")
        assert len(made) == 1
        for number in (2, 3):
            asyncio.run(several())
            assert len(made) == number
            assert made[-1].is_closed()
        assert not made[0].is_closed()
    assert made[0].is_closed()


def test_many_loops_at_once(server: FaultServer, transport: str) -> None:
    """Loops that begin and end in many threads do not disturb each other."""
    failures: list[BaseException] = []

    def calls() -> None:
        try:
            for _ in range(8):
                assert asyncio.run(model.agenerate("hello")).content == ANSWER
        except BaseException as error:
            failures.append(error)

    with model_for(server.base_url, transport) as model:
        threads = [threading.Thread(target=calls) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
    assert failures == []
    assert len(server.requests) == 96
    server.wait_for(lambda: server.open_connections == 0)


def test_a_pool_of_many_loops_at_once() -> None:
    """Some end as they should, some are just closed; none disturbs another one's resource."""
    closed: list[int] = []

    class Resource:
        async def close(self) -> None:
            closed.append(1)

    pool: PerLoop[Resource] = PerLoop(lambda resource: resource.close())
    failures: list[BaseException] = []

    async def use() -> None:
        resource = await pool.get(Resource)
        await asyncio.sleep(0)
        assert await pool.get(Resource) is resource

    def work(as_it_should: bool) -> None:
        try:
            for _ in range(150):
                if as_it_should:
                    asyncio.run(use())
                else:
                    loop = asyncio.new_event_loop()
                    loop.run_until_complete(use())
                    loop.close()
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert len(closed) == 6 * 150
    assert len(pool._entries) <= 6


def test_many_calls_at_once(server: FaultServer, transport: str) -> None:
    server.script(then=OK.replace(delay_s=0.05))
    with model_for(server.base_url, transport) as model:

        async def many() -> set[str | None]:
            messages = await asyncio.gather(*(model.agenerate("hello") for _ in range(100)))
            return {str(message.content) for message in messages}

        assert asyncio.run(many()) == {ANSWER}
    assert len(server.requests) == 100


def test_a_forgotten_model_closes_its_connections(server: FaultServer, transport: str) -> None:
    model = OpenAIServerModel("m", server.base_url, **TRANSPORTS[transport])
    model.generate("hello")
    assert server.open_connections == 1
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    server.wait_for(lambda: server.open_connections == 0)


def test_a_closed_model_opens_a_new_connection(server: FaultServer, transport: str) -> None:
    model = OpenAIServerModel("m", server.base_url, **TRANSPORTS[transport])
    for _ in range(2):
        model.generate("hello")
        model.close()
        server.wait_for(lambda: server.open_connections == 0)

    async def closed_by_itself() -> None:
        async with model:
            await model.agenerate("hello")
        await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)

    asyncio.run(closed_by_itself())
    assert len(server.requests) == 3


# --- clients of the user's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_client_of_the_users(server: FaultServer, is_async: bool) -> None:
    """Its settings are its own, its retries are off, and it is left open."""
    kind: Any = openai.AsyncOpenAI if is_async else openai.OpenAI
    client = kind(base_url=server.base_url, api_key=KEY, default_headers={"X-Mine": "1"}, max_retries=5)
    with OpenAIServerModel("m", client=client, retry=False) as model:
        assert model.generate("hello").content == ANSWER
        assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
        server.script([Fault.status(500)])
        with pytest.raises(ModelError):
            model.generate("hello")
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(model)
    assert [request.headers["x-mine"] for request in server.requests] == ["1"] * 3
    assert not client.is_closed()
    assert model.generate("hello").content == ANSWER
    if is_async:
        from modelport.runtime.portal import run

        run(client.close())
    else:
        client.close()


def test_a_sync_client_of_the_users_in_async_code(server: FaultServer) -> None:
    """Many calls at once, each in a thread of its own; the loop is never blocked."""
    server.script(then=OK.replace(delay_s=0.1))
    with openai.OpenAI(base_url=server.base_url, api_key=KEY) as client:
        model = OpenAIServerModel("m", client=client)

        async def go() -> float:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            streams = [model.agenerate_stream("hello") for _ in range(8)]
            texts = await asyncio.gather(*(model.agenerate("hello") for _ in range(8)), *(map(text_of, streams)))
            assert {str(getattr(text, "content", text)) for text in texts} == {ANSWER}
            return loop.time() - begun

        assert asyncio.run(go()) < 1.2  # 16 after one another would take 1.6


async def text_of(stream: Any) -> str:
    return "".join([delta.content or "" async for delta in stream])


def test_a_stream_of_a_sync_client_that_is_left(server: FaultServer) -> None:
    server.script(then=OK.replace(pace_s=0.05))
    with openai.OpenAI(base_url=server.base_url, api_key=KEY) as client:
        model = OpenAIServerModel("m", client=client)
        with model.generate_stream("hello") as stream:
            next(stream)
        server.wait_for(lambda: server.open_connections == 0)
        wait_for_no_thread("modelport-stream")


def wait_for_no_thread(name: str) -> None:
    deadline = 100
    while any(thread.name == name for thread in threading.enumerate()):
        deadline -= 1
        assert deadline, threading.enumerate()
        threading.Event().wait(0.02)


def test_an_async_client_of_the_users_in_its_own_loop(server: FaultServer) -> None:
    async def go() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY) as client:
            model = OpenAIServerModel("m", client=client)
            assert (await model.agenerate("hello")).content == ANSWER
            assert await text_of(model.agenerate_stream("hello")) == ANSWER

    asyncio.run(go())
    assert server.connections_opened == 1


def test_the_settings_of_a_client_made_here(server: FaultServer) -> None:
    """They go before ours; `max_retries` becomes our own retry, and is not done twice."""
    settings = {"default_headers": {"X-Mine": "1"}, "max_retries": 1, "api_key": "sk-other-0123456789"}
    server.script(then=Fault.status(500))
    model = OpenAIServerModel("m", server.base_url, client_kwargs=settings)
    with model, pytest.raises(ModelError):
        model.generate("hello")
    assert len(server.requests) == 2
    assert server.requests[0].headers["x-mine"] == "1"
    assert server.requests[0].headers["authorization"] == "Bearer sk-other-0123456789"


def test_a_timeout_of_the_clients_own(server: FaultServer) -> None:
    server.script([Fault.slow(9.0)])
    model = OpenAIServerModel("m", server.base_url, client_kwargs={"timeout": 0.3}, retry=2)
    with model:
        assert model.generate("hello").content == ANSWER
    assert len(server.requests) == 2


def test_wrong_settings_of_a_client(server: FaultServer) -> None:
    model = OpenAIServerModel("m", server.base_url, client_kwargs={"no_such_setting": 1})
    with pytest.raises(InvalidRequest, match="no_such_setting"):
        model.generate("hello")
    with pytest.raises(InvalidRequest, match="client_kwargs"):
        OpenAIServerModel("m", client=openai.OpenAI(), client_kwargs={"timeout": 1})


# --- errors whose body does not come whole ----------------------------------------------------------------------------

LONG = json.dumps({"error": {"message": "x" * 500}}).encode()


@pytest.mark.parametrize("end", ["close", "reset", "stall"])
@pytest.mark.parametrize(
    ("status", "kind"), [(503, ServerError), (429, RateLimited), (401, AuthenticationError), (400, InvalidRequest)]
)
def test_an_error_without_its_body_is_what_its_status_says(
    server: FaultServer, transport: str, status: int, kind: type[ModelError], end: Any
) -> None:
    fault = Fault.status(status, headers={"Retry-After": "7"}, body=LONG)
    server.script(then=replace(fault, end=end, after_bytes=20))
    started = time.monotonic()
    with model_for(server.base_url, transport) as model, pytest.raises(kind) as caught:
        model.generate("hello")
    assert (caught.value.status, caught.value.retry_after) == (status, 7)
    assert time.monotonic() - started < 6
    assert len(server.requests) == 1


def test_no_more_of_an_errors_body_is_read_than_is_of_use(server: FaultServer) -> None:
    server.script(then=Fault.status(500, body=b"x" * 10_000_000))
    with model_for(server.base_url) as model, pytest.raises(ServerError, match="xxx"):
        model.generate("hello")


@pytest.mark.parametrize("way", ["sync", "streamed"])
def test_an_answer_that_swells_is_not_unpacked_to_its_end(server: FaultServer, way: str) -> None:
    """A megabyte on the wire would be as much memory as its sender likes."""
    swollen = gzip.compress(b" " * 2 * MAX_RESPONSE_SIZE)
    server.script(then=Fault(content=swollen, headers={"Content-Encoding": "gzip"}, never_streams=True))
    with model_for(server.base_url) as model:
        tracemalloc.start()
        try:
            with pytest.raises(MalformedResponse, match="larger than 64 MiB"):
                _fail(model, way)
            assert tracemalloc.get_traced_memory()[1] < 2 * MAX_RESPONSE_SIZE
        finally:
            tracemalloc.stop()


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync", "streamed"])
@pytest.mark.parametrize("keyed", ["http", "sdk", "azure-sdk", "azure-sdk v1", "own client", "own async client"])
def test_a_redirect_is_not_followed(server: FaultServer, keyed: str, way: str) -> None:
    """The prompt and the headers of a user's would go along."""
    with FaultServer() as other:
        where = f"{other.base_url}/{KEY}/completions?key={KEY}"
        server.script(then=Fault.status(307, headers={"Location": where}))
        with (
            KEYED[keyed](server.base_url) as model,
            pytest.raises(InvalidRequest, match=r"redirects to http.*/\*\*\*/completions; give") as caught,
        ):
            _fail(model, way)
        assert other.requests == []
    assert KEY not in shown(caught.value)


# --- no key is shown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ['{"error": {"message": "bad key %s"}}', '{"choices": "bad key %s"}'])
def test_a_key_that_is_quoted_in_another_spelling_is_not_shown(server: FaultServer, transport: str, body: str) -> None:
    """PHP escapes a slash, Go a plus."""
    key = "sk-abc/def+0123456789"
    escaped = key.replace("/", "\\/").replace("+", "\\u002b")
    status = 401 if "error" in body else 200
    server.script(then=Fault.status(status, body=(body % escaped).encode()))
    with model_for(server.base_url, transport, api_key=key) as model, pytest.raises(ModelError) as caught:
        model.generate("hello")
    assert key not in str(caught.value) and "def+0123" not in str(caught.value)


def shown(error: BaseException) -> str:
    return leaking.shown(error, __file__)


ECHO = f"Incorrect API key provided: {KEY}. You sent 'Bearer {KEY}'."
LEAKS: dict[str, Fault | None] = {
    "401": Fault.status(401, message=ECHO),
    "400 in plain text": Fault.status(400, body=ECHO.encode()),
    "429": Fault.status(429, message=ECHO, headers={"Retry-After": "0"}),
    "500": Fault.status(500, message=ECHO),
    "a detail": Fault.status(422, body=json.dumps({"detail": [{"msg": ECHO}]}).encode()),
    "a redirect": Fault.status(307, headers={"Location": "http://elsewhere.example/"}),
    "an error in a 200": Fault.error_frame(message=ECHO),
    "an error of another form": Fault(
        content=json.dumps({"message": ECHO}).encode(), replaced_events={3: sse({"message": ECHO})}, last_event=3
    ),
    "an event of its own": Fault(
        content=b"{}", replaced_events={3: b"event: error\n" + sse({"message": ECHO})}, last_event=3
    ),
    "no JSON": Fault(content=ECHO.encode(), replaced_events={3: sse(ECHO)}),
    "no chat completion": Fault(
        content=json.dumps({"choices": ECHO, "error": None}).encode(), replaced_events={3: sse({"error": ECHO})}
    ),
    "choices of text": Fault(
        content=json.dumps({"choices": ECHO}).encode(), replaced_events={3: sse({"choices": ECHO})}
    ),
    "choices of another form": Fault(
        content=json.dumps({"choices": [{"message": {"content": 5, "said": ECHO}}]}).encode(),
        replaced_events={3: sse({"choices": [{"delta": {"content": 5, "said": ECHO}}]})},
    ),
    "text alone": Fault(content=json.dumps(ECHO).encode(), replaced_events={3: sse(json.dumps(ECHO))}, last_event=3),
    "a reset": Fault.cut("reset"),
    "a cut": Fault.cut("close"),
    "a reset before headers": Fault.reset(),
    "silence": Fault.silence(2.0),  # a synchronous client of the user's waits for its end
    "refused": None,
}


LIMITS: dict[str, Any] = {"retry": False, "timeout": 20, "first_token_timeout": 0.5}
AZURE: dict[str, Any] = {"model_id": "m", "azure_ad_token_provider": lambda: KEY, **LIMITS}
SDK = TRANSPORTS["sdk"]
#: By every way that a key takes: a model for a server's base URL.
KEYED: dict[str, Callable[[str], ChatCompletionsModel]] = {
    "http": lambda url: OpenAIServerModel("m", url, KEY, **LIMITS),
    "sdk": lambda url: OpenAIServerModel("m", url, KEY, **SDK, **LIMITS),
    "azure": lambda url: AzureOpenAIServerModel(azure_endpoint=url, api_version="2024-10-21", **AZURE),
    "azure-sdk": lambda url: AzureOpenAIServerModel(azure_endpoint=url, api_version="2024-10-21", **SDK, **AZURE),
    "azure-sdk v1": lambda url: AzureOpenAIServerModel(azure_endpoint=url, **SDK, **AZURE),
    "huggingface": lambda url: InferenceClientModel("m", base_url=url, token=KEY, **LIMITS),
    "own client": lambda url: OpenAIServerModel("m", client=_client(openai.OpenAI, url), **LIMITS),
    "own async client": lambda url: OpenAIServerModel("m", client=_client(openai.AsyncOpenAI, url), **LIMITS),
    "own azure client": lambda url: AzureOpenAIServerModel(
        "m", client=_azure_client(openai.AzureOpenAI, url), **LIMITS
    ),
    "own async azure client": lambda url: AzureOpenAIServerModel(
        "m", client=_azure_client(openai.AsyncAzureOpenAI, url), **LIMITS
    ),
}


def _fail(model: ChatCompletionsModel, way: str) -> None:
    """Asks; a client of the user's is closed as its user would."""
    client = model.client
    is_async = inspect.iscoroutinefunction(getattr(client, "close", None))

    async def asked() -> None:
        try:
            await model.agenerate("hello")
        finally:
            if is_async:
                await client.close()

    try:
        if way == "async":
            asyncio.run(asked())
        elif way == "sync":
            model.generate("hello")
        else:
            list(model.generate_stream("hello"))
    finally:
        if client is not None and not (is_async and way == "async"):
            run(client.close()) if is_async else client.close()


def _client(kind: Any, url: str) -> Any:
    """A client of the user's."""
    return kind(base_url=url, api_key=KEY)


def _azure_client(kind: Any, url: str) -> Any:
    """Another, whose token comes from a function: the client itself does not hold it."""
    endpoint = url.removesuffix("/v1")
    return kind(azure_endpoint=endpoint, api_version="2024-10-21", azure_ad_token_provider=lambda: KEY)


@pytest.mark.parametrize("keyed", ["azure", "azure-sdk", "azure-sdk v1"])
def test_a_token_that_comes_as_the_time_is_up_is_not_shown(server: FaultServer, keyed: str) -> None:
    """The loop is busy while the provider's thread answers and the time runs out: both are seen in one turn of it."""

    def slow() -> str:
        time.sleep(0.05)
        return KEY

    async def go() -> None:
        with KEYED[keyed](server.base_url) as model:
            model.azure_ad_token_provider = slow  # type: ignore[attr-defined]
            asyncio.get_running_loop().call_later(0.02, time.sleep, 0.3)
            await model.agenerate("hello", first_token_timeout=0.1)

    for _ in range(3):
        with pytest.raises(DeadlineExceeded) as caught:
            asyncio.run(go())
        assert KEY not in shown(caught.value)


@pytest.mark.parametrize("way", ["sync", "streamed", "async"])
@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("keyed", KEYED)
def test_no_failure_shows_the_key(
    server: FaultServer, keyed: str, name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fault = LEAKS[name]
    if fault is None:
        server.stop_listening()
    else:
        server.script(then=fault)
    with KEYED[keyed](server.base_url) as model:
        with pytest.raises(ModelError) as caught:
            _fail(model, way)
        assert KEY not in shown(caught.value)
        if isinstance(caught.value, StreamInterrupted):
            assert KEY not in repr(caught.value.partial)
        assert KEY not in repr([model, model._transport, vars(model._transport)])
        assert KEY not in pickle.dumps(caught.value).decode("latin-1")
    assert KEY not in caplog.text
    assert KEY not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("name", [name for name, fault in LEAKS.items() if fault is not None])
def test_no_frame_shows_a_key_of_the_query(server: FaultServer, transport: str, name: str) -> None:
    server.script(then=LEAKS[name])
    settings = {"default_query": {"code": "my-subscription"}, **LIMITS}
    with model_for(server.base_url, transport, **settings) as model, pytest.raises(ModelError) as caught:
        model.generate("hello")
    assert "my-subscription" not in shown(caught.value)


SLASHED = "sk-abc/def+ghi=0123456789"


@pytest.mark.parametrize(
    "body",
    [
        rb'{"error": {"message": "bad key sk-abc\/def+ghi=0123456789"}}',
        rb'{"error": {"message": "bad key sk-abc/def\u002Bghi\u003d0123456789"}}',
        rb'{"error": {"message": "it said {\"bad key\": \"sk-abc\\/def\\u002bghi=0123456789\"}"}}',
        rb'{"error": "bad key sk-abc\/def+ghi\u003d0123456789", and broken',
        rb"bad key sk-abc%2Fdef%2bghi%3D0123456789",
        rb"bad key sk-abc%252Fdef%252bghi%253D0123456789",
        rb"<html><title>bad key sk-abc&#x2F;def&#43;ghi&#x3d;0123456789</title>",
        rb"bad key sk-abc\x2fdef\053ghi\u{3D}0123456789",
        rb'{"error": {"message": "bad key sk-abc\/def+ghi=012345678',
        rb"bad key sk-abc/def+ghi\u003d012345678\u00",
    ],
)
@pytest.mark.parametrize("status", [401, 200])
def test_a_key_that_comes_escaped_is_not_shown(server: FaultServer, transport: str, body: bytes, status: int) -> None:
    server.script(then=Fault.status(status, body=body))
    with model_for(server.base_url, transport, api_key=SLASHED) as model, pytest.raises(ModelError) as caught:
        model.generate("hello")
    assert "012345678" not in shown(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"default_headers": {"X-Subscription": "my-subscription"}},
        {"default_headers": {"Cookie": "a=1; s=my-subscription"}},
        {"default_headers": {"Proxy-Authorization": "Basic " + base64.b64encode(b"me:my-subscription").decode()}},
        {"default_query": {"code": "my-subscription"}},
        {"extra_headers": {"X-Subscription": "my-subscription"}},
        {"extra_query": {"code": "my-subscription"}},
    ],
    ids=str,
)
def test_what_a_user_sends_along_is_not_shown(server: FaultServer, transport: str, settings: dict[str, Any]) -> None:
    server.script(then=Fault.status(403, message="my-subscription is spent."))
    with model_for(server.base_url, transport, **settings) as model, pytest.raises(ModelError, match="is spent") as e:
        model.generate("hello")
    assert "my-subscription" not in str(e.value)


def test_a_word_of_a_harmless_header_is_left_alone(server: FaultServer) -> None:
    server.script([Fault.status(400, message="The playground is closed.")])
    with (
        model_for(server.base_url, default_headers={"X-Title": "My playground"}) as model,
        pytest.raises(InvalidRequest, match="The playground is closed"),
    ):
        model.generate("hello")


def test_an_answer_that_is_no_http(transport: str) -> None:
    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                said = client.recv(65536)
                client.sendall(b"220 mail.example ESMTP\r\n" + said + b"\r\n\r\n")
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with model_for(url, transport) as model, pytest.raises(ModelError) as caught:
            model.generate("hello")
        listener.shutdown(socket.SHUT_RDWR)
    assert KEY not in shown(caught.value)
    assert type(caught.value) in (MalformedResponse, ConnectionFailed)


def test_an_answer_that_quotes_the_key_is_not_changed(server: FaultServer, transport: str) -> None:
    """Only what becomes an error's text is cleaned: the model's words are the caller's."""
    server.script(then=Fault.ok(f"You told me {KEY}.", piece=100))
    with model_for(server.base_url, transport) as model:
        assert model.generate("hello").content == f"You told me {KEY}."
        assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == f"You told me {KEY}."


def test_a_model_shows_no_key(server: FaultServer, transport: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    model = OpenAIServerModel("m", server.base_url, KEY, **TRANSPORTS[transport])
    with model:
        stream = model.generate_stream("hello")
        next(stream)
        assert KEY not in repr([model, stream, model.generate("hello"), vars(model)["api_key"]])
        stream.close()
        assert KEY not in pickle.dumps(model).decode("latin-1")
        assert KEY not in json.dumps(model.to_dict())
    assert KEY not in caplog.text
