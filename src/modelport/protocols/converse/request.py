"""Translation of requests into the arguments of Bedrock's `converse` and `converse_stream`.

`converse_call_from` translates the messages into system blocks and turns, and adds the tools, the parameters and the
cache points, without I/O. A request that AWS would refuse by one of the following rules raises an error before anything
is sent. The modules `content` and `fields` list the rules for blocks and for parameters.

- The conversation starts with a user message, and user and assistant turns alternate. Consecutive messages of one role
  are joined into one turn. This happens here and not in the layer `adapt`, because AWS has no tool role: tool messages
  become part of a user turn only here.
- System messages are separate from the turns and hold text only. A later system message is moved to the beginning,
  with a warning.
- A user message must not be blank. A blank assistant message is left out.
- The results of an assistant turn's tool calls stand at the beginning of the next turn. Each call has exactly one
  result there, and each result there belongs to one of these calls. The ids of the calls in one turn differ.
- If the history has tool calls, `toolConfig` is mandatory. It is then sent even if the request allows no tool call,
  with a warning. If the request has no tools, the tools of `toolConfig` are made from the names in the tool calls.
- Claude can't be forced to call a tool while it reasons.
- A turn has at most 20 images and 5 documents. A turn with a document also has text.

See https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.protocols.converse.content import TOOL_NAME, Block, blocks_from, text_format, tool_result_blocks
from modelport.protocols.converse.fields import (
    FIELD_PATHS,
    add_cache_points,
    drop_sampling,
    fields_from,
    set_guardrail_config,
)
from modelport.types.capabilities import Capabilities
from modelport.types.messages import ChatMessage
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool
from modelport.types.warnings import CallWarning

MAX_IMAGES, MAX_DOCUMENTS = 20, 5


@dataclass(frozen=True)
class ConverseCall:
    """The arguments of a call, and what the code that reads the response needs to know.

    Args:
        arguments: The arguments of `converse` or `converse_stream`.
        allows_tool_calls: Whether the response may contain tool calls.
        warnings: What was sent in another way than the caller requested.
    """

    arguments: dict[str, Any]
    allows_tool_calls: bool
    warnings: tuple[CallWarning, ...] = ()


def converse_call_from(request: Request, model_id: str | None) -> ConverseCall:
    """The call of `converse` or `converse_stream` for a request.

    Args:
        request: A request that the layer `adapt` has adapted to `request.capabilities`. Four capabilities are applied
            here. `stop` and `max_stop_sequences` say how many stop sequences are sent. `sends_reasoning` says whether
            reasoning without a signature is sent back (signed reasoning always is). `renamed` has the dotted paths of
            the fields that depend on the model, such as `{"top_k": "additionalModelRequestFields.top_k"}`.
        model_id: The id of a model or of an inference profile, or an ARN.

    Raises:
        InvalidRequest: AWS would refuse the request; the message names the location and the fix.
        UnsupportedFeature: The API has no such feature.
    """
    capabilities = request.capabilities
    fields = fields_from(request, {**FIELD_PATHS, **capabilities.renamed})
    # The parts of the prompt ("tools", "system", "messages") at whose ends the caller wants a cache point.
    cached_sections = fields.pop("cachePoints", ())
    dropped = drop_sampling(fields)
    system, turns, warnings = _system_and_turns(request.messages, capabilities)
    warnings += dropped
    arguments: dict[str, Any] = {"modelId": model_id, "messages": turns}
    if system:
        arguments["system"] = system
    _check_tool_results(turns)
    tool_config, allows_tool_calls = _tool_config(request, turns, fields.pop("toolConfig", None))
    if tool_config:
        arguments["toolConfig"] = tool_config
        if not allows_tool_calls:
            warnings.append(
                CallWarning(
                    "changed",
                    "tools",
                    "toolConfig was sent although no tool may be called, because Bedrock requires it for a history "
                    "with tool calls.",
                )
            )
    # Bedrock refuses blank stop sequences. modelport's layer `stop` ends the output at them instead.
    stop_sequences = [stop for stop in request.stop_sequences if stop.strip()]
    if stop_sequences and capabilities.stop:
        inference_config = fields.setdefault("inferenceConfig", {})
        inference_config["stopSequences"] = stop_sequences[: capabilities.max_stop_sequences]
    if request.grammar is not None:
        fields.setdefault("outputConfig", {})["textFormat"] = text_format(request.grammar)
    reasoning_config = (fields.get("additionalModelRequestFields") or {}).get("thinking")  # Claude's field.
    if reasoning_config and {"any", "tool"} & {*(tool_config.get("toolChoice") or ())}:
        raise UnsupportedFeature(
            "this model can't be forced to call a tool while it reasons, nor to return structured output through a "
            "tool: leave reasoning_effort and reasoning_budget out, or tool_choice at 'auto' and the grammar out"
        )
    set_guardrail_config(fields, is_stream=request.stream)
    arguments |= fields
    add_cache_points(arguments, cached_sections)
    return ConverseCall(arguments, allows_tool_calls, tuple(warnings))


# --- messages ---------------------------------------------------------------------------------------------------------


def _system_and_turns(
    messages: Sequence[ChatMessage], capabilities: Capabilities
) -> tuple[list[Block], list[dict[str, Any]], list[CallWarning]]:
    """The system blocks, the alternating turns, and warnings about system messages that were moved."""
    system: list[Block] = []
    turns: list[dict[str, Any]] = []
    warnings: list[CallWarning] = []
    document_names: set[str] = set()
    for i, message in enumerate(messages):
        location = f"messages[{i}]"
        if message.role == "tool":
            blocks = tool_result_blocks(message, location, document_names)
        else:
            blocks = blocks_from(
                message, location, document_names, sends_unsigned_reasoning=capabilities.sends_reasoning
            )
        if message.role == "system":
            if any("text" not in block and "cachePoint" not in block for block in blocks):
                raise InvalidRequest(
                    f"{location}: a system message on Bedrock contains text only; move the rest to a user message"
                )
            if turns and blocks:
                text = f"{location}: The system message was moved to the beginning, where alone Bedrock accepts it."
                warnings.append(CallWarning("changed", "messages", text))
            system += blocks
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if not blocks:
            if role == "user":
                raise InvalidRequest(
                    f"{location}: the text is blank, which Bedrock refuses; write some text or leave the message out"
                )
            continue
        if not turns and role != "user":
            raise InvalidRequest(
                f"{location}: the conversation starts with an assistant message; Bedrock requires a user message first"
            )
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise InvalidRequest("messages contains no user message, which Bedrock requires: add one")
    for turn in turns:
        if all("text" in block for block in turn["content"]):
            continue  # Most turns have text only: there are no media to check and no tool results to move.
        _check_media(turn["content"])
        turn["content"].sort(key=lambda block: "toolResult" not in block)  # This puts tool results first.
    return system, turns, warnings


def _check_media(blocks: list[Block]) -> None:
    """Check the number of images and documents of a turn, and that a document comes with text."""
    result_blocks = [inner for block in blocks for inner in block.get("toolResult", {}).get("content", ())]
    images, documents = (sum(kind in block for block in [*blocks, *result_blocks]) for kind in ("image", "document"))
    if images > MAX_IMAGES or documents > MAX_DOCUMENTS:
        raise InvalidRequest(
            f"one turn has {images} images and {documents} files; Bedrock accepts {MAX_IMAGES} and {MAX_DOCUMENTS}"
        )
    if any("document" in block for block in blocks) and not any("text" in block for block in blocks):
        raise InvalidRequest("a turn with a file needs text too on Bedrock: write what the model should do with it")


def _check_tool_results(turns: list[dict[str, Any]]) -> None:
    """Check that every call has its result in the turn after it, and every result its call in the turn before."""
    call_ids: list[str] = []  # The ids of the calls in the turn before.
    for turn in [*turns, {"content": ()}]:  # The empty turn is added to find calls in the last turn: they lack results.
        result_ids = [block["toolResult"]["toolUseId"] for block in turn["content"] if "toolResult" in block]
        if missing := [call_id for call_id in call_ids if call_id not in result_ids]:
            raise InvalidRequest(
                f"the tool call {missing[0]!r} has no result: add a 'tool' message for it right after it"
            )
        if extra := [
            result_id for result_id in result_ids if result_id not in call_ids or result_ids.count(result_id) > 1
        ]:
            raise InvalidRequest(
                f"the 'tool' message for {extra[0]!r} must be the only one, and right after the message with that call"
            )
        call_ids = [block["toolUse"]["toolUseId"] for block in turn["content"] if "toolUse" in block]
        if duplicates := [call_id for call_id in call_ids if call_ids.count(call_id) > 1]:
            raise InvalidRequest(f"two tool calls of one turn have the id {duplicates[0]!r}; ids must differ")


# --- tools ------------------------------------------------------------------------------------------------------------


def _tool_config(
    request: Request, turns: list[dict[str, Any]], callers_config: dict[str, Any] | None
) -> tuple[dict[str, Any], bool]:
    """The `toolConfig` (empty if none is needed), and whether the response may contain tool calls.

    Args:
        request: The request, whose tools are added to those in `callers_config`.
        turns: The turns of the request, which may contain tool calls.
        callers_config: The caller's own `toolConfig`, or `None`.
    """
    past_calls = [block["toolUse"] for turn in turns for block in turn["content"] if "toolUse" in block]
    callers_tools = (callers_config or {}).get("tools", ())
    if not isinstance(callers_tools, Sequence):
        raise InvalidRequest(f"toolConfig['tools'] must be a list, not {type(callers_tools).__name__}")
    tools: list[Any] = [*callers_tools, *map(_tool_spec, request.tools)]
    allows_tool_calls = bool(tools) and request.tool_choice != "none"
    if not allows_tool_calls and not past_calls:
        return {}, False
    if not tools:
        names = dict.fromkeys(call["name"] for call in past_calls)  # A dict drops duplicates and preserves the order.
        tools = [_tool_spec(Tool(name, description="", parameters={"type": "object"})) for name in names]
    config = {**(callers_config or {}), "tools": tools}
    if request.tool_choice == "required":
        config["toolChoice"] = {"any": {}}
    elif isinstance(request.tool_choice, NamedToolChoice):
        config["toolChoice"] = {"tool": {"name": request.tool_choice.name}}
    elif not allows_tool_calls:
        config.pop("toolChoice", None)
    return config, allows_tool_calls


def _tool_spec(tool: Tool) -> dict[str, Any]:
    if not TOOL_NAME.fullmatch(tool.name):
        raise InvalidRequest(
            f"tool {tool.name!r}: Bedrock accepts names of up to 64 letters, digits, '_' and '-'; rename the tool"
        )
    if tool.parameters.get("type", "object") != "object":
        raise InvalidRequest(f"tool {tool.name!r}: the parameters must be a JSON schema of type 'object'")
    spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": {"type": "object", **tool.parameters}}}
    if tool.description.strip():
        spec["description"] = tool.description
    return {"toolSpec": spec}
