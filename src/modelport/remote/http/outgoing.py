"""Checks and encodes what is sent: URLs, headers, queries and bodies."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from modelport.errors import InvalidRequest, MissingDependency

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


_HALF = re.compile("[\ud800-\udfff]")


_NO_TEXT = re.compile(r"[\r\n\0\ud800-\udfff]")


#: They say where a request ends, which is for the HTTP library to know.
_FRAMING = frozenset({"content-length", "transfer-encoding", "expect", "trailer", "upgrade"})


@functools.cache
def orjson_package() -> Any:
    """The `orjson` package.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        import orjson
    except ImportError:
        raise MissingDependency("orjson", "openai") from None
    return orjson


def to_json(body: Mapping[str, Any]) -> bytes:
    """The body of a request.

    Raises:
        InvalidRequest: It holds what JSON can't.
    """
    orjson = orjson_package()
    try:
        return orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)  # type: ignore[no-any-return]
    except TypeError as error:
        raise InvalidRequest(f"the request can't be written as JSON: {error}") from None


def pairs(query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Query parameters as the SDK writes them: `a[]=1&a[]=2&b[c]=d&e=true`.

    Raises:
        InvalidRequest: One is no text; its name is told, never its value.
    """
    for name, value in query.items():
        if isinstance(value, Mapping):
            yield from pairs({f"{name}[{key}]": item for key, item in value.items()})
        elif isinstance(value, list | tuple):
            for item in value:
                yield from pairs({f"{name}[]": item})
        elif value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if _HALF.search(f"{name}{text}"):
                raise InvalidRequest(f"query parameter {name!r}: it holds half a character (a lone surrogate)")
            yield str(name), text


_EXAMPLE = "https://api.openai.com/v1"


_EXAMPLES = {"azure_endpoint": "https://RESOURCE.openai.azure.com"}


def checked_url(value: Any, name: str = "api_base") -> str:
    """The address of a service, where it is one.

    Raises:
        InvalidRequest: It is none, or holds a password, which is not shown.
    """
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port  # which raises
        host.encode("idna")
        is_url = parts.scheme in ("http", "https") and bool(host) and not re.search(r"\s", host)
    except (ValueError, AttributeError, TypeError):
        is_url, parts = False, urlsplit("")
    if is_url and isinstance(value, str) and "@" not in parts.netloc:
        return value
    if "@" in str(value):
        raise InvalidRequest(
            f"{name}: a user or a password in the URL is not sent, and would be shown; leave it out, and give it as "
            "default_headers={'Authorization': …}"
        )
    option = "--api-base" if name == "api_base" else f"--set {name}=…"
    raise InvalidRequest(
        f"{name}={value!r}: must be a URL such as {_EXAMPLES.get(name, _EXAMPLE)!r}",
        hint=f"The option {option} sets the address.",
    )


def check_headers(headers: Mapping[Any, Any]) -> None:
    """Whether these can be sent.

    Raises:
        InvalidRequest: One can't; its name is told, never its value.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidRequest(f"header {name!r}: a header's name is letters, digits and hyphens")
        if name.lower() in _FRAMING:
            raise InvalidRequest(f"header {name!r}: it is set by the HTTP library, which knows the body; leave it out")
        if type(value).__name__ == "Omit":  # the SDK's way to take a header away
            continue
        if not isinstance(value, str):
            raise InvalidRequest(f"header {name!r}: its value must be text, not {type(value).__name__}")
        if _NO_TEXT.search(value):
            raise InvalidRequest(
                f"header {name!r}: its value must be one line of text (does the key end in a newline?)"
            )
