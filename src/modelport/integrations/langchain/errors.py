"""Errors that are a `ModelError` of modelport and an exception of LangChain at the same time.

LangChain has exceptions of its own for what every service reports, such as `ContextOverflowError`, on which its
middleware and its retries rely. LangChain asks integrations to raise exceptions that also have the class of their
client. So code that catches either class works.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core import exceptions

from modelport import errors

#: Classes of modelport, the most special one first, with LangChain's class.
_LANGCHAIN_CLASSES = (
    (errors.ContextWindowExceeded, exceptions.ContextOverflowError),
    (errors.InvalidOutput, exceptions.OutputParserException),
    (errors.AuthenticationError, exceptions.ModelAuthenticationError),
    (errors.NotFoundError, exceptions.ModelNotFoundError),
    (errors.RateLimited, exceptions.ModelRateLimitError),
    (errors.ServerError, exceptions.ModelAPIError),
    (errors.ConnectionFailed, exceptions.ModelConnectionError),
    (errors.DeadlineExceeded, exceptions.ModelTimeoutError),
    (errors.InvalidRequest, exceptions.ModelInvalidRequestError),
    (errors.UnsupportedFeature, exceptions.ModelInvalidRequestError),
    (errors.ModelError, exceptions.ModelError),
)


class _SharedError:
    """What the classes of both libraries have in common. The class of modelport is `modelport_class`."""

    modelport_class: type[errors.ModelError]

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is made at run time, so pickle can't find it by its name.
        return _make, (self.modelport_class, self.args, self.__dict__.copy())  # type: ignore[attr-defined]


@functools.cache
def _class_for(cls: type[errors.ModelError], status: int | None) -> type[errors.ModelError]:
    base = next(langchain_class for own, langchain_class in _LANGCHAIN_CLASSES if issubclass(cls, own))
    if base is exceptions.ModelAuthenticationError and status == 403:
        base = exceptions.ModelPermissionDeniedError
    members = {"modelport_class": cls, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (_SharedError, cls, base), members)


def _make(cls: type[errors.ModelError], args: tuple[Any, ...], state: dict[str, Any]) -> errors.ModelError:
    new: type[errors.ModelError] = _class_for(cls, state.get("status"))  # type: ignore[arg-type]
    error = new.__new__(new, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def shared_error(error: errors.ModelError) -> errors.ModelError:
    """Return the error as an object that is also an exception of LangChain."""
    if isinstance(error, _SharedError):
        return error
    # LangChain reads `is_retryable`, and the last three of an `OutputParserException`.
    details: dict[str, Any] = {"is_retryable": error.retryable}
    if isinstance(error, errors.InvalidOutput):
        details |= {"llm_output": error.text, "observation": None, "send_to_llm": False}
    return _make(type(error), error.args, {**error.__dict__, **details})


@contextmanager
def shared_errors() -> Iterator[None]:
    """Raise each `ModelError` as an exception that is also one of LangChain, with the same cause and traceback."""
    try:
        yield
    except errors.ModelError as error:
        raise shared_error(error).with_traceback(error.__traceback__) from error.__cause__
