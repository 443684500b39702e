"""What AWS refuses in a Converse request: by botocore's own service model, and by the rules that AWS documents."""

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
    """A ValidationException; the text is AWS's or close to it."""


@functools.cache
def service() -> Any:
    """botocore's model of the service."""
    return botocore.session.get_session().get_service_model("bedrock-runtime")


def check(body: Any, operation: str) -> dict[str, Any]:
    """The request's parameters as a client gave them, blobs as bytes.

    Raises:
        Refused: AWS would not take it.
    """
    shape = service().operation_model(operation).input_shape
    params: dict[str, Any] = _read(shape, {"modelId": "m", **body} if isinstance(body, dict) else body, "request")
    if report := ParamValidator().validate(params, shape).generate_report():
        raise Refused(report)
    for rule in (_turns, _texts, _calls, _tools, _media, _cache, _thinking, _form, _length):
        rule(params)
    return params


def _read(shape: Any, value: Any, place: str) -> Any:
    """A value on the wire, held to its shape: types, members, unions, lengths, patterns, enumerations."""
    kind = shape.type_name
    if kind == "structure":
        if getattr(shape, "is_document_type", False):
            return value
        _want(isinstance(value, dict), place, "must be an object")
        for key in value:
            _want(key in shape.members, place, f"extraneous key [{key}] is not permitted")
        for key in shape.required_members:
            _want(key in value, place, f"required key [{key}] not found")
        _want(not shape.metadata.get("union") or len(value) == 1, place, f"exactly one member, not {sorted(value)}")
        return {key: _read(shape.members[key], item, f"{place}.{key}") for key, item in value.items()}
    if kind == "list":
        _want(isinstance(value, list), place, "must be a list")
        _bounds(shape, len(value), place)
        return [_read(shape.member, item, f"{place}.{i}") for i, item in enumerate(value)]
    if kind == "map":
        _want(isinstance(value, dict), place, "must be an object")
        _bounds(shape, len(value), place)
        return {_read(shape.key, k, place): _read(shape.value, v, f"{place}.{k}") for k, v in value.items()}
    if kind == "blob":
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError):
            raise Refused(f"{place}: is not base64") from None
        _bounds(shape, len(data), place)
        return data
    if kind == "string":
        _want(isinstance(value, str), place, "must be a string")
        _bounds(shape, len(value), place)
        pattern = shape.metadata.get("pattern")
        _want(place == "request.modelId" or not pattern or re.fullmatch(pattern, value), place, f"must match {pattern}")
        _want(not shape.enum or value in shape.enum, place, f"must be one of {shape.enum}")
    elif kind == "boolean":
        _want(isinstance(value, bool), place, "must be a boolean")
    else:
        types = (int,) if kind in ("integer", "long") else (int, float)
        _want(isinstance(value, types) and not isinstance(value, bool), place, f"must be a {kind}")
        _bounds(shape, value, place)
    return value


def _bounds(shape: Any, size: float, place: str) -> None:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    _want((low is None or size >= low) and (high is None or size <= high), place, f"{size} is not within {low}..{high}")


def _want(condition: Any, place: str, problem: str) -> None:
    if not condition:
        raise Refused(f"{place}: {problem}")


