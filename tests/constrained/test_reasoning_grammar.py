"""Grammars that allow reasoning first: they still enforce the output, wherever the grammar uses its start symbol."""

from __future__ import annotations

import pytest

from modelport.constrained.reasoning import allow_reasoning, mark_parts
from modelport.protocols.output_text.reasoning import ReasoningReader
from modelport.protocols.output_text.reasoning_formats import REASONING_FORMATS
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


@pytest.mark.parametrize(
    ("name", "prompt", "accepted", "refused"),
    [
        ("Mistral", "[/INST]", ["[THINK]x[/THINK]a", "a"], ["[THINK]xa", "<think>x</think>a"]),
        ("harmony", "<|start|>assistant",
         ["<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>a",
          "<|channel|>final<|message|>a"],
         ["a", "<|channel|>analysis<|message|>x<|end|>a"]),
        ("Muse", "<|start|>assistant",
         [" to=self<|message|>x<|eom|><|start|>assistant to=user<|message|>a", " to=user<|message|>a"],
         ["a", "<|start|>assistant to=user<|message|>a"]),
        ("Kimi K3", "<|open|>think<|sep|>", ["x<|close|>think<|sep|><|open|>response<|sep|>a"],
         ["a", "x<|close|>think<|sep|>a"]),
        ("Functionary 3.2", "assistant\n\n>>>", ["all\na"], ["a", ">>>all\na"]),
        ("Gemma 4", "<|turn>model\n", ["<|channel>thought\nx<channel|>a", "a"], ["<|channel>thought\nxa"]),
    ],
)  # fmt: skip
def test_allow_reasoning_between_the_marks_of_a_model(
    name: str, prompt: str, accepted: list[str], refused: list[str]
) -> None:
    form = REASONING_FORMATS[name]
    tail = form.tail_of(prompt)
    starts_in_reasoning = ReasoningReader(form, tail).in_reasoning
    lark = allow_reasoning('start: "a"', starts_in_reasoning, marks=form.grammar_marks(tail, {}))
    for text in accepted:
        assert lark_accepts(lark, text), text
    for text in refused:
        assert not lark_accepts(lark, text), text


def test_special_tokens_of_marks_are_named_by_their_ids() -> None:
    assert mark_parts("<|channel|>final<|message|>", {"<|channel|>": 5, "<|message|>": 6}) == (5, "final", 6)
    marks = REASONING_FORMATS["Mistral"].grammar_marks("", {"[THINK]": 7, "[/THINK]": 8})
    lark = allow_reasoning('start: "a"', False, marks=marks)
    assert lark.startswith("start: <[7]> reasoning_ <[8]> ")
    assert "suffix" not in lark
