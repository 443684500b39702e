"""Output types in llguidance's Lark dialect."""

from __future__ import annotations

import json
from typing import Any

from modelport.constrained.enforceable import enforceable
from modelport.types.output_types import Choice, Grammar, Lark, Regex


def as_lark(grammar: Grammar, *, old: bool = False) -> str:
    """The grammar in llguidance's Lark, which llama.cpp, vLLM and every mask of ours read.

    JSON is written with single spaces, so that a weak model can't fill its budget with white space, and without escapes
    by number, behind which a key could hide that the schema has a say in.

    Args:
        grammar: What the answer must be.
        old: For the llguidance that is built into llama.cpp: it can't be told of escapes, and would ignore the grammar.

    Raises:
        UnsupportedFeature: No mask can hold an answer to something in it; see `maskable` and `regexes`.
    """
    if isinstance(grammar, Lark):
        return grammar.grammar
    if isinstance(grammar, Choice):
        options = (json.dumps(option, ensure_ascii=False).replace("\x7f", r"\u007f") for option in grammar.options)
        # As a terminal: the engines' parser takes no more than 2000 alternatives of a rule, their lexer any number.
        return "start: OPTION\nOPTION: " + " | ".join(options)
    if isinstance(grammar, Regex):
        return f"start: /{grammar.for_engines()}/"
    style: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if not old:
        style["json_allowed_escapes"] = 'nrtbf\\"'
    return "start: %json " + json.dumps({"x-guidance": style, **enforceable(grammar.schema)})
