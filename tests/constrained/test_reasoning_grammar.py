"""Grammars that allow reasoning first: they still enforce the output, wherever the grammar uses its start symbol."""

from __future__ import annotations

import pytest

from modelport.constrained.reasoning import allow_reasoning
from tests.constrained.matching import lark_accepts


@pytest.mark.parametrize(
    ("lark", "output", "invalid"),
    [
        ('start: "a" b\nb: "x" | "y"', "ax", "a"),
        ('start: "a" start | "b"', "aab", "aa"),
        ('// start: here\nstart: "a"', "a", "b"),
        ('# "start: here\nstart: "a"', "a", "b"),
        ("start[max_tokens=5]: /a+/", "aa", "b"),
        ('?start: "a"', "a", "b"),
        ('x: "y"\nstart: x', "y", "x"),
        ('start: x\nx: "start:"', "start:", "output_:"),
        ('start: "\\"start" /\\/start/', '"start/start', "start"),
        ('start: restart\nrestart: "q"', "q", "r"),
        ('start: output_\noutput_: "a" reasoning_\nreasoning_: "b"', "ab", "a"),
        ('start: %json {"const": "start"}', '"start"', "start"),
    ],
)
def test_allow_reasoning_accepts_same_output_with_and_without_reasoning(lark: str, output: str, invalid: str) -> None:
    assert lark_accepts(lark, output)
    with_reasoning = allow_reasoning(lark, starts_in_reasoning=False)
    assert lark_accepts(with_reasoning, output)
    assert lark_accepts(with_reasoning, f"<think>start?</think>\n\n{output}")
    assert lark_accepts(allow_reasoning(lark, starts_in_reasoning=True), f"start?</think>{output}")
    for text in (invalid, f"<think>a</think>{invalid}"):
        assert not lark_accepts(with_reasoning, text)


def test_allow_reasoning_recursive_grammar_allows_reasoning_only_first() -> None:
    with_reasoning = allow_reasoning('start: "a" start | "b"', starts_in_reasoning=False)
    assert lark_accepts(with_reasoning, "<think>x</think>aab")
    assert not lark_accepts(with_reasoning, "<think>x</think>a<think>y</think>b")
    assert not lark_accepts(with_reasoning, "a<think>y</think>b")
