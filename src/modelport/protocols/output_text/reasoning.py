"""Separates a model's reasoning from the rest of its output, as text arrives in parts.

The rules:

- Reasoning stands between the marks of a `ReasoningFormat`, such as `<think>` and `</think>`. A prompt may already end
  with the first.
- Line breaks at the beginning of the reasoning and of the content are dropped, and so is one before the end mark.
- Reasoning occurs once, and only before the content, unless the format says otherwise. Elsewhere, a mark is ordinary
  text, and so it is within a tool call, whose arguments may contain any text.
- From the mark before the first tool call on, the text is passed on unchanged, because only a reader of calls knows
  where they end. It uses `split_behind_calls` for the text outside of the calls.
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
    def outside_calls(self) -> dict[str, str]:
        """The marks of texts that are no part of a tool call, with a regular expression for the text behind the mark.

        They are repeated reasoning, and the marks around the content.
        """
        ends = "|".join(map(re.escape, self.ends))
        reasoning = dict.fromkeys(self.begins, rf"(?s:.*?)(?:{ends}|\Z)") if self.repeats else {}
        return dict.fromkeys(self.content_marks, "") | reasoning

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
        call_marks: The marks before tool calls. The text from the first of them on is content.
        is_first: Whether no content stands before the text.
    """

    def __init__(
        self,
        reasoning_format: ReasoningFormat,
        prompt_tail: str = "",
        call_marks: tuple[str, ...] = (),
        is_first: bool = True,
    ) -> None:
        form = self._format = reasoning_format
        self._call_marks = call_marks
        marks = (*form.begins, form.end, *form.content_marks, *form.kept, *call_marks)
        self._content_scanner = _MarkScanner(tuple(filter(None, marks)))
        self._in_call = False
        #: Whether marks of reasoning are ordinary text, because reasoning or content stands before them.
        self._is_over = not is_first and not form.repeats
        self._enter(in_reasoning=False)
        #: Whether the current reasoning or content has no text yet, except dropped line breaks.
        self._is_blank = is_first
        #: How many characters at the beginning of the next text are from the prompt.
        self._from_prompt = 0
        self.feed(prompt_tail)
        self._from_prompt = len(self._scanner.buffered)

    def _enter(self, in_reasoning: bool) -> None:
        self.in_reasoning = in_reasoning
        self._scanner = _MarkScanner(self._format.ends) if in_reasoning else self._content_scanner
        self._is_over = self._is_over or (in_reasoning and not self._format.repeats)
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
        while not self._in_call:
            before, mark, text = self._scanner.feed(text, final)
            from_prompt = self._from_prompt
            self._from_prompt = 0 if mark else max(0, from_prompt - len(before))
            is_of_prompt = mark is not None and len(before) + len(mark) <= from_prompt
            before = self._without_leading_breaks(before[from_prompt:])
            if self.in_reasoning:
                reasoning += before
            else:
                content += before
                self._is_over = self._is_over or (not self._format.repeats and bool(before.strip()))
            if mark is None:
                return reasoning, content
            if self.in_reasoning:
                self._enter(in_reasoning=False)
            elif mark in self._call_marks:
                self._in_call = True
                content += mark
            elif mark in self._format.begins and not self._is_over:
                self._enter(in_reasoning=True)
            elif is_of_prompt or mark in self._format.content_marks or self._is_end_without_reasoning(mark):
                self._is_blank = True
            else:
                content += mark
                self._is_blank, self._is_over = False, not self._format.repeats
        return reasoning, content + text

    def _is_end_without_reasoning(self, mark: str) -> bool:
        return mark == self._format.end and self._is_blank and not self._is_over

    def finish(self) -> tuple[str, str]:
        """Return the buffered text, as reasoning and content, at the end of the output."""
        return self.feed("", final=True)

    def _without_leading_breaks(self, text: str) -> str:
        text = text.lstrip("\n") if self._is_blank else text
        self._is_blank = self._is_blank and not text
        return text


def split_behind_calls(reasoning_format: ReasoningFormat, text: str, has_calls: bool) -> tuple[str, str]:
    """Return the reasoning and the content in the text between and behind tool calls.

    Args:
        reasoning_format: The marks of the model.
        text: The text.
        has_calls: Whether there are calls. Then the beginning of a mark at the end of the text is dropped.
    """
    return ReasoningReader(reasoning_format, is_first=False).feed(text, final=not has_calls)
