"""Types for secrets: `Secret` for keys, which never shows its value, and `Url`, which shows only scheme and host.

`names_secret` decides by its name whether a header, a parameter or a setting holds a secret.
"""

from __future__ import annotations

import os
import re
from typing import Any

from modelport.errors import AuthenticationError, InvalidRequest

_WORD_BREAK = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
#: Matched against the lower-case words of a name. Names that only look similar don't match: an author, the ID of a key,
#: a token of text.
_SECRET_WORDS = re.compile(
    r"auth(?!or\b|ors\b)|secret|cookie|passw|passphrase|credential(?! name)|signature|\bsig\b|\bpwd\b|\bjwt\b"
    r"|(?<!\bname )(?<!\barguments )(?<!\bcache )(?<!\bidempotency )\bkey\b(?! id\b)"
    r"|(?:api|access|private|subscription) ?keys?\b(?! id\b)"
    r"|(?<!\b[beu]os )(?<!\bpad )(?<!\bunk )(?<!\bsep )(?<!\bcls )(?<!\bmask )(?<!\bstop )\btoken\b$"
    r"|(?:api|access|session|security|bearer|refresh) ?tokens?\b"
)


def names_secret(name: str) -> bool:
    """Return whether a header, a parameter or a setting with this name holds a secret, as `X-Auth-Token` does."""
    return bool(_SECRET_WORDS.search(_WORD_BREAK.sub(" ", name).lower()))


class Secret:
    """A key that is not printed, logged or pickled; only `reveal` returns it.

    Args:
        value: The key itself, or `None` to read it from the environment when it is needed.
        env: The environment variable that holds the key. A model that is restored from a file reads its key there.
    """

    __slots__ = ("_value", "env")

    def __init__(self, value: str | None = None, env: str | None = None) -> None:
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"a key must be a string, not {type(value).__name__}")
        self._value = value
        self.env = env

    @classmethod
    def from_value(cls, value: Secret | str | None, env: str) -> Secret:
        """Return the caller's key; without one, a `Secret` that reads the environment variable `env`."""
        if isinstance(value, Secret):
            return value
        return cls(value, env)

    def reveal(self, advice: str = "") -> str:
        """Return the key.

        Args:
            advice: Text to add to the error message if there is no key.

        Raises:
            AuthenticationError: There is no key; the message names the variable to set.
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
        # A pickle holds the name of the environment variable, never the key.
        return (Secret, (None, self.env))

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __copy__(self) -> Secret:
        return self


class Url(str):
    """A URL whose `repr` shows only scheme and host, in logs and in tracebacks with locals.

    The other parts may be a signature, or the content of a file in a `data:` URL.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redact_url(self))


def redact_url(url: str) -> str:
    """Return the scheme and the host of a URL, which errors and logs may show."""
    from urllib.parse import urlsplit  # Imported here, so that modelport's import does not load the module.

    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "…"
    return f"{parts.scheme}://{host}/…" if host else f"{parts.scheme}:…" if parts.scheme else "…"
