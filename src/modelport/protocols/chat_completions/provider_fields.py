"""Reads the provider data of chat completions, and writes it back into requests.

Services return it in fields of the message or of a tool call, and in parts of the content:

- `reasoning_content`, a text, which may be empty: DeepSeek, Kimi, GLM, MiniMax, Qwen. See
  https://api-docs.deepseek.com/guides/thinking_mode#tool-calls
- `reasoning_details`, a list: OpenRouter. In a stream, an entry comes in pieces with the same type and index. See
  https://openrouter.ai/docs/guides/best-practices/reasoning-tokens#preserving-reasoning
- `thinking_blocks`, a list: LiteLLM and its proxy. In a stream, the piece with the signature ends a block. See
  https://docs.litellm.ai/docs/reasoning_content
- `extra_content` of a message or of a tool call: Gemini. See https://ai.google.dev/gemini-api/docs/thought-signatures
- `provider_specific_fields` of a message or of a tool call: LiteLLM. Most of them are only information.
- Content parts of the types `thinking` (Mistral, https://docs.mistral.ai/capabilities/reasoning) and `reasoning`
  (Databricks, https://docs.databricks.com/aws/en/machine-learning/model-serving/query-reason-models).

In `ProviderData.items`, each item is a dict of such fields; the parts of the content are its field `content`. Pieces of
a field in several items are merged as in a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from modelport.types.provider_data import (
    CALL_FIELDS,
    MESSAGE_FIELDS,
    REASONING_PARTS,
    ProviderData,
    reasoning_text_of,
)

#: The fields of messages and of calls that have no provider data, unless the content is a list.
USUAL_FIELDS = frozenset({"role", "content", "tool_calls", "refusal", "function_call", "audio", "annotations"})
_USUAL_FIELDS_OF_CALLS = frozenset({"id", "index", "type", "function", "custom"})
#: The keys whose texts are joined when pieces of an object are merged. Of other keys, the last value counts.
_TEXTS = ("text", "summary", "data", "thinking")
#: The keys of a message's `provider_specific_fields` that LiteLLM reads in later requests.
_SENT_BACK = ("thought_signatures", "compaction_blocks", "web_search_results", "tool_results")

JSON = dict[str, Any]


class ProviderFields:
    """Collects the provider data of one response.

    Args:
        service: The service that sends the response, for `ProviderData.service`.
    """

    def __init__(self, service: str | None) -> None:
        self._service = service
        #: The name of a field -> its pieces. They are joined once: a reasoning may have 100,000 of them.
        self._pieces: dict[str, list[Any]] = {}

    def read(self, message: Mapping[str, Any]) -> None:
        """Read a message, or a piece of one, in the service's format."""
        for name, value in _fields_of(message):
            self._pieces.setdefault(name, []).append(value)

    def take(self) -> ProviderData | None:
        """Return what has been read since the last call of this method, or `None` if that is nothing."""
        if not self._pieces:
            return None
        fields = {name: _merge(name, pieces) for name, pieces in self._pieces.items()}
        self._pieces = {}
        return ProviderData("chat_completions", (fields,), self._service)


def provider_data_of_call(call: Mapping[str, Any], service: str | None) -> ProviderData | None:
    """Return the provider data of a tool call, or of a piece of one."""
    function = call.get("function")
    if call.keys() <= _USUAL_FIELDS_OF_CALLS and "provider_specific_fields" not in (function or ()):
        return None
    fields = {name: value for name in CALL_FIELDS if isinstance(value := call.get(name), dict) and value}
    if isinstance(function, Mapping) and "provider_specific_fields" not in fields:
        # Some versions of LiteLLM put them into the function. All of them read them from the call.
        value = function.get("provider_specific_fields")
        fields |= {"provider_specific_fields": value} if isinstance(value, dict) and value else {}
    return ProviderData("chat_completions", (fields,), service) if fields else None


