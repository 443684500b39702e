"""Servers and engines for the tests of how calls run: a scripted HTTP server, llama.cpp's server, and llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from modelport import LlamaCppModel, Model, OpenAIServerModel
from tests.runtime.calls import QUESTION
from tests.servers.faults import FaultServer
from tests.servers.llamacpp import LlamaServer, llama_server, model_file


@pytest.fixture(scope="module")
def running_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(running_server: FaultServer) -> FaultServer:
    """A scripted HTTP server without requests of other tests."""
    running_server.settle()
    return running_server


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaServer]:
    """llama.cpp's own server."""
    with llama_server(slots=2) as server:
        yield server


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaCppModel]:
    """llama.cpp in this process.

    With one slot, a request that still runs makes the next one wait. With small batches, the engine stops soon while it
    reads a prompt.
    """
    settings: dict[str, Any] = {"parallel": 1, "threads": 1, "engine_params": {"n_batch": 64}}
    with LlamaCppModel(model_file(), context_length=4096, retry=False, **settings) as model:
        model.generate(QUESTION, max_tokens=1)
        yield model


@pytest.fixture(params=["remote", "local"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """The same weights behind HTTP and in this process."""
    if request.param == "local":
        yield request.getfixturevalue("engine")
        return
    server = request.getfixturevalue("llama")
    with OpenAIServerModel("m", server.base_url, server.api_key, retry=False, dialect="llama.cpp") as remote:
        yield remote
    server.wait_until_idle()
