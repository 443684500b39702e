"""The marks around a model's thought, and a grammar that begins behind it."""

from __future__ import annotations

import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


def after_thinking(lark: str, opened: bool, breaks: bool = True) -> str:
    """The grammar for an answer that follows a free thought.

    Args:
        lark: Of the answer; its start symbol is `start`.
        opened: Whether the prompt ends within the thought.
        breaks: Whether line breaks may stand between the two.
    """
    answer = re.sub(r"\bstart\b(?=\s*:)", "answer_", lark, count=1)
    thought = f'thought_[suffix="{THINK_CLOSE}"]: /(?s:.*)/'
    begin = "thought_" if opened else f'("{THINK_OPEN}" thought_)?'
    between = r"/\n*/ " if breaks else ""
    return f"start: {begin} {between}answer_\n{thought}\n{answer}"


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends within a thought."""
    return prompt.rstrip().endswith(THINK_OPEN)
