"""Fixtures of LiteLLM's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.faults import FaultServer


@pytest.fixture(scope="module")
def shared_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(shared_server: FaultServer) -> Iterator[FaultServer]:
    """The module's server, without requests of earlier tests."""
    shared_server.settle()
    yield shared_server
    shared_server.start_listening()
