"""Splits reasoning that a server writes into the text, between `<think>` and `</think>`, from the text.

vLLM without a reasoning parser, LM Studio and Ollama do so. The rules:

- Only a tag at the beginning of the text is one; white space may precede it. Elsewhere it is ordinary text.
- With `opened`, the text begins inside the reasoning even without a tag, because the chat template has written the tag
  into the prompt. Reasoning that does not end is then all there is.
- Otherwise a closing tag without an opening one is ordinary text, because a stream has emitted what is before it.
- Reasoning occurs once. If the server also sends reasoning in a field of its own, a tag is ordinary text, unless the
  text behind it is the reasoning of the field again. MiniMax sends both, see
  https://github.com/vellum-ai/vellum-assistant/pull/34556. The text between the tags is then left out.
- White space between the tags and the reasoning, and before the text, is dropped.
- Text that may be the beginning of a tag is buffered until the next text shows whether it is one.

See https://docs.vllm.ai/en/latest/features/reasoning_outputs.html and
https://lmstudio.ai/docs/app/api/endpoints/openai
"""

from __future__ import annotations

from typing import Literal

from modelport.constrained.reasoning import THINK_CLOSE, THINK_OPEN
from modelport.types.warnings import CallWarning

LONE_TAG = CallWarning(
    "other",
    "reasoning",
    "The text has '</think>' without '<think>', so its beginning may be reasoning. If the model's chat template opens "
    "the reasoning, pass split_reasoning='opened'.",
)
#: So much white space is buffered at most, so that a stream of nothing else takes linear time.
_MAX_BUFFERED = 1000


class ThinkTagSplitter:
    """Splits the text of one response, as it arrives in pieces.

    Args:
        opened: Whether the text begins inside the reasoning.
    """

    def __init__(self, opened: bool = False) -> None:
        self._opened = opened
        self._state: Literal["start", "reasoning", "before text", "text"] = "start"
        #: White space and text that may be the beginning of a tag.
        self._buffered = ""
        #: Whether the reasoning has no text yet.
        self._is_blank = True
        #: Whether the text began with the tag.
        self.has_tag = False
        #: Whether the reasoning between the tags came in a field of its own too.
        self._is_repeated = False

    @property
    def is_done(self) -> bool:
        """Whether all further text is text, and nothing is buffered."""
        return self._state == "text"

    @property
    def is_open(self) -> bool:
        """Whether the text so far ends inside the reasoning."""
        return self._state == "reasoning" or (self._opened and self._state == "start")

    def feed(self, text: str, field: str = "") -> tuple[str, str]:
        """Take the next piece of the text.

        Args:
            text: The piece.
            field: The reasoning that came with the piece, in a field of its own.

        Returns:
            The new reasoning, and the new text.
        """
        if self._state == "text":
            return "", text
        reasoning, text, self._buffered = "", self._buffered + text, ""
        if self._state == "start":
            stripped = text.lstrip()
            self._is_repeated = bool(field) and _repeats(stripped, field)
            has_other_reasoning = bool(field) and not self._is_repeated
            is_text = len(text) - len(stripped) > _MAX_BUFFERED or not _may_be_tag(stripped)
            if has_other_reasoning or (is_text and not self._opened):
                self._state = "text"
                return "", text
            if len(stripped) < len(THINK_OPEN) and not is_text:
                self._buffered = text
                return "", ""
            self._state, self.has_tag = "reasoning", True
            text = stripped if is_text else stripped[len(THINK_OPEN) :]
        if self._state == "reasoning":
            text = text.lstrip() if self._is_blank else text
            before, tag, after = text.partition(THINK_CLOSE)
            if tag:
                self._state, reasoning, text = "before text", before.rstrip(), after
            else:
                end = max(_length_without_partial_tag(text), len(text) - _MAX_BUFFERED)
                reasoning, self._buffered, text = text[:end], text[end:], ""
            self._is_blank = self._is_blank and not reasoning
        if self._state == "before text" and (text := text.lstrip()):
            self._state = "text"
        return "" if self._is_repeated else reasoning, text

    def finish(self) -> tuple[str, str]:
        """Return the buffered text at the end of the response, as reasoning and text."""
        buffered, self._buffered = self._buffered, ""
        if self.is_open:
            return "" if self._is_repeated else buffered.rstrip(), ""
        return "", buffered


def _may_be_tag(text: str) -> bool:
    """Return whether a text begins with the opening tag, or may do so when more of it arrives."""
    return THINK_OPEN.startswith(text[: len(THINK_OPEN)])


def _repeats(text: str, field: str) -> bool:
    """Return whether a text is the opening tag, and behind it the same as in the field, as far as both have come."""
    tag, text, field = text[: len(THINK_OPEN)], text[len(THINK_OPEN) :].strip(), field.strip()
    return tag == THINK_OPEN and (text.startswith(field) or field.startswith(text))


def _length_without_partial_tag(text: str) -> int:
    """Return the length of the text without white space, and the beginning of a closing tag, at its end."""
    sizes = range(len(THINK_CLOSE) - 1, 0, -1)
    size = next((size for size in sizes if text.endswith(THINK_CLOSE[:size])), 0)
    return len(text[: len(text) - size].rstrip())
