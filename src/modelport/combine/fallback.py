"""`FallbackModel`, which sends each request to the first of several models that can respond."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any, Literal, Self

from modelport import errors
from modelport.combine.fallback_call import Candidate, FallbackCall
from modelport.errors import InvalidRequest, ModelError, UnsupportedFeature
from modelport.inputs.messages import normalise_messages
from modelport.inputs.tool_choice import tool_choice_from
from modelport.layers.base import Layer
from modelport.layers.limit.layer import Limit
from modelport.layers.retry import Retry
from modelport.model import Model
from modelport.runtime.running_calls import check_drain
from modelport.types.capabilities import Capabilities, union_of
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request, Timeouts

#: Errors after which the next model is called by default. They mean that a model can't respond now, or not to this
#: request. Not included are `InvalidRequest` (apart from its subclass `ContextWindowExceeded`), which the next model
#: would raise too, and `ContentFiltered`, `InvalidOutput` and `InvalidToolCall`, which are about the content of the
#: prompt or the response. `OSError` is for a class's own `generate`: it includes `ConnectionError`, `TimeoutError`, and
#: the exceptions of the package `requests`.
FALLBACK_ERRORS: tuple[type[Exception], ...] = (
    errors.AuthenticationError, errors.ConnectionFailed, errors.ContextWindowExceeded, errors.DeadlineExceeded,
    errors.MalformedResponse, errors.MissingDependency, errors.ModelClosed, errors.NotFoundError, errors.RateLimited,
    errors.ServerError, errors.StreamInterrupted, UnsupportedFeature, OSError,
)  # fmt: skip


class FallbackModel(Model):
    """Several models in one: each request goes to the first inner model and, if that can't respond, to the next.

    Every inner model responds as if it were called directly: with its own defaults, retries, limits and layers. An
    option of the call overrides the same option of this model, which overrides that of the inner model. This model's
    `timeout` limits the whole call. An inner model's own `timeout` limits only the time for which that model is called.

    After an error, a model cools down: calls try it last. Errors that only concern the request or the output, such as
    `InvalidRequest` and `ContentFiltered`, do not start a cool-down. When a cool-down is over, one call tries the model
    at its position in `models`. All other calls still try it last, until the model has responded. If every model is
    cooling down, all of them are tried, in the order in which their cool-downs end.

    The message names the model that responded (`model_id`) and all models that were called (`attempts`). If no model
    responds, the error of the first model that failed is raised, but `UnsupportedFeature` only if all models raised it.
    An error after which the next model is not called is raised at once. The `attempts` of the error are all models that
    were called. The `token_usage` of the message does not include the tokens of failed attempts.

    Args:
        models: The inner models, of any class, the preferred one first. A dict that a model's `to_dict` returned stands
            for that model. Closing this model closes them too.
        fallback_on: After which errors the next model is called: error types, their names, or a function that receives
            the error and returns a bool. By default `FALLBACK_ERRORS`, and every error whose `retryable` is true. After
            `UnsupportedFeature` the next model is always called. If a backend outside of modelport raises an exception
            that becomes a `ModelError`, the type of that exception, which is the error's cause, counts too. To fall
            back after further errors, pass `fallback_on=(*FALLBACK_ERRORS, NameError)`, or `fallback_on=(Exception,)`.
        on_interrupted: What happens if a stream is interrupted after the caller has received a part of the response.
            `raise` raises `StreamInterrupted`, which contains that part. With `restart`, the next model starts the
            response anew, and its first delta has `restart=True`. A non-streaming call goes on with the next model in
            both cases, because its caller has received nothing.
        cooldown: The seconds for which a model that failed is tried last; the default is 30. If its error has a longer
            `retry_after`, that time counts instead.
        hedge: The seconds after which the next model is called in parallel if a model has not started to respond (or
            has not finished, if the call does not stream). The first response is used, and the other call is cancelled.
            `"p95"` means the 95th percentile of the response times of the model's last 100 responses, and no hedging
            before there are 20. `None` for no hedging. At most two models are called in parallel.
            See https://research.google/pubs/the-tail-at-scale/
        model_id: A name for this model; by default the names of the inner models, joined by "or".
        retry: How often the whole list of models is tried, or a `RetryPolicy`. By default it is tried once, because
            each inner model has its own retries.
        **settings: Further settings, as for `Model`. `capabilities` cannot be set: they come from the inner models.

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
            raise InvalidRequest("capabilities: FallbackModel takes them from its models, so pass them to those models")
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
        for number, model in enumerate(self.models):
            if not isinstance(model, Model):
                raise InvalidRequest(
                    f"models[{number}]: {type(model).__name__} is no modelport model; load_model makes one from "
                    "a string, such as load_model('backend/model id')"
                )
        self.fallback_on: Any = _fallback_on_setting(fallback_on)
        self.on_interrupted, self.cooldown, self.hedge = on_interrupted, cooldown, hedge
        names = [model.model_id or type(model).__name__ for model in self.models]
        super().__init__(" or ".join(names) if model_id is None else model_id, retry=retry, **settings)
        self._set_up()

    def _set_up(self) -> None:
        """Set the attributes that are not pickled."""
        # An inner `FallbackModel` itself reports the attempts of the models that it called.
        self._candidates = [
            Candidate(model, reports_attempts=isinstance(model, FallbackModel)) for model in self.models
        ]
        setting = self.fallback_on
        error_types = FALLBACK_ERRORS if setting is None or callable(setting) else tuple(map(_error_type, setting))
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
        """What at least one of the models supports. If a model does not support a request, the next model is called."""
        return union_of([model.capabilities for model in self.models])

    def close(self, drain: float = 0.0) -> None:
        """End the calls of this model, and close every inner model; see `Model.close`.

        Args:
            drain: How long the calls in progress may go on first, in seconds: those of this model, and those of the
                inner models.

        Raises:
            InvalidRequest: `drain` is not a number of seconds, or is too long.
        """
        check_drain(drain)
        drained_at = time.monotonic() + drain
        super().close(drain)
        with ExitStack() as stack:
            for model in self.models:
                stack.callback(_close, model, drained_at)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Send a request to the inner models, one after another, until one responds, and yield its deltas."""
        call = FallbackCall(self, request)
        # The error that interrupted the previous response; `None` once a delta of the next response is emitted.
        interruption: Exception | None = None
        attempts_emitted = False
        try:
            while (response := await call.next_response()) is not None:
                async with aclosing(response.deltas):
                    try:
                        async for delta in response.all_deltas():
                            if delta.finish_reason is not None:
                                delta, attempts_emitted = replace(delta, attempts=call.attempts()), True
                            delta = call.earlier.add_to(delta)
                            yield replace(delta, restart=True) if interruption else delta
                            interruption = None
                        if not attempts_emitted:  # The service sent no finish reason.
                            yield ChatMessageStreamDelta(attempts=call.attempts())
                        return
                    except Exception as error:
                        # The list is empty, because the deltas before the error have been yielded already.
                        call.failures.append((error, []))
                        call.earlier.add(error)
                        interruption = error
                        if self.on_interrupted == "raise" or not call.falls_back_after(error):
                            break
            final_error, deltas = (interruption, []) if interruption else call.failures[0]
            for delta in deltas:  # `Model` puts what arrived before the error into `error.partial`.
                yield delta
            raise final_error
        except (Exception, asyncio.CancelledError) as error:
            # A `CancelledError` gets the attempts too: if a time limit cancelled the call, `AttemptTimer` copies them
            # to the `DeadlineExceeded` that it raises.
            if isinstance(error, ModelError):
                error.token_usage = call.earlier.usage
            error.attempts = call.attempts()  # type: ignore[union-attr]
            raise

    def _build_request(self, messages: Any, call_options: Mapping[str, Any], stream: bool) -> Request:
        """Return the request of a call.

        Its `parameters` are the options of the call as the caller wrote them. Each inner model builds its own request
        from them, with its own settings as defaults. The request has no `capabilities`, because looking them up would
        load the engine of every inner model, even of those that are not called.
        """
        options = {**(self._options or {}), **call_options}
        if "tools" not in options and "tool_choice" not in call_options:
            options.pop("tool_choice", None)  # The constructor's tool choice applies only to calls with tools.
        elif "tool_choice" in options:
            tool_choice_from(options["tool_choice"], options.get("tools", ()))  # Raises an error if it is not valid.
        conversions = options.pop("custom_role_conversions", self.custom_role_conversions)
        flatten = options.pop("flatten_messages_as_text", self.flatten_messages_as_text)
        return Request(
            messages=normalise_messages(messages, role_conversions=conversions, flatten=flatten),
            timeouts=Timeouts(options.pop("timeout")) if "timeout" in options else Timeouts(),
            parameters=options,
            stream=stream,
        )

    def _declared_at_construction(self) -> Capabilities:
        # The engines of the inner models are not loaded for this.
        return union_of(
            [model._declared_at_construction().merged_with(model._given_capabilities) for model in self.models]
            or [self.declared_capabilities]
        )

    def _layers(self) -> list[Layer]:
        # The layers of the inner models handle structured output, tools and stop sequences.
        layers: list[Layer] = [layer for layer in super()._layers() if isinstance(layer, Retry | Limit)]
        for layer in layers:
            if isinstance(layer, Retry):
                layer.backend = None  # What an inner model's own `generate` raises reaches the caller unchanged.
        return layers

    def _candidates_in_order(self) -> list[Candidate]:
        """Return the inner models in the order in which a call tries them. Those that are cooling down come last."""
        now = self._clock()
        return sorted(
            self._candidates, key=lambda candidate: candidate.cooling_until if candidate.cooling_until > now else 0.0
        )


def _close(model: Model, drained_at: float) -> None:
    """Close an inner model, whose calls may go on until this time. Somebody else's `close` may have no argument."""
    seconds_left = drained_at - time.monotonic()
    if seconds_left > 0:
        model.close(seconds_left)
    else:
        model.close()


