"""Output types in llguidance's Lark dialect, which local engines and llama.cpp's server read."""

from __future__ import annotations

import json
from typing import Any

from modelport.constrained.enforceable import enforceable_schema
from modelport.types.output_types import Choice, Grammar, Lark, Regex


def as_lark(grammar: Grammar, *, old_llguidance: bool = False) -> str:
    """Return the output type as a grammar in llguidance's Lark dialect.

    The grammar allows JSON with single spaces only, so that a weak model can't use up `max_tokens` with white space.
    The grammar of a JSON schema allows no `\\uXXXX` escapes in strings, except with `old_llguidance`. A key with
    such an escape would evade the schema's rules for that key.

    Args:
        grammar: The output type.
        old_llguidance: Whether the grammar is for the older llguidance that is built into llama.cpp. It has no option
            for escapes, and drops the grammar entirely if it contains an unknown option.

    Raises:
        UnsupportedFeature: Engines can't enforce a part of the output type; see `enforceable` and `schema.regexes`.
    """
    if isinstance(grammar, Lark):
        return grammar.grammar
    if isinstance(grammar, Choice):
        # llguidance's Lark parser refuses the character U+007F in a string unless it is escaped.
        options = (json.dumps(option, ensure_ascii=False).replace("\x7f", r"\u007f") for option in grammar.options)
        # The options are alternatives of a terminal, because llguidance's parser accepts no more than 2000 alternatives
        # of a rule; its lexer accepts any number.
        return "start: OPTION\nOPTION: " + " | ".join(options)
    if isinstance(grammar, Regex):
        return f"start: /{grammar.for_engines()}/"
    style: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if not old_llguidance:
        style["json_allowed_escapes"] = 'nrtbf\\"'
    return "start: %json " + json.dumps({"x-guidance": style, **enforceable_schema(grammar.schema)})
