"""The layer that sends a request as its plan says, and validates the response.

`Adapt` is the outermost layer. One call may need several requests: a second request of the plan, or a retry with
feedback. The retry and limit layers are inside of `Adapt`, so they apply to each of these requests.

Each delta passes through the rewrites that the plan needs, in this order:

1. Tool calls are read from the text.
2. Tool calls after the first are dropped.
3. The arguments of the forced tool become the text of the message.
4. The output is extracted from the object in which its schema was wrapped.

The rewritten deltas are emitted as they arrive, with two exceptions:

- If there is an output type and the caller does not stream, they are buffered until the output is valid. Invalid output
  of a type that is only validated (`Plan.enforcement`) is replaced by a retry with feedback. Otherwise it may disprove
  that the service enforces the type (`disproof`), and the model sends the request again in another way.
- If two requests are planned, the deltas of the first are buffered until the model calls a tool, because the second
  response may replace them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from modelport.constrained.continuation import could_continue
from modelport.errors import InvalidOutput, InvalidToolCall, ModelError
from modelport.inputs.check_names import check_parameter_names
from modelport.layers.adapt.capabilities import adapt_to_capabilities, needs_plan
from modelport.layers.adapt.disproof import disproved_by, note_calls
from modelport.layers.adapt.forced_tool import arguments_as_text
from modelport.layers.adapt.invalid_calls import with_valid_calls
from modelport.layers.adapt.plan import Plan, plan_for
from modelport.layers.adapt.prompted_tools import read_calls
from modelport.layers.adapt.provider_data import leave_out_foreign_data
from modelport.layers.adapt.run_validation import run_validation
from modelport.layers.adapt.single_call import keep_first_call
from modelport.layers.adapt.wrapping import unwrap_object
from modelport.layers.base import Deltas, Next
from modelport.layers.usage import EarlierUsage
from modelport.schema.json_text import read_json
from modelport.schema.rules import remove_optional_nulls
from modelport.schema.validation import mismatch
from modelport.types.deltas import (
    ChatMessageStreamDelta,
    ChatMessageToolCallStreamDelta,
    MessageBuilder,
    accumulate,
)
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.output_types import Choice, Grammar, JSONSchema
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request
from modelport.types.tools import errors_of_calls
from modelport.types.usage import TokenUsage, add_usage
from modelport.types.warnings import CallWarning

#: How many retries with feedback one call may make: an output that does not match its output type is sent back to the
#: model with the error. This happens only in non-streaming calls whose output type is neither enforced nor sent as a
#: forced tool.
MAX_FEEDBACK_RETRIES = 2


class Adapt:
    """The layer that adapts requests and validates responses.

    Args:
        allow_private_urls: Whether images may be fetched from addresses that are not on the public internet.
        accepts_provider_data: `Model.accepts_provider_data`. By default no provider data is sent.
    """

    def __init__(
        self,
        allow_private_urls: bool = False,
        accepts_provider_data: Callable[[ProviderData], bool] = lambda data: False,
    ) -> None:
        self._allow_private_urls = allow_private_urls
        self._accepts_provider_data = accepts_provider_data

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Send the request as its plan says, and validate the response.

        Raises:
            InvalidRequest: A parameter is misspelt. Nothing has been sent.
            UnsupportedFeature: The backend does not support something in the request. Nothing has been sent.
        """
        capabilities = request.capabilities
        warnings = check_parameter_names(request.parameters, capabilities)
        for message in request.messages:
            if message.provider_data is not None or message.tool_calls:  # A tool call may have provider data too.
                request, left_out = leave_out_foreign_data(request, self._accepts_provider_data)
                request, changed = with_valid_calls(request)
                warnings = [*warnings, *left_out, *changed]
                break
        if not needs_plan(request, capabilities):
            deltas = next(adapt_to_capabilities(request, capabilities))
            return _with_warnings(deltas, warnings) if warnings else deltas
        plan = plan_for(request, capabilities)
        if warnings:
            plan = replace(plan, warnings=(*plan.warnings, *warnings))
        if plan.fetches_images:
            return self._with_fetched_images(request, next)
        return _respond(plan, next) if plan.second is None else _respond_in_two_requests(plan, plan.second, next)

    async def _with_fetched_images(self, request: Request, next: Next) -> Deltas:
        """Fetch the images that are given by URL, and send the request with their bytes instead."""
        from modelport.layers.adapt.fetch_images import with_image_bytes  # Here, because it imports asyncio.
        from modelport.layers.deadline import within_call

        fetching = with_image_bytes(request, allow_private=self._allow_private_urls)
        fetched = await within_call(request.timeouts, fetching)
        async with aclosing(self(fetched, next)) as deltas:
            async for delta in deltas:
                yield delta


