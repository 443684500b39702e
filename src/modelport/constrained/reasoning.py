"""The marks around a model's thought, and a grammar that begins behind it."""

from __future__ import annotations

import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

#: In llguidance's Lark: a comment, a string, a regular expression, a special token; and the start symbol elsewhere.
_START = re.compile(
    r"""(?:(?://|\#)[^\n]*|"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\])+/|<[^>\s]*>)|(?P<start>(?<!\w)start(?!\w))""", re.DOTALL
)


def after_thinking(lark: str, opened: bool, breaks: bool = True) -> str:
    """The grammar for an answer that follows a free thought.

    Args:
        lark: Of the answer; its start symbol is `start`.
        opened: Whether the prompt ends within the thought.
        breaks: Whether line breaks may stand between the two.
    """
    answer, thought = _unused("answer_", lark), _unused("thought_", lark)
    # Wherever it stands: a grammar may refer to its start symbol, and would else begin anew with a thought.
    renamed = _START.sub(lambda match: answer if match["start"] else match[0], lark)
    begin = thought if opened else f'("{THINK_OPEN}" {thought})?'
    between = r"/\n*/ " if breaks else ""
    return f'start: {begin} {between}{answer}\n{thought}[suffix="{THINK_CLOSE}"]: /(?s:.*)/\n{renamed}'


def _unused(name: str, lark: str) -> str:
    while name in lark:
        name += "_"
    return name


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends within a thought."""
    return prompt.rstrip().endswith(THINK_OPEN)
