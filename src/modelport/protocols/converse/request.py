"""Requests in the form of Bedrock's Converse API. Pure functions; what AWS would refuse is found here.

See https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.protocols.converse.content import TOOL_NAME, Block, blocks_from, tool_result, written
from modelport.protocols.converse.fields import PLACES, fields_from, guarded, place_cache_points
from modelport.types.capabilities import Capabilities
from modelport.types.messages import ChatMessage
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool

MAX_IMAGES, MAX_DOCUMENTS = 20, 5


@dataclass(frozen=True)
class ConverseCall:
    """What is sent, and what was honoured another way.

    Args:
        arguments: Of `converse` and `converse_stream`.
        may_call: Whether an answer may hold tool calls.
        warnings: In words.
    """

    arguments: dict[str, Any]
    may_call: bool
    warnings: tuple[str, ...] = ()


def call_from(request: Request, model_id: str | None, capabilities: Capabilities) -> ConverseCall:
    """The arguments of the client's call.

    Args:
        request: In normal form, fitted to the capabilities.
        model_id: A model's id, an inference profile's, or an ARN.
        capabilities: Say where further parameters go, and how many stop sequences are taken.

    Raises:
        InvalidRequest: AWS would refuse it; the message names the place and the fix.
        UnsupportedFeature: The API can't do it.
    """
    given = fields_from(request, {**PLACES, **capabilities.renamed})
    points = given.pop("cachePoints", ())
    system, turns, warnings = _turns(request.messages, capabilities)
    arguments: dict[str, Any] = {"modelId": model_id, "messages": turns}
    if system:
        arguments["system"] = system
    _check_calls(turns)
    own_tools = given.pop("toolConfig", None)
    tools, may_call = _tool_config(request, turns, own_tools)
    if tools:
        arguments["toolConfig"] = tools
        if not may_call:
            warnings.append("toolConfig was sent though no tool may be called: the history holds calls, so it must be")
    stops = [stop for stop in request.stop_sequences if stop.strip()]  # a blank one is refused; the port cuts at it
    if stops and capabilities.stop:
        given.setdefault("inferenceConfig", {})["stopSequences"] = stops[: capabilities.max_stop_sequences]
    if request.grammar is not None:
        given.setdefault("outputConfig", {})["textFormat"] = written(request.grammar)
    thinks = (given.get("additionalModelRequestFields") or {}).get("thinking")
    if thinks and {"any", "tool"} & {*(tools.get("toolChoice") or ())}:
        raise UnsupportedFeature(
            "this model can't be made to call a tool while it thinks, nor to answer through one: leave "
            "reasoning_effort and reasoning_budget out, or tool_choice at 'auto' and the grammar out"
        )
    arguments |= guarded(given, request.stream)
    place_cache_points(arguments, points)
    return ConverseCall(arguments, may_call, tuple(warnings))


# --- messages ---------------------------------------------------------------------------------------------------------


def _turns(
    messages: Sequence[ChatMessage], capabilities: Capabilities
) -> tuple[list[Block], list[dict[str, Any]], list[str]]:
    """System blocks, alternating turns, and warnings."""
    system: list[Block] = []
    turns: list[dict[str, Any]] = []
    warnings: list[str] = []
    names: set[str] = set()
    for i, message in enumerate(messages):
        place = f"messages[{i}]"
        if message.role == "system":
            blocks = blocks_from(message, place, names, capabilities)
            if any("text" not in block and "cachePoint" not in block for block in blocks):
                raise InvalidRequest(
                    f"{place}: a system message holds text alone on Bedrock; put the rest into a user's"
                )
            if turns and blocks:
                warnings.append(f"{place}: Bedrock takes system messages at the beginning only; it was moved there")
            system += blocks
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if message.role == "tool":
            blocks = tool_result(message, place, names)
        else:
            blocks = blocks_from(message, place, names, capabilities)
        if not blocks:
            if role == "user":
                raise InvalidRequest(
                    f"{place}: its text is blank, which Bedrock refuses; say something or leave it out"
                )
            continue  # an assistant that said nothing
        if not turns and role != "user":
            raise InvalidRequest(
                f"{place}: the conversation begins with the assistant's turn; Bedrock wants the user's first"
            )
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise InvalidRequest("messages holds no user message, which Bedrock needs: add one")
    for turn in turns:
        if all("text" in block for block in turn["content"]):
            continue  # as nearly all are
        _check_turn(turn["content"])
        # Results of calls stand at the beginning of the turn after them.
        turn["content"].sort(key=lambda block: "toolResult" not in block)
    return system, turns, warnings


def _check_turn(blocks: list[Block]) -> None:
    everything = [*blocks, *(inner for b in blocks for inner in b.get("toolResult", {}).get("content", ()))]
    images, documents = (sum(kind in block for block in everything) for kind in ("image", "document"))
    if images > MAX_IMAGES or documents > MAX_DOCUMENTS:
        raise InvalidRequest(
            f"one turn holds {images} images and {documents} files; Bedrock takes {MAX_IMAGES} and {MAX_DOCUMENTS}"
        )
    if any("document" in block for block in blocks) and not any("text" in block for block in blocks):
        raise InvalidRequest("a turn with a file needs text too on Bedrock: say what to do with the file")


def _check_calls(turns: list[dict[str, Any]]) -> None:
    """Every call has its result in the turn after it, and every result its call in the turn before."""
    made: list[str] = []
    for turn in [*turns, {"content": ()}]:
        answered = [block["toolResult"]["toolUseId"] for block in turn["content"] if "toolResult" in block]
        if missing := [call for call in made if call not in answered]:
            raise InvalidRequest(
                f"the tool call {missing[0]!r} has no result: add a 'tool' message for it right after it"
            )
        if extra := [call for call in answered if call not in made or answered.count(call) > 1]:
            raise InvalidRequest(
                f"the 'tool' message for {extra[0]!r} must be the only one, and right after the message with that call"
            )
        made = [block["toolUse"]["toolUseId"] for block in turn["content"] if "toolUse" in block]
        if not made:
            continue
        if twice := [call for call in made if made.count(call) > 1]:
            raise InvalidRequest(f"two tool calls of one turn have the id {twice[0]!r}; ids must differ")


# --- tools ------------------------------------------------------------------------------------------------------------


def _tool_config(
    request: Request, turns: list[dict[str, Any]], given: dict[str, Any] | None
) -> tuple[dict[str, Any], bool]:
    """The tool configuration, empty where there is none, and whether an answer may hold calls.

    It is needed as long as the history holds calls, even where the request gives no tools.
    """
    uses = [block["toolUse"] for turn in turns for block in turn["content"] if "toolUse" in block]
    own = (given or {}).get("tools", ())
    if not isinstance(own, Sequence):
        raise InvalidRequest(f"toolConfig['tools'] must be a list, not {type(own).__name__}")
    tools: list[Any] = [*own, *map(_tool_spec, request.tools)]
    may_call = bool(tools) and request.tool_choice != "none"
    if not may_call and not uses:
        return {}, False
    if not tools:
        names = dict.fromkeys(use["name"] for use in uses)
        tools = [_tool_spec(Tool(name, "", {"type": "object"})) for name in names]
    config = {**(given or {}), "tools": tools}
    if request.tool_choice == "required":
        config["toolChoice"] = {"any": {}}
    elif isinstance(request.tool_choice, NamedToolChoice):
        config["toolChoice"] = {"tool": {"name": request.tool_choice.name}}
    elif not may_call:
        config.pop("toolChoice", None)
    return config, may_call


def _tool_spec(tool: Tool) -> dict[str, Any]:
    if not TOOL_NAME.fullmatch(tool.name):
        raise InvalidRequest(
            f"tool {tool.name!r}: Bedrock takes names of up to 64 letters, digits, '_' and '-'; rename it"
        )
    if tool.parameters.get("type", "object") != "object":
        raise InvalidRequest(f"tool {tool.name!r}: its parameters must be a JSON schema of type 'object'")
    spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": {"type": "object", **tool.parameters}}}
    if tool.description.strip():
        spec["description"] = tool.description
    return {"toolSpec": spec}
