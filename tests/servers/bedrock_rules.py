"""What AWS refuses in a Converse request, by botocore's service model and by the rules that AWS documents.

`check` validates a body against the service model first. Each further rule is one function, which raises `Refused`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

from modelport.types.content import sniff_image


class Refused(Exception):
    """A ValidationException of AWS; the text is AWS's or close to it."""


@functools.cache
def service() -> Any:
    """botocore's model of the service `bedrock-runtime`."""
    return botocore.session.get_session().get_service_model("bedrock-runtime")


def check(body: Any, operation: str) -> dict[str, Any]:
    """The parameters of a request as the client passed them, with blobs as bytes.

    Args:
        body: The parsed JSON body.
        operation: `Converse` or `ConverseStream`.

    Raises:
        Refused: AWS would refuse the request.
    """
    shape = service().operation_model(operation).input_shape
    parameters: dict[str, Any] = _read(shape, {"modelId": "m", **body} if isinstance(body, dict) else body, "request")
    if report := ParamValidator().validate(parameters, shape).generate_report():
        raise Refused(report)
    rules = (
        _check_turns, _check_texts, _check_calls, _check_tools, _check_media, _check_cache_points, _check_reasoning,
        _check_output_schema, _check_length,
    )  # fmt: skip
    for rule in rules:
        rule(parameters)
    return parameters


def _read(shape: Any, value: Any, location: str) -> Any:
    """A value of a body, validated against its shape: types, members, unions, lengths, patterns, enumerations."""
    kind = shape.type_name
    if kind == "structure":
        if getattr(shape, "is_document_type", False):
            return value
        _require(isinstance(value, dict), location, "must be an object")
        for key in value:
            _require(key in shape.members, location, f"extraneous key [{key}] is not permitted")
        for key in shape.required_members:
            _require(key in value, location, f"required key [{key}] not found")
        _require(
            not shape.metadata.get("union") or len(value) == 1, location, f"exactly one member, not {sorted(value)}"
        )
        return {key: _read(shape.members[key], item, f"{location}.{key}") for key, item in value.items()}
    if kind == "list":
        _require(isinstance(value, list), location, "must be a list")
        _check_bounds(shape, len(value), location)
        return [_read(shape.member, item, f"{location}.{i}") for i, item in enumerate(value)]
    if kind == "map":
        _require(isinstance(value, dict), location, "must be an object")
        _check_bounds(shape, len(value), location)
        return {_read(shape.key, k, location): _read(shape.value, v, f"{location}.{k}") for k, v in value.items()}
    if kind == "blob":
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError):
            raise Refused(f"{location}: is not base64") from None
        _check_bounds(shape, len(data), location)
        return data
    if kind == "string":
        _require(isinstance(value, str), location, "must be a string")
        _check_bounds(shape, len(value), location)
        pattern = shape.metadata.get("pattern")
        _require(
            location == "request.modelId" or not pattern or re.fullmatch(pattern, value),
            location,
            f"must match {pattern}",
        )
        _require(not shape.enum or value in shape.enum, location, f"must be one of {shape.enum}")
    elif kind == "boolean":
        _require(isinstance(value, bool), location, "must be a boolean")
    else:
        types = (int,) if kind in ("integer", "long") else (int, float)
        _require(isinstance(value, types) and not isinstance(value, bool), location, f"must be a {kind}")
        _check_bounds(shape, value, location)
    return value


def _check_bounds(shape: Any, size: float, location: str) -> None:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    _require(
        (low is None or size >= low) and (high is None or size <= high), location, f"{size} is not within {low}..{high}"
    )


def _require(condition: Any, location: str, problem: str) -> None:
    if not condition:
        raise Refused(f"{location}: {problem}")


