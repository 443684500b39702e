"""Fixtures of the tests of the transports."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.http.models import KEY, TRANSPORTS
from tests.remote.http.relay import Relay
from tests.remote.http.relay import certificate as certificate
from tests.servers.faults import FaultServer

_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables that the transports read, and set the key."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "SSL_CERT_")) or name.upper() in _PROXY_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def module_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(module_server: FaultServer) -> Iterator[FaultServer]:
    module_server.settle()
    yield module_server
    module_server.start_listening()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tls(server: FaultServer, certificate: Path) -> Iterator[Relay]:
    """A relay that ends TLS with the self-signed certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.parent.parent / "server.key")
    with Relay(server.port, context) as relay:
        yield relay
