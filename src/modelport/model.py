"""`Model`, the base class of every model: what callers use, and what the author of a backend implements.

A call becomes a `Request` in normal form (`_build_request`), which passes through the layers to the backend's `deltas`.
The deltas come back the same way. `generate` accumulates them into a message, and a stream emits them one by one.
"""

from __future__ import annotations

import inspect
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

#: Attributes that are computed from the settings, and not pickled.
_DERIVED = ("_chain", "_options")


class Model(Storable):
    """A language model, local or remote.

    A backend implements `deltas` and declares its `declared_capabilities`; everything else is inherited. The simplest
    backend implements only `generate(self, messages, stop_sequences=None, **kwargs)`, which returns an object with a
    `content`. The methods for streams and for asynchronous code then call it.

    Args:
        model_id: The model's name, as its backend knows it.
        flatten_messages_as_text: Whether the parts of each message are sent as one text.
        tool_name_key: The key of the tool's name in a tool call that the model writes as text (`parse_tool_calls`).
        tool_arguments_key: The key of the tool's arguments in such a call.
        custom_role_conversions: Roles that are replaced before a request is sent, as `{"system": "user"}`.
        requests_per_minute: The maximum number of requests in any 60 seconds; `None` for no limit.
        tokens_per_minute: The maximum number of tokens in any 60 seconds; `None` for no limit.
        max_concurrency: The maximum number of requests in progress at once; `None` for no limit.
        shared_limits: `RedisLimits(…)` for limits per minute that several processes share; `None` for limits of this
            model alone.
        retry: A `RetryPolicy`, a number of attempts, or whether failed requests are sent again at all.
        allow_private_urls: Whether images that are given by URL may be fetched from private addresses (of this machine
            and its network). Images are fetched here only for a backend that needs their bytes: up to 20 MiB in 20 s
            each, with `modelport[images]`.
        capabilities: What the model can do, merged over what is declared for it.
        **parameters: Defaults for every call: `temperature`, `max_tokens`, `tool_choice`, `timeout` (seconds, for the
            whole call; 600 by default), `first_token_timeout`, `idle_timeout`, and whatever the backend takes.
    """

    #: What the backend can do, before the profile of the model and the `capabilities` of the caller are merged over it.
    declared_capabilities: ClassVar[Capabilities] = Capabilities()

    # These defaults are set on the class, so that a subclass that does not call super().__init__() works.
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
    _given_capabilities: Capabilities | Mapping[str, Any] | None = None
    _capabilities: Capabilities | None = None
    _options: Mapping[str, Any] | None = None
    _chain: Next | None = None

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
        # Wrong settings raise here, and not at the first call.
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
        own = cls.__dict__.get("generate")
        if inspect.isfunction(own) and next(iter(inspect.signature(own).parameters), "messages") == "messages":
            raise TypeError(
                f"{cls.__name__}.generate lacks 'self': write "
                "def generate(self, messages, stop_sequences=None, **kwargs)"
            )

    # --- for callers --------------------------------------------------------------------------------------------------

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """Return the model's response to a conversation.

        A subclass that overrides this method overrides this method alone: streams and async calls use `deltas`.

        Args:
            messages: A string, or a list of `ChatMessage`s and dicts (in OpenAI's or transformers' format).
            stop_sequences: The output ends before the first of these strings that appears in it.
            **options:
                - `grammar` (or OpenAI's `response_format`): the output type, or `None` for free text.
                - `strict`: whether an output type that neither the engine nor the service enforces is refused, instead
                  of being requested through a tool or only validated.
                - `tools` (or `tools_to_call_from`, for which `tool_choice` is `required` by default): the tools that
                  the model may call.
                - `tool_choice`: `auto`, `none`, `required` or the name of a tool.
                - `reasoning_effort` (`none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`), or `reasoning_budget`
                  in tokens. An effort is sent as a budget if the model knows only budgets.
                - other parameters: `temperature`, `max_tokens`, `top_p`, `seed`, `logprobs`, `top_logprobs`, `timeout`…

                An option of the call overrides the constructor's, and that overrides the backend's default.

        Returns:
            The message, with its token usage and finish reason.

        Raises:
            InvalidRequest: The call is wrong; nothing was sent.
            UnsupportedFeature: This model can't do it; nothing was sent.
            ModelError: The call failed; the subclass says how.
        """
        from modelport.runtime.portal import run

        if type(self).generate is not Model.generate and type(self).deltas is Model.deltas:
            raise TypeError(
                f"{type(self).__name__}.generate calls super().generate(), which would call it again, because no class "
                "implements `deltas`. Return the response instead"
            )
        return run(self._generate(self._prepare(messages, stop_sequences, options, stream=False)))

    def generate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Stream:
        """Return the model's response as a stream of deltas; arguments and errors as for `generate`.

        Returns:
            An iterator over deltas, which is a context manager too. The request is sent at the first `next`.
        """
        request = self._prepare(messages, stop_sequences, options, stream=True)
        return Stream(self._run(request), self.model_id)

    async def agenerate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """`generate` for asynchronous code. Cancelling the task stops the engine."""
        return await self._generate(self._prepare(messages, stop_sequences, options, stream=False))

    def agenerate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> AsyncStream:
        """`generate_stream` for asynchronous code."""
        request = self._prepare(messages, stop_sequences, options, stream=True)
        return AsyncStream(self._run(request), self.model_id)

    def __call__(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """The same as `generate`."""
        if stop_sequences is not None:
            options["stop_sequences"] = stop_sequences
        return self.generate(messages, **options)

    def parse_tool_calls(self, message: ChatMessage) -> ChatMessage:
        """Read a tool call from the text of a message without tool calls: for agents whose model writes calls as text.

        Args:
            message: Is changed in place, as agents expect.

        Raises:
            InvalidToolCall: The text holds no tool call.
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
        """What this model can do: what is declared for it, with the caller's `capabilities` merged over it."""
        if self._capabilities is None:
            self._capabilities = self._declare().merged_with(self._given_capabilities)
        return self._capabilities

    def close(self) -> None:
        """Release the engine, or the connections of synchronous calls. The model can't be used afterwards."""

    async def aclose(self) -> None:
        """`close` for asynchronous code; releases the connections of the running loop too."""
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
        """Send one request to the model: the only method that a backend must implement.

        Closing the generator (`aclose()`) cancels the request. If `request.stream` is False, a remote backend makes one
        ordinary call and yields one delta.

        Yields:
            The deltas of the response. The last one has `finish_reason` and `token_usage`.

        Raises:
            ModelError: The request failed.
        """
        if type(self).generate is Model.generate:
            raise TypeError(f"{type(self).__name__} must implement `deltas` (or just `generate`)")
        from modelport.layers.generate_backend import run_generate  # It imports asyncio.

        yield await run_generate(self.generate, request, type(self).__name__)

    def _declare(self) -> Capabilities:
        """Return what the backend can do with this model; override it if that depends on the model."""
        if type(self).deltas is not Model.deltas:
            return self.declared_capabilities
        # An author's own `generate` gets everything that its callers give, as if they had called it directly.
        everything = {"text", "image", "audio", "file"}
        reasoning = {"reasoning_efforts": REASONING_EFFORTS, "reasoning_budget": True}
        return self.declared_capabilities.replace(
            seed=True, logprobs=True, inputs=everything, image_urls=True, **reasoning
        )

    # --- the path of a request ----------------------------------------------------------------------------------------

    def _prepare(self, messages: Any, stop_sequences: Any, options: Mapping[str, Any], *, stream: bool) -> Request:
        """Check the arguments of a call, and return its request."""
        called = normalise_options(
            {"stop_sequences": stop_sequences, **options} if stop_sequences is not None else options
        )
        return self._build_request(messages, called, stream)

    def _build_request(self, messages: Any, called: Mapping[str, Any], stream: bool) -> Request:
        """Return the request of a call, with the constructor's options where the call has none.

        Args:
            messages: The messages as the caller gave them.
            called: The options of the call, in normal form.
            stream: Whether the call streams.
        """
        if self._options is None:
            self._options = normalise_options(self.kwargs)
        options = {**self._options, **called}
        for name, other in EXCLUSIVE.items():
            if name in called and other not in called:
                options.pop(other, None)
        tools = options.pop("tools", ())
        tool_choice = options.pop("tool_choice", "auto")
        if not tools and "tool_choice" not in called:
            tool_choice = "auto"  # The constructor's tool choice is for calls with tools.
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
        retry = Retry(RetryPolicy.from_value(self.retry), queued=is_limited)
        return [Adapt(self.allow_private_urls), retry, *limit, Stop()]

    def _run(self, request: Request) -> Deltas:
        """Check a request, and return the deltas of its response; reading the first delta sends the request."""
        return self._restart_after_update(request, self._through_layers(request))

    def _through_layers(self, request: Request) -> Deltas:
        chain = self._chain
        if chain is None:
            # If several threads make the first call at once, only one of them sets the chain: two chains would be two
            # sets of limits.
            chain = self.__dict__.setdefault("_chain", compose(self._layers(), self.deltas))
        return chain(request)

    async def _restart_after_update(self, request: Request, deltas: Deltas) -> Deltas:
        """Start the clock of the call, and pass its deltas on.

        After a rejection that updated the model's profile, the call starts again with the new capabilities, unless a
        part of the response has been delivered.
        """
        from asyncio import get_running_loop

        timeouts = request.timeouts
        if timeouts.timeout is not None:
            deadline = get_running_loop().time() + timeouts.timeout
            timeouts.deadline = deadline if timeouts.deadline is None else min(deadline, timeouts.deadline)
        delivered = False
        while True:
            try:
                async with aclosing(deltas):
                    async for delta in deltas:
                        delivered = delivered or delta.delivers
                        yield delta
                return
            except ModelError as error:
                if delivered or not error.profile_updated:
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
    """Return the shared limits that `to_dict` wrote."""
    from modelport.layers.redis_limits import RedisLimits

    return RedisLimits(**settings)
