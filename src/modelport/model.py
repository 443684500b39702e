"""`Model`, the base class of every model: what callers use, and what the author of a backend implements.

The arguments of a call are checked and converted to a `Request`. The request passes through the layers to the backend's
method `deltas`, and the deltas of the response pass back through the same layers. `generate` accumulates the deltas
into a message, and `generate_stream` passes them on one by one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modelport.errors import ModelError
from modelport.inputs.messages import normalise_messages
from modelport.inputs.options import normalise_options
from modelport.inputs.parameters import EXCLUSIVE, REASONING_EFFORTS, TIMEOUTS
from modelport.inputs.settings import check_kind
from modelport.inputs.tool_choice import tool_choice_from
from modelport.layers.base import Deltas, Layer, Next, compose
from modelport.runtime.streams import AsyncStream, Stream, raise_with_partial
from modelport.saving import Storable
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta, MessageBuilder
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request, Timeouts

if TYPE_CHECKING:
    from modelport.layers.limit.layer import SharedWindow
    from modelport.layers.retry import RetryPolicy

#: Attributes that are not pickled, because they are computed from the settings again.
_DERIVED = ("_chain", "_capabilities", "_options")


class Model(Storable):
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
        normalise_options({
            "custom_role_conversions": custom_role_conversions,
            "flatten_messages_as_text": flatten_messages_as_text,
        })  # fmt: skip
        check_kind(bool, allow_private_urls=allow_private_urls)
        check_kind(str, model_id=model_id, tool_name_key=tool_name_key, tool_arguments_key=tool_arguments_key)
        self._layers()
        Capabilities().merged_with(capabilities)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        from modelport.layers.backend_errors import check_methods  # Most programs define no class of their own.

        check_methods(cls)

    # --- for callers --------------------------------------------------------------------------------------------------

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """Return the model's response to a conversation.

        A subclass that implements `deltas` must not change the response in its own `generate`, because streams and
        asynchronous calls use only `deltas`.

        Args:
            messages: A string, or a list of `ChatMessage`s and dicts (in OpenAI's or transformers' format).
            stop_sequences: The output ends before the first of these strings that appears in it.
            **options:
                - `grammar` (or OpenAI's `response_format`): the output type, or `None` for free text.
                - `strict`: whether the call is refused if neither the engine nor the service can enforce the output
                  type. Otherwise modelport uses a tool call whose arguments are the output, or validates the output.
                - `tools`: the tools that the model may call. If they are given as `tools_to_call_from`, the default of
                  `tool_choice` is `required`.
                - `tool_choice`: `auto`, `none`, `required` or the name of a tool.
                - `reasoning_effort` (`none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`), or `reasoning_budget`
                  in tokens. An effort is sent as a budget if the model supports only budgets.
                - other parameters: `temperature`, `max_tokens`, `top_p`, `seed`, `logprobs`, `top_logprobs`, `timeout`…

                An option of the call overrides the same option of the constructor.

        Returns:
            The message, with its token usage and finish reason.

        Raises:
            InvalidRequest: The call is wrong; nothing was sent.
            UnsupportedFeature: This model does not support an option or a part of the messages; nothing was sent.
            ModelError: The call failed; the class of the error says what happened.
        """
        from modelport.runtime.portal import run

        if type(self).generate is not Model.generate and type(self).deltas is Model.deltas:
            raise TypeError(
                f"{type(self).__name__}.generate calls super().generate(), which would call it again, because no class "
                "implements `deltas`. Return the response instead"
            )
        return run(self._generate(self._prepare(messages, stop_sequences, options, stream=False)))

    def generate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Stream:
        """Return the model's response as a stream of deltas. The arguments and errors are those of `generate`.

        The stream is an iterator and a context manager. The request is sent when the first delta is read.
        """
        request = self._prepare(messages, stop_sequences, options, stream=True)
        return Stream(self._run(request), self.model_id)

    async def agenerate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """Do the same as `generate` in asynchronous code. Cancelling the task cancels the request."""
        return await self._generate(self._prepare(messages, stop_sequences, options, stream=False))

    def agenerate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> AsyncStream:
        """Do the same as `generate_stream` in asynchronous code."""
        request = self._prepare(messages, stop_sequences, options, stream=True)
        return AsyncStream(self._run(request), self.model_id)

    def __call__(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """Do the same as `generate`."""
        if stop_sequences is not None:
            options["stop_sequences"] = stop_sequences
        return self.generate(messages, **options)

    def parse_tool_calls(self, message: ChatMessage) -> ChatMessage:
        """Add the tool call in a message's text to its `tool_calls`, for agents whose models write tool calls as text.

        Args:
            message: The message, which is changed in place. If it has `tool_calls`, only their arguments are parsed.

        Returns:
            The same message.

        Raises:
            InvalidToolCall: The message has no `tool_calls`, and its text contains no tool call.
        """
        from modelport.inputs.calls_in_text import find_tool_call, parse_arguments

        message.role = MessageRole.ASSISTANT
        if not message.tool_calls:
            message.tool_calls = [find_tool_call(message, self.tool_name_key, self.tool_arguments_key)]
        for call in message.tool_calls:
            call.function.arguments = parse_arguments(call.function.arguments)
        return message

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do: the declared capabilities, with the values of the caller's `capabilities`."""
        if self._capabilities is None:
            self._capabilities = self._declare().merged_with(self._given_capabilities)
        return self._capabilities

    def close(self) -> None:
        """Release the engine, or the connections of synchronous calls. Afterwards the model can't be used."""

    async def aclose(self) -> None:
        """Do the same as `close`, and release the connections of the running event loop too."""
        from modelport.runtime.threads import in_thread

        await in_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_id!r})"

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_secrets()
        return {key: value for key, value in self.__dict__.items() if key not in _DERIVED}

    # --- for the author of a backend ----------------------------------------------------------------------------------

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

    def _declare(self) -> Capabilities:
        """Return what the backend can do with this model. Backends override it if that depends on the model."""
        if type(self).deltas is not Model.deltas:
            return self.declared_capabilities
        # The subclass implements only `generate`, which receives all parameters and content parts. None is refused.
        everything = {"text", "image", "audio", "file"}
        reasoning = {"reasoning_efforts": REASONING_EFFORTS, "reasoning_budget": True}
        return self.declared_capabilities.replace(
            seed=True, logprobs=True, inputs=everything, image_urls=True, **reasoning
        )

    # --- the path of a request ----------------------------------------------------------------------------------------

    def _prepare(self, messages: Any, stop_sequences: Any, options: Mapping[str, Any], *, stream: bool) -> Request:
        """Check the arguments of a call, and return its request."""
        call_options = normalise_options(
            {"stop_sequences": stop_sequences, **options} if stop_sequences is not None else options
        )
        return self._build_request(messages, call_options, stream)

    def _build_request(self, messages: Any, call_options: Mapping[str, Any], stream: bool) -> Request:
        """Return the request of a call. Options that the call does not have are taken from the constructor.

        Args:
            messages: The messages as the caller wrote them.
            call_options: The options of the call, as `normalise_options` returned them.
            stream: Whether the call streams.
        """
        if self._options is None:
            self._options = normalise_options(self.kwargs)
        options = {**self._options, **call_options}
        for name, excluded in EXCLUSIVE.items():  # An option of the call also overrides the option that it excludes.
            if name in call_options and excluded not in call_options:
                options.pop(excluded, None)
        tools = options.pop("tools", ())
        tool_choice = options.pop("tool_choice", "auto")
        if not tools and "tool_choice" not in call_options:
            tool_choice = "auto"  # The tool choice of the constructor applies only to calls with tools.
        conversions = options.pop("custom_role_conversions", self.custom_role_conversions)
        flatten = options.pop("flatten_messages_as_text", self.flatten_messages_as_text)
        return Request(
            stop_sequences=options.pop("stop_sequences", ()),
            grammar=options.pop("grammar", None),
            strict=options.pop("strict", False),
            tools=tools,
            tool_choice="auto" if tool_choice == "auto" else tool_choice_from(tool_choice, tools),
            timeouts=Timeouts(**{name: options.pop(name) for name in TIMEOUTS if name in options}),
            stream=stream,
            capabilities=self.capabilities,
            messages=normalise_messages(messages, role_conversions=conversions, flatten=flatten),
            parameters=options,
        )

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
        backend = None if type(self).deltas is Model.deltas else type(self).__name__
        retry = Retry(RetryPolicy.from_value(self.retry), may_queue=is_limited, backend=backend)
        return [Adapt(self.allow_private_urls), retry, *limit, Stop()]

    def _run(self, request: Request) -> Deltas:
        """Return the deltas of the response to a request. The request is sent when the first delta is read.

        Raises:
            UnsupportedFeature: The model does not support something in the request.
        """
        return self._restart_after_update(request, self._through_layers(request))

    def _through_layers(self, request: Request) -> Deltas:
        chain = self._chain
        if chain is None:
            # Several threads may make the first call at the same time. `setdefault` makes all of them use one chain,
            # because each chain counts its own requests for the rate limits.
            chain = self.__dict__.setdefault("_chain", compose(self._layers(), self.deltas))
        return chain(request)

    async def _restart_after_update(self, request: Request, deltas: Deltas) -> Deltas:
        """Set the deadline of the call, and pass its deltas on.

        If the backend updates the capabilities because the service rejected something, the request is sent again with
        the new capabilities, unless the caller has already received output.
        """
        from asyncio import get_running_loop

        timeouts = request.timeouts
        if timeouts.timeout is not None:
            deadline = get_running_loop().time() + timeouts.timeout
            # In a call by a `FallbackModel`, the deadline of the outer call is set already; the earlier one applies.
            timeouts.deadline = deadline if timeouts.deadline is None else min(deadline, timeouts.deadline)
        has_output = False
        for updates_left in range(32, -1, -1):  # More updates in one call are a mistake of a backend.
            try:
                async with aclosing(deltas):
                    async for delta in deltas:
                        has_output = has_output or delta.has_output
                        yield delta
                return
            except ModelError as error:
                if has_output or not error.profile_updated or not updates_left:
                    raise
            deltas = self._through_layers(request.replace(capabilities=self.capabilities))

    async def _generate(self, request: Request) -> ChatMessage:
        deltas = self._run(request)
        response = MessageBuilder(self.model_id)
        try:
            async for delta in deltas:
                response.add(delta)
        except ModelError as error:
            raise_with_partial(error, response, self.model_id, streamed=False)
        return response.message()


def _restore_limits(settings: Mapping[str, Any]) -> Any:
    """Return the `RedisLimits` whose settings `to_dict` stored."""
    from modelport.layers.redis_limits import RedisLimits

    return RedisLimits(**settings)
