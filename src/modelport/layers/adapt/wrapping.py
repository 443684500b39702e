"""Wraps output types that are not JSON objects in an object, for backends that accept only objects.

The output type becomes the only property, `answer`, of an object. From the object that the model writes, the text of
the property is extracted while the object arrives. A `Choice` is a list of strings of which the model writes one, and
its output is the string itself, not JSON. So the JSON string is parsed, as soon as it is complete.
"""

from __future__ import annotations

import json
import re
import string
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from modelport.errors import ModelError
from modelport.layers.base import Deltas
from modelport.schema.json_text import read_json
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import Choice, JSONSchema

PROPERTY = "answer"
_TEXT_BEFORE_VALUE = re.compile(rf'\s*\{{\s*"{PROPERTY}"\s*:\s*(?=\S)')
_CHARACTERS_AFTER_VALUE = string.whitespace + "}"


def wrap_in_object(grammar: JSONSchema | Choice) -> JSONSchema | None:
    """Return the schema of an object whose only property has this output type.

    Returns:
        The schema of the object, or `None` if the given schema refers to its own root by `#`: inside of the object, `#`
            would refer to the object.
    """
    schema: dict[str, Any] = {"enum": list(grammar.options)} if isinstance(grammar, Choice) else dict(grammar.schema)
    if '"$ref": "#"' in json.dumps(schema):
        return None
    definitions: dict[str, Any] = {key: schema.pop(key) for key in ("$defs", "definitions") if key in schema}
    wrapper: dict[str, Any] = {
        "type": "object", "properties": {PROPERTY: schema}, "required": [PROPERTY], "additionalProperties": False,
        **definitions,
    }  # fmt: skip
    return JSONSchema(wrapper, name=grammar.name if isinstance(grammar, JSONSchema) else PROPERTY)


class _Unwrapper:
    """Receives the JSON text of the object in pieces, and returns the text of its property.

    Args:
        is_choice: Whether the output type is a `Choice`. Its output is the string in the property. The output of every
            other type is the JSON text of the property.
    """

    def __init__(self, is_choice: bool) -> None:
        self._is_choice = is_choice
        self._buffered = ""
        self._in_property = False

    def feed(self, piece: str) -> str:
        """Add a piece, and return the text that can be emitted now."""
        self._buffered += piece
        if not self._in_property:
            if (before := _TEXT_BEFORE_VALUE.match(self._buffered)) is None:
                return ""
            self._in_property, self._buffered = True, self._buffered[before.end() :]
        if self._is_choice:
            return ""
        # White space and braces at the end may belong to the wrapping object, so they are not emitted yet.
        end = len(self._buffered.rstrip(_CHARACTERS_AFTER_VALUE))
        text, self._buffered = self._buffered[:end], self._buffered[end:]
        return text

    def end(self) -> str:
        """Return the rest of the text. Call this after the last piece."""
        rest, self._buffered = self._buffered, ""
        if self._in_property and (stripped := rest.rstrip()).endswith("}"):
            rest = stripped[:-1].rstrip()
        if self._is_choice and self._in_property:
            try:
                value = read_json(rest)
                return value if isinstance(value, str) else rest
            except ValueError:
                pass
        return rest


async def unwrap_object(deltas: Deltas, is_choice: bool) -> Deltas:
    """Replace the JSON text of the wrapping object in these deltas by the text of its property.

    Args:
        deltas: The deltas of the backend.
        is_choice: Whether the output type is a `Choice`. Its output is the string in the property. The output of every
            other type is the JSON text of the property.

    Yields:
        The same deltas with the text of the property. If the text is not such an object, it is emitted unchanged at the
            end.
    """
    unwrapper = _Unwrapper(is_choice)
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                text = unwrapper.feed(delta.content or "")
                # A finish reason or token usage marks the end of the output, because the stop layer moves both into the
                # last delta. Some services send only one of them.
                if delta.finish_reason is not None or delta.token_usage is not None:
                    text += unwrapper.end()
                if not (delta := replace(delta, content=text or None)).is_empty:
                    yield delta
        except ModelError:
            if rest := unwrapper.end():
                yield ChatMessageStreamDelta(content=rest)
            raise
        if rest := unwrapper.end():  # The backend sent neither a finish reason nor token usage.
            yield ChatMessageStreamDelta(content=rest)
