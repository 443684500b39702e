"""The fault matrix on LiteLLM: through the openai package, the Router, and LiteLLM's own HTTP client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote.litellm.helpers import warm_up
from tests.remote.matrix import COLUMNS, Row, cells
from tests.remote.matrix_runner import run_cell
from tests.servers.faults import FaultServer

CELLS = cells(litellm=True)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        warm_up(server, (name for name, column in COLUMNS.items() if column.litellm))
        yield server


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("column", "row", "way"), CELLS, ids=[f"{c}: {row.name} - {way}" for c, row, way in CELLS])
def test_fault_has_the_result_of_the_matrix(server: FaultServer, column: str, row: Row, way: str) -> None:
    run_cell(server, column, row, way)
