"""Output types that are not JSON objects, for backends that accept only objects.

The output type becomes the one property `answer` of an object. From the object that the model writes, the text of that
property is extracted while it arrives. The value of a `Choice` is extracted only once it is
complete.
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

KEY = "answer"
_HEAD = re.compile(rf'\s*\{{\s*"{KEY}"\s*:\s*(?=\S)')
_TAIL = string.whitespace + "}"


def wrap_in_object(grammar: JSONSchema | Choice) -> JSONSchema | None:
    """Return a schema of an object whose one property has this output type.

    Returns:
        The schema, or `None` if the given schema refers to itself by `#`, which would then mean
            the wrapping object.
    """
    schema: dict[str, Any] = {"enum": list(grammar.options)} if isinstance(grammar, Choice) else dict(grammar.schema)
    if '"$ref": "#"' in json.dumps(schema):
        return None
    definitions: dict[str, Any] = {key: schema.pop(key) for key in ("$defs", "definitions") if key in schema}
    wrapper: dict[str, Any] = {
        "type": "object", "properties": {KEY: schema}, "required": [KEY], "additionalProperties": False, **definitions,
    }  # fmt: skip
    return JSONSchema(wrapper, name=grammar.name if isinstance(grammar, JSONSchema) else KEY)


class _Unwrapper:
    """Receives the text of the object in pieces, and returns the text of the property.

    Args:
        is_text: Whether the property is a string whose value is the output. Otherwise its JSON text is the output.
    """

    def __init__(self, is_text: bool) -> None:
        self._is_text = is_text
        self._buffered = ""
        self._in_property = False

    def feed(self, piece: str) -> str:
        """Return the text that can be emitted now."""
        self._buffered += piece
        if not self._in_property:
            if (head := _HEAD.match(self._buffered)) is None:
                return ""
            self._in_property, self._buffered = True, self._buffered[head.end() :]
        if self._is_text:
            return ""
        # Spaces and braces at the end may belong to the object, so they are buffered.
        end = len(self._buffered.rstrip(_TAIL))
        text, self._buffered = self._buffered[:end], self._buffered[end:]
        return text

    def end(self) -> str:
        """Return the rest of the text, when no piece follows."""
        rest, self._buffered = self._buffered, ""
        if self._in_property and (stripped := rest.rstrip()).endswith("}"):
            rest = stripped[:-1].rstrip()
        if self._is_text and self._in_property:
            try:
                value = read_json(rest)
                return value if isinstance(value, str) else rest
            except ValueError:
                pass
        return rest


async def unwrap_object(deltas: Deltas, is_text: bool) -> Deltas:
    """Replace the text of the object in these deltas by the text of its property.

    Args:
        deltas: The deltas of the backend.
        is_text: Whether the property is a string whose value is the output. Otherwise its JSON text is the output.

    Yields:
        The same deltas with the property's text. Text that is not such an object is emitted unchanged at the end.
    """
    unwrapper = _Unwrapper(is_text)
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                text = unwrapper.feed(delta.content or "")
                # Services whose output needs unwrapping send the token usage once, at the end of the output.
                # The delta with the usage may lack a finish reason.
                if delta.finish_reason is not None or delta.token_usage is not None:
                    text += unwrapper.end()
                # `replace` costs time for each delta, but only in calls whose output is wrapped; see decision 009.
                if not (delta := replace(delta, content=text or None)).is_empty:
                    yield delta
        except ModelError:
            if rest := unwrapper.end():
                yield ChatMessageStreamDelta(content=rest)
            raise
