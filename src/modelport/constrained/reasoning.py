"""The tags around a model's reasoning, and a function that makes a grammar allow reasoning before the output."""

from __future__ import annotations

import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

#: Matches the start symbol of a grammar in llguidance's Lark dialect, as the group `start`. It also matches comments,
#: strings, regular expressions and special tokens, without that group: a word `start` in these is not the start symbol.
_START_OR_LITERAL = re.compile(
    r"""(?:(?://|\#)[^\n]*|"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\])+/|<[^>\s]*>)|(?P<start>(?<!\w)start(?!\w))""", re.DOTALL
)


def allow_reasoning(lark: str, starts_in_reasoning: bool, line_breaks: bool = True) -> str:
    """Return a grammar that allows reasoning (any text), followed by output of the given grammar.

    Args:
        lark: The grammar of the output; its start symbol is `start`.
        starts_in_reasoning: Whether the prompt ends inside the reasoning. If so, the model must finish the reasoning;
            otherwise it may begin with `<think>` or with the output.
        line_breaks: Whether line breaks are allowed between the reasoning and the output.
    """
    output_name, reasoning_name = _unused_name("output_", lark), _unused_name("reasoning_", lark)
    # The start symbol of the given grammar is renamed wherever it occurs. If a recursive grammar referred to the new
    # start symbol, it would allow reasoning in the middle of the output.
    renamed = _START_OR_LITERAL.sub(lambda match: output_name if match["start"] else match[0], lark)
    reasoning = reasoning_name if starts_in_reasoning else f'("{THINK_OPEN}" {reasoning_name})?'
    separator = r"/\n*/ " if line_breaks else ""
    reasoning_rule = f'{reasoning_name}[suffix="{THINK_CLOSE}"]: /(?s:.*)/'
    return f"start: {reasoning} {separator}{output_name}\n{reasoning_rule}\n{renamed}"


def _unused_name(name: str, lark: str) -> str:
    """Return the name, with underscores added until it does not occur in the grammar."""
    while name in lark:
        name += "_"
    return name


def ends_inside_reasoning(prompt: str) -> bool:
    """Return whether a rendered prompt ends inside the model's reasoning."""
    return prompt.rstrip().endswith(THINK_OPEN)
