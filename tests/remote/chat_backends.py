"""A server and the models of the tests of faults, for every backend with chat completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from modelport import Model
from tests.remote import matrix_runner
from tests.remote.matrix_runner import ask
from tests.servers.faults import FaultServer

CHAT_BACKENDS = ("openai", "openai-sdk", "azure", "azure-sdk", "huggingface")


def model_for(server: FaultServer, backend: str = "openai", **settings: Any) -> Model:
    """Return a model of a backend that retries fast and whose calls always end."""
    return matrix_runner.model_for(server, backend, **settings)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def module_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        # The imports of a process's first call take half a second, which must not count for the limits of a test.
        for backend in ("openai-sdk", "huggingface"):
            ask(model_for(server, backend), "async streamed")
        yield server


@pytest.fixture
def server(module_server: FaultServer) -> Iterator[FaultServer]:
    module_server.settle()
    yield module_server
    module_server.start_listening()


@pytest.fixture(params=CHAT_BACKENDS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)
