"""Proxies and certificates of the environment, through both transports."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Mapping
from pathlib import Path

import openai
import pytest

from modelport.errors import ConnectionFailed, InvalidRequest
from modelport.remote.http.environment import environment_proxy
from tests.remote.http.models import ANSWER, KEY, MESSAGES, model_for
from tests.remote.http.relay import Relay
from tests.servers.faults import FaultServer

pytestmark = pytest.mark.timeout(60)

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
def test_proxy_of_environment_is_used(
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


def test_proxy_password_is_sent_to_proxy(server: FaultServer, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Relay(server.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:pass@127.0.0.1:{proxy.port}")
        with model_for(server.base_url, transport) as model:
            model.generate("hello")
        assert proxy.headers()["proxy-authorization"] == ["Basic dXNlcjpwYXNz"]
        assert proxy.headers()["authorization"] == [f"Bearer {KEY}"]


def test_unreachable_proxy_raises_connection_failed(
    server: FaultServer, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    with model_for(server.base_url, transport) as model, pytest.raises(ConnectionFailed):
        model.generate("hello")
    assert server.requests == []


def test_socks_proxy_is_refused(monkeypatch: pytest.MonkeyPatch, server: FaultServer) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with model_for(server.base_url) as model, pytest.raises(InvalidRequest, match=r"socks5.*client_kwargs"):
        model.generate("hello")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert environment_proxy(server.base_url) is None


def test_untrusted_certificate_is_refused_without_retry(server: FaultServer, tls: Relay, transport: str) -> None:
    """Another attempt would not help."""
    with (
        model_for(f"{tls.url}/v1", transport, retry=True) as model,
        pytest.raises(ConnectionFailed, match="certificate") as caught,
    ):
        model.generate("hello")
    assert not caught.value.retryable
    assert server.requests == []


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificate_of_environment_is_trusted(
    server: FaultServer, tls: Relay, transport: str, certificate: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(certificate if variable == "SSL_CERT_FILE" else certificate.parent))
    with openai.OpenAI(base_url=f"{tls.url}/v1", max_retries=0) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[arg-type]
    with model_for(f"{tls.url}/v1", transport) as model:
        assert model.generate("hello").content == ANSWER
        assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
    assert len(server.requests) == 3


def test_certificate_of_another_host_is_refused(
    tls: Relay, transport: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with model_for(f"https://127.0.0.2:{tls.port}/v1", transport) as model, pytest.raises(ConnectionFailed):
        model.generate("hello")


def test_server_without_tls_is_named(transport: str) -> None:
    """The client sends the beginning of a TLS handshake, and gets an answer of plain HTTP."""

    class Plain(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Plain) as plain:
        thread = threading.Thread(target=plain.handle_request)
        thread.start()
        with (
            model_for(f"https://127.0.0.1:{plain.server_address[1]}/v1", transport, retry=True) as model,
            pytest.raises(ConnectionFailed, match=r"^No TLS connection: .*has no TLS, write http://") as caught,
        ):
            model.generate("hello")
        thread.join()
    assert not caught.value.retryable


def test_missing_certificate_file_is_named(tls: Relay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with model_for(f"{tls.url}/v1") as model, pytest.raises(InvalidRequest, match=r"SSL_CERT_FILE.*missing\.pem"):
        model.generate("hello")


def test_tls_through_proxy_shows_only_host_to_proxy(
    server: FaultServer, tls: Relay, transport: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy sees only the CONNECT request."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Relay(0) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with model_for(f"{tls.url}/v1", transport) as model:
            assert model.generate("hello").content == ANSWER
        assert [head.split("\r\n")[0] for head in proxy.heads] == [f"CONNECT 127.0.0.1:{tls.port} HTTP/1.1"]
        assert KEY not in str(proxy.heads)


def test_proxy_that_refuses_raises_connection_failed(
    server: FaultServer, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
