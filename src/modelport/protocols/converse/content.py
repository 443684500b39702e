"""Content blocks of Converse messages: text, images, documents, reasoning, tool calls and tool results.

The functions translate the parts of a message into blocks, without I/O. A block that AWS would refuse by one of the
following rules raises `InvalidRequest` before anything is sent:

- Text must not be blank. Blank text is left out, and a tool result without content becomes `EMPTY_RESULT_TEXT`.
- An image is a PNG, JPEG, GIF or WebP file of at most 3.75 MB.
- A document has one of the types in `_DOCUMENT_FORMATS`, is not empty, and is at most 4.5 MB in size.
- A document's name consists of letters, digits, single spaces, hyphens, parentheses and square brackets, and no two
  documents of a request have the same name. Other names are rewritten.
- Images, documents and audio are accepted in user messages and tool results, not in assistant messages.
- Audio is passed on without a check of its format or size.
- The id of a tool call consists of 1 to 64 letters, digits, `_`, `.`, `:` and `-`. Other ids are replaced by a hash.
- The name of a tool consists of 1 to 64 letters, digits, `_` and `-`.
- The input of a tool call is a JSON object.
- Reasoning of earlier turns that the service has signed or encrypted is sent back unchanged. Reasoning without a
  signature is sent back only to models that accept it (`sends_unsigned_reasoning`).

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
from modelport.schema.json_text import excerpt, read_json
from modelport.types.content import Attachment, Image, Part, Text
from modelport.types.messages import ChatMessage, ChatMessageToolCall
from modelport.types.output_types import Grammar, JSONSchema

Block = dict[str, Any]

_IMAGE_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENT_FORMATS = {
    "application/pdf": "pdf", "text/csv": "csv", "text/html": "html", "text/plain": "txt", "text/markdown": "md",
    "application/msword": "doc", "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}  # fmt: skip
MAX_IMAGE_BYTES, MAX_DOCUMENT_BYTES = 3_932_160, 4_718_592  # 3.75 MB and 4.5 MB
_TOOL_USE_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
#: The text of a tool result that has no content, because AWS refuses blank text.
EMPTY_RESULT_TEXT = "(no output)"


def blocks_from(
    message: ChatMessage, location: str, document_names: set[str], sends_unsigned_reasoning: bool
) -> list[Block]:
    """The blocks of a message: reasoning first, then the content, then the tool calls.

    Args:
        message: A message of any role but `tool`.
        location: Where the message is in the request, such as `messages[0]`, for error messages.
        document_names: The names of the documents in earlier messages. This message's documents are added to the set.
        sends_unsigned_reasoning: Whether reasoning without a signature is sent back. Signed reasoning always is.

    Raises:
        InvalidRequest: A part or a tool call breaks a rule of this module.
    """
    blocks = _reasoning_blocks(message, location, sends_unsigned_reasoning) if message.role == "assistant" else []
    for part, part_location in _located_parts(message, location):
        if message.role == "assistant" and not isinstance(part, Text):
            raise InvalidRequest(
                f"{part_location}: Bedrock accepts {part.kind}s in user messages only; move it to a user message"
            )
        blocks += [*_part_blocks(part, part_location, document_names), *_cache_points_after(part)]
    return [*blocks, *(_tool_use_block(call, location) for call in message.tool_calls or ())]


def tool_result_blocks(message: ChatMessage, location: str, document_names: set[str]) -> list[Block]:
    """The block of a `tool` message, followed by one cache point if a part of the message asks for caching.

    Args:
        message: A message of the role `tool`.
        location: Where the message is in the request, such as `messages[0]`, for error messages.
        document_names: The names of the documents in earlier messages. This message's documents are added to the set.

    Raises:
        InvalidRequest: A part breaks a rule of this module.
    """
    parts = _located_parts(message, location)
    blocks = [block for part, part_location in parts for block in _part_blocks(part, part_location, document_names)]
    result = {"toolUseId": tool_use_id(message.tool_call_id or ""), "content": blocks or [{"text": EMPTY_RESULT_TEXT}]}
    return [{"toolResult": result}, *[point for part, _ in parts for point in _cache_points_after(part)][-1:]]


def cache_point(ttl: str | None) -> Block:
    """A block that asks the service to cache the prompt up to this block.

    See https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html

    Args:
        ttl: How long the prompt is cached, `5m` or `1h`; `None` for the model's default.
    """
    return {"cachePoint": {"type": "default", **({"ttl": ttl} if ttl else {})}}


def tool_use_id(call_id: str) -> str:
    """An id for a tool call that AWS accepts; ids of other services may be longer or have other characters.

    Equal ids remain equal, so that a tool result still refers to its call.

    Args:
        call_id: The id in the message.
    """
    if _TOOL_USE_ID.fullmatch(call_id):
        return call_id
    return "call_" + hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def text_format(output_type: Grammar) -> dict[str, Any]:
    """The field `outputConfig.textFormat`, which requests structured output.

    Args:
        output_type: A JSON schema. The layer `adapt` has already rewritten it to the subset that the service enforces.

    See https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html

    Raises:
        InvalidRequest: The output type is not a JSON schema.
    """
    if not isinstance(output_type, JSONSchema):
        raise InvalidRequest(f"{type(output_type).__name__}: Bedrock enforces JSON schemas only")
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", output_type.name)[:64] or "answer"
    structure = {"jsonSchema": {"schema": json.dumps(output_type.schema), "name": name}}
    return {"type": "json_schema", "structure": structure}


def _cache_points_after(part: Part) -> list[Block]:
    control = part.cache_control
    return [] if control is None else [cache_point(control.get("ttl"))]


def _located_parts(message: ChatMessage, location: str) -> list[tuple[Part, str]]:
    """The parts of a message, each with its location for error messages."""
    if isinstance(message.content, str):
        return [(Text(message.content), f"{location}['content']")]
    return [(part, f"{location}['content'][{i}]") for i, part in enumerate(message.content or ())]


def _part_blocks(part: Part, location: str, document_names: set[str]) -> list[Block]:
    if isinstance(part, Text):
        return [{"text": part.text}] if part.text.strip() else []
    if isinstance(part, Image):
        kind = _IMAGE_FORMATS.get(part.media_type or "")
        if kind is None or not part.data:
            raise InvalidRequest(
                f"{location}: the image's type is {part.media_type}; Bedrock accepts PNG, JPEG, GIF and WebP: convert "
                "the image"
            )
        _check_size(part.data, MAX_IMAGE_BYTES, location)
        return [{"image": {"format": kind, "source": {"bytes": part.data}}}]
    # The `format` of audio is a name such as "wav", which is sent as it is. The `format` of a document is a media type.
    if part.kind == "audio":
        return [{"audio": {"format": part.format, "source": {"bytes": part.data}}}]
    return [_document_block(part, location, document_names)]


def _document_block(part: Attachment, location: str, document_names: set[str]) -> Block:
    kind = _DOCUMENT_FORMATS.get(part.format.partition(";")[0].strip().lower())
    if kind is None:
        accepted = ", ".join(_DOCUMENT_FORMATS.values())
        raise InvalidRequest(f"{location}: the file's type is {part.format}; Bedrock accepts {accepted} files")
    if not part.data:
        raise InvalidRequest(f"{location}: the file is empty")
    _check_size(part.data, MAX_DOCUMENT_BYTES, location)
    name = _document_name(part.name or "file", kind, document_names)
    document_names.add(name)
    return {"document": {"format": kind, "name": name, "source": {"bytes": part.data}}}


def _document_name(file_name: str, extension: str, document_names: set[str]) -> str:
    """A name that AWS accepts and that no other document of the request has."""
    stem = file_name.rpartition("/")[2]
    stem = stem[: -len(extension) - 1] if stem.lower().endswith(f".{extension}") else stem
    base = re.sub(r" {2,}", " ", re.sub(r"[^a-zA-Z0-9 ()\[\]-]", "-", stem)).strip()[:190] or "file"
    name, count = base, 1
    while name in document_names:
        count += 1
        name = f"{base} {count}"
    return name


def _check_size(data: bytes, max_bytes: int, location: str) -> None:
    if len(data) > max_bytes:
        raise InvalidRequest(
            f"{location}: the data has {len(data):,} bytes; Bedrock accepts {max_bytes:,}: make it smaller"
        )


def _reasoning_blocks(message: ChatMessage, location: str, sends_unsigned_reasoning: bool) -> list[Block]:
    """The reasoning of an earlier turn, exactly as this service returned it.

    Provider data of other protocols is ignored. If there is no signed or encrypted reasoning, and
    `sends_unsigned_reasoning` is set, the text `message.reasoning` is sent instead.
    """
    blocks: list[Block] = []
    data = message.provider_data
    for i, detail in enumerate(data.items if data is not None and data.protocol == "converse" else ()):
        if isinstance(redacted := detail.get("redactedContent"), str):
            try:
                blocks.append({"reasoningContent": {"redactedContent": base64.b64decode(redacted, validate=True)}})
            except binascii.Error:
                raise InvalidRequest(
                    f"{location}['provider_data']['items'][{i}]: 'redactedContent' is not base64"
                ) from None
        elif isinstance(text := detail.get("reasoningText"), dict):
            if not all(isinstance(text.get(key, ""), str) for key in ("text", "signature")) or "text" not in text:
                raise InvalidRequest(f"{location}['provider_data']['items'][{i}]: 'reasoningText' needs a 'text'")
            known = {key: text[key] for key in ("text", "signature") if key in text}
            blocks.append({"reasoningContent": {"reasoningText": known}})
    if not blocks and sends_unsigned_reasoning and (message.reasoning or "").strip():
        blocks.append({"reasoningContent": {"reasoningText": {"text": message.reasoning}}})
    return blocks


def _tool_use_block(call: ChatMessageToolCall, location: str) -> Block:
    name, arguments = call.function.name, call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments or "{}")
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            f"{location}['tool_calls']: the arguments of {excerpt(name)} are not a JSON object, as Bedrock requires; "
            "correct them or remove the call"
        )
    if not TOOL_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{location}['tool_calls']: Bedrock does not accept the tool name {excerpt(name)}; a name has up to 64 "
            "letters, digits, '_' and '-'"
        )
    return {"toolUse": {"toolUseId": tool_use_id(call.id), "name": name, "input": arguments}}
