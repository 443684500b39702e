"""Fixtures of LiteLLM's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote.litellm.helpers import BACKENDS, warm_up
from tests.servers.faults import FaultServer


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared_server(request: pytest.FixtureRequest) -> Iterator[FaultServer]:
    """A server for the module. If its tests run on each backend, their first calls have been made."""
    with FaultServer() as server:
        if "backend" in {name for item in _tests_of(request) for name in item.fixturenames}:
            warm_up(server, BACKENDS)
        yield server


def _tests_of(request: pytest.FixtureRequest) -> list[pytest.Function]:
    collected = (item for item in request.session.items if isinstance(item, pytest.Function))
    return [item for item in collected if item.module is request.module]


@pytest.fixture
def server(shared_server: FaultServer) -> Iterator[FaultServer]:
    """The module's server, without requests of earlier tests."""
    shared_server.settle()
    yield shared_server
    shared_server.start_listening()
