"""Each column of the contract is run by exactly one session of the noxfile, so that none is passed over in silence."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conformance.test_conformance import COLUMNS, ELSEWHERE, chosen

NOXFILE = Path(__file__).parents[2] / "noxfile.py"


def named() -> list[str]:
    """The columns that the noxfile's sessions name; the sessions of the oldest versions repeat some."""
    everything = ast.parse(NOXFILE.read_text()).body
    sessions = [node for node in everything if not getattr(node, "name", "").startswith("lowest")]
    words = [
        node.value
        for session in sessions
        for node in ast.walk(session)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    columns = [word.removeprefix("--backends=").split(",") for word in words if word.startswith("--backends=")]
    return [column for group in columns for column in group]


def test_each_column_belongs_to_one_session() -> None:
    assert sorted(named()) == sorted(ELSEWHERE)
    assert not set(COLUMNS) & set(ELSEWHERE)
    assert set(chosen(None)) == set(COLUMNS)


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(pytest.UsageError, match="'nonesuch' is unknown"):
        chosen("openai,nonesuch")
