"""The fault matrix on LiteLLM: through the openai package, the Router, and LiteLLM's own HTTP client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote.litellm.helpers import warm_up
from tests.remote.matrix import BACKENDS, cells
from tests.remote.matrix_runner import run_cell
from tests.remote.outcomes import FaultCase
from tests.servers.faults import FaultServer

CELLS = cells(litellm=True)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        warm_up(server, (name for name, backend in BACKENDS.items() if backend.litellm))
        yield server


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("backend", "case", "way"), CELLS, ids=[f"{b}: {case.name} - {way}" for b, case, way in CELLS])
def test_cell_has_expected_outcome(server: FaultServer, backend: str, case: FaultCase, way: str) -> None:
    run_cell(server, backend, case, way)
