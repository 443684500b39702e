"""Gives a request its form: what the backend can't do by itself is done another way and said, or refused.

It stands outside retry and limit, so that a re-ask is retried and limited like any call.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from modelport.constrained.continuation import could_continue
from modelport.errors import InvalidOutput, InvalidToolCall, UnsupportedFeature
from modelport.layers.adapt.capabilities import adapt_to_capabilities, holds_image_urls
from modelport.layers.adapt.forced_tool import tool_as_text
from modelport.layers.adapt.prompted_tools import prompted, read_calls
from modelport.layers.adapt.single_call import first_call
from modelport.layers.adapt.wrapping import unwrap_object, wrap_in_object
from modelport.layers.base import Deltas, Next
from modelport.schema.json_text import read_json
from modelport.schema.rules import UnsupportedSchema, is_any_object, remove_optional_nulls
from modelport.schema.validation import mismatch
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta, MessageBuilder, accumulate
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool, check_calls
from modelport.types.usage import TokenUsage

#: How often an answer that does not have its form is sent back with the error, when nothing enforces the form.
REASKS = 2


class HasCapabilities(Protocol):
    """What this layer needs to know of a model; read at each call, since a model may learn."""

    #: Whether images by URL may be fetched from private addresses.
    allow_private_urls: bool

    @property
    def capabilities(self) -> Capabilities:
        """What the backend and its model can do."""
        ...


@dataclass(frozen=True)
class _Plan:
    """How a request is carried out.

    Args:
        asked: What the caller asked for, which the answer is held against.
        request: What the backend is sent.
        nulls: Whether nulls stand in the place of optional properties.
        wraps: Whether the answer comes as the property of an object.
        then: Where the first request offers tools alone and the model calls none, how the answer is asked for.
    """

    asked: Request
    request: Request
    enforcement: str | None = None
    forced_tool: str | None = None
    nulls: bool = False
    wraps: bool = False
    reads_calls: bool = False
    whole_is_call: bool = False
    warnings: tuple[str, ...] = ()
    then: _Plan | None = None


class Adapt:
    """The layer.

    Args:
        model: Whose capabilities decide.
    """

    def __init__(self, model: HasCapabilities) -> None:
        self._model = model

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Rewrites the request to what the backend declares, and checks the answer's form.

        Raises:
            UnsupportedFeature: It can't be done, before anything is sent.
        """
        capabilities = request.capabilities
        fitted = adapt_to_capabilities(request, capabilities)
        if not capabilities.image_urls and holds_image_urls(request.messages):
            return self._fetched(request, next)
        has_tool_turns = not capabilities.tools and any(m.tool_calls or m.role == "tool" for m in request.messages)
        if request.grammar is None and not request.tools and not has_tool_turns:
            return next(fitted)
        plan = plan_for(fitted, capabilities)
        return _formed(plan, next) if plan.then is None else _in_two(plan, plan.then, next)

    async def _fetched(self, request: Request, next: Next) -> Deltas:
        """Goes on with the bytes of images that were given by URL, which this backend does not fetch."""
        from modelport.layers.adapt.fetch_images import with_bytes  # and asyncio, at the first call

        whole = await with_bytes(request, allow_private=self._model.allow_private_urls)
        async with aclosing(self(whole, next)) as deltas:
            async for delta in deltas:
                yield delta


def plan_for(request: Request, capabilities: Capabilities) -> _Plan:
    """How the request is carried out.

    Raises:
        UnsupportedFeature: It can't be.
    """
    grammar = request.grammar
    if grammar is not None and request.tools and request.tool_choice != "none":
        if request.tool_choice != "auto":
            raise UnsupportedFeature(
                f"grammar and tool_choice={request.tool_choice!r} together: the answer would always be a tool call and "
                "never have the grammar's form; give one of them"
            )
        alone = plan_for(request.replace(tools=()), capabilities)
        together = capabilities.grammar_with_tools and capabilities.tools
        if alone.enforcement != "validated" and not (together and alone.enforcement == "enforced"):
            return replace(_plan_tools(request.replace(grammar=None), capabilities), then=alone)
    plan = _plan_tools(request, capabilities) if request.tools or not capabilities.tools else _Plan(request, request)
    return plan if grammar is None else _plan_grammar(plan, grammar, capabilities)


def _plan_tools(request: Request, capabilities: Capabilities) -> _Plan:
    if not capabilities.tools:
        rewritten, forced = prompted(request, capabilities)
        says = ("tools were put into the prompt: the backend takes none by itself",) if request.tools else ()
        reads = bool(request.tools) and request.tool_choice != "none"
        # Instructions went into a system message, which the backend may not take.
        sent = adapt_to_capabilities(rewritten, capabilities)
        return _Plan(request, sent, reads_calls=reads, whole_is_call=forced, warnings=says)
    choice, tools = request.tool_choice, request.tools
    warnings: tuple[str, ...] = ()
    too_much = request.grammar is not None and not capabilities.grammar_with_tools
    if choice == "none" and (too_much or "none" not in capabilities.tool_choices):
        return _Plan(request, request.replace(tools=(), tool_choice="auto"))
    if isinstance(choice, NamedToolChoice) and "named" not in capabilities.tool_choices:
        tools, choice = tuple(tool for tool in tools if tool.name == choice.name), "required"
    if choice == "required" and "required" not in capabilities.tool_choices:
        choice, warnings = "auto", ("tool_choice was checked, not enforced: the backend knows only 'auto'",)
    return _Plan(request, request.replace(tools=tools, tool_choice=choice), warnings=warnings)


