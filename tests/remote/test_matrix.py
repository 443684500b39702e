"""The fault matrix on every backend whose packages install beside each other; LiteLLM's is in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.remote.matrix import COLUMNS, PAGE, ROWS, WAYS, Not, Row, cells, expected, with_table
from tests.remote.playing import ask, model_for, play, server_for
from tests.servers.faults import FaultServer

CELLS = cells(litellm=False)


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, FaultServer]]:
    with ExitStack() as stack:
        chat, converse = (stack.enter_context(server_for(column)) for column in ("openai", "bedrock"))
        servers = {name: converse if name == "bedrock" else chat for name in COLUMNS}
        # What the first call of a process imports takes half a second, which belongs to no time limit below.
        for column in ("openai-sdk", "huggingface", "bedrock"):
            ask(model_for(servers[column], column), "async streamed")
        yield servers


@pytest.fixture
def server(running: dict[str, FaultServer], column: str) -> Iterator[FaultServer]:
    running[column].settle()
    yield running[column]
    running[column].start_listening()


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("column", "row", "way"), CELLS, ids=[f"{c}: {row.name} - {way}" for c, row, way in CELLS])
def test_cell(server: FaultServer, column: str, row: Row, way: str) -> None:
    play(server, column, row, way)


def test_every_row_of_the_matrix_is_there() -> None:
    """1 to 14 on every backend, in each way that the fault can come; the two that have no other way are named."""
    for column in COLUMNS:
        for number in range(1, 15):
            rows = [row for row in ROWS if row.name.startswith(f"{number}:")]
            ways = {way for way in WAYS for row in rows if not isinstance(expected(row, column, way), Not)}
            missing = {11: {"sync", "async"}, 12: {"sync streamed", "async streamed"}, 14: {"sync"}}.get(number, set())
            assert ways >= set(WAYS) - missing, f"{column} lacks {set(WAYS) - missing - ways} of row {number}"
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_what_comes_out_otherwise_names_a_row() -> None:
    names = {row.name for row in ROWS}
    assert all(set(column.otherwise) <= names for column in COLUMNS.values())


def test_the_table_in_the_docs_is_that_of_the_tests() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "run: python -m tests.remote.matrix"
