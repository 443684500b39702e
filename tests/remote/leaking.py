"""Where a key may show, and services that quote the keys that they are sent."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from modelport.errors import StreamInterrupted


def shown(error: BaseException, file: str) -> str:
    """Everything that a handler of errors might print of it, the locals of every frame but those of `file` included.

    Causes and contexts too, those that are suppressed as well: a handler may look at them.
    """
    parts: list[str] = []
    one: BaseException | None = error
    while one is not None:
        frames = one.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == file:
            frames = frames.tb_next
        stack = traceback.StackSummary.extract(traceback.walk_tb(frames), capture_locals=True)
        parts += [str(one), repr(one), repr(vars(one)), *stack.format()]
        one = one.__cause__ or one.__context__
    return "\n".join(parts)


def everything(error: BaseException, model: Any, records: Iterable[Any], file: str) -> str:
    """All that is said of a failed call: the error, its pickle, the partial answer, the model, and the log."""
    parts = [shown(error, file), pickle.dumps(error).decode("latin-1"), repr(model), str(model), repr(vars(model))]
    if isinstance(error, StreamInterrupted):
        parts.append(repr(error.partial))
    for record in records:
        parts += [record.getMessage(), str(vars(record))]
    return "\n".join(parts)


def leaks(echo: str) -> dict[str, Callable[[Any], Any]]:
    """Faults of a wire that quote `echo`, or break at a moment when keys are under way."""
    return {
        "401": lambda f: f.status(401, message=echo),
        "400": lambda f: f.status(400, message=echo),
        "400 in plain text": lambda f: f.status(400, body=echo.encode()),
        "429": lambda f: f.status(429, message=echo, headers={"Retry-After": "0"}),
        "500": lambda f: f.status(500, message=echo),
        "a redirect": lambda f: f.status(307, headers={"Location": "http://elsewhere.example/"}),
        "no JSON": lambda f: f(content=echo.encode(), replaced_events={2: echo.encode()}),
        "a reset": lambda f: f.cut("reset"),
        "a cut": lambda f: f.cut("close"),
        "a reset before headers": lambda f: f.reset(),
        "silence": lambda f: f.silence(2.0),
    }