def _restore_model(data: Mapping[str, Any], number: int, trust_remote_code: bool) -> Model:
    """Return the inner model that a dict from `to_dict` describes.

    Args:
        data: The dict.
        number: The position of the model in `models`, for error messages.
        trust_remote_code: Whether the dict may make an engine run code, such as the code of a model's repository.

    Raises:
        InvalidRequest: The dict does not describe a model, or it would run code that is not trusted.
    """
    try:
        return Model.from_dict(data, trust_remote_code=trust_remote_code)
    except InvalidRequest as error:
        raise InvalidRequest(f"models[{number}]: {error.message}") from error


def _fallback_on_setting(given: Any) -> Any:
    """Return `fallback_on` as `None`, a function, or a list of error types.

    In the list, the error types of modelport and Python are replaced by their names, because names can be saved.

    Raises:
        InvalidRequest: The setting is not `None`, a function, an error type, a name of one, or several of these.
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
    """Return an error type of modelport or Python as its name, and any other error type unchanged.

    Raises:
        InvalidRequest: The value is not an error type or the name of one.
    """
    name = given if isinstance(given, str) else getattr(given, "__name__", "")
    known = getattr(errors, name, None) or getattr(builtins, name, None)
    error_type = known if isinstance(given, str) else given
    if not (isinstance(error_type, type) and issubclass(error_type, Exception)):
        raise InvalidRequest(
            f"fallback_on: {given!r} is neither an error type nor the name of an error of modelport or Python"
        )
    return name if error_type is known else given


def _error_type(given: Any) -> type[Exception]:
    """Return the error type of an item that `_error_type_or_name` returned."""
    error_type: type[Exception] = (
        getattr(errors, given, None) or getattr(builtins, given) if isinstance(given, str) else given
    )
    return error_type
