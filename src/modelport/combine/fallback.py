"""Several models behind one: the first that can answers."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import replace
from typing import Any, Literal

from modelport import errors
from modelport.combine.fallback_call import Candidate, FallbackCall
from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.inputs.messages import normalise_messages
from modelport.inputs.tool_choice import tool_choice_from
from modelport.layers.limit.layer import Limit
from modelport.layers.retry import Retry
from modelport.model import Model
from modelport.types.capabilities import Capabilities, union_of
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request, Timeouts

#: Errors that say that a model can't answer, now or this. Those that say that the request is wrong would only come
#: again; an answer that was refused or has not its form is an answer. An author's own model may raise Python's errors:
#: all that break on the way (`ConnectionError`, `TimeoutError`, those of requests) are `OSError`s.
GOES_ON: tuple[type[Exception], ...] = (
    errors.AuthenticationError, errors.ConnectionFailed, errors.ContextWindowExceeded, errors.DeadlineExceeded,
    errors.MalformedResponse, errors.MissingDependency, errors.NotFoundError, errors.RateLimited, errors.ServerError,
    errors.StreamInterrupted, UnsupportedFeature, OSError,
)  # fmt: skip


class FallbackModel(Model):
    """Several models behind one: each request goes to the first, and where that can't answer, to the next.

    Every model answers as it would alone: with its own defaults, retries, limits and ways of making up for what it
    can't do. A call's argument goes before this model's, and that before the inner model's. `timeout` is for the whole
    call; an inner model's own `timeout` for its turn.

    A model that failed rests: it is asked last until its cool-down is over. Then one call tries it, while others stay
    away until it has answered. Where all rest, all are asked, the one whose rest ends first before the others.

    The message names who answered (`model_id`) and who was asked (`attempts`), as does the error where nobody could:
    that of the first model which failed. Tokens that lost attempts cost are not in `token_usage`.

    Args:
        models: Models of any kind, the preferred one first; they are this model's own from now on, and closed with it.
        fallback_on: After which errors the next model is asked: types, or their names, or a function of the error. By default
            `GOES_ON`, and whatever is retryable. After `UnsupportedFeature` always. An author's own model may raise
            any `Exception`; of those that are no `ModelError`, `OSError`s alone are among `GOES_ON`: give
            `fallback_on=(*GOES_ON, httpx.HTTPError)` for more, or `fallback_on=(Exception,)`.
        on_interrupted: What is done with a stream that breaks off after its first part. `raise`: it is
            `StreamInterrupted`, with that part. `restart`: the next model begins again, and its first delta is marked `restart`. An answer
            that is not streamed always goes on, since nobody has seen any of it.
        cooldown: How long a model that failed is asked last, in seconds; a longer `retry_after` of its error counts.
        hedge: Seconds after which the next model is asked beside one that has not begun to answer (or has not answered,
            if not streamed): the first answer wins, and the other call is cancelled. `"p95"` for what 95 of this
            model's last 100 answers took at most, once 20 are known. `None` for never. See
            https://research.google/pubs/the-tail-at-scale/
        model_id: A name; by default the models' names.
        retry: How often the whole list is asked; by default once, since each model has its own retries.
        **settings: See `Model`. `capabilities` are the inner models' own.

    Example:
        >>> model = FallbackModel([OpenAIServerModel("gpt-4o"), LlamaCppModel()])
    """

    def __init__(
        self,
        models: Sequence[Model | Mapping[str, Any]],
        *,
        fallback_on: Callable[[Any], bool] | Iterable[type[Exception] | str] | type[Exception] | str | None = None,
        on_interrupted: Literal["raise", "restart"] = "raise",
        cooldown: float = 30.0,
        hedge: float | Literal["p95"] | None = None,
        model_id: str | None = None,
        retry: Any = False,
        **settings: Any,
    ) -> None:
        if isinstance(models, Model | Mapping | str) or not models:
            raise InvalidRequest("models must be a list of at least one model")
        if settings.get("capabilities") is not None:
            raise InvalidRequest("capabilities: give them to the models themselves")
        if on_interrupted not in ("raise", "restart"):
            raise InvalidRequest(f"on_interrupted={on_interrupted!r}: must be 'raise' or 'restart'")
        for name, value, known in (("cooldown", cooldown, ()), ("hedge", hedge, (None, "p95"))):
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            if value not in known and not is_number:
                raise InvalidRequest(f"{name}={value!r}: must be a number of seconds{', or p95' if known else ''}")
        if not isinstance(models, Iterable):
            raise InvalidRequest(f"models must be a list of models, not {type(models).__name__}")
        # What `to_dict` wrote is a model too.
        self.models = [Model.from_dict(model) if isinstance(model, Mapping) else model for model in models]
        if strange := [model for model in self.models if not isinstance(model, Model)]:
            raise InvalidRequest(f"models: {type(strange[0]).__name__} is no model of this package")
        self.fallback_on: Any = _fallback_on(fallback_on)
        self.on_interrupted, self.cooldown, self.hedge = on_interrupted, cooldown, hedge
        names = [model.model_id or type(model).__name__ for model in self.models]
        super().__init__(model_id or " or ".join(names), retry=retry, **settings)
        self._set_up()

    def _set_up(self) -> None:
        self._candidates = [Candidate(model, isinstance(model, FallbackModel)) for model in self.models]
        given = self.fallback_on
        kinds = GOES_ON if given is None or callable(given) else tuple(map(_kind, given))
        self._kinds = (*kinds, UnsupportedFeature)
        self._clock = time.monotonic

    def __getstate__(self) -> dict[str, Any]:
        derived = ("_candidates", "_kinds", "_clock")
        return {key: value for key, value in super().__getstate__().items() if key not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()

    @property
    def capabilities(self) -> Capabilities:
        """What at least one of the models can do; a request goes to those that can."""
        return union_of([model.capabilities for model in self.models])

    def close(self) -> None:
        """Closes every model."""
        with ExitStack() as stack:
            for model in self.models:
                stack.callback(model.close)

    async def aclose(self) -> None:
        """`close` for asynchronous code."""
        async with AsyncExitStack() as stack:
            for model in self.models:
                stack.push_async_callback(model.aclose)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`."""
        call = FallbackCall(self, request)
        cut: Exception | None = None  # what broke off the answer that the caller has seen the beginning of
        told = False
        try:
            while (asked := await call.answering()) is not None:
                async with aclosing(asked.deltas):
                    try:
                        async for delta in asked.all():
                            if delta.finish_reason is not None:
                                delta, told = replace(delta, attempts=call.attempts()), True
                            yield replace(delta, restart=True) if cut else delta
                            cut = None
                        if not told:  # by a service that gives no finish reason
                            yield ChatMessageStreamDelta(attempts=call.attempts())
                        return
                    except Exception as error:
                        call.failures.append((error, []))
                        cut = error
                        if self.on_interrupted == "raise" or not call.goes_on(error):
                            break
            why, seen = (cut, []) if cut else call.failures[0]
            for delta in seen:
                yield delta
            raise why
        except (Exception, asyncio.CancelledError) as error:  # cancelled by a time limit too, which hands it on
            error.attempts = call.attempts()  # type: ignore[union-attr]
            raise

    # --- what the calls need --------------------------------------------------------------------------------------

    def _request(self, messages: Any, called: Mapping[str, Any], stream: bool) -> Request:
        """The call as it came, its options as `parameters`: each model lays them over its own."""
        given = {**(self._options or {}), **called}
        if "tools" not in given and "tool_choice" not in called:
            given.pop("tool_choice", None)  # the constructor's is for calls with tools
        elif "tool_choice" in given:
            tool_choice_from(given["tool_choice"], given.get("tools", ()))
        conversions = given.pop("custom_role_conversions", self.custom_role_conversions)
        flatten = given.pop("flatten_messages_as_text", self.flatten_messages_as_text)
        return Request(
            messages=normalise_messages(messages, role_conversions=conversions, flatten=flatten),
            timeouts=Timeouts(given.pop("timeout")) if "timeout" in given else Timeouts(),
            parameters=given,
            stream=stream,
        )

    def _layers(self) -> list[Any]:
        # Forms and stop sequences are the inner models' part.
        return [layer for layer in super()._layers() if isinstance(layer, Retry | Limit)]

    def _in_order(self) -> list[Candidate]:
        now = self._clock()
        return sorted(
            self._candidates, key=lambda candidate: candidate.cooling_until if candidate.cooling_until > now else 0.0
        )


def _fallback_on(given: Any) -> Any:
    """The setting as it can be saved: `None`, a function, or error types by name where they have one.

    Raises:
        InvalidRequest: It is none of these.
    """
    if given is None or (callable(given) and not isinstance(given, type)):
        return given
    if isinstance(given, str | type):
        given = (given,)
    if not isinstance(given, Iterable):
        raise InvalidRequest(
            f"fallback_on={given!r}: must be error types, their names, or a function that takes the error"
        )
    return [_name(kind) for kind in given]


def _name(kind: type[Exception] | str) -> Any:
    """A type of error by name, where it has one that a file may hold."""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    known = getattr(errors, name, None) or getattr(builtins, name, None)
    found = known if isinstance(kind, str) else kind
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise InvalidRequest(f"fallback_on: {kind!r} is no error of this package's or Python's, nor a type of error")
    return name if found is known else kind


def _kind(named: Any) -> type[Exception]:
    found: type[Exception] = (
        getattr(errors, named, None) or getattr(builtins, named) if isinstance(named, str) else named
    )
    return found
