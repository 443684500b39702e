"""Separates a model's reasoning from the rest of its output, as text arrives in parts.

The rules:

- Reasoning stands between the tags `<think>` and `</think>`. A prompt may already end with `<think>`.
- Line breaks at the beginning of the reasoning and of the content are dropped, and so is one before `</think>`.
- Reasoning occurs once. After it, a tag is ordinary text.
- Text that may be the beginning of a tag is buffered until the next text shows whether it is one.
"""

from __future__ import annotations

from modelport.constrained.reasoning import THINK_CLOSE, THINK_OPEN
from modelport.layers.stop import StopScanner


class ReasoningParser:
    """Splits output text into reasoning and content.

    Args:
        starts_in_reasoning: Whether the output starts within the reasoning, because the prompt ends with `<think>`.
    """

    def __init__(self, starts_in_reasoning: bool) -> None:
        self._enter(starts_in_reasoning, [THINK_OPEN])

    def _enter(self, in_reasoning: bool, opening_tags: list[str]) -> None:
        """Begin reasoning, which ends at `</think>`, or content, which ends at one of the opening tags, if any."""
        self.in_reasoning = in_reasoning
        self._scanner = StopScanner([f"\n{THINK_CLOSE}", THINK_CLOSE] if in_reasoning else opening_tags)
        #: Whether the current reasoning or content has no text yet, except dropped line breaks.
        self._is_blank = True

    def feed(self, text: str) -> tuple[str, str]:
        """Take the next part of the output.

        Returns:
            The new reasoning and the new content.
        """
        reasoning = content = ""
        while text:
            unparsed = self._scanner.buffered + text
            before_tag, tag = self._scanner.feed(text)
            if self.in_reasoning:
                reasoning += self._without_leading_breaks(before_tag)
            else:
                content += self._without_leading_breaks(before_tag)
            if tag is None:
                break
            text = unparsed[len(before_tag) + len(tag) :]
            self._enter(not self.in_reasoning, [])
        return reasoning, content

    def finish(self) -> tuple[str, str]:
        """Return the buffered text, as reasoning and content, at the end of the output."""
        text = self._without_leading_breaks(self._scanner.flush())
        return (text, "") if self.in_reasoning else ("", text)

    def _without_leading_breaks(self, text: str) -> str:
        text = text.lstrip("\n") if self._is_blank else text
        self._is_blank = self._is_blank and not text
        return text
