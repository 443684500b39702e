"""Matches text against a grammar with llguidance, as an engine does that enforces the grammar."""

from __future__ import annotations

import pytest

from modelport.constrained.lark import as_lark
from modelport.types.output_types import Grammar

llguidance = pytest.importorskip("llguidance")

BYTE_TOKENIZER = llguidance.LLTokenizer("byte")


def accepts(grammar: Grammar, text: str, *, old_llguidance: bool = False) -> bool:
    """Return whether an engine that enforces the output type can write this text and end there."""
    return lark_accepts(as_lark(grammar, old_llguidance=old_llguidance), text)


def lark_accepts(lark: str, text: str) -> bool:
    """Return whether an engine that enforces the Lark grammar can write this text and end there."""
    assert llguidance.LLMatcher.validate_grammar(lark, None) == "", lark
    matcher = llguidance.LLMatcher(BYTE_TOKENIZER, lark, log_level=0)
    tokens = BYTE_TOKENIZER.tokenize_bytes(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())
