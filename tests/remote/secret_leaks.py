"""Everything that may show a key after an error, and the faults of services that quote the keys they are sent."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from modelport.errors import StreamInterrupted


def text_of_error(error: BaseException, file: str) -> str:
    """Return everything that an error handler may print: texts, attributes, and the local variables of all frames.

    Causes and contexts count too, also suppressed ones, because a handler may print them.

    Args:
        error: The error.
        file: The file whose frames are left out, which is that of the test.
    """
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        frames = current.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == file:
            frames = frames.tb_next
        stack = traceback.StackSummary.extract(traceback.walk_tb(frames), capture_locals=True)
        parts += [str(current), repr(current), repr(vars(current)), *stack.format()]
        current = current.__cause__ or current.__context__
    return "\n".join(parts)


def text_of_failed_call(error: BaseException, model: Any, records: Iterable[Any], file: str) -> str:
    """Return everything that a failed call may show: the error, its pickle, the partial message, the model and the log.

    Args:
        error: The error.
        model: The model.
        records: The records of the log.
        file: The file whose frames are left out, which is that of the test.
    """
    parts = [
        text_of_error(error, file), pickle.dumps(error).decode("latin-1"), repr(model), str(model), repr(vars(model)),
    ]  # fmt: skip
    if isinstance(error, StreamInterrupted):
        parts.append(repr(error.partial))
    for record in records:
        parts += [record.getMessage(), str(vars(record))]
    return "\n".join(parts)


def leaks(quote: str) -> dict[str, Callable[[Any], Any]]:
    """Return faults of a wire format that send `quote`, or that break while a request with a key is running."""
    return {
        "401": lambda f: f.status(401, message=quote),
        "400": lambda f: f.status(400, message=quote),
        "400 in plain text": lambda f: f.status(400, body=quote.encode()),
        "429": lambda f: f.status(429, message=quote, headers={"Retry-After": "0"}),
        "500": lambda f: f.status(500, message=quote),
        "a redirect": lambda f: f.status(307, headers={"Location": "http://elsewhere.example/"}),
        "no JSON": lambda f: f(content=quote.encode(), replaced_events={2: quote.encode()}),
        "a reset": lambda f: f.cut("reset"),
        "truncated": lambda f: f.cut("close"),
        "a reset before headers": lambda f: f.reset(),
        "silence": lambda f: f.silence(2.0),
    }
