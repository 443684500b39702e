"""Validation by the openai package's own types. A field that they do not have is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

#: Fields of earlier output that the types require. The service does not: with `store: false` it refuses the IDs.
_REQUIRED = {
    "message": {"id": "x", "status": "completed"},
    "reasoning": {"id": "x"},
    "web_search_call": {"id": "x"},
}


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    from openai.types import responses

    if name == "ResponseStreamEvent":
        return TypeAdapter(responses.ResponseStreamEvent)
    from openai.types.responses.response_create_params import ResponseCreateParams

    types: dict[str, Any] = {
        "ResponseCreateParams": ResponseCreateParams,
        "ResponseInputParam": responses.ResponseInputParam,
    }
    return TypeAdapter(types[name], config=ConfigDict(extra="forbid"))


def _with_required(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**(_REQUIRED.get(item.get("type", ""), {}) if _is_output(item) else {}), **item} for item in items]


def _is_output(item: Mapping[str, Any]) -> bool:
    return item.get("type") != "message" or item.get("role") == "assistant"


def validate_items(items: Iterable[Mapping[str, Any]]) -> None:
    """Validate the items of a request."""
    _adapter("ResponseInputParam").validate_python(_with_required(items))


def validate_body(body: Mapping[str, Any]) -> None:
    """Validate the body of a request."""
    _adapter("ResponseCreateParams").validate_python({**body, "input": _with_required(body["input"])})


def validate_event(event: Mapping[str, Any]) -> None:
    """Validate an event of a stream."""
    unknown = list(_unknown_fields(_adapter("ResponseStreamEvent").validate_python(event)))
    assert not unknown, unknown


def _unknown_fields(value: Any) -> Iterable[str]:
    if isinstance(value, BaseModel):
        yield from (f"{type(value).__name__}.{name}" for name in value.model_extra or ())
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, list):
        for part in value:
            yield from _unknown_fields(part)
