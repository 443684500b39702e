"""Keys travel in a type that never shows them, and URLs, which may be signed, in one that shows their host."""

from __future__ import annotations

import os
import re
from typing import Any

from modelport.errors import AuthenticationError, InvalidRequest

_WORDS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
#: Held against the words of a name. What only sounds alike is not meant: an author, a key's id, a token of text.
_SECRET = re.compile(
    r"auth(?!or\b|ors\b)|secret|cookie|passw|passphrase|credential(?! name)|signature|\bsig\b|\bpwd\b|\bjwt\b"
    r"|(?<!\bname )(?<!\barguments )(?<!\bcache )(?<!\bidempotency )\bkey\b(?! id\b)"
    r"|(?:api|access|private|subscription) ?keys?\b(?! id\b)"
    r"|(?<!\b[beu]os )(?<!\bpad )(?<!\bunk )(?<!\bsep )(?<!\bcls )(?<!\bmask )(?<!\bstop )\btoken\b$"
    r"|(?:api|access|session|security|bearer|refresh) ?tokens?\b"
)


def names_secret(name: str) -> bool:
    """Whether a header, a parameter or a setting of this name holds a key: `X-Auth-Token`, not `max_tokens`."""
    return bool(_SECRET.search(_WORDS.sub(" ", name).lower()))


class Secret:
    """A key that neither prints, logs nor pickles; only `reveal` gives it out.

    Args:
        value: The key itself, or `None` to read it from the environment when it is needed.
        env: The environment variable that holds it, or is meant to where the model is restored from a file.
    """

    __slots__ = ("_value", "env")

    def __init__(self, value: str | None = None, env: str | None = None) -> None:
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"a key must be a string, not {type(value).__name__}")
        self._value = value
        self.env = env

    @classmethod
    def from_value(cls, value: Secret | str | None, env: str) -> Secret:
        """The caller's key, or the one in the environment variable `env`."""
        if isinstance(value, Secret):
            return value
        return cls(value, env)

    def reveal(self, advice: str = "") -> str:
        """The key.

        Args:
            advice: What else to say where there is none.

        Raises:
            AuthenticationError: There is none; the message names the variable to set.
        """
        value = self._value if self._value is not None else os.environ.get(self.env or "")
        if not value:
            where = f", or set the environment variable {self.env}" if self.env else ""
            hint = f"The command line takes keys from the environment only: export {self.env}=…" if self.env else None
            raise AuthenticationError(f"No key was given. Pass api_key=…{where}.{advice}", hint=hint)
        return value

    def __bool__(self) -> bool:
        return bool(self._value if self._value is not None else os.environ.get(self.env or ""))

    def __repr__(self) -> str:
        return f"Secret(env={self.env!r})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.env) == (other._value, other.env)

    def __hash__(self) -> int:
        return hash((Secret, self.env))

    def __reduce__(self) -> tuple[Any, ...]:
        # What is stored is where the key can be found, never the key.
        return (Secret, (None, self.env))

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __copy__(self) -> Secret:
        return self


class Url(str):
    """A URL of which a log or a traceback with locals shows scheme and host: the rest may be a signature, or a file."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(url_start(self))


def url_start(url: str) -> str:
    """Scheme and host of a URL, which errors and logs may show."""
    from urllib.parse import urlsplit  # which the package's import does not pay for

    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "…"
    return f"{parts.scheme}://{host}/…" if host else f"{parts.scheme}:…" if parts.scheme else "…"
