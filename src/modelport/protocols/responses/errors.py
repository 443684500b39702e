"""Reads errors inside of responses and streams, and recognises the errors that ask for the Responses API.

The exception itself is made by the caller's function, because the services that have this API classify its errors like
those of chat completions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Codes of `response.error` that say that the request was wrong. All begin with one of these, see `ResponseError.code`
#: in https://github.com/openai/openai-python/blob/main/src/openai/types/responses/response_error.py
_REQUEST_ERROR_CODES = ("invalid_", "image_", "empty_image", "unsupported_", "failed_to_download", "data_residency")


def error_payload(error: Any) -> tuple[Any, dict[str, Any]]:
    """Return the code and the body of an error, as the function that classifies HTTP errors takes them.

    Args:
        error: The value of `error` in a response, or an event of type `error`.
    """
    if not isinstance(error, Mapping):
        return None, {"error": error or "no reason given"}
    fields = {key: error.get(key) for key in ("message", "code", "param")}
    kind, code = error.get("type"), str(error.get("code") or "")
    if kind in (None, "error", "response.failed"):
        kind = "invalid_request_error" if code.startswith(_REQUEST_ERROR_CODES) else None
    return error.get("code"), {"error": {**fields, "type": kind}}


@dataclass(frozen=True)
class Refusal:
    """A text by which a service refuses a chat completion because the model needs the Responses API.

    Args:
        pattern: A regular expression that is searched for, ignoring case.
        source: The URL of a report of the text. This is documentation; no code reads it.
    """

    pattern: str
    source: str


#: These say that the model, or this kind of request, is answered by the Responses API alone.
NEEDS_RESPONSES = (
    Refusal(
        r"use (?:the )?[`'\"]?/?v1/responses",
        "https://github.com/pipecat-ai/pipecat/issues/4043",  # "Please use /v1/responses instead."
    ),
    Refusal(
        r"only supported in [`'\"]?/?v1/responses",
        "https://github.com/n8n-io/n8n/issues/18352",  # "… and not in v1/chat/completions."
    ),
    Refusal(
        r"not accessible via the /chat/completions endpoint",
        "https://github.com/caozhiyuan/copilot-api/issues/102",
    ),
    Refusal(
        r"the chatCompletion operation does not work with the specified model",
        "https://github.com/langchain-ai/langchain-azure/issues/228",
    ),
    Refusal(r"use the Responses API", "https://developers.openai.com/api/docs/guides/migrate-to-responses"),
)
_NEEDS_RESPONSES = re.compile("|".join(refusal.pattern for refusal in NEEDS_RESPONSES), re.IGNORECASE)
#: A status 404 with one of these texts is about an item, an earlier response, or the model, and not about the path.
#: Sources: https://github.com/vercel/ai/issues/7543 (items), and the texts of OpenAI and Azure for unknown models
_NOT_ABOUT_PATH = re.compile(
    r"item with id|previous_response|previous response|conversation with id|does not exist", re.IGNORECASE
)


def needs_responses(text: str) -> bool:
    """Return whether the error text of a chat completion says that the Responses API must be used."""
    return _NEEDS_RESPONSES.search(text) is not None


def means_missing_path(text: str) -> bool:
    """Return whether the text of a status 404 says that the service does not have the path of the request."""
    return _NOT_ABOUT_PATH.search(text) is None
