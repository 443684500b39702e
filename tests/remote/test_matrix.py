"""The fault matrix on every backend, except those of LiteLLM, whose tests are in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.remote.fault_cases import FAULT_CASES
from tests.remote.matrix import BACKENDS, PAGE, WAYS, cells, expected, with_table
from tests.remote.matrix_runner import ask, model_for, run_cell, server_for
from tests.remote.outcomes import FaultCase, NotApplicable
from tests.servers.faults import FaultServer

pytestmark = pytest.mark.server

CELLS = cells(litellm=False)
#: By the number of a kind of faults: the ways to call a model in which the fault can't occur.
MISSING_WAYS = {11: {"sync", "async"}, 12: {"sync streamed", "async streamed"}, 14: {"sync"}}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, FaultServer]]:
    """The server of each backend."""
    with ExitStack() as stack:
        names = ("openai", "openai-responses", "bedrock")
        by_wire = {BACKENDS[name].wire: stack.enter_context(server_for(name)) for name in names}
        servers = {name: by_wire[backend.wire] for name, backend in BACKENDS.items()}
        # The imports of a process's first call take half a second, which must not count for the time limits of a cell.
        for backend in ("openai-sdk", "huggingface", "bedrock"):
            ask(model_for(servers[backend], backend), "async streamed")
        yield servers


@pytest.fixture
def server(servers: dict[str, FaultServer], backend: str) -> Iterator[FaultServer]:
    servers[backend].settle()
    yield servers[backend]
    servers[backend].start_listening()


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("backend", "case", "way"), CELLS, ids=[f"{b}: {case.name} - {way}" for b, case, way in CELLS])
def test_cell_has_expected_outcome(server: FaultServer, backend: str, case: FaultCase, way: str) -> None:
    run_cell(server, backend, case, way)


def test_matrix_covers_every_kind_of_fault_in_every_way() -> None:
    """The kinds 1 to 14 exist on every backend, in each way in which the fault can occur."""
    for backend in BACKENDS:
        for number in range(1, 15):
            cases = [case for case in FAULT_CASES if case.name.startswith(f"{number}:")]
            ways = {
                way for way in WAYS for case in cases if not isinstance(expected(case, backend, way), NotApplicable)
            }
            required = set(WAYS) - MISSING_WAYS.get(number, set())
            assert ways >= required, f"{backend} lacks {required - ways} of kind {number}"
    assert len({case.name for case in FAULT_CASES}) == len(FAULT_CASES)


def test_exceptions_of_backends_name_existing_faults() -> None:
    names = {case.name for case in FAULT_CASES}
    assert all(set(backend.exceptions) <= names for backend in BACKENDS.values())


def test_table_in_docs_is_current() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "run: python -m tests.remote.matrix"
