"""The tags around a model's reasoning, and a function that makes a grammar allow reasoning before the output."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

#: Matches the start symbol of a grammar in llguidance's Lark dialect, as the group `start`. It also matches comments,
#: strings, regular expressions and special tokens, without that group: a word `start` in these is not the start symbol.
_START_OR_LITERAL = re.compile(
    r"""(?:(?://|\#)[^\n]*|"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\])+/|<[^>\s]*>)|(?P<start>(?<!\w)start(?!\w))""", re.DOTALL
)


@dataclass(frozen=True)
class ReasoningMarks:
    """The marks around a model's reasoning, as parts: text, or the id of a special token.

    Args:
        begin: Before the reasoning. If empty, the model does not reason.
        end: After the reasoning, up to the output.
        before_output: Before the output, if there is no reasoning.
    """

    begin: tuple[str | int, ...] = (THINK_OPEN,)
    end: tuple[str | int, ...] = (THINK_CLOSE,)
    before_output: tuple[str | int, ...] = ()


def mark_parts(mark: str, special_tokens: Mapping[str, int]) -> tuple[str | int, ...]:
    """Split a mark into text and special tokens.

    Args:
        mark: The mark.
        special_tokens: The ids of special tokens, by their spellings.
    """
    spellings = sorted((token for token in special_tokens if token in mark), key=len, reverse=True)
    if not spellings:
        return (mark,) if mark else ()
    parts = re.split(f"({'|'.join(map(re.escape, spellings))})", mark)
    return tuple(special_tokens.get(part, part) for part in parts if part)


def allow_reasoning(
    lark: str,
    starts_in_reasoning: bool,
    line_breaks: bool = True,
    marks: ReasoningMarks = ReasoningMarks(),  # It is immutable.
) -> str:
    """Return a grammar that allows reasoning (any text), followed by output of the given grammar.

    Args:
        lark: The grammar of the output; its start symbol is `start`.
        starts_in_reasoning: Whether the prompt ends inside the reasoning. If so, the model must finish the reasoning;
            otherwise it may begin with the mark before the reasoning, or with the output.
        line_breaks: Whether line breaks are allowed between the reasoning and the output.
        marks: The marks around the reasoning.
    """
    output_name, reasoning_name = _unused_name("output_", lark), _unused_name("reasoning_", lark)
    # The start symbol of the given grammar is renamed wherever it occurs. If a recursive grammar referred to the new
    # start symbol, it would allow reasoning in the middle of the output.
    renamed = _START_OR_LITERAL.sub(lambda match: output_name if match["start"] else match[0], lark)
    separator = r"/\n*/ " if line_breaks else ""
    without = f"{_parts(marks.before_output)}{separator}{output_name}"
    if not marks.begin:
        return f"start: {without}\n{renamed}"
    if marks.end and isinstance(marks.end[0], str):
        attribute, rest = f"[suffix={_quoted(marks.end[0])}]", marks.end[1:]
    else:  # The text of the reasoning can't contain a special token.
        attribute, rest = "", marks.end
    after = f"{reasoning_name} {_parts(rest)}{separator}{output_name}"
    reasoning_rule = f"{reasoning_name}{attribute}: /(?s:.*)/"
    start = after if starts_in_reasoning else f"{_parts(marks.begin)}{after} | {without}"
    return f"start: {start}\n{reasoning_rule}\n{renamed}"


def _parts(parts: tuple[str | int, ...]) -> str:
    """Return parts of a mark as items of a rule, each followed by a space."""
    return "".join(f"{_quoted(part)} " if isinstance(part, str) else f"<[{part}]> " for part in parts)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _unused_name(name: str, lark: str) -> str:
    """Return the name, with underscores added until it does not occur in the grammar."""
    while name in lark:
        name += "_"
    return name


def ends_inside_reasoning(prompt: str) -> bool:
    """Return whether a rendered prompt ends inside the model's reasoning."""
    return prompt.rstrip().endswith(THINK_OPEN)