def _plan_grammar(plan: _Plan, grammar: Grammar, capabilities: Capabilities) -> _Plan:
    request, why = plan.request, ""
    is_object = isinstance(grammar, JSONSchema) and grammar.schema.get("type") == "object"
    inside = wrap_in_object(grammar) if isinstance(grammar, JSONSchema | Choice) and not is_object else None
    if type(grammar) in capabilities.grammars and not isinstance(grammar, JSONSchema):
        return replace(plan, enforcement="enforced")
    if JSONSchema in capabilities.grammars:
        for form in (grammar, inside):
            try:
                if isinstance(form, JSONSchema):
                    return replace(_plan_schema(plan, form, capabilities), wraps=form is inside)
            except UnsupportedSchema as problem:
                why = why or f" ({problem})"
    if request.strict:
        raise UnsupportedFeature(
            f"strict=True: this backend does not enforce this {type(grammar).__name__}{why}; without strict the answer "
            "is put through a tool or checked, where that can be"
        )
    if isinstance(grammar, Lark):
        raise UnsupportedFeature(
            "this backend can't hold an answer to a context-free grammar (Lark), nor can it be checked"
        )
    can_force = capabilities.tools and not request.tools and capabilities.tool_choices & {"named", "required"}
    document = grammar if is_object else inside
    if isinstance(document, JSONSchema) and can_force:
        tool = Tool(document.name, "Give the answer through this tool.", document.schema)
        choice = NamedToolChoice(tool.name) if "named" in capabilities.tool_choices else "required"
        rewritten = request.replace(grammar=None, tools=(tool,), tool_choice=choice, stop_sequences=())
        says = ("stop sequences were left out: the answer comes through a tool",) if request.stop_sequences else ()
        return replace(
            plan, request=rewritten, enforcement="forced_tool", forced_tool=tool.name, wraps=not is_object,
            warnings=(*plan.warnings, *says),
        )  # fmt: skip
    may_call = bool(plan.asked.tools) and plan.asked.tool_choice != "none"
    how = "Call a tool, or answer with" if may_call else "Answer with"
    asked = ChatMessage(MessageRole.USER, f"{how} {grammar.describe()}")
    rewritten = adapt_to_capabilities(request.replace(grammar=None, messages=(*request.messages, asked)), capabilities)
    return replace(plan, request=rewritten, enforcement="validated")


def _plan_schema(plan: _Plan, grammar: JSONSchema, capabilities: Capabilities) -> _Plan:
    """The schema in the backend's subset.

    Raises:
        UnsupportedSchema: It can't be said there.
    """
    rules = capabilities.schema_rules
    if rules is None:
        return replace(plan, request=plan.request.replace(grammar=grammar), enforcement="enforced")
    fitted = rules.rewrite(grammar.schema)
    if fitted.left_out and plan.asked.strict:
        raise UnsupportedFeature(
            f"strict=True: this backend does not enforce {', '.join(fitted.left_out)} of the schema; without strict: "
            f"{'; '.join(fitted.warnings)}"
        )
    warnings = (*plan.warnings, *fitted.warnings)
    request = plan.request.replace(grammar=replace(grammar, schema=fitted.schema))
    if rules.any_object and is_any_object(fitted.schema) and not _speak_of_json(request):
        # OpenAI refuses to give just any object unless the conversation asks for JSON by that name.
        request = request.replace(
            messages=(*request.messages, ChatMessage(MessageRole.USER, "Answer with a JSON object."))
        )
        warnings = (*warnings, "'Answer with a JSON object.' was added to the messages: the service wants that said")
    return replace(plan, request=request, enforcement="enforced", warnings=warnings, nulls=rules.all_required)


def _speak_of_json(request: Request) -> bool:
    return any("json" in message.text.lower() for message in request.messages)


async def _in_two(plan: _Plan, then: _Plan, next: Next) -> Deltas:
    """Asks with tools, and where the model calls none, again for the answer in its form."""
    held: list[ChatMessageStreamDelta] = []
    calls = False
    async with aclosing(_formed(plan, next)) as deltas:
        async for delta in deltas:
            # What is said before a call may turn out to be a draft of the answer, which must have its form.
            calls = calls or bool(delta.tool_calls)
            held.append(delta)
            if calls:
                for piece in held:
                    yield piece
                held = []
    if calls:
        return
    spent = accumulate(held).token_usage
    says = (
        *plan.warnings,
        "the answer was asked for twice, with tools and then in its form: the backend takes one of both at a time",
    )
    then = replace(then, warnings=(*then.warnings, *says))
    async with aclosing(_formed(then, next, spent)) as deltas:
        async for delta in deltas:
            yield delta


