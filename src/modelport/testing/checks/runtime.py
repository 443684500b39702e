"""Conformance checks of how calls run (errors, timeout, concurrency, fork, closing), of secrets and of saving."""

from __future__ import annotations

import asyncio
import copy
import functools
import json
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
    MalformedResponse,
    ModelClosed,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.model import Model
from modelport.testing.check import Check, NotChecked
from modelport.testing.subject import Subject

#: The types of error that each fault may raise, by the fault's name in `Subject.faults`.
EXPECTED_ERRORS: dict[str, type[ModelError] | tuple[type[ModelError], ...]] = {
    "401": AuthenticationError,
    "404": NotFoundError,
    "429": RateLimited,
    "500": ServerError,
    "timeout": DeadlineExceeded,
    "refused": ConnectionFailed,
    "retry_after": RateLimited,
    "truncated": (MalformedResponse, ConnectionFailed, ServerError, StreamInterrupted),
}
#: The number of concurrent calls.
_CALLS = 8


def errors(subject: Subject, model: Model) -> str:
    """Each fault raises the expected type of error, in all four methods that call a model.

    The error of the fault `retry_after` also has the wait that the service requires.
    """
    if not subject.faults:
        raise NotChecked("no way is known to make this model's service fail: Subject.faults is empty")
    unknown = sorted(set(subject.faults) - set(EXPECTED_ERRORS))
    assert not unknown, f"the fault {unknown} of the subject is unknown; known are {', '.join(EXPECTED_ERRORS)}"
    for name, make in subject.faults.items():
        for call in (_generate, _generate_stream, _agenerate, _agenerate_stream):
            try:
                call(make(), subject.prompt("plain"))
            except EXPECTED_ERRORS[name] as error:
                assert error.model_id, f"{name}: the error does not name the model"
                if name == "retry_after":
                    assert error.retry_after is not None, f"{name}: the error's retry_after is None"
                continue
            except ModelError as error:
                raise AssertionError(f"{name}: it raised {type(error).__name__}: {error}") from error
            raise AssertionError(f"{name}: it raised no error")
    return ", ".join(subject.faults)


def _generate(model: Model, prompt: str) -> None:
    model.generate(prompt, max_tokens=8)


def _generate_stream(model: Model, prompt: str) -> None:
    list(model.generate_stream(prompt, max_tokens=8))


def _agenerate(model: Model, prompt: str) -> None:
    asyncio.run(model.agenerate(prompt, max_tokens=8))


def _agenerate_stream(model: Model, prompt: str) -> None:
    async def read() -> None:
        async for _ in model.agenerate_stream(prompt, max_tokens=8):
            pass

    asyncio.run(read())


def timeout(subject: Subject, model: Model) -> None:
    """`timeout` ends a call, and the next call works."""
    begin = time.monotonic()
    try:
        model.generate(subject.prompt("long"), max_tokens=2000, timeout=0.001)
    except DeadlineExceeded:
        assert time.monotonic() - begin < 10, "the call ran on after its timeout"
        assert model.generate(subject.prompt("plain"), max_tokens=8).text
        return
    raise AssertionError("there was no DeadlineExceeded")


