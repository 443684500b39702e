"""Reads the bodies of error responses, which services nest in several ways.

OpenAI's form is `{"error": {"message", "type", "param", "code"}}`. `read_error_body` also reads these forms:

- Without the key `error`, or with a text in it, beside which xAI puts the code.
- A list whose first item is the body (Gemini). The wait before the next attempt is in `details`, as a `RetryInfo`; see
  https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto
- The body of another service inside: in `metadata.raw` (OpenRouter, see
  https://openrouter.ai/docs/api/reference/errors-and-debugging), in `external_model_message` (Databricks, see
  https://github.com/databricks-demos/dbdemos/issues/97) or `external_model_error`, or as JSON in `message` (Databricks
  and proxies). The innermost body has the reason.
- pydantic's list of problems, in `detail` or in `message`, as JSON or in Python's notation (vLLM).

Only the first layers and the first characters are read, so that no body takes long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelport.protocols.parameter_phrases import Problem, path_of, problems_in

#: At most so many bodies inside each other are read. OpenRouter's has two, and a proxy may add one or two.
_MAX_LAYERS = 8
#: A longer text is not parsed as JSON.
_MAX_JSON_TEXT = 65536


@dataclass
class ErrorBody:
    """What a service says about an error.

    Attributes:
        text: The reason, from all layers of the body.
        codes: The values of `code`, `type`, `status` and `reason` in all layers, in lower case.
        param: The parameter that the innermost layer names in its field `param`.
        status: The HTTP status that the body names.
        retry_delay: The wait before the next attempt, in seconds.
        problems: The problems that pydantic found in the request.
        failed_generation: What the model wrote, if the service could not use it (Groq).
        is_moderated: Whether a moderation flagged the prompt (OpenRouter).
    """

    text: str = ""
    codes: set[str] = field(default_factory=set)
    param: str | None = None
    status: int | None = None
    retry_delay: float | None = None
    problems: list[Problem] = field(default_factory=list)
    failed_generation: str | None = None
    is_moderated: bool = False


def read_error_body(payload: Any) -> ErrorBody:
    """Return what the body of an error response says.

    Args:
        payload: The parsed body, or the body as text.
    """
    result, texts = ErrorBody(), []
    for layer in _layers(payload):
        if isinstance(layer, str):
            texts.append(layer)
        else:
            texts.append(_read_layer(layer, result))
    plain: list[str] = []
    for text in texts:
        text = text.strip().rstrip(".:")
        if text and text not in plain:
            plain.append(text)
    result.text = ": ".join(plain) or "no reason given"
    result.problems += problems_in(result.text)
    return result


def status_from(value: Any) -> int | None:
    """Return the HTTP status that a value is, as a number or as text, or `None`."""
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else None


def _layers(payload: Any) -> Iterator[Mapping[str, Any] | str]:
    """Yield the body, and each body inside it: dicts, and texts that are not JSON."""
    layer = payload
    for _ in range(_MAX_LAYERS):
        layer = _parse(layer)
        if isinstance(layer, list):
            layer = next((item for item in layer if isinstance(item, dict)), None)
        if isinstance(layer, str):
            yield layer
        if not isinstance(layer, dict):
            return
        yield layer
        layer = _inner_body(layer)


def _parse(value: Any) -> Any:
    """Return the value that a text is in JSON, or else the text. Any other value stays unchanged."""
    if isinstance(value, str) and len(value) <= _MAX_JSON_TEXT and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _inner_body(layer: Mapping[str, Any]) -> Any:
    """Return the body inside a layer, or `None`. A text that belongs to the layer itself is none."""
    metadata = layer.get("metadata")
    if isinstance(metadata, dict) and (raw := metadata.get("raw")):
        return raw
    for name in ("external_model_error", "external_model_message", "error"):
        if inner := layer.get(name):
            return inner
    message = layer.get("message")
    parsed = _parse(message)
    if isinstance(parsed, dict) or (isinstance(parsed, list) and not _problems(parsed)):
        return parsed
    return None


def _read_layer(layer: Mapping[str, Any], result: ErrorBody) -> str:
    """Add what one layer says to the result, and return its text."""
    for name in ("code", "type", "status", "reason", "error_code"):
        if isinstance(value := layer.get(name), str | int):
            result.codes.add(str(value).lower())
    for name in ("status_code", "code", "error_code"):
        if (status := status_from(layer.get(name))) is not None and 300 <= status < 600:
            result.status = status
    if isinstance(param := layer.get("param"), str) and param:
        result.param = param
    if isinstance(generation := layer.get("failed_generation"), str):
        result.failed_generation = generation
    for name in ("detail", "message"):
        result.problems += _problems(layer.get(name))
    for detail in details if isinstance(details := layer.get("details"), list) else ():
        if isinstance(detail, dict):
            if isinstance(reason := detail.get("reason"), str):
                result.codes.add(reason.lower())
            if (delay := _seconds(detail.get("retryDelay"))) is not None:
                result.retry_delay = delay
    provider = ""
    if isinstance(metadata := layer.get("metadata"), dict):
        result.is_moderated = result.is_moderated or "flagged_input" in metadata
        if isinstance(metadata.get("provider_name"), str):
            provider = f" ({metadata['provider_name'][:100]})"
    for name in ("message", "detail", "msg"):
        value = layer.get(name)
        if value and not isinstance(_parse(value), dict):
            return f"{value}{provider}"
    has_inner_body = _inner_body(layer) is not None
    return "" if has_inner_body or not layer else str(dict(layer))


def _problems(value: Any) -> list[Problem]:
    """Return the problems in pydantic's list."""
    return [
        Problem(item["type"], path_of(item.get("loc")))
        for item in (value if isinstance(value, list) else ())
        if isinstance(item, dict) and isinstance(item.get("type"), str) and "loc" in item
    ]


def _seconds(value: Any) -> float | None:
    """Return the seconds of a duration in Google's notation, such as `45.8s`, or `None`."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", value) if isinstance(value, str) else None
    return float(found[1]) if found else None
