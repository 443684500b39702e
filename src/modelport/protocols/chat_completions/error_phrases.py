"""Phrases that identify errors that services send without an error code.

This module is the only place where modelport interprets the text of a chat-completions error. The module `errors` uses
the status and the error code wherever a service sends them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownPhrase:
    """A phrase in the error texts of one or several services.

    Args:
        pattern: A regular expression that is searched for, ignoring case. If it has a group, the group matches the
            name of the parameter that the service does not accept.
        services: The services whose error texts contain the phrase. This is documentation; no code reads it.
    """

    pattern: str
    services: str


#: These phrases say that the prompt, or the prompt together with the requested output, exceeds the context window.
CONTEXT_EXCEEDED = (
    KnownPhrase(r"maximum context length", "OpenAI and others"),
    KnownPhrase(r"context (?:length|window|size)", "several"),
    KnownPhrase(r"max_model_len", "vLLM"),
    KnownPhrase(r"too many tokens", "several"),
    KnownPhrase(r"`inputs` (?:tokens \+ `max_new_tokens` must be|must have less than)", "TGI"),
)

_PARAMETER_WORD = r"(?:parameter|argument|field|property)s?"
_PARAMETER_NAME = r"['\"`]?([a-z_]+)"
#: These phrases say that the service does not accept a parameter, and name the parameter.
UNSUPPORTED_PARAMETER = (
    KnownPhrase(
        rf"(?:unsupported|unknown|unrecognized) (?:request )?{_PARAMETER_WORD}(?: supplied)?[:\s]+{_PARAMETER_NAME}",
        "OpenAI and others",
    ),
    KnownPhrase(rf"argument not supported on this model:\s*{_PARAMETER_NAME}", "xAI"),
    KnownPhrase(rf"does not support (?:the )?(?:parameter|argument|field)s?[:\s]+{_PARAMETER_NAME}", "xAI"),
    KnownPhrase(rf"extra inputs are not permitted, field:\s*{_PARAMETER_NAME}", "Fireworks"),
    KnownPhrase(r"['\"`]([a-z_]+)['\"`] is (?:unsupported|not (?:supported|permitted|allowed))", "Groq"),
    # DeepSeek's text is "This response_format type is unavailable now".
    KnownPhrase(r" ([a-z_]+) type is unavailable", "DeepSeek"),
)

#: This phrase says that the service does not accept the parameter which the error names in its field `param`.
PARAM_IS_UNSUPPORTED = (KnownPhrase(r"unsupported|not support", "OpenAI, Groq"),)

#: This phrase says that a JSON schema is not accepted. The service accepts the parameter that contains the schema.
INVALID_SCHEMA = (KnownPhrase(r"\AInvalid schema", "OpenAI"),)


def _compile(phrases: tuple[KnownPhrase, ...]) -> re.Pattern[str]:
    return re.compile("|".join(phrase.pattern for phrase in phrases), re.IGNORECASE)


_CONTEXT_EXCEEDED = _compile(CONTEXT_EXCEEDED)
_UNSUPPORTED_PARAMETER = _compile(UNSUPPORTED_PARAMETER)
_PARAM_IS_UNSUPPORTED = _compile(PARAM_IS_UNSUPPORTED)
_INVALID_SCHEMA = _compile(INVALID_SCHEMA)


def means_context_exceeded(text: str) -> bool:
    """Return whether an error text says that the context window is exceeded."""
    return _CONTEXT_EXCEEDED.search(text) is not None


def means_param_is_unsupported(text: str) -> bool:
    """Return whether an error text says that the parameter in the error's field `param` is not accepted."""
    return _PARAM_IS_UNSUPPORTED.search(text) is not None


def means_invalid_schema(text: str) -> bool:
    """Return whether an error text rejects a JSON schema."""
    return _INVALID_SCHEMA.match(text) is not None


def unsupported_parameter_in(text: str) -> str | None:
    """Return the parameter that an error text names as not accepted, or `None`."""
    found = _UNSUPPORTED_PARAMETER.search(text)
    return next(filter(None, found.groups()), None) if found else None
