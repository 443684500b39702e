"""A grammar behind a free thought: the grammar is the caller's still, wherever its start symbol stands."""

from __future__ import annotations

import pytest

from modelport.constrained.reasoning import after_thinking

llguidance = pytest.importorskip("llguidance")

BYTES = llguidance.LLTokenizer("byte")


def takes(lark: str, text: str) -> bool:
    assert llguidance.LLMatcher.validate_grammar(lark, None) == "", lark
    matcher = llguidance.LLMatcher(BYTES, lark, log_level=0)
    tokens = BYTES.tokenize_bytes(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@pytest.mark.parametrize(
    ("lark", "answer", "wrong"),
    [
        ('start: "a" b\nb: "x" | "y"', "ax", "a"),
        ('start: "a" start | "b"', "aab", "aa"),
        ('// start: here\nstart: "a"', "a", "b"),
        ('# "start: here\nstart: "a"', "a", "b"),
        ("start[max_tokens=5]: /a+/", "aa", "b"),
        ('?start: "a"', "a", "b"),
        ('x: "y"\nstart: x', "y", "x"),
        ('start: x\nx: "start:"', "start:", "answer_:"),
        ('start: "\\"start" /\\/start/', '"start/start', "start"),
        ('start: restart\nrestart: "q"', "q", "r"),
        ('start: answer_\nanswer_: "a" thought_\nthought_: "b"', "ab", "a"),
        ('start: %json {"const": "start"}', '"start"', "start"),
    ],
)
def test_the_answers_grammar_is_kept_behind_a_thought(lark: str, answer: str, wrong: str) -> None:
    assert takes(lark, answer)
    free = after_thinking(lark, opened=False)
    assert takes(free, answer)
    assert takes(free, f"<think>start?</think>\n\n{answer}")
    assert takes(after_thinking(lark, opened=True), f"start?</think>{answer}")
    for text in (wrong, f"<think>a</think>{wrong}"):
        assert not takes(free, text)


def test_no_thought_comes_within_the_answer() -> None:
    free = after_thinking('start: "a" start | "b"', opened=False)
    assert takes(free, "<think>x</think>aab")
    assert not takes(free, "<think>x</think>a<think>y</think>b")
    assert not takes(free, "a<think>y</think>b")
