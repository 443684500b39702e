"""Truncated output: whether it could have continued."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from modelport.constrained.continuation import could_continue
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex

pytest.importorskip("llguidance")


@pytest.mark.parametrize(
    ("grammar", "text", "expected"),
    [
        (Choice("New York", "New"), "New", True),
        (Choice("New York", "New"), "New York", False),
        (JSONSchema({"type": "integer"}), "12", True),
        (JSONSchema({"type": "object"}), "{}", False),
        (JSONSchema({"type": "string"}), '"2024"', False),
        (Lark("start: /a/"), "a", True),
        (Regex(r"\d{4}(-\d\d)?"), "2024", True),
        (Regex(r"\d{4}(-\d\d)?"), "2024-12", False),
        (Regex("a+"), "a", True),
        (Regex("a?"), "", True),
        (Regex("a|é|éa"), "a", False),
        (Regex("a|é|éa"), "é", True),
        (Regex("(?s).*"), "a/b\n", True),
        (Regex("yes|no$"), "no", False),
        (Regex("a\\b"), "a", True),  # No engine supports this pattern, so what may follow is unknown.
    ],
)
def test_could_continue_returns_whether_longer_output_exists(grammar: Any, text: str, expected: bool) -> None:
    assert could_continue(grammar, text) is expected


def test_could_continue_regex_without_llguidance_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert could_continue(Regex("a"), "a")
    assert not could_continue(Choice("a"), "a")