def _blocks(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for i, message in enumerate(parameters.get("messages", ())):
        for j, block in enumerate(message["content"]):
            yield f"messages.{i}.content.{j}", message["role"], block


def _check_turns(parameters: Mapping[str, Any]) -> None:
    messages = parameters.get("messages", ())
    _require(messages, "messages", "at least one message is required")
    _require(messages[0]["role"] == "user", "messages", "A conversation must start with a user message")
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        _require(
            message["role"] == role,
            f"messages.{i}",
            f'roles must alternate between "user" and "assistant"; {role} expected',
        )
        _require(message["content"], f"messages.{i}.content", "is empty")


def _check_texts(parameters: Mapping[str, Any]) -> None:
    texts = [(location, block["text"]) for location, _, block in _blocks(parameters) if "text" in block]
    texts += [(f"system.{i}", block["text"]) for i, block in enumerate(parameters.get("system", ())) if "text" in block]
    for location, _, block in _blocks(parameters):
        for inner in block.get("toolResult", {}).get("content", ()):
            texts += [(location, inner["text"])] if "text" in inner else []
    for location, text in texts:
        _require(
            text.strip(), location, "The text field in the ContentBlock object is blank. Add text to the text field"
        )
    for stop in parameters.get("inferenceConfig", {}).get("stopSequences", ()):
        _require(stop.strip(), "inferenceConfig.stopSequences", "each stop sequence must contain non-whitespace")


def _check_calls(parameters: Mapping[str, Any]) -> None:
    call_ids: list[str] = []
    for i, message in enumerate([*parameters["messages"], {"content": []}]):
        content = message["content"]
        result_ids = [block["toolResult"]["toolUseId"] for block in content if "toolResult" in block]
        _require(
            sorted(result_ids) == sorted(call_ids),
            f"messages.{i}",
            f"Expected toolResult blocks for the Ids {call_ids}, got {result_ids}",
        )
        _require(
            all("toolResult" in block for block in content[: len(result_ids)]),
            f"messages.{i}",
            "toolResult blocks come first",
        )
        uses = [block["toolUse"] for block in content if "toolUse" in block]
        call_ids = [use["toolUseId"] for use in uses]
        _require(len(set(call_ids)) == len(call_ids), f"messages.{i}", "duplicate toolUse ids")
        for use in uses:
            _require(isinstance(use["input"], dict), f"messages.{i}", "the toolUse input must be a json object")
        role = message.get("role")
        _require(not uses or role == "assistant", f"messages.{i}", "toolUse blocks are the assistant's")
        _require(not result_ids or role == "user", f"messages.{i}", "toolResult blocks are the user's")


def _check_tools(parameters: Mapping[str, Any]) -> None:
    has_blocks = any("toolUse" in block or "toolResult" in block for _, _, block in _blocks(parameters))
    config = parameters.get("toolConfig")
    _require(config or not has_blocks, "toolConfig", "must be defined when using toolUse and toolResult content blocks")
    specs = [tool["toolSpec"] for tool in (config or {}).get("tools", ()) if "toolSpec" in tool]
    names = [spec["name"] for spec in specs]
    _require(len(set(names)) == len(names), "toolConfig", "tool names must be unique")
    for spec in specs:
        schema = spec["inputSchema"]["json"]
        _require(
            isinstance(schema, dict) and schema.get("type") == "object",
            f"toolConfig {spec['name']}",
            "type must be object",
        )
    named = (config or {}).get("toolChoice", {}).get("tool", {}).get("name")
    _require(named is None or named in names, "toolConfig.toolChoice", f"there is no tool {named}")


def _check_media(parameters: Mapping[str, Any]) -> None:
    names: list[str] = []
    for i, message in enumerate(parameters["messages"]):
        content = message["content"]
        documents = [block["document"] for block in content if "document" in block]
        images = [block["image"] for block in content if "image" in block]
        for block in content:
            for inner in block.get("toolResult", {}).get("content", ()):
                documents += [inner["document"]] if "document" in inner else []
                images += [inner["image"]] if "image" in inner else []
        location = f"messages.{i}"
        _require(message["role"] == "user" or not documents + images, location, "images and documents are the user's")
        _require(len(images) <= 20 and len(documents) <= 5, location, "too many images or documents")
        has_document = any("document" in block for block in content)
        _require(
            not has_document or any("text" in block for block in content), location, "a document needs a text block"
        )
        for image in images:
            data = image["source"]["bytes"]
            _require(sniff_image(data) == f"image/{image['format']}", location, "Could not process image")
            _require(len(data) <= 3.75 * 2**20, location, "image exceeds the maximum size")
        for document in documents:
            name = document["name"]
            names.append(name)
            _require(
                re.fullmatch(r"[a-zA-Z0-9()\[\]\- ]+", name) and "  " not in name, location, f"document name {name!r}"
            )
            _require(len(document["source"]["bytes"]) <= 4.5 * 2**20, location, "document exceeds the maximum size")
    _require(len(set(names)) == len(names), "messages", "document names must be unique")


def _check_cache_points(parameters: Mapping[str, Any]) -> None:
    sections = [parameters.get("system", []), parameters.get("toolConfig", {}).get("tools", [])]
    sections += [message["content"] for message in parameters["messages"]]
    count = sum("cachePoint" in block for blocks in sections for block in blocks)
    _require(count <= 4, "cachePoint", f"A maximum of 4 blocks with cache points may be provided. Found {count}")
    for blocks in sections:
        _require(not blocks or "cachePoint" not in blocks[0], "cachePoint", "there is nothing before it to cache")


def signature_of(text: str) -> str:
    """The signature of reasoning that the server has sent."""
    return hashlib.sha256(b"signed " + text.encode()).hexdigest()


def redacted_reasoning(text: str) -> bytes:
    """Reasoning that only the server can read; its bytes are not valid UTF-8."""
    return b"\xff\xfe" + hashlib.sha256(b"redacted " + text.encode()).digest() + text.encode()


def _check_reasoning(parameters: Mapping[str, Any]) -> None:
    for location, role, block in _blocks(parameters):
        if (inner := block.get("reasoningContent")) is None:
            continue
        _require(role == "assistant", location, "reasoning is the assistant's")
        if "redactedContent" in inner:
            data = inner["redactedContent"]
            _require(
                data == redacted_reasoning(data[34:].decode(errors="replace")),
                location,
                "Invalid data in redacted_thinking",
            )
        else:
            text = inner["reasoningText"]
            _require("signature" in text, location, "thinking.signature: Field required")
            _require(text["signature"] == signature_of(text["text"]), location, "Invalid signature in thinking block")


#: Keywords that AWS refuses in an output schema.
#: See https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html
_UNSUPPORTED_KEYWORDS = {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
    "uniqueItems", "oneOf", "not", "if", "patternProperties", "minProperties", "maxProperties",
}  # fmt: skip


def _check_output_schema(parameters: Mapping[str, Any]) -> None:
    text_format = parameters.get("outputConfig", {}).get("textFormat")
    if text_format is None:
        return
    try:
        schema = json.loads(text_format["structure"]["jsonSchema"]["schema"])
    except ValueError:
        raise Refused("outputConfig: the schema is not JSON") from None
    _check_schema(schema)


def _check_schema(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _check_schema(part)
    if not isinstance(schema, dict):
        return
    for key in schema:
        _require(key not in _UNSUPPORTED_KEYWORDS, "outputConfig", f"property {key!r} is not supported")
    if schema.get("type") == "object":
        _require(schema.get("additionalProperties") is False, "outputConfig", "additionalProperties must be false")
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions"):
            _check_schema(list(value.values()))
        elif key not in ("enum", "const", "default"):
            _check_schema(value)


def _check_length(parameters: Mapping[str, Any]) -> None:
    size = sum(len(block.get("text", "")) for _, _, block in _blocks(parameters))
    _require(size <= 20_000, "Input", "Input is too long for requested model.")
