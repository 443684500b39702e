"""Whether truncated output could have continued."""

from __future__ import annotations

import re

from modelport.constrained.lark import as_lark
from modelport.errors import UnsupportedFeature
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark


def may_go_on(grammar: Grammar, text: str, stop: str = "") -> bool:
    """Whether an answer that was cut may be the beginning of a longer one, though it has the form itself.

    Args:
        grammar: The form.
        text: An answer that has it.
        stop: The stop sequence that cut it, and so came next: one that the form has no place for ended it instead.

    Returns:
        For a `Regex` the truth where llguidance is there, which knows what may follow; for a `Lark` that was stopped
        whether the stop sequence was not its end; for one that was not, `True`.
    """
    whole = text + stop
    if isinstance(grammar, Choice):
        return any(option != text and option.startswith(whole) for option in grammar.options)
    if isinstance(grammar, JSONSchema):  # only a bare number has no end of its own
        return _NUMBER.fullmatch(whole.lstrip()) is not None
    if isinstance(grammar, Lark) and not stop:
        return True
    try:
        from llguidance import LLMatcher, LLTokenizer

        matcher = LLMatcher(LLTokenizer("byte"), as_lark(grammar), log_level=0)
    except (ImportError, UnsupportedFeature):
        return not stop
    data = list(whole.encode())
    if matcher.try_consume_tokens(data) < len(data):
        return not stop
    if isinstance(grammar, Lark):
        return not matcher.is_accepting()
    return bool(stop) or not matcher.is_stopped()


#: What a JSON number may begin with.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]*)?")