async def _with_warnings(deltas: Deltas, warnings: list[CallWarning]) -> Deltas:
    """Yield the deltas, and the warnings in the first one, so that an interrupted response has them too."""
    async with aclosing(deltas):
        async for delta in deltas:
            if warnings:
                delta, warnings = replace(delta, warnings=[*warnings, *(delta.warnings or ())]), []
            yield delta


async def _respond_in_two_requests(plan: Plan, second: Plan, next: Next) -> Deltas:
    """Send a request with the tools. If the model calls none, send a second request with the output type instead."""
    buffered: list[ChatMessageStreamDelta] = []
    has_calls = False
    async with aclosing(_respond(plan, next)) as deltas:
        async for delta in deltas:
            # Text is buffered until the model calls a tool. If the model calls none, the text is discarded.
            has_calls = has_calls or bool(delta.tool_calls)
            buffered.append(delta)
            if has_calls:
                for earlier in buffered:
                    yield earlier
                buffered = []
    if has_calls:
        return
    warning = CallWarning(
        "substituted",
        "grammar",
        "Two requests were sent, one with the tools and one with the output type, because the backend does not accept "
        "both in one request.",
    )
    second = replace(second, warnings=(*second.warnings, *plan.warnings, warning))
    async with aclosing(_respond(second, next, accumulate(buffered).token_usage)) as deltas:
        async for delta in deltas:
            yield delta


async def _respond(plan: Plan, next: Next, usage: TokenUsage | None = None) -> Deltas:
    """Send the request of a plan, and validate the response. If its deltas are buffered, retry with feedback.

    Args:
        plan: The plan. Its `second` plan is ignored.
        next: The next layer.
        usage: The token usage of the requests that were sent before for the same call.
    """
    buffers_deltas = plan.enforcement is not None and not plan.original.stream
    retries_left = MAX_FEEDBACK_RETRIES if buffers_deltas and plan.enforcement == "validated" else 0
    earlier = EarlierUsage(usage)
    has_calls: list[bool] = []
    timeouts = plan.original.timeouts
    request = plan.sent.replace(needs_closing_delta=True)
    while True:
        buffered: list[ChatMessageStreamDelta] = []
        response = MessageBuilder()
        closing = ChatMessageStreamDelta()
        received = note_calls(next(request), has_calls) if plan.forced_tool is not None else next(request)
        async with aclosing(_rewritten_deltas(plan, received)) as deltas:
            try:
                async for delta in deltas:
                    response.add(delta)
                    if delta.finish_reason is not None or delta.token_usage is not None:
                        closing = delta
                    elif buffers_deltas:
                        buffered.append(delta)
                    else:
                        yield delta
            except ModelError as error:
                earlier.add(error, closing.token_usage)
                returns_calls = plan.original.tools and plan.original.tool_errors == "return"
                if not (returns_calls and isinstance(error, InvalidToolCall)):
                    raise
                # The service itself refuses the model's call.
                yield _as_the_model_wrote_it(error, plan, response, closing)
                return
        try:
            closing = await run_validation(partial(_validate, plan, response, closing), timeouts)
        except ModelError as error:
            earlier.add(error, closing.token_usage)
            if not isinstance(error, InvalidOutput):
                raise
            message = response.message()
            error.partial = replace(message, warnings=[*message.warnings, *plan.warnings])
            # Output that `max_tokens` truncated is not retried, because the next output could be truncated too.
            if not retries_left or message.finish_reason == "length":
                find = partial(disproved_by, plan, message, made_calls=bool(has_calls))
                error.disproved = await run_validation(find, timeouts)
                raise
            retries_left -= 1
            request = _with_feedback(request, message, error)
            continue
        for delta in buffered:
            yield delta
        closing.token_usage = add_usage(earlier.usage, closing.token_usage)
        yield closing
        return


def _rewritten_deltas(plan: Plan, deltas: Deltas) -> Deltas:
    """Return the deltas, rewritten as the plan requires."""
    if plan.text_calls is not None:
        deltas = read_calls(deltas, forced=plan.text_calls == "bare")
    if plan.keeps_one_call:
        deltas = keep_first_call(deltas)
    if plan.forced_tool is not None:
        deltas = arguments_as_text(deltas, plan.forced_tool)
    if plan.is_wrapped:
        deltas = unwrap_object(deltas, is_choice=isinstance(plan.original.grammar, Choice))
    return deltas


