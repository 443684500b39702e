"""README's table of forms is what the classes declare, and what the contract's columns are held to."""

from __future__ import annotations

from modelport.registry import BACKENDS
from modelport.testing import CHECKS
from tests.conformance import table
from tests.conformance.test_conformance import COLUMNS, ELSEWHERE


def test_it_is_not_stale() -> None:
    text = table.README.read_text()
    assert table.written(text) == text, "run python -m tests.conformance.table"


def test_it_has_every_class_and_only_columns_that_there_are() -> None:
    for where in BACKENDS.values():
        name = where.partition(":")[2]
        (columns,) = [{c for e in table.entries() if e.name.startswith(f"`{name}`") for c in e.columns}]
        assert columns, f"no column proves {name}"
    named = [column for entry in table.entries() for column in entry.columns]
    assert len({*named}) == len(named)
    assert {*named} <= {*COLUMNS, *ELSEWHERE}


def test_its_forms_are_rows_of_the_contract() -> None:
    assert {row.name for row in CHECKS} >= table.FORMS | {"a form beside tools", "reasoning", "reasoning effort"}
    assert {*table.ROWS} >= table.FORMS


def test_a_dialect_lays_the_same_over_each_class() -> None:
    lines: dict[str, set[tuple[str, ...]]] = {}
    for entry in table.entries():
        lines.setdefault(entry.name, set()).add(tuple(row(entry) for row in table.ROWS.values()))
    assert all(len(ways) == 1 for ways in lines.values())


def test_the_ways() -> None:
    assert table.way("llamacpp", "regex") == "enforced"
    assert table.way("bedrock-forced", "JSON schema") == "forced_tool"
    assert table.way("bedrock-strict", "choice") == "enforced"
    assert table.way("bedrock-strict", "regex") == "validated"
    assert table.way("llamacpp", "tools: auto") is None
    assert table.way("no column of the table", "regex") is None
