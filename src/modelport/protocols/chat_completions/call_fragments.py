"""Finds out to which tool call a fragment of a stream belongs, and gives calls without an ID one of modelport's.

OpenAI numbers the calls of a response, and the first fragment of each call has an ID. These deviations are accepted:

- Some servers give every call the index 0, and some send no index. So a fragment starts a new call not only if its
  index is new, but also if its ID differs from that of the call with its index (of the last call, if it has no index).
- Some servers send no IDs. Gemini has sent neither ID nor index, see
  https://discuss.ai.google.dev/t/openai-compatibilioty-with-jnodejs-error/50746?page=2
  Then a fragment starts a new call if its name differs, or if its name is the same, the arguments so far are a complete
  JSON object, and the fragment has more of them.
- A fragment that has a name but neither an index nor an ID starts a new call, unless the name is repeated while the
  arguments are not complete.

The entries of a list that is not streamed are one call each. A call without an ID gets one, and so does a call whose ID
another call of the response has, because the result of a call is sent back with its ID.
"""

from __future__ import annotations

import re
from typing import Any

from modelport.protocols.chat_completions.call_ids import new_call_id

#: What changes the state in which the end of a JSON object is searched for: an escape, a quote, or a bracket.
_MARKS = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)


class CallFragments:
    """The tool calls of one response, as far as their fragments have arrived."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        #: Index of a tool call in the service's chunks -> its index in modelport's deltas.
        self._indices: dict[Any, int] = {}
        #: The IDs of the calls, each as it is reported.
        self._reported: set[str] = set()

    def add(
        self, service_index: int | None, call_id: str | None, name: str | None, arguments: Any, *, is_whole: bool
    ) -> tuple[int, str | None, str | None]:
        """Add a fragment.

        Args:
            service_index: The index of the call, as the service wrote it.
            call_id: The call's ID, if the fragment has one.
            name: The tool's name, if the fragment has it.
            arguments: A piece of the text of the arguments, or the parsed arguments.
            is_whole: Whether the fragment is an entry of a list that is not streamed, and so a complete call.

        Returns:
            The index of the call in modelport's deltas; the call's ID if this is its first fragment, and otherwise
            `None`; and the tool's name, if the fragment has it or the call begins with this fragment.
        """
        call_id = call_id or None
        index = len(self._calls) if is_whole else self._index_of(service_index, call_id, name, arguments)
        is_new = index == len(self._calls)
        if is_new:
            if not name and self._calls and not is_whole:  # The fragment before has repeated the name.
                name = self._calls[self._indices.get(service_index, -1)].name
            self._calls.append(_Call())
        if service_index is not None:
            self._indices[service_index] = index
        call = self._calls[index]
        call.id, call.name = call.id or call_id, call.name or name
        if call.id is None:  # With IDs, nobody asks whether the arguments are complete.
            call.arguments.feed(arguments)
        return index, self._new_id(call_id) if is_new else None, name

    def _index_of(self, service_index: int | None, call_id: str | None, name: str | None, arguments: Any) -> int:
        if service_index is not None:
            index = self._indices.get(service_index, len(self._calls))
        else:
            index = max(len(self._calls) - 1, 0)
        if index == len(self._calls):
            return index
        call = self._calls[index]
        if call_id:
            is_new = call.id not in (None, call_id) or (call.id is None and call.is_complete_before(name, arguments))
        else:
            is_new = call.id is None and call.is_complete_before(name, arguments)
            is_new = is_new or bool(name and call.name and name != call.name)
            # Without an index, a name begins a call, unless it is repeated in the middle of the arguments.
            is_new = is_new or (
                service_index is None and bool(name) and not (call.id is None and call.arguments.is_open)
            )
        return len(self._calls) if is_new else index

    def _new_id(self, call_id: str | None) -> str:
        if not call_id or call_id in self._reported:
            call_id = new_call_id()
        self._reported.add(call_id)
        return call_id


class _Call:
    """What is known about a tool call."""

    __slots__ = ("id", "name", "arguments", "_is_repeated")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.arguments = _ObjectEnd()
        #: Whether a fragment has repeated the name after the arguments were complete, without more of them.
        self._is_repeated = False

    def is_complete_before(self, name: str | None, arguments: Any) -> bool:
        """Return whether the call is complete, so that a fragment with its name and more arguments is another call."""
        self._is_repeated = self._is_repeated or bool(name and self.arguments.is_complete)
        has_arguments = bool(arguments.strip() if isinstance(arguments, str) else arguments)
        return self._is_repeated and has_arguments


class _ObjectEnd:
    """Follows the text of a JSON object, to know whether it is complete. Each character is looked at once."""

    __slots__ = ("is_complete", "_depth", "_in_string", "_escaped")

    def __init__(self) -> None:
        self.is_complete = False
        self._depth, self._in_string, self._escaped = 0, False, False

    @property
    def is_open(self) -> bool:
        """Whether the object has begun and is not complete."""
        return self._depth > 0

    def feed(self, piece: Any) -> None:
        """Follow the next piece of the text. Arguments that are not text are complete."""
        if not isinstance(piece, str):
            self.is_complete = self.is_complete or piece is not None
            return
        if self._escaped and piece:
            piece, self._escaped = piece[1:], False
        for mark in _MARKS.findall(piece):
            if mark == '"':
                self._in_string = not self._in_string
            elif self._in_string:
                self._escaped = mark == "\\"
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                self.is_complete = self._depth == 0
