"""The fault matrix on LiteLLM: through the openai package, through its Router, and through its own HTTP client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote.matrix import BACKENDS, cells
from tests.remote.matrix_runner import ask, model_for, run_cell
from tests.remote.outcomes import FaultCase
from tests.servers.faults import FaultServer

CELLS = cells(litellm=True)


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        # What the first calls of a process import takes seconds, which belong to no time limit below.
        for column in (name for name, backend in BACKENDS.items() if backend.litellm):
            for way in ("sync", "async streamed"):
                ask(model_for(server, column), way)
        yield server


@pytest.fixture
def server(running: FaultServer) -> Iterator[FaultServer]:
    running.settle()
    yield running
    running.start_listening()


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("column", "row", "way"), CELLS, ids=[f"{c}: {row.name} - {way}" for c, row, way in CELLS])
def test_cell(server: FaultServer, column: str, row: FaultCase, way: str) -> None:
    run_cell(server, column, row, way)
