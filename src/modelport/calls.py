"""`CallMethods`: the methods that callers of every model use, and the path of a request through the model.

The arguments of a call become a `Request`. It passes through the layers to the backend's `deltas`, and the deltas
pass back through the same layers. `generate` accumulates them into a message; `generate_stream` passes each of them on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, overload

from modelport.errors import ModelError
from modelport.inputs.messages import normalise_messages
from modelport.inputs.options import normalise_options
from modelport.inputs.parameters import BY_ANY_NAME, EXCLUSIVE, FIELDS_OF_REQUEST, TIMEOUTS
from modelport.inputs.tool_choice import tool_choice_from
from modelport.layers.base import Deltas, Layer, Next, compose
from modelport.layers.output_errors import return_invalid_output
from modelport.layers.usage import EarlierUsage
from modelport.runtime.running_calls import calls_of
from modelport.runtime.streams import AsyncStream, Stream, raise_with_partial
from modelport.secrets import hide_secrets
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import MessageBuilder
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request, Timeouts

if TYPE_CHECKING:
    from typing import Unpack

    from modelport.inputs.call_options import CallOptions, MessageInput, StopInput, TypedCallOptions, UntypedCallOptions
    from modelport.runtime.running_calls import RunningCalls
    from modelport.types.parsed import Parsed


class CallMethods:
    """The methods of `Model` that callers use. `Model` has the settings, the layers and the backend."""

    model_id: str | None
    flatten_messages_as_text: bool
    tool_name_key: str
    tool_arguments_key: str
    custom_role_conversions: Mapping[str, str] | None
    kwargs: Mapping[str, Any]
    _options: Mapping[str, Any] | None = None  # `kwargs`, checked and converted by `normalise_options`.
    _chain: Next | None = None  # The layers around `deltas`; composed at the first call.
    _observe_error: Callable[[ModelError, Request], None]  # Records what an error says about the service.
    _running_calls: RunningCalls | None = None  # The calls that run; made at the first call or by `close`.
    # A model and its copies from `with_layers` have one `__dict__`, so this attribute has a slot of its own.
    __slots__ = ("__dict__", "_layers_of_caller")
    _layers_of_caller: tuple[Layer, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the object without layers of the caller. The arguments are those of `__init__`."""
        model = super().__new__(cls)
        model._layers_of_caller = ()
        return model

    @property
    def _outer_layers(self) -> tuple[Layer, ...]:
        """The layers that `with_layers` has added, the outermost first."""
        layers: tuple[Layer, ...] = getattr(self, "_layers_of_caller", ())
        return layers

    @overload
    def generate(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[UntypedCallOptions]
    ) -> ChatMessage: ...
    @overload
    def generate(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[TypedCallOptions[Parsed]]
    ) -> ChatMessage[Parsed]: ...
    @overload
    def generate(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[CallOptions[Parsed]]
    ) -> ChatMessage[Parsed]: ...
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
                - `tools`: the tools that the model may call. `tools_to_call_from` has other defaults, those of agents.
                - `tool_choice`: `auto`, `none`, `required` or the name of a tool.
                - `tool_errors`: `raise`, or `return` for calls that can't be used, with the reason in `call.error`.
                - `output_errors`: `raise`, or `return` for invalid output, with the reason in `message.warnings`.
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

        if type(self).generate is not CallMethods.generate and not self._implements_deltas:
            raise TypeError(
                f"{type(self).__name__}.generate calls super().generate(), which would call it again, because no class "
                "implements `deltas`. Return the response instead"
            )
        return run(self._generate(self._prepare(messages, stop_sequences, options, stream=False)))

    @overload
    def generate_stream(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[UntypedCallOptions]
    ) -> Stream: ...
    @overload
    def generate_stream(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[TypedCallOptions[Parsed]]
    ) -> Stream[Parsed]: ...
    @overload
    def generate_stream(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[CallOptions[Parsed]]
    ) -> Stream[Parsed]: ...
    def generate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Stream:
        """Return the model's response as a stream of deltas. The arguments and errors are those of `generate`.

        The stream is an iterator and a context manager. The request is sent when the first delta is read.
        """
        request = self._prepare(messages, stop_sequences, options, stream=True)
        return Stream(self._run(request), self.model_id)

    @overload
    async def agenerate(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[UntypedCallOptions]
    ) -> ChatMessage: ...
    @overload
    async def agenerate(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[TypedCallOptions[Parsed]]
    ) -> ChatMessage[Parsed]: ...
    @overload
    async def agenerate(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[CallOptions[Parsed]]
    ) -> ChatMessage[Parsed]: ...
    async def agenerate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """Do the same as `generate` in asynchronous code. Cancelling the task cancels the request."""
        return await self._generate(self._prepare(messages, stop_sequences, options, stream=False))

    @overload
    def agenerate_stream(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[UntypedCallOptions]
    ) -> AsyncStream: ...
    @overload
    def agenerate_stream(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[TypedCallOptions[Parsed]]
    ) -> AsyncStream[Parsed]: ...
    @overload
    def agenerate_stream(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[CallOptions[Parsed]]
    ) -> AsyncStream[Parsed]: ...
    def agenerate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> AsyncStream:
        """Do the same as `generate_stream` in asynchronous code."""
        request = self._prepare(messages, stop_sequences, options, stream=True)
        return AsyncStream(self._run(request), self.model_id)

    @overload
    def __call__(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[UntypedCallOptions]
    ) -> ChatMessage: ...
    @overload
    def __call__(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[TypedCallOptions[Parsed]]
    ) -> ChatMessage[Parsed]: ...
    @overload
    def __call__(
        self, messages: MessageInput, stop_sequences: StopInput = None, **options: Unpack[CallOptions[Parsed]]
    ) -> ChatMessage[Parsed]: ...
    def __call__(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        """Do the same as `generate`. If the author of the class wrote `generate`, modelport's layers are around it."""
        if stop_sequences is not None:
            options["stop_sequences"] = stop_sequences
        if "extra_headers" in options or "extra_query" in options or "api_key" in options:
            hide_secrets(options)  # In this frame, which a traceback may show.
        if type(self).generate is not CallMethods.generate and not self._implements_deltas:
            from modelport.runtime.portal import run

            return run(self._generate(self._prepare(messages, None, options, stream=False)))
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

    def with_layers(self, *layers: Layer) -> Self:
        """Return this model with layers of your own around those of modelport.

        A layer is a callable that takes the request and the function `next`, as `layer(request, next)`. It returns an
        asynchronous generator of deltas: `next(request)` itself, or a generator that reads from it. So it can look at
        or change the request and the deltas of every call, streamed or not.

        The result and this model share the engine or the connections, the limits and everything else. If one is closed,
        so is the other.

        Args:
            *layers: The layers, the outermost first. They are outside of those that this model already has.

        Raises:
            TypeError: A layer is not callable or does not yield deltas, or the class of this model has a `generate` of
                its own, around which layers have no effect.

        Examples:
            >>> async def shout(request, next):
            ...     async for delta in next(request):
            ...         yield dataclasses.replace(delta, content=delta.content and delta.content.upper())
            >>> print(ScriptedModel("Paris").with_layers(shout)("The capital of France?"))
            PARIS
        """
        from modelport.layers.of_caller import check_layers

        if type(self).generate is not CallMethods.generate:
            name = type(self).__name__
            raise TypeError(f"{name} implements `generate`, around which layers have no effect: implement `deltas`")
        check_layers(layers)
        return self._sharing_state((*layers, *self._outer_layers))

    def _sharing_state(self, outer_layers: tuple[Layer, ...]) -> Self:
        """Return another object with the same state and other layers of the caller."""
        model = object.__new__(type(self))
        all_slots = (cls.__dict__.get("__slots__", ()) for cls in type(self).__mro__)
        for slots in all_slots:  # One of them is `__dict__`.
            for name in (slots,) if isinstance(slots, str) else slots:
                if name != "__weakref__" and hasattr(self, name):
                    setattr(model, name, getattr(self, name))
        model._layers_of_caller = outer_layers
        if hasattr(type(self), "__del__"):
            # The destructor of a copy may close the engine. So the copies live as long as the state.
            self.__dict__.setdefault("_copies", []).append(model)
        return model

    # --- the path of a request ----------------------------------------------------------------------------------------

    def _prepare(self, messages: Any, stop_sequences: Any, options: dict[str, Any], *, stream: bool) -> Request:
        """Check the arguments of a call, and return its request."""
        if "extra_headers" in options or "extra_query" in options or "api_key" in options:
            hide_secrets(options)  # In the frames of the callers too, which refer to this dict.
        given = {"stop_sequences": stop_sequences, **options} if stop_sequences is not None else options
        return self._build_request(messages, normalise_options(given, self._options or {}), stream)

    def _build_request(self, messages: Any, call_options: Mapping[str, Any], stream: bool) -> Request:
        """Return the request of a call. Options that the call does not have are taken from the constructor.

        Args:
            messages: The messages as the caller wrote them.
            call_options: The options of the call, as `normalise_options` returned them.
            stream: Whether the call streams.
        """
        if not call_options.keys() <= BY_ANY_NAME.keys():
            self._check_unknown_options(call_options)
        if self._options is None:
            self._options = normalise_options(self.kwargs)
        options = {**self._options, **call_options}
        for name, excluded in EXCLUSIVE.items():  # An option of the call also overrides the option that it excludes.
            if name in call_options and excluded not in call_options:
                options.pop(excluded, None)
        tools = options.pop("tools", ())
        tool_choice = options.pop("tool_choice") if "tool_choice" in options else "auto"
        if not tools and "tool_choice" not in call_options:
            tool_choice = "auto"  # The tool choice of the constructor applies only to calls with tools.
        conversions = options.pop("custom_role_conversions", self.custom_role_conversions)
        flatten = options.pop("flatten_messages_as_text", self.flatten_messages_as_text)
        return Request(
            tools=tools,
            tool_choice="auto" if tool_choice == "auto" else tool_choice_from(tool_choice, tools),
            **{name: options.pop(name) for name in FIELDS_OF_REQUEST if name in options},
            timeouts=Timeouts(**{name: options.pop(name) for name in TIMEOUTS if name in options}),
            stream=stream,
            capabilities=self.capabilities,
            messages=normalise_messages(messages, role_conversions=conversions, flatten=flatten),
            parameters=options,
        )

    def _run(self, request: Request) -> Deltas:
        """Return the deltas of the response to a request. The request is sent when the first delta is read.

        Raises:
            UnsupportedFeature: The model does not support something in the request.
        """
        try:
            layers = self._layers_of_caller
        except AttributeError:  # A class of a user made the object without this class's `__new__`.
            layers = ()
        if not layers:
            return self._respond(request)
        from modelport.layers.of_caller import run_layers_of_caller  # It imports asyncio, which takes long.

        return run_layers_of_caller(layers, self._respond, request, calls_of(self))

    def _respond(self, request: Request) -> Deltas:
        """Do the same as `_run`, without the layers of the caller."""
        deltas = self._restart_after_update(request, self._through_layers(request))
        return return_invalid_output(deltas) if request.output_errors == "return" else deltas

    def _through_layers(self, request: Request) -> Deltas:
        chain = self._chain
        if chain is None:
            # Several threads may make the first call at the same time. `setdefault` makes all of them use one chain,
            # because each chain counts its own requests for the rate limits.
            # In the chain, `self` of the backend has no layers of a caller, whichever object makes the first call.
            plain = self._sharing_state(()) if self._outer_layers else self
            chain = self.__dict__.setdefault("_chain", compose(plain._layers(), plain.deltas))
        return chain(request)

    async def _restart_after_update(self, request: Request, deltas: Deltas) -> Deltas:
        """Register the call, set its deadline, and pass its deltas on.

        If the backend updates the capabilities because the service rejected something, the request is sent again with
        the new capabilities, unless the caller has already received output.
        """
        from asyncio import get_running_loop

        timeouts, loop, running_calls = request.timeouts, get_running_loop(), None
        if (call := timeouts.call) is None:  # It is set if a layer of the caller makes the call.
            running_calls = self._running_calls or calls_of(self)
            call = running_calls.start(timeouts, loop, deltas)
        timeouts.start(loop.time())
        has_output, earlier = False, None
        try:
            for updates_left in range(32, -1, -1):  # More updates in one call are a mistake of a backend.
                try:
                    async with aclosing(deltas):
                        async for delta in deltas:
                            has_output = has_output or delta.has_output
                            yield delta if earlier is None else earlier.add_to(delta)
                            if call.error is not None:
                                await call.raise_error()
                    return
                except ModelError as error:
                    earlier = earlier or EarlierUsage()
                    earlier.add(error)
                    self._observe_error(error, request)
                    if has_output or not error.profile_updated or not updates_left:
                        raise
                deltas = self._through_layers(request.replace(capabilities=self.capabilities))
                if running_calls is not None:
                    call.deltas = deltas
        finally:
            if running_calls is not None:
                running_calls.remove(call)

    async def _generate(self, request: Request) -> ChatMessage:
        deltas = self._run(request)
        response = MessageBuilder(self.model_id)
        try:
            async for delta in deltas:
                response.add(delta)
        except ModelError as error:
            raise_with_partial(error, response, self.model_id, streamed=False)
        return response.message()

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do."""
        raise NotImplementedError

    def deltas(self, request: Request) -> Deltas:
        """Send one request to the model."""
        raise NotImplementedError

    @property
    def _implements_deltas(self) -> bool:
        raise NotImplementedError

    def _check_unknown_options(self, options: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _layers(self) -> list[Layer]:
        raise NotImplementedError