def _with_feedback(request: Request, message: ChatMessage, error: InvalidOutput) -> Request:
    """Return the request with two more messages: the invalid output, and its error with a request to answer again."""
    return request.replace(
        messages=(
            *request.messages,
            ChatMessage(MessageRole.ASSISTANT, message.text or " "),
            ChatMessage(MessageRole.USER, f"{error.message} Answer again, in the requested format."),
        )
    )


def _validate(plan: Plan, response: MessageBuilder, closing: ChatMessageStreamDelta) -> ChatMessageStreamDelta:
    """Validate a complete response.

    Returns:
        The closing delta, to which the parsed output, the enforcement and the warnings of the plan were added.

    Raises:
        InvalidToolCall: A tool call is not valid or not allowed, or a required tool call is missing.
        InvalidOutput: The output does not match the output type.
        InvalidRequest: The validation takes too long.
    """
    request, message = plan.original, response.message()
    closing = replace(closing, warnings=[*(closing.warnings or ()), *plan.warnings] or None)
    if message.tool_calls:
        for index, error in errors_of_calls(message, request.tools, request.tool_choice, response):
            _raise_or_note(error, request, closing, response.call_indices[index])
        if message.finish_reason == "stop":
            closing.finish_reason = "tool_calls"
        return closing
    if request.tools and request.tool_choice not in ("auto", "none"):
        truncated = " before max_tokens truncated its output" if message.finish_reason == "length" else ""
        error = InvalidToolCall(
            f"A tool call was required, and the model made none{truncated}. Its output: {message.text[:200]!r}",
            text=message.text,
            partial=message,
        )
        _raise_or_note(error, request, closing)
    if request.grammar is not None:
        closing.parsed = _validated_output(plan, request.grammar, message)
        closing.enforcement = plan.reported_enforcement
    return closing


def _as_the_model_wrote_it(
    error: InvalidToolCall, plan: Plan, response: MessageBuilder, closing: ChatMessageStreamDelta
) -> ChatMessageStreamDelta:
    """Return the last delta of a response that the service ended because of the model's tool call."""
    return replace(
        closing,
        token_usage=error.token_usage,
        content=None if response.has_output else error.text or None,
        finish_reason="stop",
        warnings=[*(closing.warnings or ()), *plan.warnings, CallWarning("invalid", "tools", error.message)],
    )


def _raise_or_note(
    error: InvalidToolCall, request: Request, closing: ChatMessageStreamDelta, index: int | None = None
) -> None:
    """Raise the error, or put it on the closing delta if the request has `tool_errors="return"`.

    Args:
        error: The error.
        request: The caller's request.
        closing: The closing delta.
        index: The index of the tool call that the error is about; `None` if it is about the message.
    """
    if request.tool_errors == "raise":
        raise error
    closing.warnings = [*(closing.warnings or ()), CallWarning("invalid", "tools", error.message)]
    if index is not None:
        piece = ChatMessageToolCallStreamDelta(index, error=error.message)
        closing.tool_calls = [*(closing.tool_calls or ()), piece]


def _validated_output(plan: Plan, grammar: Grammar, message: ChatMessage) -> Any:
    """Return the parsed output of a message.

    If the output was truncated and could have continued, it is invalid, even if the truncated text matches the type.

    Raises:
        InvalidOutput: The output does not match the output type.
    """
    truncated, stop_sequence = message.finish_reason == "length", message.stop_sequence or ""
    try:
        parsed = _parse(grammar, message.text, plan.nulls_for_optional)
        if (truncated or stop_sequence) and could_continue(grammar, message.text, stop_sequence):
            raise ValueError("it could have continued")
    except (ValueError, RecursionError) as error:
        problem = f"The output does not match the output type: {error}."
        if truncated:
            problem = (
                f"The output was truncated by max_tokens before it matched the output type: {error}. Raise max_tokens."
            )
        elif stop_sequence:
            problem = (
                f"The output was truncated by the stop sequence {stop_sequence!r} before it matched the output type: "
                f"{error}."
            )
        # If a validator of the caller's own type raised an error, `error.__cause__` is that error.
        raise InvalidOutput(problem, text=message.text, partial=message) from error.__cause__
    return parsed


def _parse(grammar: Grammar, text: str, nulls_for_optional: bool) -> Any:
    """Return the parsed output.

    Args:
        grammar: The output type.
        text: The output.
        nulls_for_optional: Whether the model wrote null for optional properties that have no value. Those nulls are
            removed before the output is parsed.

    Raises:
        ValueError: The output does not match the output type.
    """
    if nulls_for_optional and isinstance(grammar, JSONSchema):
        value = read_json(text)
        cleaned = remove_optional_nulls(grammar.schema, value, lambda schema, part: mismatch(schema, part) is None)
        if cleaned != value:
            text = json.dumps(cleaned)
    return grammar.parse(text)