def concurrent_calls(subject: Subject, model: Model) -> str:
    """Each of eight concurrent calls, from tasks and from threads, returns the text that it returns alone."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    questions = [subject.prompt("numbered").replace("{n}", str(n + 1)) for n in range(_CALLS)]
    alone = [model.generate(question, **options).text for question in questions]

    async def call_in_tasks() -> list[str]:
        messages = await asyncio.gather(*(model.agenerate(question, **options) for question in questions))
        return [message.text for message in messages]

    from_tasks = asyncio.run(call_in_tasks())
    from_threads: list[str] = [""] * _CALLS

    def call_in_thread(n: int) -> None:
        with model.generate_stream(questions[n], **options) as stream:
            for _ in stream:
                pass
        from_threads[n] = stream.message.text

    _run_threads(*(functools.partial(call_in_thread, n) for n in range(_CALLS)))
    for name, texts in (("tasks", from_tasks), ("threads", from_threads)):
        assert all(texts), f"from {name}: {texts}"
        if subject.deterministic:
            assert texts == alone, f"from {name}: {texts} are not {alone}"
    return f"{len(set(alone))} texts"


def _run_threads(*targets: Callable[[], object]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def event_loops(subject: Subject, model: Model) -> None:
    """One model works in several event loops, one after another and two at once.

    A synchronous call also works inside a running event loop.
    """
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}

    async def call() -> str:
        return (await model.agenerate(subject.prompt("plain"), **options)).text

    async def call_synchronously() -> str:
        return model.generate(subject.prompt("plain"), **options).text

    texts = [asyncio.run(call()) for _ in range(3)]
    texts.append(asyncio.run(call_synchronously()))
    _run_threads(*[lambda: texts.append(asyncio.run(call()))] * 2)
    assert len(texts) == 6 and all(texts), f"{texts}"


def fork(subject: Subject, model: Model) -> None:
    """A model works in a forked child, and in the parent afterwards."""
    if not hasattr(os, "fork"):
        raise NotChecked("this system has no fork")
    model.generate(subject.prompt("plain"), max_tokens=4)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # The child must not run the rest of the caller's program, so no exception may leave this block.
        try:
            text = model.generate(subject.prompt("plain"), max_tokens=4).text
            os.write(writing, text.encode()[:2000])
        except BaseException:
            # The "!" marks an error for the parent.
            os.write(writing, b"!" + traceback.format_exc().encode()[-2000:])
        finally:
            os._exit(0)
    os.close(writing)
    # A child that loads an engine of its own may need half a minute.
    output = _read_from_child(reading, child, seconds=150.0)
    assert output and not output.startswith("!"), f"the child wrote {output!r}"
    assert model.generate(subject.prompt("plain"), max_tokens=4).text


def _read_from_child(reading: int, child: int, seconds: float) -> str:
    """Read everything that the child writes to the pipe, and kill the child if it takes longer than `seconds`."""
    timer = threading.Timer(seconds, lambda: os.kill(child, 9))
    timer.start()
    try:
        chunks = iter(lambda: os.read(reading, 4096), b"")
        return b"".join(chunks).decode()
    finally:
        timer.cancel()
        os.close(reading)
        os.waitpid(child, 0)


def secrets(subject: Subject, model: Model) -> None:
    """No API key appears in the model's repr, to_dict or pickle, or in an error, its pickle or its traceback.

    The traceback includes the local variables of its frames.
    """
    if not subject.secrets:
        raise NotChecked("no key of this model is known")
    texts: list[str] = [repr(model), str(model), repr(vars(model)), repr(model.to_dict()), repr(pickle.dumps(model))]
    for make in subject.faults.values():
        faulty = make()
        try:
            faulty.generate(subject.prompt("plain"), max_tokens=4)
        except ModelError as error:
            # The frame of this function is left out, because its local variables contain the secrets.
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
            texts += [str(error), repr(error), repr(pickle.dumps(error)), *lines]
    for secret in subject.secrets:
        for text in texts:
            assert secret not in text, f"a key appears in {text[:300]!r}"


def saving(subject: Subject, model: Model) -> None:
    """A model can be restored from the JSON of `to_dict`, and from a pickle."""
    try:
        data = json.loads(json.dumps(model.to_dict()))
    except TypeError as error:
        raise NotChecked(str(error)) from None
    restore: list[Callable[[], Model]] = [
        lambda: type(model).from_dict(data),
        lambda: pickle.loads(pickle.dumps(model)),
    ]
    for make in restore:
        try:
            twin = make()
            assert type(twin) is type(model) and twin.to_dict() == data, f"{twin.to_dict()} is not {data}"
            assert twin.generate(subject.prompt("plain"), max_tokens=4).text
        except AuthenticationError as error:
            raise NotChecked(f"a restored model reads its key from the environment: {error}") from None
        twin.close()


def closing(subject: Subject, model: Model) -> None:
    """`close` ends the calls in progress and refuses new ones; with `drain`, it waits for those in progress first."""
    prompt = subject.prompt("long")
    twin = _twin(subject, model)
    # The calls of a service that is silent can only be ended by closing.
    silent = subject.faults["timeout"]() if "timeout" in subject.faults else None
    for closed in (twin, silent):
        if closed is None:
            continue
        calls = _start_calls(closed, prompt)
        begin = time.monotonic()
        closed.close()
        assert time.monotonic() - begin < 20, "close did not return"
        for name, call in calls.items():
            call.join(5)
            assert not call.is_alive(), f"{name}: the call went on after its model was closed"
            # A service that responds may have sent the complete response before, and a model that another one calls has
            # a time limit of its own.
            others = (type(None),) if closed is twin else (DeadlineExceeded,)
            assert _is_closed(call.error) or isinstance(call.error, others), f"{name}: {call.error!r}"
        _assert_refuses(closed, prompt)
        closed.close()

    async def drain() -> None:
        running = asyncio.create_task(other.agenerate(subject.prompt("plain"), max_tokens=8))
        await asyncio.sleep(0.01)
        await other.aclose(drain=60)
        assert running.done(), "aclose(drain=60) returned before the call had ended"
        assert (await running).text

    other = _twin(subject, model)
    asyncio.run(drain())
    _assert_refuses(other, prompt)


class _Call(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.error = error


def _start_calls(model: Model, prompt: str) -> dict[str, _Call]:
    """Call a model in all four ways, each in a thread, and wait until the calls have probably begun."""
    options: dict[str, Any] = {"max_tokens": 400, "timeout": 120}

    async def read() -> None:
        async for _ in model.agenerate_stream(prompt, **options):
            pass

    calls = {
        "generate": _Call(lambda: model.generate(prompt, **options)),
        "generate_stream": _Call(lambda: list(model.generate_stream(prompt, **options))),
        "agenerate": _Call(lambda: asyncio.run(model.agenerate(prompt, **options))),
        "agenerate_stream": _Call(lambda: asyncio.run(read())),
    }
    time.sleep(0.3)
    return calls


def _is_closed(error: BaseException | None) -> bool:
    return isinstance(error, ModelClosed) or (
        isinstance(error, StreamInterrupted) and isinstance(error.__cause__, ModelClosed)
    )


def _assert_refuses(model: Model, prompt: str) -> None:
    # A class with a `generate` of its own refuses the other calls, which pass through modelport.
    for call in (_generate_stream, _agenerate, _agenerate_stream):
        try:
            call(model, prompt)
        except ModelClosed:
            continue
        raise AssertionError("a closed model was called and did not raise ModelClosed")


def _twin(subject: Subject, model: Model) -> Model:
    """Return another model with the same settings, which a check may close."""
    try:
        twin = type(model).from_dict(json.loads(json.dumps(model.to_dict())))
        twin.generate(subject.prompt("plain"), max_tokens=4)
    except (TypeError, AuthenticationError):  # It can't be saved, or its key is not in the environment.
        try:
            twin = copy.copy(model)
            twin.generate(subject.prompt("plain"), max_tokens=4)
        except TypeError as error:
            raise NotChecked(str(error)) from None
    return twin


CHECKS = (
    Check("errors", "Each fault raises an error of its own type.", errors),
    Check("timeout", "`timeout` ends a call.", timeout),
    Check("concurrent calls", "Each of eight concurrent calls returns what it returns alone.", concurrent_calls),
    Check(
        "event loops",
        "The model works in loops one after another, in two at once, and in synchronous calls inside a loop.",
        event_loops,
    ),
    Check("fork", "A forked child can call the model.", fork),
    Check("closing", "close ends the calls in progress, and close(drain=…) waits for them.", closing),
    Check("secrets", "No key appears anywhere.", secrets),
    Check("saving", "to_dict, from_dict and pickle restore the model.", saving),
)