def _blocks(params: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for i, message in enumerate(params.get("messages", ())):
        for j, block in enumerate(message["content"]):
            yield f"messages.{i}.content.{j}", message["role"], block


def _turns(params: Mapping[str, Any]) -> None:
    messages = params.get("messages", ())
    _want(messages, "messages", "at least one message is required")
    _want(messages[0]["role"] == "user", "messages", "A conversation must start with a user message")
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        _want(
            message["role"] == role,
            f"messages.{i}",
            f'roles must alternate between "user" and "assistant"; {role} expected',
        )
        _want(message["content"], f"messages.{i}.content", "is empty")


def _texts(params: Mapping[str, Any]) -> None:
    texts = [(place, block["text"]) for place, _, block in _blocks(params) if "text" in block]
    texts += [(f"system.{i}", block["text"]) for i, block in enumerate(params.get("system", ())) if "text" in block]
    for place, _, block in _blocks(params):
        for inner in block.get("toolResult", {}).get("content", ()):
            texts += [(place, inner["text"])] if "text" in inner else []
    for place, text in texts:
        _want(text.strip(), place, "The text field in the ContentBlock object is blank. Add text to the text field")
    for stop in params.get("inferenceConfig", {}).get("stopSequences", ()):
        _want(stop.strip(), "inferenceConfig.stopSequences", "each stop sequence must contain non-whitespace")


def _calls(params: Mapping[str, Any]) -> None:
    made: list[str] = []
    for i, message in enumerate([*params["messages"], {"content": []}]):
        content = message["content"]
        answers = [block["toolResult"]["toolUseId"] for block in content if "toolResult" in block]
        _want(
            sorted(answers) == sorted(made),
            f"messages.{i}",
            f"Expected toolResult blocks for the Ids {made}, got {answers}",
        )
        _want(
            all("toolResult" in block for block in content[: len(answers)]),
            f"messages.{i}",
            "toolResult blocks come first",
        )
        uses = [block["toolUse"] for block in content if "toolUse" in block]
        made = [use["toolUseId"] for use in uses]
        _want(len(set(made)) == len(made), f"messages.{i}", "duplicate toolUse ids")
        for use in uses:
            _want(isinstance(use["input"], dict), f"messages.{i}", "the toolUse input must be a json object")
        mine = message.get("role")
        _want(not uses or mine == "assistant", f"messages.{i}", "toolUse blocks are the assistant's")
        _want(not answers or mine == "user", f"messages.{i}", "toolResult blocks are the user's")


def _tools(params: Mapping[str, Any]) -> None:
    has_blocks = any("toolUse" in block or "toolResult" in block for _, _, block in _blocks(params))
    config = params.get("toolConfig")
    _want(config or not has_blocks, "toolConfig", "must be defined when using toolUse and toolResult content blocks")
    specs = [tool["toolSpec"] for tool in (config or {}).get("tools", ()) if "toolSpec" in tool]
    names = [spec["name"] for spec in specs]
    _want(len(set(names)) == len(names), "toolConfig", "tool names must be unique")
    for spec in specs:
        schema = spec["inputSchema"]["json"]
        _want(
            isinstance(schema, dict) and schema.get("type") == "object",
            f"toolConfig {spec['name']}",
            "type must be object",
        )
    named = (config or {}).get("toolChoice", {}).get("tool", {}).get("name")
    _want(named is None or named in names, "toolConfig.toolChoice", f"there is no tool {named}")


def _media(params: Mapping[str, Any]) -> None:
    names: list[str] = []
    for i, message in enumerate(params["messages"]):
        content = message["content"]
        documents = [block["document"] for block in content if "document" in block]
        images = [block["image"] for block in content if "image" in block]
        for block in content:
            for inner in block.get("toolResult", {}).get("content", ()):
                documents += [inner["document"]] if "document" in inner else []
                images += [inner["image"]] if "image" in inner else []
        place = f"messages.{i}"
        _want(message["role"] == "user" or not documents + images, place, "images and documents are the user's")
        _want(len(images) <= 20 and len(documents) <= 5, place, "too many images or documents")
        has_document = any("document" in block for block in content)
        _want(not has_document or any("text" in block for block in content), place, "a document needs a text block")
        for image in images:
            data = image["source"]["bytes"]
            _want(sniff_image(data) == f"image/{image['format']}", place, "Could not process image")
            _want(len(data) <= 3.75 * 2**20, place, "image exceeds the maximum size")
        for document in documents:
            name = document["name"]
            names.append(name)
            _want(re.fullmatch(r"[a-zA-Z0-9()\[\]\- ]+", name) and "  " not in name, place, f"document name {name!r}")
            _want(len(document["source"]["bytes"]) <= 4.5 * 2**20, place, "document exceeds the maximum size")
    _want(len(set(names)) == len(names), "messages", "document names must be unique")


def _cache(params: Mapping[str, Any]) -> None:
    places = [params.get("system", []), params.get("toolConfig", {}).get("tools", [])]
    places += [message["content"] for message in params["messages"]]
    count = sum("cachePoint" in block for blocks in places for block in blocks)
    _want(count <= 4, "cachePoint", f"A maximum of 4 blocks with cache points may be provided. Found {count}")
    for blocks in places:
        _want(not blocks or "cachePoint" not in blocks[0], "cachePoint", "there is nothing before it to cache")


def signature_of(text: str) -> str:
    """What signs a thought of the server's."""
    return hashlib.sha256(b"signed " + text.encode()).hexdigest()


def sealed_thought(text: str) -> bytes:
    """A thought that only the server can read; its bytes are no UTF-8."""
    return b"\xff\xfe" + hashlib.sha256(b"sealed " + text.encode()).digest() + text.encode()


def _thinking(params: Mapping[str, Any]) -> None:
    for place, role, block in _blocks(params):
        if (inner := block.get("reasoningContent")) is None:
            continue
        _want(role == "assistant", place, "reasoning is the assistant's")
        if "redactedContent" in inner:
            data = inner["redactedContent"]
            _want(
                data == sealed_thought(data[34:].decode(errors="replace")), place, "Invalid data in redacted_thinking"
            )
        else:
            text = inner["reasoningText"]
            _want("signature" in text, place, "thinking.signature: Field required")
            _want(text["signature"] == signature_of(text["text"]), place, "Invalid signature in thinking block")


#: See https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html
_NOT_IN_SCHEMAS = {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
    "uniqueItems", "oneOf", "not", "if", "patternProperties", "minProperties", "maxProperties",
}  # fmt: skip


def _form(params: Mapping[str, Any]) -> None:
    form = params.get("outputConfig", {}).get("textFormat")
    if form is None:
        return
    try:
        schema = json.loads(form["structure"]["jsonSchema"]["schema"])
    except ValueError:
        raise Refused("outputConfig: the schema is no JSON") from None
    _schema(schema)


def _schema(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _schema(part)
    if not isinstance(schema, dict):
        return
    for key in schema:
        _want(key not in _NOT_IN_SCHEMAS, "outputConfig", f"property {key!r} is not supported")
    if schema.get("type") == "object":
        _want(schema.get("additionalProperties") is False, "outputConfig", "additionalProperties must be false")
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions"):
            _schema(list(value.values()))
        elif key not in ("enum", "const", "default"):
            _schema(value)


def _length(params: Mapping[str, Any]) -> None:
    size = sum(len(block.get("text", "")) for _, _, block in _blocks(params))
    _want(size <= 20_000, "Input", "Input is too long for requested model.")
