"""Examines whether truncated output could have continued."""

from __future__ import annotations

import re

from modelport.constrained.lark import as_lark
from modelport.errors import UnsupportedFeature
from modelport.schema.time_limit import check_time
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark


def could_continue(grammar: Grammar, text: str, stop: str = "") -> bool:
    """Return whether truncated output could be the beginning of longer output, although it is valid itself.

    For example, the text `12` is a valid integer, but it may be the beginning of `123`.

    Args:
        grammar: The output type.
        text: Truncated output that is valid for the output type. For a `Lark`, modelport can't check this.
        stop: The stop sequence at which the output was truncated, or an empty string if `max_tokens` truncated it. The
            model has generated the stop sequence after `text`. So if the output type does not allow the stop sequence
            there, the output was complete.

    Returns:
        Whether the output type allows longer output that begins with `text` and `stop`. There are two exceptions:

        - A `Regex` is not examined if llguidance is not installed or does not support the pattern. The result is then
          True without a stop sequence, and False with one.
        - For a `Lark` without a stop sequence, the result is always True. With one, it is False if `text` and `stop`
          together are complete output. For example, agents use a grammar for `<code>…</code>` with the stop sequence
          `</code>`, so the stop sequence completes the output. With the other types this can't happen, because `text`
          is valid without it.
    """
    continued = text + stop
    if isinstance(grammar, Choice):
        return any(option != text and option.startswith(continued) for option in grammar.options)
    if isinstance(grammar, JSONSchema):
        # A number is the only JSON value that can be valid and continue.
        return _NUMBER_START.fullmatch(continued.lstrip()) is not None
    if isinstance(grammar, Lark) and not stop:
        return True
    check_time(long_step=True)  # The grammar is compiled, which may take seconds.
    try:
        from llguidance import LLMatcher, LLTokenizer

        matcher = LLMatcher(LLTokenizer("byte"), as_lark(grammar), log_level=0)
    except (ImportError, UnsupportedFeature):
        return not stop
    data = list(continued.encode())  # In the tokenizer "byte", each byte is a token.
    if matcher.try_consume_tokens(data) < len(data):
        # If the grammar does not allow the stop sequence, the output was complete. Without a stop sequence, llguidance
        # refuses text that modelport accepts, and the answer is unknown, so the output counts as incomplete.
        return not stop
    if isinstance(grammar, Lark):
        return not matcher.is_accepting()
    return bool(stop) or not matcher.is_stopped()


#: Matches a JSON number, and text that a JSON number can begin with.
_NUMBER_START = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]*)?")
