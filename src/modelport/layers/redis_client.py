"""Makes the client of `RedisLimits` from its URL, and limits how much the client reads.

The server may be anybody's, so the client reads at most `MAX_RESPONSE_BYTES` of one response. The redis package itself
would read a response of gigabytes into memory.

The functions for a URL do not raise: the errors of the redis package, and the local variables to which a traceback
refers, may contain the password.
"""

from __future__ import annotations

import os.path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse

#: The most bytes of one response. Those of the scripts have less than 100 bytes, and error messages a few hundred.
MAX_RESPONSE_BYTES = 2048
#: The parameters of a URL that name files, which are read while the event loop waits.
_FILE_PARAMETERS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
#: A text with so many characters of a part of the URL quotes the part.
_QUOTED_LENGTH = 8


class BoundedParser(_AsyncRESP2Parser):  # type: ignore[misc]  # redis does not declare the types of this class.
    """A parser of the redis package that refuses a response of more than `MAX_RESPONSE_BYTES`."""

    _bytes_left = MAX_RESPONSE_BYTES

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read one response."""
        self._bytes_left = MAX_RESPONSE_BYTES
        return await super().read_response(*args, **options)

    async def _readline(self) -> bytes:
        line: bytes = await super()._readline()  # The stream itself limits a line to 64 KiB.
        self._count(len(line) + 2)
        return line

    async def _read(self, length: int) -> bytes:
        self._count(length)
        data: bytes = await super()._read(length)
        return data

    def _count(self, size: int) -> None:
        self._bytes_left -= size
        if size < 0 or self._bytes_left < 0:
            raise InvalidResponse(f"the response has more than {MAX_RESPONSE_BYTES} bytes, or a negative length")


def client_or_none(url: str, timeout: float) -> Any:
    """Return a client, or `None` if the URL is not valid. `timeout` takes precedence over the timeouts in the URL."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "unix":
            int(unquote(parts.path).strip("/") or 0)  # For a path that is no number, the redis package would use 0.
        settings: dict[str, Any] = {**parse_url(url)}
        if "retry" in settings or "parser_class" in settings:
            return None  # In a URL they are strings, but must be objects.
        settings |= {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            # One retry, on a new connection, because Redis may have been restarted since the last call.
            "retry": Retry(NoBackoff(), 1),
            "protocol": 2,  # That of `BoundedParser`.
            "parser_class": BoundedParser,
        }
        pool = ConnectionPool(**settings)
        # The redis package checks the parameters behind the "?" only when it creates a connection object. Creating the
        # object here does not open a connection.
        pool.connection_class(**pool.connection_kwargs)
        "".encode(pool.connection_kwargs.get("encoding", "utf-8"))  # Raises an error if the encoding is unknown.
        return Redis.from_pool(pool)
    except Exception:  # The redis package raises errors of many types.
        return None


def wrong_file_parameter(url: str) -> str | None:
    """Return the parameter of the URL that names no regular file; `None` if there is none.

    To read another file, such as a terminal or a pipe, would block the event loop.
    """
    for name, values in _parameters(url).items():
        if name in _FILE_PARAMETERS and not os.path.isfile(values[0]):
            return name
    return None


def quotable(text: str, url: str) -> str:
    """Return a text of the server as an error may quote it: shortened, or empty if it may quote the URL's secrets.

    The secrets are the user's name, the password and the values of parameters, also in another spelling.
    """
    text = text[:300]
    if not text.isascii() or not text.isprintable() or any(character in text for character in "\\%&"):
        return ""  # The text may contain a secret in escaped form.
    try:
        parts = urlsplit(url)
        user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    except ValueError:
        return ""
    secrets = [user, password, *(value for values in _parameters(url).values() for value in values)]
    lower = text.lower()
    for secret in {*secrets, *map(unquote, secrets)}:
        # A shorter user name or parameter would be found in most texts. A shorter password counts if it is complete.
        length = min(len(secret), _QUOTED_LENGTH) if secret in (password, unquote(password)) else _QUOTED_LENGTH
        windows = (secret[n : n + length].lower() for n in range(len(secret) - length + 1))
        if secret and any(window in lower for window in windows):
            return ""
    return text


def _parameters(url: str) -> dict[str, list[str]]:
    try:
        return parse_qs(urlsplit(url).query)
    except ValueError:
        return {}
