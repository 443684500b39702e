"""README's table of structured output agrees with the classes and with the backends under test."""

from __future__ import annotations

from modelport.registry import BACKENDS
from modelport.testing import CHECKS
from tests.conformance import table
from tests.conformance.test_conformance import SEPARATE_SUBJECTS, SUBJECTS


def test_readme_contains_current_table() -> None:
    text = table.README.read_text()
    assert table.with_table(text) == text, "run python -m tests.conformance.table"


def test_table_has_every_class_and_only_existing_backends() -> None:
    for entry_point in BACKENDS.values():
        name = entry_point.partition(":")[2]
        (backends,) = [{b for e in table.entries() if e.name.startswith(f"`{name}`") for b in e.backends}]
        assert backends, f"no backend under test proves {name}"
    named = [backend for entry in table.entries() for backend in entry.backends]
    assert len({*named}) == len(named)
    assert {*named} <= {*SUBJECTS, *SEPARATE_SUBJECTS}


def test_table_features_are_names_of_checks() -> None:
    others = {"structured output with tools", "reasoning", "reasoning effort"}
    assert {check.name for check in CHECKS} >= table.STRUCTURED_OUTPUT | others
    assert {*table.FEATURES} >= table.STRUCTURED_OUTPUT | others


def test_dialect_gives_same_row_for_each_class() -> None:
    rows: dict[str, set[tuple[str, ...]]] = {}
    for entry in table.entries():
        rows.setdefault(entry.name, set()).add(tuple(cell(entry) for cell in table.FEATURES.values()))
    assert all(len(cells) == 1 for cells in rows.values())


def test_expected_enforcement_comes_from_table() -> None:
    assert table.expected_enforcement("llamacpp", "regex") == "enforced"
    assert table.expected_enforcement("bedrock-forced", "JSON schema") == "forced_tool"
    assert table.expected_enforcement("bedrock-strict", "choice") == "enforced"
    assert table.expected_enforcement("bedrock-strict", "regex") == "validated"
    assert table.expected_enforcement("llamacpp", "tools: auto") is None
    assert table.expected_enforcement("not in the table", "regex") is None