async def _formed(plan: _Plan, next: Next, spent: TokenUsage | None = None) -> Deltas:
    """The answer, held against what was asked; `spent` is what has been spent on it before."""
    request = plan.asked
    held = plan.enforcement == "validated" and not request.stream
    reasks = REASKS if held else 0
    attempt = plan.request
    while True:
        seen: list[ChatMessageStreamDelta] = []
        response = MessageBuilder()
        deltas = next(attempt)
        if plan.reads_calls:
            deltas = read_calls(deltas, plan.whole_is_call)
        if request.tools and request.parameters.get("parallel_tool_calls") is False:
            deltas = first_call(deltas)
        if plan.forced_tool:
            deltas = tool_as_text(deltas, plan.forced_tool)
        if plan.wraps:
            deltas = unwrap_object(deltas, isinstance(request.grammar, Choice))
        closing = ChatMessageStreamDelta()
        async with aclosing(deltas):
            async for delta in deltas:
                response.add(delta)
                if held:
                    seen.append(delta)
                if delta.finish_reason is not None or delta.token_usage is not None:
                    closing = delta
                elif not held:
                    yield delta
        spent = _added(spent, closing.token_usage)
        message = response.message()
        try:
            closing = _checked(plan, response, closing)
        except InvalidOutput as error:
            if not reasks or error.partial is None or error.partial.finish_reason == "length":
                raise
            reasks -= 1
            attempt = attempt.replace(
                messages=(
                    *attempt.messages,
                    ChatMessage(MessageRole.ASSISTANT, message.text or " "),
                    ChatMessage(MessageRole.USER, f"{error.message} Answer again, in the form asked for."),
                )
            )
            continue
        if held:
            for delta in seen[:-1]:
                yield delta
        closing.token_usage = spent
        yield closing
        return


def _checked(plan: _Plan, response: MessageBuilder, closing: ChatMessageStreamDelta) -> ChatMessageStreamDelta:
    """The closing delta with what the check adds to it.

    Raises:
        InvalidToolCall: A call is broken or was not asked for, or there is none where one was.
        InvalidOutput: The answer does not have the grammar's form.
    """
    request, message = plan.asked, response.message()
    closing = replace(closing, warnings=[*(closing.warnings or ()), *plan.warnings] or None)
    if message.tool_calls:
        check_calls(message, request.tools, request.tool_choice, response)
        if message.finish_reason == "stop":
            closing.finish_reason = "tool_calls"
        return closing
    if request.tools and request.tool_choice not in ("auto", "none"):
        cut = " before max_tokens cut it off" if message.finish_reason == "length" else ""
        raise InvalidToolCall(
            f"A tool call was asked for and the model made none{cut}. It answered: {message.text[:200]!r}",
            text=message.text,
            partial=message,
        )
    if request.grammar is None:
        return closing
    by_length, stop = message.finish_reason == "length", message.stop_sequence or ""
    try:
        closing.parsed = _parsed(request.grammar, message.text, plan.nulls)
        if (by_length or stop) and could_continue(request.grammar, message.text, stop):
            raise ValueError("it may have gone on")
    except (ValueError, RecursionError) as error:
        says = f"The answer does not have the form asked for: {error}."
        if by_length:
            says = f"The answer was cut off by max_tokens before it had the form asked for: {error}. Raise max_tokens."
        elif stop:
            says = f"The answer was cut off by the stop sequence {stop!r} before it had the form asked for: {error}."
        # The cause, where there is one, is what a validator of the user's own type raised.
        raise InvalidOutput(says, text=message.text, partial=message) from error.__cause__
    closing.enforcement = plan.enforcement
    return closing


def _parsed(grammar: Grammar, text: str, nulls: bool) -> Any:
    """The answer as its grammar reads it.

    Args:
        grammar: The one that was asked for.
        text: The answer.
        nulls: Whether nulls may stand in the place of optional properties.

    Raises:
        ValueError: It does not have the form.
    """
    if nulls and isinstance(grammar, JSONSchema):
        value = read_json(text)
        kept = remove_optional_nulls(grammar.schema, value, lambda schema, part: mismatch(schema, part) is None)
        if kept != value:
            text = json.dumps(kept)
    return grammar.parse(text)


def _added(a: TokenUsage | None, b: TokenUsage | None) -> TokenUsage | None:
    """What two asks cost together; a count that one of them lacks is unknown."""
    if a is None or b is None:
        return a or b
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in TokenUsage.__slots__}
    return TokenUsage(**{n: None if x is None or y is None else x + y for n, (x, y) in pairs.items()})
