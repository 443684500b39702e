"""Separates a model's reasoning from the rest of its output, as text arrives in parts.

The rules:

- Reasoning stands between `<think>` and `</think>`. A prompt may already end with `<think>`.
- Line breaks next to these marks belong to the marks, and are dropped.
- Reasoning occurs once. After it, a mark is ordinary text.
- Text that may be the beginning of a mark is held back until the next part decides.
"""

from __future__ import annotations

from modelport.constrained.reasoning import THINK_CLOSE, THINK_OPEN
from modelport.layers.stop import StopScanner


class ReasoningParser:
    """Splits output text into reasoning and content.

    Args:
        starts_in_reasoning: Whether the prompt ends within the reasoning, so that the output begins there.
    """

    def __init__(self, starts_in_reasoning: bool) -> None:
        self._enter(starts_in_reasoning, [THINK_OPEN])

    def _enter(self, in_reasoning: bool, marks: list[str]) -> None:
        self.in_reasoning = in_reasoning
        self._scanner = StopScanner([f"\n{THINK_CLOSE}", THINK_CLOSE] if in_reasoning else marks)
        self._is_blank = True

    def feed(self, text: str) -> tuple[str, str]:
        """Take the next part of the output.

        Returns:
            The reasoning and the content that are complete with this part.
        """
        found_text = {True: "", False: ""}
        while text:
            whole = self._scanner.buffered + text
            passed, mark = self._scanner.feed(text)
            found_text[self.in_reasoning] += self._without_leading_breaks(passed)
            if mark is None:
                break
            text = whole[len(passed) + len(mark) :]
            self._enter(not self.in_reasoning, [])
        return found_text[True], found_text[False]

    def finish(self) -> tuple[str, str]:
        """Return what was held back, as reasoning and content, when no more text follows."""
        text = self._without_leading_breaks(self._scanner.flush())
        return (text, "") if self.in_reasoning else ("", text)

    def _without_leading_breaks(self, text: str) -> str:
        text = text.lstrip("\n") if self._is_blank else text
        self._is_blank = self._is_blank and not text
        return text
