"""`Model`, the base class of every model: its settings, its layers, and what the author of a backend implements.

The methods that callers use, such as `generate`, are those of `CallMethods`.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modelport.calls import CallMethods
from modelport.errors import InvalidRequest, ModelError
from modelport.inputs.options import normalise_options
from modelport.inputs.parameters import BY_ANY_NAME, REASONING_EFFORTS
from modelport.inputs.settings import check_kind
from modelport.layers.base import Layer, Next
from modelport.runtime.running_calls import calls_of, check_drain, close_in_thread
from modelport.saving import Storable, constructor_parameters
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import JSONSchema
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request

if TYPE_CHECKING:
    from modelport.layers.limit.shared import SharedWindow
    from modelport.layers.retry import RetryPolicy

#: Attributes that are not pickled, because they are computed from the settings again.
_DERIVED = ("_chain", "_running_calls", "_capabilities", "_options", "_copies")


class Model(CallMethods, Storable):
    """A language model, local or remote.

    A backend is a subclass that implements `deltas` and sets `declared_capabilities`; everything else is inherited. The
    simplest backend implements only `generate(self, messages, stop_sequences=None, **kwargs)`, which returns an object
    with a `content`. The methods for streams and for asynchronous code then use this `generate`.

    Args:
        model_id: The name that the service or the engine has for the model.
        flatten_messages_as_text: Whether the text parts of each message are joined and sent as one string.
        tool_name_key: The key of the tool's name in a tool call that the model writes as JSON text. `parse_tool_calls`
            reads such calls.
        tool_arguments_key: The key of the tool's arguments in such a call.
        custom_role_conversions: Roles that are replaced before a request is sent, as `{"system": "user"}`.
        requests_per_minute: The maximum number of requests in any 60 seconds; `None` for no limit.
        tokens_per_minute: The maximum number of tokens in any 60 seconds; `None` for no limit.
        max_concurrency: The maximum number of requests in progress at once; `None` for no limit.
        shared_limits: `RedisLimits(…)` if several processes together must stay within the limits per minute; `None` if
            the limits count only the requests of this object.
        retry: `True` for the default `RetryPolicy()`, `False` for a single attempt, a number (the maximum of attempts),
            or a `RetryPolicy`.
        allow_private_urls: Whether modelport may fetch images from private addresses (of this machine and its network).
            It fetches an image that is given by URL only if the backend needs the bytes: up to 20 MiB in 20 s each.
            This needs `modelport[images]`.
        capabilities: What the model can do, where that differs from what modelport assumes: a dict of the values that
            differ, or complete `Capabilities`.
        **parameters: Default options of every call: `temperature`, `max_tokens`, `tool_choice`, `timeout` (seconds, for
            the whole call; 600 by default), `first_token_timeout`, `idle_timeout`, and parameters of the backend.
    """

    #: What the backend can do. Profiles (by the model's name) and the caller's `capabilities` override single values.
    declared_capabilities: ClassVar[Capabilities] = Capabilities()

    #: Whether the service may accept an output type or a tool choice and then ignore it.
    _may_ignore_output_types: ClassVar[bool] = False

    # These defaults are for a subclass whose `__init__` does not call `super().__init__()`.
    model_id: str | None = None
    flatten_messages_as_text: bool = False
    tool_name_key: str = "name"
    tool_arguments_key: str = "arguments"
    custom_role_conversions: Mapping[str, str] | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrency: int | None = None
    shared_limits: SharedWindow | None = None
    retry: RetryPolicy | int | bool | None = True
    allow_private_urls: bool = False
    _given_capabilities: Capabilities | Mapping[str, Any] | None = None  # The constructor's `capabilities`.
    _capabilities: Capabilities | None = None  # What `capabilities` returns; computed when it is first read.
    _options: Mapping[str, Any] | None = None  # `kwargs`, checked and converted by `normalise_options`.
    _chain: Next | None = None  # The layers around `deltas`; composed at the first call.

    def __init__(
        self,
        model_id: str | None = None,
        *,
        flatten_messages_as_text: bool = False,
        tool_name_key: str = "name",
        tool_arguments_key: str = "arguments",
        custom_role_conversions: Mapping[str, str] | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        shared_limits: SharedWindow | Mapping[str, Any] | None = None,
        retry: RetryPolicy | int | bool | None = True,
        allow_private_urls: bool = False,
        capabilities: Capabilities | Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> None:
        self.model_id = model_id
        self.flatten_messages_as_text = flatten_messages_as_text
        self.tool_name_key = tool_name_key
        self.tool_arguments_key = tool_arguments_key
        self.custom_role_conversions = custom_role_conversions
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.max_concurrency = max_concurrency
        self.shared_limits = _restore_limits(shared_limits) if isinstance(shared_limits, Mapping) else shared_limits
        self.retry = retry
        self.allow_private_urls = allow_private_urls
        self._given_capabilities = capabilities
        self.kwargs = parameters
        # The settings are checked here, so that a mistake raises in the constructor and not at the first call.
        self._options = normalise_options(parameters)
        declared = self._declared_at_construction().merged_with(capabilities)
        if not self._options.keys() <= BY_ANY_NAME.keys() and self._knows_its_parameters:
            from modelport.inputs.check_names import check_setting_names  # Most programs pass only known names.

            check_setting_names(type(self).__name__, self._options, constructor_parameters(type(self)), declared)
        normalise_options({
            "custom_role_conversions": custom_role_conversions,
            "flatten_messages_as_text": flatten_messages_as_text,
        })  # fmt: skip
        check_kind(bool, allow_private_urls=allow_private_urls)
        check_kind(str, model_id=model_id, tool_name_key=tool_name_key, tool_arguments_key=tool_arguments_key)
        if model_id == "":
            raise InvalidRequest("model_id is empty: pass the name of a model", parameter="model_id")
        self._layers()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        from modelport.layers.backend_errors import check_methods  # Most programs define no class of their own.

        check_methods(cls)

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do: the declared capabilities, with the values of the caller's `capabilities`."""
        if self._capabilities is None:
            self._capabilities = self._declare().merged_with(self._given_capabilities)
        return self._capabilities

    def _observe_error(self, error: ModelError, request: Request) -> None:
        """Record that the service does not enforce what it was thought to enforce, if the error disproves that.

        Another run of the call is then sent in another way.

        Args:
            error: The error of a call.
            request: The request.
        """
        if error.disproved is None:
            return
        error.profile_updated = self._may_ignore_output_types
        if not self._may_ignore_output_types:
            return
        current = self.capabilities
        if error.disproved == "tool_choice":
            changed = current.replace(tool_choices=current.tool_choices & {"auto", "none"})
            what, substitute = "a forced tool call", "the output is validated"
        else:
            kind = type(request.grammar)
            # A `Choice` may have been sent as a JSON schema.
            kinds = {kind} if kind in current.grammars else {JSONSchema}
            changed = current.replace(grammars=current.grammars - kinds)
            what, substitute = "an output type", "it is requested through a tool, or validated"
        if changed != current:
            self._set_observed(changed)
            warnings.warn(
                f"{self.model_id} was sent {what} and ignored it; in later requests {substitute}", stacklevel=2
            )

    def _set_observed(self, capabilities: Capabilities) -> None:
        """Replace the capabilities by what has been observed about the model."""
        self._capabilities = capabilities

    def close(self, drain: float = 0.0) -> None:
        """End the calls that run, and release the engine or the connections. Afterwards the model can't be used.

        Calls in progress, in every thread and event loop, raise `ModelClosed`; a stream of which a part had arrived
        raises `StreamInterrupted` with that part. New calls raise `ModelClosed`. When this method returns, the calls
        have ended, and the engine and the connections are released. What does not end within 10 seconds goes on in the
        background, such as a thread in a library. A second `close` does no harm.

        Call `aclose` in asynchronous code: this method blocks the event loop, and so can't wait for the calls on it. It
        ends them, whatever `drain` is.

        Args:
            drain: How long the calls in progress may go on first, in seconds; the default is 0, and at most a day. A
                stream that nobody reads is in progress too.

        Raises:
            InvalidRequest: `drain` is not a number of seconds, or is too long.
        """
        calls_of(self).close(drain)
        self.release()

    async def aclose(self, drain: float = 0.0) -> None:
        """Do the same as `close` in asynchronous code, without blocking the event loop.

        If the task that awaits this is cancelled, closing goes on in the background. Another `aclose()` ends the calls
        that it waits for.

        Args:
            drain: See `close`.
        """
        check_drain(drain)
        # Somebody else's class may have a `close` without arguments.
        await close_in_thread(partial(self.close, drain) if drain else self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def to_dict(self, *, trust_remote_code: bool = False) -> dict[str, Any]:
        """Return the name of the model's class and its settings as a dict of JSON types, for `from_dict`.

        Settings that have their default are left out. Instead of an API key, the dict has the name of the environment
        variable that contains it.

        Args:
            trust_remote_code: Whether the dict may have settings that `from_dict` accepts only with this argument.

        Raises:
            TypeError: A setting can't be stored, because it is a secret or an object such as a client, or because
                `from_dict` would refuse it; the message names it. Layers from `with_layers` can't be stored either.
        """
        if self._outer_layers:
            raise TypeError(f"{self!r} has layers from with_layers, which can't be stored: add them after from_dict")
        return super().to_dict(trust_remote_code=trust_remote_code)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_id!r})"

    def __copy__(self) -> Self:
        from modelport.layers.of_caller import copy_of

        model = copy_of(self._sharing_state(()) if self._outer_layers else self)
        model._layers_of_caller = self._outer_layers
        return model

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not self._outer_layers:
            return super().__reduce_ex__(protocol)
        return CallMethods._sharing_state, (self._sharing_state(()), self._outer_layers)

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_secrets()
        return {key: value for key, value in self.__dict__.items() if key not in _DERIVED}

    # --- for the author of a backend ----------------------------------------------------------------------------------

    def release(self) -> None:
        """Free the engine or the connections. Users of a model call `close` and not this method.

        The author of a backend overrides this method. `close` calls it, in any thread and possibly several times, when
        no call runs any more. The default does nothing.
        """

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Send one request to the model. A backend must implement this method, or else `generate`.

        If the caller closes the generator (`aclose()`), the backend must cancel the request. If `request.stream` is
        `False`, a remote backend requests the complete response at once and yields it as one delta.

        Yields:
            The deltas of the response. The last one has `finish_reason` and `token_usage`.

        Raises:
            ModelError: The request failed.
        """
        if type(self).generate is Model.generate:
            raise TypeError(f"{type(self).__name__} must implement `deltas` (or just `generate`)")
        from modelport.layers.generate_backend import run_generate  # It imports asyncio, which takes long.

        yield await run_generate(self.generate, request, type(self).__name__)

    def accepts_provider_data(self, data: ProviderData) -> bool:
        """Return whether this model can send this data of an earlier message to its service.

        If not, the data is left out of the request, with a warning. A backend that puts provider data on its deltas
        overrides this method.
        """
        return False

    @property
    def _implements_deltas(self) -> bool:
        return type(self).deltas is not Model.deltas

    @property
    def _knows_its_parameters(self) -> bool:
        """Whether the constructor can tell an unknown parameter from one of the backend.

        It can't if the class has a `generate` of its own, which takes options of any name, or if somebody else's class
        computes the capabilities, which the constructor must not do.
        """
        is_ours = type(self)._declare.__module__.startswith("modelport.")
        return self._implements_deltas and is_ours

    def _declared_at_construction(self) -> Capabilities:
        """Return what is known of the capabilities before the engine is loaded."""
        return self.declared_capabilities

    def _declare(self) -> Capabilities:
        """Return what the backend can do with this model. Backends override it if that depends on the model."""
        if self._implements_deltas:
            return self.declared_capabilities
        # The subclass implements only `generate`, which receives all parameters and content parts. None is refused.
        everything = {"text", "image", "audio", "file"}
        reasoning = {"reasoning_efforts": REASONING_EFFORTS, "reasoning_budget": True}
        return self.declared_capabilities.replace(
            seed=True, logprobs=True, inputs=everything, image_urls=True, extra_parameters=None, **reasoning
        )

    def _check_unknown_options(self, options: Mapping[str, Any]) -> None:
        if self._implements_deltas:  # An author's own `generate` takes options of any name.
            from modelport.inputs.check_names import check_not_settings

            settings = constructor_parameters(type(self), of_all_bases=True)
            check_not_settings(type(self).__name__, options, settings, self.capabilities)

    def _layers(self) -> list[Layer]:
        """Return the layers of this model, the outermost first."""
        from modelport.layers.adapt.layer import Adapt
        from modelport.layers.limit.layer import Limit
        from modelport.layers.retry import Retry, RetryPolicy
        from modelport.layers.stop import Stop

        limits = self.requests_per_minute, self.tokens_per_minute, self.max_concurrency
        is_limited = any(limit is not None for limit in (*limits, self.shared_limits))
        limit = [Limit(*limits, shared=self.shared_limits, name=self.model_id)] if is_limited else []
        # What an author's own `generate` raises reaches the caller unchanged.
        backend = type(self).__name__ if self._implements_deltas else None
        retry = Retry(RetryPolicy.from_value(self.retry), may_queue=is_limited, backend=backend)
        return [Adapt(self.allow_private_urls, self.accepts_provider_data), retry, *limit, Stop()]


def _restore_limits(settings: Mapping[str, Any]) -> Any:
    """Return the `RedisLimits` whose settings `to_dict` stored."""
    from modelport.layers.redis_limits import RedisLimits

    return RedisLimits(**settings)
