"""The tags around a model's reasoning, and a change of grammars that allows reasoning before the output."""

from __future__ import annotations

import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

#: Matches the start symbol of a grammar in llguidance's Lark dialect, as the group `start`. It also matches comments,
#: strings, regular expressions and special tokens, without that group: a word `start` in these is not the start symbol.
_START_OR_LITERAL = re.compile(
    r"""(?:(?://|\#)[^\n]*|"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\])+/|<[^>\s]*>)|(?P<start>(?<!\w)start(?!\w))""", re.DOTALL
)


def allow_reasoning(lark: str, reasoning_open: bool, line_breaks: bool = True) -> str:
    """Return a grammar that allows reasoning (any text), followed by output of the given grammar.

    Args:
        lark: The grammar of the output; its start symbol is `start`.
        reasoning_open: Whether the prompt ends inside the reasoning. If so, the model must finish the reasoning;
            otherwise it may begin with `<think>` or with the output.
        line_breaks: Whether line breaks are allowed between the reasoning and the output.
    """
    output_rule, reasoning_rule = _unused_name("output_", lark), _unused_name("reasoning_", lark)
    # The start symbol of the given grammar is renamed wherever it occurs. If a recursive grammar referred to the new
    # start symbol, it would allow reasoning in the middle of the output.
    renamed = _START_OR_LITERAL.sub(lambda match: output_rule if match["start"] else match[0], lark)
    reasoning = reasoning_rule if reasoning_open else f'("{THINK_OPEN}" {reasoning_rule})?'
    separator = r"/\n*/ " if line_breaks else ""
    rule = f'{reasoning_rule}[suffix="{THINK_CLOSE}"]: /(?s:.*)/'
    return f"start: {reasoning} {separator}{output_rule}\n{rule}\n{renamed}"


def _unused_name(name: str, lark: str) -> str:
    """Return the name, with underscores added until it does not occur in the grammar."""
    while name in lark:
        name += "_"
    return name


def ends_inside_reasoning(prompt: str) -> bool:
    """Return whether a rendered prompt ends inside the model's reasoning."""
    return prompt.rstrip().endswith(THINK_OPEN)
