"""Reads streams of MiniMax, whose chunks repeat the text so far, or have only the new piece.

MiniMax documents the first for `reasoning_details` and for the content; its servers were seen to do the second too. So
each stream shows which it is: the text is cumulative if a chunk begins with all of the text before. If that text is
shorter than `_CERTAIN_LENGTH`, it may be chance ("a", "and"), and the chunk is held until the next one decides.

See https://platform.minimax.io/docs/api-reference/text-openai-api and
https://github.com/MiniMax-AI/MiniMax-M2/issues/95
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

#: A chunk that begins with so many characters of text before it does not do so by chance.
_CERTAIN_LENGTH = 8
#: The services whose chunks may repeat the text so far, also through LiteLLM.
CUMULATIVE_SERVICES = frozenset({"minimax", "litellm/minimax"})
_FIELDS = ("content", "reasoning_content", "reasoning")


class CumulativeTexts:
    """Reduces the deltas of one stream to their new text."""

    def __init__(self) -> None:
        self._texts: dict[Any, _Text] = {}
        #: The last entry of `reasoning_details` with each index.
        self._entries: dict[Any, Mapping[str, Any]] = {}

    def new_part(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        """Return a delta with only its new text."""
        part, seen = dict(delta), set()
        for name in _FIELDS:
            if isinstance(text := part.get(name), str) and text:
                part[name] = self._text(name).feed(text)
                seen.add(name)
        if isinstance(entries := part.get("reasoning_details"), list):
            part["reasoning_details"] = [self._new_entry(entry, seen) for entry in entries]
        # Another field begins, so what was held of the others is complete.
        return self._with_held(part, {*self._texts} - seen) if seen else part

    def rest(self) -> dict[str, Any]:
        """Return the delta with the text that is still held when the stream has ended."""
        return self._with_held({}, {*self._texts})

    def _text(self, key: Any) -> _Text:
        return self._texts.setdefault(key, _Text())

    def _new_entry(self, entry: Any, seen: set[Any]) -> Any:
        text = entry.get("text") if isinstance(entry, dict) else None
        if not isinstance(text, str) or not text:
            return entry
        key = ("reasoning_details", str(entry.get("type")), str(entry.get("index")))
        seen.add(key)
        self._entries[key] = entry
        return {**entry, "text": self._text(key).feed(text)}

    def _with_held(self, part: dict[str, Any], keys: set[Any]) -> dict[str, Any]:
        for key in sorted(keys, key=str):
            if not (held := self._texts[key].release()):
                continue
            if key in self._entries:
                entry = {**self._entries[key], "text": held}
                part["reasoning_details"] = [*(part.get("reasoning_details") or ()), entry]
            else:
                part[key] = held
        return part


class _Text:
    """The text of one field of a stream."""

    def __init__(self) -> None:
        self._kind: Literal["pieces", "cumulative"] | None = None
        self._so_far = ""
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the new text of a chunk. It is empty while it is not certain what is new."""
        if self._kind == "pieces":
            return text
        if self._held:
            held, self._held = self._held, ""
            if not text.startswith(held):
                self._kind = "pieces"
                return held + text
            self._kind = "cumulative"
        before = self._so_far
        if not text.startswith(before):
            self._kind = self._kind or "pieces"
            self._so_far = text
            return text
        if before and self._kind is None:
            if len(before) < _CERTAIN_LENGTH:
                self._held = text
                return ""
            self._kind = "cumulative"
        self._so_far = text
        return text[len(before) :]

    def release(self) -> str:
        """Return the new text of the chunk that is held, as documented: it repeats the text before."""
        held, self._held = self._held, ""
        if held:
            held, self._so_far = held[len(self._so_far) :], held
        return held
