"""Writes output types in llguidance's Lark dialect, which local engines and llama.cpp's server read."""

from __future__ import annotations

import json
from typing import Any

from modelport.constrained.enforceable import enforceable_schema
from modelport.types.output_types import Choice, Grammar, Lark, Regex


def as_lark(grammar: Grammar, *, old_llguidance: bool = False) -> str:
    """Return the output type as a grammar in llguidance's Lark dialect.

    The grammar of a JSON schema allows one space after a comma or colon and no other white space, so that a weak model
    can't use up `max_tokens` with white space. It allows no `\\uXXXX` escapes in strings, except with
    `old_llguidance`: the schema's rules for a key would not apply to the key if it is written with such an escape.

    Args:
        grammar: The output type.
        old_llguidance: Whether the grammar is for the older llguidance that is built into llama.cpp. That version can't
            forbid escapes: it ignores the whole grammar if the grammar contains the option `json_allowed_escapes`.

    Raises:
        UnsupportedFeature: Engines can't enforce a part of the output type.
    """
    if isinstance(grammar, Lark):
        return grammar.grammar
    if isinstance(grammar, Choice):
        # llguidance's Lark parser refuses the character U+007F in a string unless it is escaped.
        options = (json.dumps(option, ensure_ascii=False).replace("\x7f", r"\u007f") for option in grammar.options)
        # The options are alternatives of a terminal (`OPTION`), because llguidance accepts any number of alternatives
        # in a terminal, but no more than 2000 in a rule.
        return "start: OPTION\nOPTION: " + " | ".join(options)
    if isinstance(grammar, Regex):
        return f"start: /{grammar.for_engines()}/"
    # Options of llguidance, which it reads from the schema's key `x-guidance`.
    json_options: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if not old_llguidance:
        json_options["json_allowed_escapes"] = 'nrtbf\\"'
    return "start: %json " + json.dumps({"x-guidance": json_options, **enforceable_schema(grammar.schema)})
