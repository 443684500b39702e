"""The blocks of a Converse message: text, images, files, thinking, tool calls and their results. Pure functions.

See https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.json_text import read_json
from modelport.types.capabilities import Capabilities
from modelport.types.content import Attachment, Image, Part, Text
from modelport.types.messages import ChatMessage, ChatMessageToolCall
from modelport.types.output_types import Grammar, JSONSchema

Block = dict[str, Any]

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf", "text/csv": "csv", "text/html": "html", "text/plain": "txt", "text/markdown": "md",
    "application/msword": "doc", "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}  # fmt: skip
MAX_IMAGE_BYTES, MAX_DOCUMENT_BYTES = 3_932_160, 4_718_592  # 3.75 MB and 4.5 MB
_CALL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
#: A tool that gave nothing back: AWS refuses blank text.
NOTHING = "(no output)"


def blocks_from(message: ChatMessage, place: str, names: set[str], capabilities: Capabilities) -> list[Block]:
    """The blocks of a message: thinking first, then what it says, then its calls. Blank text is left out.

    Args:
        message: Of any role but `tool`.
        place: How an error names it.
        names: Of the files so far, which must differ.
        capabilities: Say whether thinking without a signature is sent back.
    """
    blocks = _thinking(message, place, capabilities) if message.role == "assistant" else []
    for part, where in _parts(message, place):
        if message.role == "assistant" and not isinstance(part, Text):
            raise InvalidRequest(f"{where}: Bedrock takes {part.kind}s from the user only; move it to a user message")
        blocks += [*_part(part, where, names), *_cache_point(part)]
    return [*blocks, *(_call(call, place) for call in message.tool_calls or ())]


def tool_result(message: ChatMessage, place: str, names: set[str]) -> list[Block]:
    """The block of a `tool` message, and the cache point behind it where one of its parts asks for that."""
    parts = _parts(message, place)
    blocks = [block for part, where in parts for block in _part(part, where, names)]
    result = {"toolUseId": call_id(message.tool_call_id or ""), "content": blocks or [{"text": NOTHING}]}
    return [{"toolResult": result}, *[point for part, _ in parts for point in _cache_point(part)][-1:]]


def cache_point(ttl: str | None) -> Block:
    """Asks to cache the prompt up to here. See https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html

    Args:
        ttl: For how long, `5m` or `1h`; by default as the model has it.
    """
    return {"cachePoint": {"type": "default", **({"ttl": ttl} if ttl else {})}}


def _cache_point(part: Part) -> list[Block]:
    control = part.cache_control
    return [] if control is None else [cache_point(control.get("ttl"))]


def call_id(given: str) -> str:
    """The id of a call as AWS takes it; those of other services may be longer or hold other characters."""
    if _CALL_ID.fullmatch(given):
        return given
    return "call_" + hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _parts(message: ChatMessage, place: str) -> list[tuple[Part, str]]:
    if isinstance(message.content, str):
        return [(Text(message.content), f"{place}['content']")]
    return [(part, f"{place}['content'][{i}]") for i, part in enumerate(message.content or ())]


def _part(part: Part, where: str, names: set[str]) -> list[Block]:
    if isinstance(part, Text):
        return [{"text": part.text}] if part.text.strip() else []
    if isinstance(part, Image):
        kind = _IMAGES.get(part.media_type or "")
        if kind is None or not part.data:
            raise InvalidRequest(f"{where}: it is {part.media_type}; Bedrock takes PNG, JPEG, GIF and WebP: convert it")
        _check_size(part.data, MAX_IMAGE_BYTES, where)
        return [{"image": {"format": kind, "source": {"bytes": part.data}}}]
    if part.kind == "audio":
        return [{"audio": {"format": part.format, "source": {"bytes": part.data}}}]
    return [_document(part, where, names)]


def _document(part: Attachment, where: str, names: set[str]) -> Block:
    kind = _DOCUMENTS.get(part.format.partition(";")[0].strip().lower())
    if kind is None:
        raise InvalidRequest(f"{where}: it is {part.format}; Bedrock takes {', '.join(_DOCUMENTS.values())} files")
    if not part.data:
        raise InvalidRequest(f"{where}: the file is empty")
    _check_size(part.data, MAX_DOCUMENT_BYTES, where)
    # AWS takes letters, digits, single spaces, hyphens and brackets alone, and no name twice.
    stem = (part.name or "file").rpartition("/")[2]
    stem = stem[: -len(kind) - 1] if stem.lower().endswith(f".{kind}") else stem
    base = re.sub(r" {2,}", " ", re.sub(r"[^a-zA-Z0-9 ()\[\]-]", "-", stem)).strip()[:190] or "file"
    name, count = base, 1
    while name in names:
        count += 1
        name = f"{base} {count}"
    names.add(name)
    return {"document": {"format": kind, "name": name, "source": {"bytes": part.data}}}


def _check_size(data: bytes, most: int, where: str) -> None:
    if len(data) > most:
        raise InvalidRequest(f"{where}: it has {len(data):,} bytes; Bedrock takes {most:,}: make it smaller")


def _thinking(message: ChatMessage, place: str, capabilities: Capabilities) -> list[Block]:
    """Earlier thinking, as the service gave it; that of another service means nothing to this one."""
    blocks: list[Block] = []
    for i, detail in enumerate(message.reasoning_details or ()):
        if isinstance(sealed := detail.get("redactedContent"), str):
            try:
                blocks.append({"reasoningContent": {"redactedContent": base64.b64decode(sealed, validate=True)}})
            except binascii.Error:
                raise InvalidRequest(f"{place}['reasoning_details'][{i}]: 'redactedContent' is not base64") from None
        elif isinstance(text := detail.get("reasoningText"), dict):
            if not all(isinstance(text.get(key, ""), str) for key in ("text", "signature")) or "text" not in text:
                raise InvalidRequest(f"{place}['reasoning_details'][{i}]: 'reasoningText' needs a 'text'")
            kept = {key: text[key] for key in ("text", "signature") if key in text}
            blocks.append({"reasoningContent": {"reasoningText": kept}})
    if not blocks and capabilities.sends_reasoning and (message.reasoning or "").strip():
        blocks.append({"reasoningContent": {"reasoningText": {"text": message.reasoning}}})
    return blocks


def _call(call: ChatMessageToolCall, place: str) -> Block:
    name, arguments = call.function.name, call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments or "{}")
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            f"{place}['tool_calls']: the arguments of {name!r} are no JSON object, which Bedrock refuses; mend them or "
            "leave the call out"
        )
    if not TOOL_NAME.fullmatch(name):
        raise InvalidRequest(f"{place}['tool_calls']: {name!r} is no tool name that Bedrock takes")
    return {"toolUse": {"toolUseId": call_id(call.id), "name": name, "input": arguments}}


# --- the form of an answer --------------------------------------------------------------------------------------------


def written(grammar: Grammar) -> dict[str, Any]:
    """The `textFormat` that asks for a schema, which has been fitted to what the service takes.

    See https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html
    """
    if not isinstance(grammar, JSONSchema):
        raise InvalidRequest(f"{type(grammar).__name__}: Bedrock enforces JSON schemas alone")
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", grammar.name)[:64] or "answer"
    structure = {"jsonSchema": {"schema": json.dumps(grammar.schema), "name": name}}
    return {"type": "json_schema", "structure": structure}
