"""Decides how a request is sent to a backend with given capabilities. The functions are pure.

Theory of operation:

Everything is decided before anything is sent. A request is sent as it is, or it is rewritten and the message says so
(`warnings`, `enforcement`), or it is refused with `UnsupportedFeature`. First `adapt_to_capabilities` adapts the
parameters, content and roles of the request. Then two parts are planned, the tools and the output type (`grammar`):

1. If the backend supports tools, they are sent. A `tool_choice` that the backend does not support is replaced:

   - `none`: no tools are sent. This also applies if the request has an output type, and the backend does not accept
     tools together with an output type.
   - a named tool: only that tool is sent, with `required`.
   - `required`: `auto` is sent. A warning says that the choice is checked, not enforced.

   The response is always validated against the `tool_choice` that the caller gave.
2. If the backend does not support tools, they are described in the prompt, with a warning, and tool calls are read from
   the text of the response. Tool calls and tool results in earlier messages become text, even in a request without
   tools.
3. An output type is enforced or validated in the first of these ways that the backend supports:

   - `enforced`: by constrained decoding, or by the service's schema mode. If it is not known whether the service
     enforces anything (`Capabilities.enforces_grammars`), the message says `validated`. A JSON schema is rewritten to
     the subset that the backend supports (`Capabilities.schema_rules`). Constraints outside of the subset are written
     into the descriptions of the schema, and a warning says so. A `Choice`, or a schema that is not an object, may be
     wrapped in an object with one property, because some services accept only objects.
   - `forced_tool`: the schema becomes the parameters of a tool that the model must call. The backend must support tools
     and the `tool_choice` `named` or `required`, and the caller's request must have no tools. Stop sequences are not
     sent, because they could truncate the JSON of the call; a warning says so.
   - `validated`: the output type is described in an additional message, and the output is validated.

   With `strict`, a request is refused unless the first way is possible and the subset includes every constraint of the
   schema. A Lark grammar is enforced or refused, because modelport cannot validate an output against it.
4. If a request has an output type and tools:

   - A `tool_choice` of `required` or of a named tool is refused, because the output would always be a tool call.
   - One request is sent if the output type is only validated, or if the backend can enforce it in a request with tools.
   - Otherwise two requests are planned. The first has the tools and no output type. If the model calls no tool, its
     text is discarded, and the second request has the output type and no tools.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from modelport.errors import UnsupportedFeature
from modelport.layers.adapt.capabilities import adapt_to_capabilities, has_image_urls
from modelport.layers.adapt.prompted_tools import put_tools_into_prompt
from modelport.layers.adapt.wrapping import wrap_in_object
from modelport.schema.rules import UnsupportedSchema, is_any_object
from modelport.types.capabilities import Capabilities
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool
from modelport.types.warnings import CallWarning

#: A message that is added to a request if the service requires that a message mentions JSON.
JSON_HINT = "Answer with a JSON object."
_CHOICE_NOT_ENFORCED = CallWarning(
    "not_enforced",
    "tool_choice",
    "tool_choice was checked, not enforced, because the backend supports only 'auto'.",
)
_TOOLS_IN_PROMPT = CallWarning(
    "substituted", "tools", "The tools were put into the prompt, because the backend does not support tools."
)
_NOT_KNOWN = CallWarning(
    "not_enforced",
    "grammar",
    "The output type was sent and the output checked, because it is not known whether this service enforces it.",
)
_STOP_NOT_SENT = CallWarning(
    "left_out", "stop_sequences", "Stop sequences were not sent, because the output comes as a tool call."
)


@dataclass(frozen=True)
class Plan:
    """How a request is sent, and how its response is read.

    Args:
        original: The caller's request. The response is validated against its tools, tool choice and output type.
        sent: The request that the backend receives.
        enforcement: How the output type is enforced: `enforced`, `forced_tool` or `validated`; `None` if the request
            has no output type.
        forced_tool: The name of the tool whose arguments are the output; `None` unless `enforcement` is `forced_tool`.
        is_wrapped: Whether the model writes the output as the only property of an object.
        nulls_for_optional: Whether the model writes null for an optional property that has no value, because the
            backend requires every property.
        text_calls: How the model writes tool calls in its text: `tagged` if each call stands between the marks
            `<tool_call>` and `</tool_call>`, `bare` if the whole output is a call or a list of calls. `None` if the
            backend supports tools, or if the model must not call any.
        fetches_images: Whether the images that are given by URL have to be fetched before the request is sent.
        warnings: The warnings that the message receives because of this plan.
        second: The plan of a second request, which is sent if the response to the first has no tool call; `None` if
            there is no second request.
    """

    original: Request
    sent: Request
    enforcement: Literal["enforced", "forced_tool", "validated"] | None = None
    forced_tool: str | None = None
    is_wrapped: bool = False
    nulls_for_optional: bool = False
    text_calls: Literal["tagged", "bare"] | None = None
    fetches_images: bool = False
    warnings: tuple[CallWarning, ...] = ()
    second: Plan | None = None

    @property
    def reported_enforcement(self) -> str | None:
        """The value of `message.enforcement`: what is known, which may be less than what the backend declares."""
        is_known = self.enforcement != "enforced" or self.original.capabilities.enforces_grammars
        return self.enforcement if is_known else "validated"

    @property
    def keeps_one_call(self) -> bool:
        """Whether tool calls after the first are dropped, because some backends ignore `parallel_tool_calls=False`."""
        return bool(self.original.tools) and self.original.parameters.get("parallel_tool_calls") is False


def plan_for(request: Request, capabilities: Capabilities) -> Plan:
    """Return the plan for a request.

    Raises:
        UnsupportedFeature: The backend does not support something in the request, and there is no substitute for it.
    """
    plan = _plan(adapt_to_capabilities(request, capabilities), capabilities)
    fetches_images = not capabilities.image_urls and has_image_urls(request.messages)
    return replace(plan, fetches_images=True) if fetches_images else plan


def _plan(request: Request, capabilities: Capabilities) -> Plan:
    grammar = request.grammar
    if grammar is not None and request.tools and request.tool_choice != "none":
        if request.tool_choice != "auto":
            raise UnsupportedFeature(
                f"grammar and tool_choice={request.tool_choice!r} together: the output would always be a tool call and "
                "never match the grammar; give one of them"
            )
        without_tools = _plan(request.replace(tools=()), capabilities)
        accepts_both = capabilities.grammar_with_tools and capabilities.tools
        if without_tools.enforcement != "validated" and not (accepts_both and without_tools.enforcement == "enforced"):
            return replace(_plan_tools(request.replace(grammar=None), capabilities), second=without_tools)
    # Without support for tools, tool calls in earlier messages become text, even if the request has no tools.
    needs_tool_plan = request.tools or not capabilities.tools
    plan = _plan_tools(request, capabilities) if needs_tool_plan else Plan(original=request, sent=request)
    return plan if grammar is None else _plan_output_type(plan, grammar, capabilities)


def _plan_tools(request: Request, capabilities: Capabilities) -> Plan:
    if not capabilities.tools:
        return _plan_prompted_tools(request, capabilities)
    choice, tools = request.tool_choice, request.tools
    warnings: tuple[CallWarning, ...] = ()
    grammar_excludes_tools = request.grammar is not None and not capabilities.grammar_with_tools
    if choice == "none" and (grammar_excludes_tools or "none" not in capabilities.tool_choices):
        return Plan(original=request, sent=request.replace(tools=(), tool_choice="auto"))
    if isinstance(choice, NamedToolChoice) and "named" not in capabilities.tool_choices:
        tools, choice = tuple(tool for tool in tools if tool.name == choice.name), "required"
    if choice == "required" and "required" not in capabilities.tool_choices:
        choice, warnings = "auto", (_CHOICE_NOT_ENFORCED,)
    return Plan(original=request, sent=request.replace(tools=tools, tool_choice=choice), warnings=warnings)


def _plan_prompted_tools(request: Request, capabilities: Capabilities) -> Plan:
    rewritten, forced = put_tools_into_prompt(request, capabilities)
    # Adapt the request once more: the tools may be described in a new system message, which the backend may not accept.
    sent = adapt_to_capabilities(rewritten, capabilities)
    if not request.tools or request.tool_choice == "none":
        return Plan(original=request, sent=sent)
    warnings = (_TOOLS_IN_PROMPT, *((_STOP_NOT_SENT,) if forced and request.stop_sequences else ()))
    return Plan(original=request, sent=sent, text_calls="bare" if forced else "tagged", warnings=warnings)


def _plan_output_type(plan: Plan, grammar: Grammar, capabilities: Capabilities) -> Plan:
    request = plan.sent
    if type(grammar) in capabilities.grammars and not capabilities.enforces_grammars:
        if request.strict:
            raise UnsupportedFeature(
                "strict=True: it is not known whether this server enforces output types; name its kind with dialect=…, "
                "or pass capabilities={'enforces_grammars': True} if it does"
            )
        plan = replace(plan, warnings=(*plan.warnings, _NOT_KNOWN))
    if type(grammar) in capabilities.grammars and not isinstance(grammar, JSONSchema):
        return replace(plan, enforcement="enforced")
    is_object = isinstance(grammar, JSONSchema) and grammar.schema.get("type") == "object"
    wrapper = wrap_in_object(grammar) if isinstance(grammar, JSONSchema | Choice) and not is_object else None
    reason = ""  # Why the backend cannot enforce the schema, for the error message.
    if JSONSchema in capabilities.grammars:
        for schema in (grammar, wrapper):
            try:
                if isinstance(schema, JSONSchema):
                    return replace(_plan_schema(plan, schema, capabilities), is_wrapped=schema is wrapper)
            except UnsupportedSchema as error:
                reason = reason or f" ({error})"
    if request.strict:
        raise UnsupportedFeature(
            f"strict=True: this backend does not enforce this {type(grammar).__name__}{reason}; without strict, the "
            "output comes as a tool call or is validated, if that is possible"
        )
    if isinstance(grammar, Lark):
        raise UnsupportedFeature(
            "this backend cannot enforce a context-free grammar (Lark), and modelport cannot validate one"
            + ("" if capabilities.enforces_grammars else "; if its server can, name the server's kind with dialect=…")
        )
    can_force = capabilities.tools and not request.tools and capabilities.tool_choices & {"named", "required"}
    object_schema = grammar if is_object else wrapper
    if isinstance(object_schema, JSONSchema) and can_force:
        plan = _plan_forced_tool(plan, object_schema, capabilities)
        return replace(plan, is_wrapped=not is_object)
    may_call = bool(plan.original.tools) and plan.original.tool_choice != "none"
    instruction = f"{'Call a tool, or answer with' if may_call else 'Answer with'} {grammar.describe()}"
    messages = (*request.messages, ChatMessage(MessageRole.USER, instruction))
    sent = adapt_to_capabilities(request.replace(grammar=None, messages=messages), capabilities)
    return replace(plan, sent=sent, enforcement="validated")


def _plan_schema(plan: Plan, grammar: JSONSchema, capabilities: Capabilities) -> Plan:
    """Return the plan with the schema rewritten to the subset that the backend enforces.

    Raises:
        UnsupportedSchema: The schema cannot be expressed in the subset.
        UnsupportedFeature: The request is `strict`, and the schema has a keyword that the subset lacks.
    """
    rules = capabilities.schema_rules
    if rules is None:
        return replace(plan, sent=plan.sent.replace(grammar=grammar), enforcement="enforced")
    rewritten = rules.rewrite(grammar.schema)
    if rewritten.left_out and plan.original.strict:
        raise UnsupportedFeature(
            f"strict=True: this backend does not enforce {', '.join(rewritten.left_out)} of the schema; "
            f"without strict: {'; '.join(rewritten.warnings)}"
        )
    left_out = (CallWarning("not_enforced", "grammar", text) for text in rewritten.warnings)
    warnings = (*plan.warnings, *left_out)
    sent = plan.sent.replace(grammar=replace(grammar, schema=rewritten.schema))
    # Services with a mode for "any JSON object" (`any_object`) refuse this mode unless a message mentions JSON.
    if rules.any_object and is_any_object(rewritten.schema) and not _mentions_json(sent):
        sent = sent.replace(messages=(*sent.messages, ChatMessage(MessageRole.USER, JSON_HINT)))
        text = f"{JSON_HINT!r} was added to the messages, because the service requires that they mention JSON."
        warnings = (*warnings, CallWarning("changed", "messages", text))
    return replace(plan, sent=sent, enforcement="enforced", warnings=warnings, nulls_for_optional=rules.all_required)


def _mentions_json(request: Request) -> bool:
    return any("json" in message.text.lower() for message in request.messages)


def _plan_forced_tool(plan: Plan, object_schema: JSONSchema, capabilities: Capabilities) -> Plan:
    """Return the plan with a tool that the model must call, and that has the schema of an object as its parameters."""
    tool = Tool(object_schema.name, "Give the answer through this tool.", object_schema.schema)
    choice = NamedToolChoice(tool.name) if "named" in capabilities.tool_choices else "required"
    warnings = plan.warnings
    if plan.sent.stop_sequences:
        warnings = (*warnings, _STOP_NOT_SENT)
    sent = plan.sent.replace(grammar=None, tools=(tool,), tool_choice=choice, stop_sequences=())
    return replace(plan, sent=sent, enforcement="forced_tool", forced_tool=tool.name, warnings=warnings)
