"""The port: what callers use and what a backend's author writes."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modelport.errors import MalformedResponse, ModelError
from modelport.inputs.messages import normalise_messages
from modelport.inputs.options import normalise_options
from modelport.inputs.parameters import EXCLUSIVE, REASONING_EFFORTS, TIMEOUTS
from modelport.inputs.settings import check_kind
from modelport.inputs.tool_choice import tool_choice_from
from modelport.layers.base import Deltas, Next, compose
from modelport.protocols.chat_completions.request import plain_dict
from modelport.runtime.streams import AsyncStream, Stream, with_partial
from modelport.saving import refuse_secrets, restore, settings_of
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta, MessageBuilder, as_delta
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request, Timeouts
from modelport.types.usage import TokenUsage

if TYPE_CHECKING:
    from types import TracebackType

    from modelport.layers.limit.layer import SharedWindow
    from modelport.layers.retry import RetryPolicy

_DERIVED = ("_chain", "_capabilities", "_options")


class Model:
    """A language model, wherever it runs.

    A backend writes `deltas`, and declares its `declared_capabilities`; everything else comes from here. A newcomer
    may write just `generate(self, messages, stop_sequences=None, **kwargs)` instead, returning any object with a
    `.content`; the streamed and the async methods then run it.

    Args:
        model_id: The model's name, as its backend knows it.
        flatten_messages_as_text: Whether to send each message's parts as one text.
        tool_name_key: The key of a tool's name in a call that the model writes as text (`parse_tool_calls`).
        tool_arguments_key: The key of its arguments.
        custom_role_conversions: Roles to send for others, as `{"system": "user"}`.
        requests_per_minute: No window of 60 s holds more requests; `None` for no limit.
        tokens_per_minute: No window of 60 s holds more tokens; `None` for no limit.
        max_concurrency: Requests under way at once; `None` for no limit.
        shared_limits: Where several processes keep these two limits per minute together: `RedisLimits(…)`.
        retry: A `RetryPolicy`, a number of attempts, or whether to retry at all.
        allow_private_urls: Whether images that are given by URL may be fetched from private addresses (of this machine
            and its network). Only a backend that needs bytes fetches them here: up to 20 MiB in 20 s each, by
            `modelport[images]`.
        capabilities: Your own word on what the model can do, laid over what is declared for it.
        **parameters: Defaults for every call: `temperature`, `max_tokens`, `tool_choice`, `timeout` (seconds, for the
            whole call; 600 by default), `first_token_timeout`, `idle_timeout`, and whatever the backend takes.
    """

    #: What the backend can do, before profiles and the caller's own word.
    declared_capabilities: ClassVar[Capabilities] = Capabilities()

    # Class-level defaults, so that a subclass which forgets super().__init__() still works.
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
    kwargs: Mapping[str, Any] = {}
    #: Settings that hold a key; `to_dict` stores the name of an environment variable in their place.
    secret_settings: ClassVar[frozenset[str]] = frozenset()
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
        shared_limits: SharedWindow | None = None,
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
        self.shared_limits = shared_limits
        self.retry = retry
        self.allow_private_urls = allow_private_urls
        self._given_capabilities = capabilities
        self.kwargs = parameters
        # A mistake is an error here, not at the first call.
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

    # --- what callers use ---------------------------------------------------------------------------------------------

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """Answers a conversation.

        A subclass that overrides this method overrides this method alone: streams and async calls go through `deltas`.

        Args:
            messages: A string, or a list of `ChatMessage`s and dicts (OpenAI's or transformers' form), mixed.
            stop_sequences: The answer ends before the first of these strings to appear in it.
            **options: `grammar` (or OpenAI's `response_format`): the form of the answer; `strict`: refuse a form that
                neither engine nor service enforces, where it would be put through a tool or only checked; `tools` (or
                `tools_to_call_from`, whose `tool_choice` is `required` by default): what the model may call;
                `tool_choice`: `auto`, `none`, `required` or a tool's name; and parameters: `temperature`,
                `max_tokens`, `top_p`, `seed`, `logprobs`, `top_logprobs`, `timeout`, … The call's parameter goes
                before the constructor's, and that before the backend's default. How much the model is to think is
                `reasoning_effort` (`none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`), or `reasoning_budget`
                in tokens; an effort goes as a budget where the model knows only those.

        Returns:
            The message, with its token usage and finish reason.

        Raises:
            InvalidRequest: The call is wrong; nothing has been sent.
            UnsupportedFeature: This model can't do it; nothing has been sent.
            ModelError: What went wrong; its subclass says.
        """
        from modelport.runtime.portal import run

        if type(self).generate is not Model.generate and type(self).deltas is Model.deltas:
            raise TypeError(
                f"{type(self).__name__}.generate calls super().generate(), which would call it again: no class writes "
                "`deltas`. Return the answer instead"
            )
        return run(self._generate(self._prepare(messages, stop_sequences, options, stream=False)))

    def generate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Stream:
        """Answers a conversation piece by piece; arguments and errors as for `generate`.

        Returns:
            An iterator over deltas, and a context manager; the request is sent at the first `next`.
        """
        request = self._prepare(messages, stop_sequences, options, stream=True)
        return Stream(partial(self._run, request), self.model_id)

    async def agenerate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """`generate` for asynchronous code; cancelling the task stops the engine."""
        return await self._generate(self._prepare(messages, stop_sequences, options, stream=False))

    def agenerate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> AsyncStream:
        """`generate_stream` for asynchronous code."""
        request = self._prepare(messages, stop_sequences, options, stream=True)
        return AsyncStream(partial(self._run, request), self.model_id)

    def __call__(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """Another name of `generate`."""
        if stop_sequences is not None:
            options["stop_sequences"] = stop_sequences
        return self.generate(messages, **options)

    def parse_tool_calls(self, message: ChatMessage) -> ChatMessage:
        """Reads a tool call from the message's text, where it has none, for agents whose model writes calls as text.

        Args:
            message: Is completed in place, as agents expect.

        Raises:
            InvalidToolCall: The text holds no call.
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
        """What this model can do: declared by its backend, overlaid by its name's profile and by the caller's word."""
        if self._capabilities is None:
            self._capabilities = self._declare().merged_with(self._given_capabilities)
        return self._capabilities

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` restores the model from; keys are stored as the names of environment variables.

        Raises:
            TypeError: A setting can't be stored, such as a client object; the message names it.
        """
        return settings_of(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trust_remote_code: bool = False) -> Model:
        """The model that `to_dict` described. Nothing that the data names is imported.

        Args:
            data: Of `to_dict`; with a class of this registry under `class`, or none where `cls` is that class. Who
                wrote it chooses where your keys are sent (`api_base`): read what comes from others.
            trust_remote_code: Whether the data may have an engine run code, such as that of a model's repository; by
                default it is refused.

        Raises:
            InvalidRequest: It describes no model, or would have code run.
        """
        return restore(cls, data, trust_remote_code)

    def close(self) -> None:
        """Lets go of the engine, or of the connections of synchronous calls. The model can't be used afterwards."""

    async def aclose(self) -> None:
        """`close` for asynchronous code; lets go of the running loop's connections too."""
        from modelport.runtime.threads import in_thread

        await in_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_id!r})"

    def __getstate__(self) -> dict[str, Any]:
        refuse_secrets(self)
        return {key: value for key, value in self.__dict__.items() if key not in _DERIVED}

    # --- what a backend's author writes -------------------------------------------------------------------------------

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request: the one primitive.

        Yield deltas, the last with `finish_reason` and `token_usage`; raise a `ModelError`; end. `aclose()` cancels.
        With `request.stream` false a remote backend makes one ordinary call and yields one delta.
        """
        yield await self._run_generate(request)

    def _declare(self) -> Capabilities:
        """What the backend can do with this very model; override it where that depends on the model."""
        if type(self).deltas is not Model.deltas:
            return self.declared_capabilities
        # An author's own `generate` is given whatever its callers give, as if they had called it themselves.
        everything = {"text", "image", "audio", "file"}
        thinks = {"reasoning_efforts": REASONING_EFFORTS, "reasoning_budget": True}
        return self.declared_capabilities.replace(
            seed=True, logprobs=True, inputs=everything, image_urls=True, **thinks
        )

    # --- the way of a request -----------------------------------------------------------------------------------------

    def _prepare(self, messages: Any, stop_sequences: Any, options: Mapping[str, Any], *, stream: bool) -> Request:
        called = normalise_options(
            {"stop_sequences": stop_sequences, **options} if stop_sequences is not None else options
        )
        return self._request(messages, called, stream)

    def _request(self, messages: Any, called: Mapping[str, Any], stream: bool) -> Request:
        """The request that a call means for this model, whose options are in normal form."""
        if self._options is None:
            self._options = normalise_options(self.kwargs)
        given = {**self._options, **called}
        for name, other in EXCLUSIVE.items():
            if name in called and other not in called:
                given.pop(other, None)
        tools = given.pop("tools", ())
        tool_choice = given.pop("tool_choice", "auto")
        if not tools and "tool_choice" not in called:
            tool_choice = "auto"  # the constructor's is for calls with tools
        conversions = given.pop("custom_role_conversions", self.custom_role_conversions)
        flatten = given.pop("flatten_messages_as_text", self.flatten_messages_as_text)
        return Request(
            messages=normalise_messages(messages, role_conversions=conversions, flatten=flatten),
            stop_sequences=given.pop("stop_sequences", ()),
            grammar=given.pop("grammar", None),
            strict=given.pop("strict", False),
            tools=tools,
            tool_choice=tool_choice_from(tool_choice, tools),
            timeouts=Timeouts(**{name: given.pop(name) for name in TIMEOUTS if name in given}),
            parameters=given,
            stream=stream,
        )

    def _layers(self) -> list[Any]:
        from modelport.layers.adapt.layer import Adapt
        from modelport.layers.limit.layer import Limit
        from modelport.layers.retry import Retry, RetryPolicy
        from modelport.layers.stop import Stop

        most = self.requests_per_minute, self.tokens_per_minute, self.max_concurrency
        return [
            Adapt(self),
            Retry(RetryPolicy.from_value(self.retry), queued=any(limit is not None for limit in most)),
            Limit(*most, shared=self.shared_limits, name=self.model_id),
            Stop(),
        ]

    def _through_layers(self, request: Request) -> Deltas:
        chain = self._chain
        if chain is None:
            # If several threads make the first call at once, only one of them sets the chain: two chains would be two
            # sets of limits.
            chain = self.__dict__.setdefault("_chain", compose(self._layers(), self.deltas))
        return chain(request)

    async def _run(self, request: Request, response: MessageBuilder, *, nested: bool = False) -> Deltas:
        """Run one call through the layers and the backend.

        The deadline of the call is set here, and the capabilities of the model are looked up here. After a rejection
        that updated the model's profile, the call starts again with the new capabilities, unless a part of the response
        has been delivered.

        Args:
            request: The call.
            response: Every delta is added to it.
            nested: Whether the call is a part of another model's call, which handles its errors.

        Yields:
            The deltas of the response.
        """
        from asyncio import get_running_loop

        timeouts = request.timeouts.started(get_running_loop().time())
        while True:
            deltas = self._through_layers(request.replace(timeouts=timeouts, capabilities=self.capabilities))
            try:
                async with aclosing(deltas):
                    async for delta in deltas:
                        response.add(delta)
                        yield delta
                return
            except ModelError as error:
                if error.profile_updated and not response.delivered:
                    continue
                if nested:
                    raise
                raise with_partial(error, response, self.model_id, stream=request.stream)  # noqa: B904

    async def _generate(self, request: Request) -> ChatMessage:
        response = MessageBuilder(self.model_id)
        async for _ in self._run(request, response):
            pass
        return response.message()

    async def _run_generate(self, request: Request) -> ChatMessageStreamDelta:
        """Runs a subclass's own `generate`: in the caller's thread for a sync call, else in a thread of its own."""
        from modelport.runtime.portal import in_callers_thread
        from modelport.runtime.threads import in_thread

        if type(self).generate is Model.generate:
            raise TypeError(f"{type(self).__name__} must write `deltas` (or, to begin with, `generate`)")
        arguments = _arguments_of_generate(request)

        def work() -> Any:
            return self.generate(**arguments)

        answer = await (in_callers_thread(work) or in_thread(work))
        if isinstance(answer, str):
            answer = ChatMessage(MessageRole.ASSISTANT, answer)
        if inspect.iscoroutine(answer):
            answer.close()
        if not hasattr(answer, "content"):
            raise MalformedResponse(
                f"{type(self).__name__}.generate returned {type(answer).__name__}; it must return an object with a "
                "`.content`"
            )
        try:
            delta = as_delta(answer)
        except (TypeError, ValueError, RecursionError) as error:
            raise MalformedResponse(f"{type(self).__name__}.generate returned what is no answer: {error}") from error
        delta.finish_reason = delta.finish_reason or ("tool_calls" if delta.tool_calls else "stop")
        if not isinstance(delta.token_usage, TokenUsage):
            delta.token_usage = None
        return delta


def _arguments_of_generate(request: Request) -> dict[str, Any]:
    """A request as the arguments of a `generate` that its author wrote for the documented message format."""
    arguments: dict[str, Any] = {"messages": [plain_dict(message) for message in request.messages]}
    arguments |= request.parameters
    if request.stop_sequences:
        arguments["stop_sequences"] = list(request.stop_sequences)
    if request.grammar is not None:
        arguments["grammar"] = request.grammar
    if request.tools:
        arguments |= {"tools": list(request.tools), "tool_choice": request.tool_choice}
    return arguments
