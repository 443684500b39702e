"""Rows about how calls run: errors, many at once, loops, threads, fork; secrets and saving."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)
from modelport.model import Model
from modelport.testing.conformance import Check, NotChecked, Subject

_EXPECTED: dict[str, type[ModelError]] = {
    "401": AuthenticationError,
    "404": NotFoundError,
    "429": RateLimited,
    "500": ServerError,
    "time-out": DeadlineExceeded,
    "refused": ConnectionFailed,
}
_COUNT = 8


def errors(subject: Subject, model: Model) -> str:
    """Each fault is an error of its own type, sync and async, streamed and not."""
    if not subject.faults:
        raise NotChecked("its service can't be made to fail on purpose from here")
    for name, make in subject.faults.items():
        for way in (_whole, _streamed, _async_whole, _async_streamed):
            try:
                way(make(), subject.prompt("plain"))
            except _EXPECTED[name] as error:
                assert error.model_id, f"{name}: the error does not name the model"
                continue
            except ModelError as error:
                raise AssertionError(f"{name}: it was {type(error).__name__}: {error}") from error
            raise AssertionError(f"{name}: there was no error")
    return ", ".join(subject.faults)


def _whole(model: Model, prompt: str) -> None:
    model.generate(prompt, max_tokens=8)


def _streamed(model: Model, prompt: str) -> None:
    list(model.generate_stream(prompt, max_tokens=8))


def _async_whole(model: Model, prompt: str) -> None:
    asyncio.run(model.agenerate(prompt, max_tokens=8))


def _async_streamed(model: Model, prompt: str) -> None:
    async def read() -> None:
        async for _ in model.agenerate_stream(prompt, max_tokens=8):
            pass

    asyncio.run(read())


def deadline(subject: Subject, model: Model) -> None:
    """`timeout` ends a call, and the model still answers afterwards."""
    begin = time.monotonic()
    try:
        model.generate(subject.prompt("long"), max_tokens=2000, timeout=0.001)
    except DeadlineExceeded:
        assert time.monotonic() - begin < 10, "the call ran on after its time-out"
        assert model.generate(subject.prompt("plain"), max_tokens=8).text
        return
    raise AssertionError("there was no DeadlineExceeded")


def _questions(subject: Subject) -> list[str]:
    return [subject.prompt("numbered").replace("{n}", str(n + 1)) for n in range(_COUNT)]


def at_once(subject: Subject, model: Model) -> str:
    """Eight calls at once, by tasks and by threads, each give the answer that it gives alone."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    questions = _questions(subject)
    alone = [model.generate(question, **options).text for question in questions]

    async def tasks() -> list[str]:
        answers = await asyncio.gather(*(model.agenerate(question, **options) for question in questions))
        return [answer.text for answer in answers]

    by_tasks = asyncio.run(tasks())
    by_threads: list[str] = [""] * _COUNT

    def work(n: int) -> None:
        with model.generate_stream(questions[n], **options) as stream:
            for _ in stream:
                pass
        by_threads[n] = stream.message.text

    threads = [threading.Thread(target=work, args=(n,)) for n in range(_COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, answers in (("tasks", by_tasks), ("threads", by_threads)):
        assert all(answers), f"by {name}: {answers}"
        if subject.strict_text:
            assert answers == alone, f"by {name}: {answers} are not {alone}"
    return f"{len(set(alone))} answers"


def loops(subject: Subject, model: Model) -> None:
    """One model serves one event loop after another, two at once, and calls from within a running loop."""

    async def ask() -> str:
        return (await model.agenerate(subject.prompt("plain"), temperature=0, max_tokens=12)).text

    async def ask_blocking() -> str:
        return model.generate(subject.prompt("plain"), temperature=0, max_tokens=12).text

    answers = [asyncio.run(ask()) for _ in range(3)]
    answers.append(asyncio.run(ask_blocking()))
    threads = [threading.Thread(target=lambda: answers.append(asyncio.run(ask()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6 and all(answers), f"{answers}"


def fork(subject: Subject, model: Model) -> None:
    """A model works in a forked child, and in the parent afterwards."""
    if not hasattr(os, "fork"):
        raise NotChecked("this system has no fork")
    model.generate(subject.prompt("plain"), max_tokens=4)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # nothing here may raise: the child must not run on into the caller's program
        try:
            answer = model.generate(subject.prompt("plain"), max_tokens=4).text
            os.write(writing, answer.encode()[:2000])
        except BaseException:
            os.write(writing, b"!" + traceback.format_exc().encode()[-2000:])
        finally:
            os._exit(0)
    os.close(writing)
    told = _read_within(reading, child, 150.0)  # an engine of the child's own may take half a minute to load
    assert told and not told.startswith("!"), f"the child said {told!r}"
    assert model.generate(subject.prompt("plain"), max_tokens=4).text


def _read_within(reading: int, child: int, seconds: float) -> str:
    timer = threading.Timer(seconds, lambda: os.kill(child, 9))
    timer.start()
    try:
        pieces = iter(lambda: os.read(reading, 4096), b"")
        return b"".join(pieces).decode()
    finally:
        timer.cancel()
        os.close(reading)
        os.waitpid(child, 0)


def secrets(subject: Subject, model: Model) -> None:
    """No key in repr, to_dict, pickle or an error's traceback with its locals."""
    if not subject.secrets:
        raise NotChecked("no key is known here that could show up")
    shown: list[str] = [repr(model), str(model), repr(vars(model)), repr(model.to_dict()), repr(pickle.dumps(model))]
    for make in subject.faults.values():
        faulty = make()
        try:
            faulty.generate(subject.prompt("plain"), max_tokens=4)
        except ModelError as error:
            # From the model's own frames on: this one names the secrets that it looks for.
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
            shown += [str(error), repr(error), repr(pickle.dumps(error)), *lines]
    for secret in subject.secrets:
        for text in shown:
            assert secret not in text, f"a key shows in {text[:300]!r}"


def saved(subject: Subject, model: Model) -> None:
    """to_dict holds what from_dict needs, as JSON; pickle too."""
    import json

    try:
        data = json.loads(json.dumps(model.to_dict()))
    except TypeError as error:
        raise NotChecked(str(error)) from None
    restored: list[Callable[[], Model]] = [
        lambda: type(model).from_dict(data),
        lambda: pickle.loads(pickle.dumps(model)),
    ]
    for make in restored:
        try:
            twin = make()
            assert type(twin) is type(model) and twin.to_dict() == data, f"{twin.to_dict()} is not {data}"
            assert twin.generate(subject.prompt("plain"), max_tokens=4).text
        except AuthenticationError as error:
            raise NotChecked(f"a saved model finds its key in the environment: {error}") from None
        twin.close()


CHECKS = (
    Check("errors", "Each fault is an error of its own type", errors),
    Check("time-out", "timeout ends a call", deadline),
    Check("eight at once", "Each gives its serial answer", at_once),
    Check("event loops", "Loops one after another, two at once, and nested calls", loops),
    Check("fork", "A forked child can call", fork),
    Check("secrets", "No key shows anywhere", secrets),
    Check("saving", "to_dict and from_dict", saved),
)
