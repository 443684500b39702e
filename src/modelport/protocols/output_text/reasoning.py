"""Separates a model's reasoning from the rest of its output, as text arrives in parts.

The rules:

- Reasoning stands between the marks of a `ReasoningFormat`, such as `<think>` and `</think>`. A prompt may already end
  with the first.
- Line breaks at the beginning of the reasoning and of the content are dropped, and so is one before the end mark.
- Reasoning occurs once, unless the format says otherwise. After it, a mark is ordinary text, and so it is within a tool
  call, whose arguments may contain any text.
- An end mark at the beginning of the output is dropped: some models write it where they don't reason.
- Some models write further marks around the content, which are dropped.
- Text that may be the beginning of a mark is buffered until the next text shows whether it is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from modelport.constrained.reasoning import ReasoningMarks, mark_parts


@dataclass(frozen=True)
class ReasoningFormat:
    """The marks of a model around its reasoning and its content.

    Args:
        begin: The mark before the reasoning.
        end: The mark after the reasoning.
        between: What the model writes between the end of the reasoning and the content.
        before_content: The mark before the content, with and without reasoning before it.
        other_begins: Further marks before reasoning.
        other_ends: Further marks after reasoning.
        dropped: Further marks that are no part of the content.
        kept: Texts in which a mark is a part of the content.
        repeats: Whether reasoning can occur several times.
    """

    begin: str
    end: str
    between: str = ""
    before_content: str = ""
    other_begins: tuple[str, ...] = ()
    other_ends: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    repeats: bool = False

    @property
    def begins(self) -> tuple[str, ...]:
        """The marks before reasoning."""
        return tuple(filter(None, (self.begin, *self.other_begins)))

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The marks after reasoning, also with a line break before them."""
        marks = tuple(filter(None, (self.end, *self.other_ends)))
        return (*(f"\n{mark}" for mark in marks), *marks)

    @cached_property
    def content_marks(self) -> tuple[str, ...]:
        """The marks that are dropped from the content."""
        return tuple(filter(None, (self.between, self.before_content, *self.dropped)))

    @cached_property
    def marks(self) -> str:
        """A text that contains the spellings of all marks."""
        return " ".join([*self.begins, *self.ends, *self.content_marks])

    def tail_of(self, prompt: str) -> str:
        """Return the end of a prompt that is a mark, or its beginning, with the white space behind it.

        The output goes on there. A `ReasoningReader` has to read this text before the output.
        """
        text = prompt.rstrip()
        marks = (*self.begins, *self.content_marks, *self.kept)
        for size in range(min(len(text), max(map(len, marks), default=0)), 0, -1):
            tail = text[-size:]
            if any(mark.rstrip() == tail or (len(tail) > 2 and mark.startswith(tail)) for mark in marks):
                return prompt[len(text) - size :]
        return ""

    def grammar_marks(self, tail: str, special_tokens: Mapping[str, int]) -> ReasoningMarks:
        """Return the marks for a grammar of an output.

        Args:
            tail: The end of the prompt that is a mark; see `tail_of`. It can be the beginning of the next mark.
            special_tokens: The ids of the model's special tokens, by their spellings.
        """
        parts = [self.begin, self.end + self.between + self.before_content, self.before_content]
        for index in (0, 2):
            parts[index] = parts[index].removeprefix(tail.rstrip()) or parts[index]
        begin, end, before = (mark_parts(part, special_tokens) for part in parts)
        return ReasoningMarks(begin if self.begin else (), end, before)


class _MarkScanner:
    """Finds the first of several marks in a text that arrives in parts. Of marks at one position, the longest counts.

    Args:
        marks: The marks.
    """

    def __init__(self, marks: tuple[str, ...]) -> None:
        self._marks = sorted(marks, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._marks))) if marks else None
        self._starts = {mark[:size] for mark in marks for size in range(1, len(mark))}
        self._longest = max(map(len, marks), default=0)
        self.buffered = ""

    def feed(self, text: str, final: bool = False) -> tuple[str, str | None, str]:
        """Take the next text.

        Args:
            text: The text.
            final: Whether no text follows.

        Returns:
            The text before the first mark, the mark, and the text behind it. Without a mark, only the first is set.
        """
        text, self.buffered = self.buffered + text, ""
        match = self._pattern.search(text) if self._pattern else None
        if not final:
            # The end of the text can be the beginning of a mark, also of a longer one than the mark that was found.
            for size in range(min(self._longest - 1, len(text)), 0, -1):
                start = len(text) - size
                if text[start:] in self._starts and (match is None or start <= match.start()):
                    self.buffered = text[start:]
                    return text[:start], None, ""
        if match is None:
            return text, None, ""
        return text[: match.start()], match[0], text[match.end() :]


class ReasoningReader:
    """Splits the text of an output into reasoning and content.

    Args:
        reasoning_format: The marks of the model.
        prompt_tail: The end of the prompt that is a mark; see `ReasoningFormat.tail_of`.
        call_marks: The marks before tool calls. They end what can contain reasoning, if reasoning occurs once.
    """

    def __init__(
        self, reasoning_format: ReasoningFormat, prompt_tail: str = "", call_marks: tuple[str, ...] = ()
    ) -> None:
        self._format = reasoning_format
        self._call_marks = () if reasoning_format.repeats else call_marks
        self._had_reasoning = False
        self._enter(in_reasoning=False)
        self.feed(prompt_tail)

    def _enter(self, in_reasoning: bool) -> None:
        form = self._format
        self.in_reasoning = in_reasoning
        if in_reasoning:
            self._had_reasoning = True
            self._scanner = _MarkScanner(form.ends)
        else:
            marks = (*form.begins, form.end) if form.repeats or not self._had_reasoning else ()
            calls = self._call_marks if marks else ()
            self._scanner = _MarkScanner((*filter(None, marks), *form.content_marks, *form.kept, *calls))
        #: Whether the current reasoning or content has no text yet, except dropped line breaks.
        self._is_blank = True

    def feed(self, text: str, final: bool = False) -> tuple[str, str]:
        """Take the next part of the output.

        Args:
            text: The text.
            final: Whether it is the last part.

        Returns:
            The new reasoning and the new content.
        """
        reasoning = content = ""
        while True:
            before, mark, text = self._scanner.feed(text, final)
            if self.in_reasoning:
                reasoning += self._without_leading_breaks(before)
            else:
                content += self._without_leading_breaks(before)
            if mark is None:
                return reasoning, content
            if self.in_reasoning:
                self._enter(in_reasoning=False)
            elif mark in self._format.begins:
                self._enter(in_reasoning=True)
            elif mark in self._call_marks:
                content += mark
                self._had_reasoning = True
                self._enter(in_reasoning=False)
                self._is_blank = False
            elif mark in self._format.kept or (mark not in self._format.content_marks and not self._is_blank):
                content += mark
                self._is_blank = False
            else:
                self._is_blank = True

    def finish(self) -> tuple[str, str]:
        """Return the buffered text, as reasoning and content, at the end of the output."""
        return self.feed("", final=True)

    def _without_leading_breaks(self, text: str) -> str:
        text = text.lstrip("\n") if self._is_blank else text
        self._is_blank = self._is_blank and not text
        return text
