"""Checks and encodes what a request consists of: URL, headers, query and body.

Everything is checked before a connection is opened, so that a mistake of the caller does not have to be recognised from
an error of the HTTP library. The error messages name the header or the query parameter, but do not show its value,
which may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from modelport.errors import InvalidRequest
from modelport.remote.http.packages import orjson_package
from modelport.remote.http.redaction import with_hidden_repr

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_HEADER_VALUE = re.compile(r"[\r\n\0\ud800-\udfff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
#: These headers say how the body is sent and where it ends. The HTTP library sets them.
_FRAMING_HEADERS = frozenset({"content-length", "transfer-encoding", "expect", "trailer", "upgrade"})
#: An example URL for each setting that holds the address of a service.
_URL_EXAMPLES = {
    "api_base": "https://api.openai.com/v1",
    "azure_endpoint": "https://RESOURCE.openai.azure.com",
}


def to_json(body: Mapping[str, Any]) -> bytes:
    """Encode a request's body as JSON.

    Args:
        body: The body. Keys that are not strings are converted to strings.

    Raises:
        InvalidRequest: The body holds a value that JSON has no type for.
    """
    orjson = orjson_package()
    try:
        return orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)  # type: ignore[no-any-return]
    except TypeError as error:
        raise InvalidRequest(f"the request can't be written as JSON: {error}") from None


def query_pairs(query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of query parameters for a URL.

    Lists, dicts and booleans are written as in the `openai` package: `{"a": [1, 2], "b": {"c": "d"}, "e": True}`
    becomes `a[]=1&a[]=2&b[c]=d&e=true`.

    Args:
        query: Query parameters by name. A parameter with the value `None` is left out.

    Raises:
        InvalidRequest: A name or a value has a lone surrogate, which can't be encoded.
    """
    for name, value in query.items():
        if isinstance(value, Mapping):
            yield from query_pairs({f"{name}[{key}]": item for key, item in value.items()})
        elif isinstance(value, list | tuple):
            for item in value:
                yield from query_pairs({f"{name}[]": item})
        elif value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if _LONE_SURROGATE.search(f"{name}{text}"):
                raise InvalidRequest(f"query parameter {name!r}: it holds half a character (a lone surrogate)")
            yield str(name), text


def check_url(value: Any, name: str = "api_base") -> str:
    """Check the address of a service, and return it.

    Args:
        value: The address that the caller passed.
        name: The name of the setting that holds the address, for the error message.

    Raises:
        InvalidRequest: The value is not an HTTP URL, or it contains a user or a password, which the message does not
            show.
    """
    try:
        parts: Any = urlsplit(value)
        host, _ = parts.hostname or "", parts.port  # The attribute `port` raises ValueError for an invalid port.
        host.encode("idna")
        is_url = parts.scheme in ("http", "https") and bool(host) and not re.search(r"\s", host)
        has_user = "@" in parts.netloc
    except (ValueError, AttributeError, TypeError):
        is_url = has_user = False
    parts = None  # Otherwise a traceback with local variables would show a password.
    if is_url and isinstance(value, str) and not has_user:
        return value
    if "@" in str(value):
        raise InvalidRequest(
            f"{name}: a user or a password in the URL is not sent, and errors would show it; leave it out, and pass "
            "default_headers={'Authorization': …}"
        )
    option = "--api-base" if name == "api_base" else f"--set {name}=…"
    raise InvalidRequest(
        f"{name}={value!r}: must be a URL such as {_URL_EXAMPLES.get(name, _URL_EXAMPLES['api_base'])!r}",
        hint=f"The option {option} sets the address.",
    )


def check_base_url(value: Any, name: str = "api_base") -> None:
    """Check the base URL of a service: like `check_url`, and that it is not the URL of one of its methods.

    Raises:
        InvalidRequest: See `check_url`, or the URL ends in a path that modelport appends.
    """
    url = check_url(value, name)
    for path in ("/chat/completions", "/responses"):
        if url.rstrip("/").endswith(path):
            raise InvalidRequest(f"{name}={url!r}: leave out {path!r} at the end, which modelport appends")


def check_headers(headers: Mapping[Any, Any]) -> None:
    """Check that headers can be sent.

    Args:
        headers: Headers by name. The value `Omit()` of the `openai` package, which removes a header, is allowed.

    Raises:
        InvalidRequest: A header can't be sent.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidRequest(f"header {name!r}: a header's name consists of letters, digits and hyphens")
        if name.lower() in _FRAMING_HEADERS:
            raise InvalidRequest(f"header {name!r}: the HTTP library sets it, because it knows the body; leave it out")
        if _removes_header(value):
            continue
        if not isinstance(value, str):
            raise InvalidRequest(f"header {name!r}: its value must be text, not {type(value).__name__}")
        if _NOT_IN_HEADER_VALUE.search(value):
            raise InvalidRequest(
                f"header {name!r}: its value must be one line of text (does the key end in a newline?)"
            )


def merge_headers(*mappings: Mapping[str, Any]) -> dict[str, str]:
    """Merge headers. A header overrides the header of the same name, in upper or lower case, in an earlier mapping.

    Args:
        *mappings: Headers by name.
    """
    merged: dict[str, tuple[str, Any]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            merged.pop(name.lower(), None)
            if not _removes_header(value):
                merged[name.lower()] = (name, with_hidden_repr(value))
    return dict(merged.values())


def _removes_header(value: Any) -> bool:
    """Return whether a header's value is an `Omit` of the `openai` package, which removes the header."""
    return type(value).__name__ == "Omit"
