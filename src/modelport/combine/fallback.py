"""`FallbackModel`: several models behind one. Each request goes to the first model that can respond."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import replace
from typing import Any, Literal, Self

from modelport import errors
from modelport.combine.fallback_call import Candidate, FallbackCall
from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.inputs.messages import normalise_messages
from modelport.inputs.tool_choice import tool_choice_from
from modelport.layers.base import Layer
from modelport.layers.limit.layer import Limit
from modelport.layers.retry import Retry
from modelport.model import Model
from modelport.types.capabilities import Capabilities, union_of
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request, Timeouts

#: Errors after which the next model is called by default. They say that a model can't respond now, or not to this
#: request. Errors that are left out say that the request is wrong, and would come again; or they come with a response,
#: which was refused or does not match its schema. `OSError` includes every failure of a connection
#: (`ConnectionError`, `TimeoutError`, those of requests) that an author's own model may raise.
FALLBACK_ERRORS: tuple[type[Exception], ...] = (
    errors.AuthenticationError, errors.ConnectionFailed, errors.ContextWindowExceeded, errors.DeadlineExceeded,
    errors.MalformedResponse, errors.MissingDependency, errors.NotFoundError, errors.RateLimited, errors.ServerError,
    errors.StreamInterrupted, UnsupportedFeature, OSError,
)  # fmt: skip


class FallbackModel(Model):
    """Several models behind one: each request goes to the first model, and if that can't respond, to the next.

    Every model responds as it would alone: with its own defaults, retries and limits, and with what layers add to it.
    An option of the call overrides the same option of this model, and that overrides the inner model's. `timeout` is
    for the whole call; an inner model's own `timeout` is for its turn.

    A model that failed cools down: it is tried last until its cool-down is over. Then one call tries it, while other
    calls keep trying it last until it has responded. If every model is cooling down, all of them are tried, in the
    order in which their cool-downs end.

    The message names the model that responded (`model_id`) and all models that were called (`attempts`). So does the
    error if no model could respond, which is the error of the first model that failed. `token_usage` does not include
    the tokens of failed attempts.

    Args:
        models: Models of any kind, the preferred one first. They belong to this model from now on, and are closed with
            it.
        fallback_on: After which errors the next model is called: error types, their names, or a function that takes the
            error. By default `FALLBACK_ERRORS`, and every error that is retryable. After `UnsupportedFeature` the next
            model is always called. An author's own model may raise any `Exception`. To fall back after more of them,
            pass `fallback_on=(*FALLBACK_ERRORS, httpx.HTTPError)`, or `fallback_on=(Exception,)`.
        on_interrupted: What happens to a stream that is interrupted after its first part. `raise`: `StreamInterrupted`
            is raised, with that part. `restart`: the next model starts the response anew, and its first delta is marked
            with `restart`. A call that does not stream always goes on with the next model, because its caller has
            received nothing.
        cooldown: How long a model that failed is tried last, in seconds. If its error has a longer `retry_after`, that
            counts.
        hedge: Seconds after which the next model is called in parallel if a model has not started to respond (or has
            not responded, if the call does not stream). The first response wins, and the other call is cancelled.
            `"p95"` for the 95th percentile of the model's last 100 responses, once there are 20. `None` for no
            hedging. See https://research.google/pubs/the-tail-at-scale/
        model_id: A name; by default the names of the models.
        retry: How often the whole list is tried; by default once, because each model has its own retries.
        **settings: See `Model`. `capabilities` are those of the inner models.

    Examples:
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
        for name, value, other_values in (("cooldown", cooldown, ()), ("hedge", hedge, (None, "p95"))):
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            if value not in other_values and not is_number:
                raise InvalidRequest(
                    f"{name}={value!r}: must be a number of seconds{', or p95' if other_values else ''}"
                )
        if not isinstance(models, Iterable):
            raise InvalidRequest(f"models must be a list of models, not {type(models).__name__}")
        self.models = [
            _restore_model(model, number, trust_remote_code=False) if isinstance(model, Mapping) else model
            for number, model in enumerate(models)
        ]
        if invalid := [model for model in self.models if not isinstance(model, Model)]:
            raise InvalidRequest(f"models: {type(invalid[0]).__name__} is no modelport model")
        self.fallback_on: Any = _fallback_on_setting(fallback_on)
        self.on_interrupted, self.cooldown, self.hedge = on_interrupted, cooldown, hedge
        names = [model.model_id or type(model).__name__ for model in self.models]
        super().__init__(model_id or " or ".join(names), retry=retry, **settings)
        self._set_up()

    def _set_up(self) -> None:
        """Set what is derived from the settings, or not stored with them."""
        self._candidates = [Candidate(model, isinstance(model, FallbackModel)) for model in self.models]
        given = self.fallback_on
        error_types = FALLBACK_ERRORS if given is None or callable(given) else tuple(map(_error_type, given))
        self._fallback_errors = (*error_types, UnsupportedFeature)
        self._clock = time.monotonic

    def __getstate__(self) -> dict[str, Any]:
        derived = ("_candidates", "_fallback_errors", "_clock")
        return {key: value for key, value in super().__getstate__().items() if key not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()

    @classmethod
    def _restore(cls, settings: dict[str, Any], trust_remote_code: bool) -> Self:
        if isinstance(models := settings.get("models"), list | tuple):
            settings["models"] = [
                _restore_model(model, number, trust_remote_code) if isinstance(model, Mapping) else model
                for number, model in enumerate(models)
            ]
        return cls(**settings)

    @property
    def capabilities(self) -> Capabilities:
        """What at least one of the models can do. A request is sent to those that can do what it needs."""
        return union_of([model.capabilities for model in self.models])

    def close(self) -> None:
        """Close every model."""
        with ExitStack() as stack:
            for model in self.models:
                stack.callback(model.close)

    async def aclose(self) -> None:
        """`close` for asynchronous code."""
        async with AsyncExitStack() as stack:
            for model in self.models:
                stack.push_async_callback(model.aclose)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Send a request to the models, one after another, until one responds; see `Model.deltas`."""
        call = FallbackCall(self, request)
        interruption: Exception | None = (
            None  # The error that ended a response of which the caller has received a part.
        )
        attempts_emitted = False
        try:
            while (responding := await call.next_response()) is not None:
                async with aclosing(responding.deltas):
                    try:
                        async for delta in responding.all_deltas():
                            if delta.finish_reason is not None:
                                delta, attempts_emitted = replace(delta, attempts=call.attempts()), True
                            yield replace(delta, restart=True) if interruption else delta
                            interruption = None
                        if not attempts_emitted:  # The service sent no finish reason.
                            yield ChatMessageStreamDelta(attempts=call.attempts())
                        return
                    except Exception as error:
                        call.failures.append((error, []))
                        interruption = error
                        if self.on_interrupted == "raise" or not call.falls_back_after(error):
                            break
            reason, received = (interruption, []) if interruption else call.failures[0]
            for delta in received:
                yield delta
            raise reason
        except (Exception, asyncio.CancelledError) as error:
            # A time limit cancels the call, and passes the attempts on to its own error.
            error.attempts = call.attempts()  # type: ignore[union-attr]
            raise

    def _build_request(self, messages: Any, call_options: Mapping[str, Any], stream: bool) -> Request:
        """Return the request of a call, with its options as `parameters`: each model merges them over its own.

        The request has no `capabilities`: looking them up would load the engine of every model, also of those that are
        not called.
        """
        options = {**(self._options or {}), **call_options}
        if "tools" not in options and "tool_choice" not in call_options:
            options.pop("tool_choice", None)  # The constructor's tool choice is for calls with tools.
        elif "tool_choice" in options:
            tool_choice_from(options["tool_choice"], options.get("tools", ()))
        conversions = options.pop("custom_role_conversions", self.custom_role_conversions)
        flatten = options.pop("flatten_messages_as_text", self.flatten_messages_as_text)
        return Request(
            messages=normalise_messages(messages, role_conversions=conversions, flatten=flatten),
            timeouts=Timeouts(options.pop("timeout")) if "timeout" in options else Timeouts(),
            parameters=options,
            stream=stream,
        )

    def _layers(self) -> list[Layer]:
        # Structured output, tools and stop sequences are handled by the layers of the inner models.
        return [layer for layer in super()._layers() if isinstance(layer, Retry | Limit)]

    def _candidates_in_order(self) -> list[Candidate]:
        """Return the models in the order in which a call tries them: those that are cooling down last."""
        now = self._clock()
        return sorted(
            self._candidates, key=lambda candidate: candidate.cooling_until if candidate.cooling_until > now else 0.0
        )


def _restore_model(data: Mapping[str, Any], number: int, trust_remote_code: bool) -> Model:
    """Return an inner model that `to_dict` wrote; `number` is its position in `models`.

    Raises:
        InvalidRequest: The data describes no model, or names code to run.
    """
    try:
        return Model.from_dict(data, trust_remote_code=trust_remote_code)
    except InvalidRequest as error:
        raise InvalidRequest(f"models[{number}]: {error.message}") from error


def _fallback_on_setting(given: Any) -> Any:
    """Return the setting in a form that can be saved: `None`, a function, or error types, by name if they have one.

    Raises:
        InvalidRequest: The setting is none of these.
    """
    if given is None or (callable(given) and not isinstance(given, type)):
        return given
    if isinstance(given, str | type):
        given = (given,)
    if not isinstance(given, Iterable):
        raise InvalidRequest(
            f"fallback_on={given!r}: must be error types, their names, or a function that takes the error"
        )
    return [_error_type_or_name(item) for item in given]


def _error_type_or_name(given: type[Exception] | str) -> Any:
    """Return the name of an error type of modelport or Python, and any other error type as it is.

    Raises:
        InvalidRequest: It is no error type, and not the name of one.
    """
    name = given if isinstance(given, str) else getattr(given, "__name__", "")
    known = getattr(errors, name, None) or getattr(builtins, name, None)
    error_type = known if isinstance(given, str) else given
    if not (isinstance(error_type, type) and issubclass(error_type, Exception)):
        raise InvalidRequest(f"fallback_on: {given!r} is no error of modelport or Python, nor another error type")
    return name if error_type is known else given


def _error_type(given: Any) -> type[Exception]:
    error_type: type[Exception] = (
        getattr(errors, given, None) or getattr(builtins, given) if isinstance(given, str) else given
    )
    return error_type
