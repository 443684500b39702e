"""Strict JSON: what Python's `json` module accepts beyond it is refused."""

from __future__ import annotations

import pytest

from modelport import InvalidOutput
from modelport.schema.json_text import read_json
from modelport.testing import ScriptedModel


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"\uDFFF": 1}', r'["a\ude00\ud83d"]', "NaN", "1e999", "[" * 100_000])
def test_read_json_refuses_what_cannot_be_sent_back(text: str) -> None:
    with pytest.raises(ValueError, match=r"surrogate|NaN|too large|too deeply"):
        read_json(text)


def test_read_json_accepts_pairs_and_escaped_backslashes() -> None:
    assert read_json(r'"\ud83d\ude00"') == "😀"
    assert read_json(r'"\\ud800"') == r"\ud800"


def test_output_with_half_of_a_surrogate_pair_is_invalid() -> None:
    with pytest.raises(InvalidOutput):
        ScriptedModel(r'{"a": "\ud800"}').generate("?", grammar={"type": "object", "properties": {"a": {}}})
