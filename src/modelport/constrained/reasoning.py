"""The tags around a model's reasoning, and grammars that allow reasoning before the output."""

from __future__ import annotations

import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

#: Matches what can contain the word `start` in llguidance's Lark dialect without being the start symbol (a comment, a
#: string, a regular expression, a special token), and as the group `start` the start symbol itself.
_START_SYMBOL = re.compile(
    r"""(?:(?://|\#)[^\n]*|"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\])+/|<[^>\s]*>)|(?P<start>(?<!\w)start(?!\w))""", re.DOTALL
)


def allow_reasoning(lark: str, reasoning_open: bool, line_breaks: bool = True) -> str:
    """Return a grammar that allows free reasoning, followed by output of the given grammar.

    Args:
        lark: The grammar of the output; its start symbol is `start`.
        reasoning_open: Whether the prompt ends inside the reasoning, so that the output starts without `<think>`.
        line_breaks: Whether line breaks are allowed between the reasoning and the output.
    """
    output_rule, reasoning_rule = _unused_name("output_", lark), _unused_name("reasoning_", lark)
    # The start symbol is renamed everywhere. A recursive grammar refers to it, and would otherwise allow reasoning
    # again.
    renamed = _START_SYMBOL.sub(lambda match: output_rule if match["start"] else match[0], lark)
    reasoning = reasoning_rule if reasoning_open else f'("{THINK_OPEN}" {reasoning_rule})?'
    separator = r"/\n*/ " if line_breaks else ""
    rule = f'{reasoning_rule}[suffix="{THINK_CLOSE}"]: /(?s:.*)/'
    return f"start: {reasoning} {separator}{output_rule}\n{rule}\n{renamed}"


def _unused_name(name: str, lark: str) -> str:
    while name in lark:
        name += "_"
    return name


def ends_inside_reasoning(prompt: str) -> bool:
    """Return whether a rendered prompt ends inside the model's reasoning."""
    return prompt.rstrip().endswith(THINK_OPEN)