def _fields_of(message: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and the values of the fields with provider data. A value of another type is no such data."""
    for name in MESSAGE_FIELDS:
        value = message.get(name)
        if value is None:
            continue
        if isinstance(value, str) if name == "reasoning_content" else value and _is_valid(name, value):
            yield name, value
    extra = message.get("provider_specific_fields")
    if isinstance(extra, dict) and (known := {name: extra[name] for name in _SENT_BACK if extra.get(name)}):
        yield "provider_specific_fields", known
    content = message.get("content")
    if isinstance(content, list) and any(part.get("type") in REASONING_PARTS for part in content):
        yield "content", content


def _is_valid(name: str, value: Any) -> bool:
    if name == "extra_content":
        return isinstance(value, dict)
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def reasoning_text(message: Mapping[str, Any]) -> str | None:
    """Return the text of the reasoning in a message's content parts or in its `reasoning_details`, or `None`."""
    content = message.get("content")
    parts = [part for part in content if part.get("type") in REASONING_PARTS] if isinstance(content, list) else []
    if not parts and _is_valid("reasoning_details", message.get("reasoning_details")):
        parts = message["reasoning_details"]
    return "".join(reasoning_text_of(part) for part in parts) or None


def merged_fields(items: Sequence[Mapping[str, Any]]) -> JSON:
    """Return the items of provider data as one dict of fields."""
    pieces: dict[str, list[Any]] = {}
    for item in items:
        for name, value in item.items():
            pieces.setdefault(name, []).append(value)
    return {name: _merge(name, values) for name, values in pieces.items()}


def with_reasoning_parts(parts: list[JSON], content: Any) -> Any:
    """Return the content of a message with its reasoning parts.

    Args:
        parts: The parts of the content as the service returned them, or the reasoning parts alone.
        content: The content that the message has now, as it is sent without the reasoning parts.
    """
    texts = [part["text"] for part in parts if part.get("type") == "text" and isinstance(part.get("text"), str)]
    if isinstance(content, str) and "".join(texts) == content:
        return parts
    reasoning = [part for part in parts if part.get("type") in REASONING_PARTS]
    if isinstance(content, list):
        return [*reasoning, *content]
    return [*reasoning, {"type": "text", "text": content}] if content else reasoning


# --- pieces of fields -------------------------------------------------------------------------------------------------


def _merge(name: str, pieces: list[Any]) -> Any:
    """Return the value of a field that came in these pieces. A single piece is returned as it is."""
    if len(pieces) == 1:
        return pieces[0]
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    if all(isinstance(piece, Mapping) for piece in pieces):
        return _merge_dicts(pieces)
    if all(isinstance(piece, list | tuple) for piece in pieces):
        return _merge_lists(name, pieces)
    return pieces[-1]


def _merge_dicts(pieces: Iterable[Mapping[str, Any]]) -> JSON:
    """Return the dicts as one. The last value of a key counts, and dicts under one key are merged."""
    result: JSON = {}
    for piece in pieces:
        for key, value in piece.items():
            both_dicts = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = _merge_dicts([result[key], value]) if both_dicts else value
    return result


def _merge_lists(name: str, pieces: Iterable[Sequence[JSON]]) -> list[JSON]:
    """Return the entries of the lists, with the pieces of one entry merged."""
    entries: list[_Entry] = []
    begun: dict[Any, _Entry] = {}
    for piece in (entry for entries_of_piece in pieces for entry in entries_of_piece):
        entry = begun.get(key := _key_of(name, piece))
        if entry is None or not entry.is_continued_by(name, piece):
            entry = _Entry()
            entries.append(entry)
            if name != "reasoning_details":
                begun.clear()  # Only the last entry is continued.
            begun[key] = entry
        entry.add(piece)
    return [entry.build() for entry in entries]


def _key_of(name: str, piece: JSON) -> Any:
    kind = str(piece.get("type"))
    return (kind, str(piece.get("index"))) if name == "reasoning_details" else kind


class _Entry:
    """Accumulates the pieces of one entry of a list."""

    __slots__ = ("_values", "_texts")

    def __init__(self) -> None:
        self._values: JSON = {}
        self._texts: dict[str, list[Any]] = {}

    def is_continued_by(self, name: str, piece: JSON) -> bool:
        """Return whether a piece with the same type (and index, if the entries have one) continues this entry."""
        if name == "reasoning_details":
            ids = self._values.get("id"), piece.get("id")
            return piece.get("index") is not None and (None in ids or ids[0] == ids[1])
        if name == "thinking_blocks":  # A signature ends a block, and encrypted blocks come whole.
            return not self._values.get("signature") and piece.get("type") != "redacted_thinking"
        return True

    def add(self, piece: JSON) -> None:
        for key, value in piece.items():
            if key in _TEXTS and isinstance(value, str | list):
                self._values.setdefault(key)  # The keys stay in the service's order.
                self._texts.setdefault(key, []).append(value)
            elif value is not None or key not in self._values:
                self._values[key] = value

    def build(self) -> JSON:
        return self._values | {key: _merge("", pieces) for key, pieces in self._texts.items()}
