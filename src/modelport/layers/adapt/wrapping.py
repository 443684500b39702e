"""Forms that are no JSON object, where only objects are taken: the answer as the one property of one."""

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


def wrap_in_object(form: JSONSchema | Choice) -> JSONSchema | None:
    """The form as the property of an object; `None` where its schema refers to itself as a whole."""
    schema: dict[str, Any] = {"enum": list(form.options)} if isinstance(form, Choice) else dict(form.schema)
    if '"$ref": "#"' in json.dumps(schema):
        return None
    definitions: dict[str, Any] = {key: schema.pop(key) for key in ("$defs", "definitions") if key in schema}
    whole: dict[str, Any] = {
        "type": "object", "properties": {KEY: schema}, "required": [KEY], "additionalProperties": False, **definitions,
    }  # fmt: skip
    return JSONSchema(whole, name=form.name if isinstance(form, JSONSchema) else KEY)


class _Unwrapper:
    """Takes the object's text in pieces and gives the property's.

    Args:
        text: Whether the property is a string that is the answer itself, and not JSON.
    """

    def __init__(self, text: bool) -> None:
        self._text = text
        self._held = ""
        self._inside = False

    def feed(self, piece: str) -> str:
        self._held += piece
        if not self._inside:
            if (head := _HEAD.match(self._held)) is None:
                return ""
            self._inside, self._held = True, self._held[head.end() :]
        if self._text:
            return ""
        cut = len(self._held.rstrip(_TAIL))
        said, self._held = self._held[:cut], self._held[cut:]
        return said

    def end(self) -> str:
        rest, self._held = self._held, ""
        if self._inside and (whole := rest.rstrip()).endswith("}"):
            rest = whole[:-1].rstrip()
        if self._text and self._inside:
            try:
                value = read_json(rest)
                return value if isinstance(value, str) else rest
            except ValueError:
                pass
        return rest


async def unwrap_object(deltas: Deltas, text: bool) -> Deltas:
    """The deltas with the text of the property alone; what is no such object passes as it is, at the end."""
    reader = _Unwrapper(text)
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                said = reader.feed(delta.content or "")
                if delta.finish_reason is not None or delta.token_usage is not None:
                    said += reader.end()
                if not (delta := replace(delta, content=said or None)).is_empty:
                    yield delta
        except ModelError:
            if left := reader.end():
                yield ChatMessageStreamDelta(content=left)
            raise
