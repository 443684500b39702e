"""Errors for backends of other authors: a method that can't work, and an exception that is no `ModelError`."""

from __future__ import annotations

import builtins
import inspect

from modelport.errors import ConnectionFailed, MalformedResponse, ModelError, ServerError

_HOW_TO_WRITE_DELTAS = "write `async def deltas(self, request)`, and in it `yield ChatMessageStreamDelta(content=…)`"
#: What code raises that reads a response of another form than it expects.
_ERRORS_OF_READING = (ValueError, LookupError, TypeError, AttributeError)


def check_methods(cls: type) -> None:
    """Check the methods that a subclass of `Model` overrides, when the class is created.

    Raises:
        TypeError: `generate` lacks `self`, or `deltas` is not an asynchronous generator.
    """
    generate, deltas = cls.__dict__.get("generate"), cls.__dict__.get("deltas")
    if inspect.isfunction(generate) and next(iter(inspect.signature(generate).parameters), "messages") == "messages":
        raise TypeError(
            f"{cls.__name__}.generate lacks 'self': write def generate(self, messages, stop_sequences=None, **kwargs)"
        )
    if inspect.iscoroutinefunction(deltas):
        raise TypeError(f"{cls.__name__}.deltas never yields: {_HOW_TO_WRITE_DELTAS}")
    if inspect.isgeneratorfunction(deltas):
        raise TypeError(f"{cls.__name__}.deltas is not asynchronous: {_HOW_TO_WRITE_DELTAS}")


def error_from_exception(error: Exception, backend: str) -> ModelError:
    """Return the error for an exception that a backend's `deltas` raised.

    A `ModelError` is returned unchanged. Every other exception becomes the cause of the returned error:

    - An `OSError`, such as a lost connection, becomes `ConnectionFailed`.
    - What code raises that can't read a response (`json.JSONDecodeError`, `KeyError`, …) becomes `MalformedResponse`.
    - An exception of another package, such as an HTTP client, becomes `ServerError`.
    - The rest, such as a `NameError`, is a mistake in the backend, and becomes a plain `ModelError`.

    Args:
        error: The exception.
        backend: The name of the backend's class.
    """
    if isinstance(error, ModelError):
        return error
    raised = f"{backend}.deltas raised {type(error).__name__}: {error}"
    result: ModelError
    # The layers read attributes of each delta, and close the generator. What lacks them is named in the error.
    missing, owner = (error.name, type(error.obj).__name__) if isinstance(error, AttributeError) else (None, "")
    if missing in ("aclose", "__aiter__", "__anext__") or (isinstance(error, TypeError) and "__aiter__" in str(error)):
        result = ModelError(f"{backend}.deltas returns no asynchronous generator: {_HOW_TO_WRITE_DELTAS}")
    elif missing in ("content", "has_output") and owner in ("str", "bytes", "dict", "NoneType"):
        result = ModelError(f"{backend}.deltas yields {owner}: {_HOW_TO_WRITE_DELTAS}")
    elif isinstance(error, OSError):
        result = ConnectionFailed(raised)
    elif isinstance(error, _ERRORS_OF_READING):
        result = MalformedResponse(raised)
    elif hasattr(builtins, type(error).__name__):
        result = ModelError(raised)
    else:
        result = ServerError(raised)
    result.__cause__ = error
    return result
