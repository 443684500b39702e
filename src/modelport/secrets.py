"""Types for secrets: `Secret` holds an API key and never shows it; the `repr` of a `Url` shows only scheme and host.

`names_secret` decides by the name of a header, a parameter or a setting whether its value is a secret. A `HiddenStr` is
a string for code that needs one, but its `repr`, which tracebacks with local variables show, is `'***'`. Constructors
and calls pass what callers gave them only in this form (`hide_secrets`).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any

from modelport.errors import AuthenticationError, InvalidRequest

#: Settings that contain JSON schemas. In a schema, a name such as `token` is that of a property, not of a secret.
SCHEMA_SETTINGS = frozenset({"grammar", "response_format", "tools", "tools_to_call_from"})
#: Names of settings that are dicts of headers, cookies, query parameters, or of something given by mistake.
_ALL_VALUES_SECRET = re.compile(r"headers$|cookies$|query$|^url$")
#: Where a name is split into words: `X-Auth-Token`, `api_key` and `apiKey` have three, two and two words.
_WORD_BREAK = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
#: Searched in the words of a name, in lower case and separated by spaces. The look-arounds exclude names that only look
#: like those of secrets: `author`, `key_id`, the setting `tool_name_key`, `cache_key`, `pad_token` and other tokens of
#: text.
_SECRET_WORDS = re.compile(
    r"auth(?!or\b|ors\b)|secret|cookie|passw|passphrase|credential(?! name)|signature|\bsig\b|\bpwd\b|\bjwt\b"
    r"|(?<!\bname )(?<!\barguments )(?<!\bcache )(?<!\bidempotency )\bkey\b(?! id\b)"
    r"|(?:api|access|private|subscription) ?keys?\b(?! id\b)"
    r"|(?<!\b[beu]os )(?<!\bpad )(?<!\bunk )(?<!\bsep )(?<!\bcls )(?<!\bmask )(?<!\bstop )\btoken\b$"
    r"|(?:api|access|session|security|bearer|refresh) ?tokens?\b"
)


def names_secret(name: str) -> bool:
    """Return whether the value of a header, a parameter or a setting with this name (`X-Auth-Token`) is a secret."""
    return bool(_SECRET_WORDS.search(_WORD_BREAK.sub(" ", name).lower()))


class HiddenStr(str):
    """A string whose `repr` does not show its text, for logs of headers and tracebacks that show local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def hide_secrets(settings: dict[str, Any]) -> None:
    """Replace the secrets in settings by `HiddenStr`s. The dict is changed, and dicts in it are replaced by copies.

    Secrets are recognised by the names of settings, at any depth. All values of headers, cookies and query parameters
    count as secrets, and so does a URL with a password.
    """
    for name, value in settings.items():
        if name not in SCHEMA_SETTINGS:
            settings[name] = _hidden(name, value)


def _hidden(name: str, value: Any, is_secret: bool = False) -> Any:
    # The URL of a Redis server may have a password, which can't be found in a URL that is not valid.
    is_secret = is_secret or names_secret(name) or name == "url"
    if isinstance(value, str):
        is_url_with_password = "://" in value and "@" in value
        return HiddenStr(value) if is_secret or is_url_with_password else value
    if type(value) is dict:  # Another class of mapping may do more than a dict.
        is_secret = is_secret or bool(_ALL_VALUES_SECRET.search(name))
        return {key: _hidden(str(key), item, is_secret and key != "env") for key, item in value.items()}
    if type(value) is list:
        return [_hidden("", item, is_secret) for item in value]
    return value


def hides_secrets(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that passes its arguments to `init` with their secrets hidden."""
    names = init.__code__.co_varnames[1 : init.__code__.co_argcount]

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        args = (*map(_hidden, names, args), *args[len(names) :])
        hide_secrets(settings)
        init(self, *args, **settings)

    return __init__


class Secret:
    """An API key that is not printed, logged or pickled; only `reveal` returns it.

    Args:
        value: The key; `None` to read it from the environment variable `env` each time it is needed.
        env: The name of an environment variable that contains the key. A pickled or saved model stores only this name,
            so a restored model reads its key from this variable.
        optional: Whether the text `none` is the key if there is no other, for a server that needs no key.
    """

    __slots__ = ("_value", "env", "optional", "_is_restored")

    def __init__(self, value: str | None = None, env: str | None = None, optional: bool = False) -> None:
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"a key must be a string, not {type(value).__name__}")
        self._value = value
        self.env = env
        self.optional = optional
        #: Whether the object was made from saved or pickled data, which has no keys.
        self._is_restored = False

    @classmethod
    def from_value(cls, value: Secret | str | None, env: str) -> Secret:
        """Return a `Secret` with the caller's key; if `value` is `None`, it reads the environment variable `env`."""
        if isinstance(value, Secret):
            return value
        return cls(value, env)

    @classmethod
    def restored(cls, env: str | None, optional: bool = False) -> Secret:
        """Return the `Secret` of saved data, which has only the name of an environment variable, or not even that."""
        result = cls(env=env, optional=optional)
        result._is_restored = True
        return result

    def reveal(self, advice: str = "") -> str:
        """Return the key.

        Args:
            advice: Text that is appended to the error message if there is no key.

        Raises:
            AuthenticationError: There is no key; the message names the variable to set.
        """
        value = self._key()
        if not value and self.optional:
            return "none"
        if not value:
            where = f", or set the environment variable {self.env}" if self.env else ""
            hint = f"The command line takes keys from the environment only: export {self.env}=…" if self.env else None
            if self._is_restored:
                where = f"Set the environment variable {self.env}" if self.env else "Make it with Secret(env='MY_KEY')"
                raise AuthenticationError(
                    f"The model was restored without its key, which is never saved. {where}.", hint=hint
                )
            raise AuthenticationError(f"No key was given. Pass api_key=…{where}.{advice}", hint=hint)
        return value

    def _key(self) -> str | None:
        """Return the key; `None` if there is none, or only white space."""
        value = self._value if self._value is not None else os.environ.get(self.env or "")
        return value if value and not value.isspace() else None

    @property
    def origin(self) -> str:
        """How the caller gave the key, for errors: a part of a sentence that begins with `The key was`."""
        if self._value is not None:
            return "passed to the constructor"
        return f"read from the environment variable {self.env}" if self.env else ""

    def __bool__(self) -> bool:
        return self._key() is not None

    def __repr__(self) -> str:
        return f"Secret(env={self.env!r}{', optional=True' if self.optional else ''})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.env, self.optional) == (
            other._value, other.env, other.optional
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((Secret, self.env))

    def __reduce__(self) -> tuple[Any, ...]:
        # Only the name of the environment variable is pickled, never the key.
        return (Secret.restored, (self.env, True) if self.optional else (self.env,))

    def to_dict(self) -> dict[str, Any]:
        """Return how saved data has a key: the name of its environment variable, never the key."""
        return {"env": self.env, **({"optional": True} if self.optional else {})}

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __copy__(self) -> Secret:
        return self


class Url(str):
    """A URL whose `repr` shows only scheme and host.

    The rest of a URL may be a signature that grants access, or (in a `data:` URL) the content of a file. Neither may
    appear in logs, or in tracebacks that show local variables.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redact_url(self))


def redact_url(url: str) -> str:
    """Return the scheme and the host of a URL, which errors and logs may show."""
    from urllib.parse import urlsplit  # It is imported here, because `import modelport` must be fast.

    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "…"
    return f"{parts.scheme}://{host}/…" if host else f"{parts.scheme}:…" if parts.scheme else "…"
