"""Whether truncated output could have continued."""

from __future__ import annotations

import re

from modelport.constrained.lark import as_lark
from modelport.errors import UnsupportedFeature
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark


def could_continue(grammar: Grammar, text: str, stop: str = "") -> bool:
    """Return whether truncated output could be the beginning of longer output, although it is valid itself.

    Args:
        grammar: The output type.
        text: Truncated output that is valid for the output type.
        stop: The stop sequence at which the output was truncated, or an empty string if `max_tokens` truncated it. The
            model wrote the stop sequence next. If it can't follow in the output type, the output was complete.

    Returns:
        For a `Choice` and a `JSONSchema`, whether longer output exists. For a `Regex` the same if llguidance is
        installed, which knows what may follow; otherwise whether there is no stop sequence. For a `Lark` without a stop
        sequence always `True`; with one, whether the grammar does not accept the stop sequence as the end of the
        output.
    """
    continued = text + stop
    if isinstance(grammar, Choice):
        return any(option != text and option.startswith(continued) for option in grammar.options)
    if isinstance(grammar, JSONSchema):
        # Every JSON value except a bare number has an end that can be recognised.
        return _NUMBER_START.fullmatch(continued.lstrip()) is not None
    if isinstance(grammar, Lark) and not stop:
        return True
    try:
        from llguidance import LLMatcher, LLTokenizer

        matcher = LLMatcher(LLTokenizer("byte"), as_lark(grammar), log_level=0)
    except (ImportError, UnsupportedFeature):
        return not stop
    data = list(continued.encode())
    if matcher.try_consume_tokens(data) < len(data):
        return not stop
    if isinstance(grammar, Lark):
        return not matcher.is_accepting()
    return bool(stop) or not matcher.is_stopped()


#: Matches the start of a JSON number, and a complete number.
_NUMBER_START = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]*)?")
