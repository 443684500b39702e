"""`with_structured_output`: LangChain's schemas become output types of modelport, and outputs become objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, is_typeddict

from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.output_parsers import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from modelport.errors import InvalidOutput, InvalidRequest, InvalidToolCall, ModelError
from modelport.inputs.output_types import grammar_from
from modelport.integrations.langchain.errors import shared_error
from modelport.integrations.langchain.responses import INVALID_CALLS, OUTPUT_ERROR
from modelport.types.output_types import Grammar, JSONSchema

if TYPE_CHECKING:
    from modelport.integrations.langchain.chat_model import ChatModelport

#: The option of a call whose invalid output is returned instead of raised.
KEEP_INVALID_OUTPUT = "keep_invalid_output"


def structured_output(
    chat: ChatModelport, schema: Any, method: str, include_raw: bool, strict: bool | None, options: dict[str, Any]
) -> Runnable[Any, Any]:
    """Return a chain that returns objects; see `ChatModelport.with_structured_output`.

    Raises:
        InvalidRequest: The method is unknown, or the schema can't be used.
    """
    traced = _traced(schema, method, strict)
    if include_raw:
        options = {**options, KEEP_INVALID_OUTPUT: True}
    parser: Runnable[Any, Any]
    if method == "function_calling":
        tool, name, parser = _call_of(schema, include_raw)
        options = {"tool_errors": "return" if include_raw else "raise", **options}  # No agent corrects the call.
        llm = chat.bind_tools([tool], tool_choice=name, strict=strict, **options, **traced)
    elif method in ("json_schema", "json_mode"):
        if strict and method == "json_mode":
            raise InvalidRequest("strict=True: method='json_mode' enforces no schema: use method='json_schema'")
        output_type, convert = _output_type(schema)
        enforced: Any = output_type if method == "json_schema" else {"type": "json_object"}
        if strict is not None and method == "json_schema":
            options = {**options, "strict": strict}
        llm = chat.bind(grammar=enforced, **options, **traced)
        parser = RunnableLambda(_parser(output_type, convert))
    else:
        raise InvalidRequest(f"method={method!r} is unknown; it must be json_schema, function_calling or json_mode")
    return llm | (RunnableLambda(_with_raw(parser)) if include_raw else parser)


def _traced(schema: Any, method: str, strict: bool | None) -> dict[str, Any]:
    """Return the options that describe the call in a trace; none for a schema that LangChain can't convert."""
    try:
        convert_to_json_schema(schema)
    except Exception:  # Of the classes that LangChain raises for its own and for other types, it catches only one.
        return {}
    return {"ls_structured_output_format": {"kwargs": {"method": method, "strict": strict}, "schema": schema}}


def _call_of(schema: Any, include_raw: bool) -> tuple[Any, str, Runnable[Any, Any]]:
    """Return the tool whose call has the output, the tool's name, and the parser of the message.

    Raises:
        InvalidRequest: The output type has no JSON schema.
    """
    output_type, convert = _output_type(schema)
    is_model = isinstance(schema, type) and is_basemodel_subclass(schema)
    if is_model or is_typeddict(schema) or (isinstance(schema, dict) and _has_name(schema)):
        name = convert_to_openai_tool(schema)["function"]["name"]
        parser: Runnable[Any, Any] = RunnableLambda(_call_parser(name, output_type, convert))
        if not include_raw and is_model:
            parser = PydanticToolsParser(tools=[schema], first_tool_only=True)
        elif not include_raw:
            parser = JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        return schema, name, parser
    if not isinstance(output_type, JSONSchema):
        kind = type(output_type).__name__
        raise InvalidRequest(f"method='function_calling' needs a JSON schema, and {kind} has none: use 'json_schema'")
    parameters, key = output_type.schema, None
    if parameters.get("type") != "object":  # The arguments of a call are an object.
        key = "value"
        definitions = {name: parameters[name] for name in ("$defs",) if name in parameters}
        value = {name: item for name, item in parameters.items() if name not in definitions}
        parameters = {"type": "object", "properties": {key: value}, "required": [key], **definitions}
    function = {"name": output_type.name, "description": "The answer.", "parameters": parameters}
    parser = RunnableLambda(_call_parser(output_type.name, output_type, convert, key))
    return {"type": "function", "function": function}, output_type.name, parser


def _has_name(schema: dict[str, Any]) -> bool:
    try:
        convert_to_openai_tool(schema)
    except ValueError:
        return False
    return True


def _call_parser(
    name: str, output_type: Grammar, convert: Callable[[Any], Any], key: str | None = None
) -> Callable[[AIMessage], Any]:
    """Return a function that returns the object in the first valid call of a tool.

    Args:
        name: The name of the tool.
        output_type: The output type of the arguments.
        convert: A function that converts a parsed output for the caller.
        key: The argument that has the output; `None` if all arguments together are the output.
    """

    def parse(message: AIMessage) -> Any:
        arguments = next((call["args"] for call in message.tool_calls if call["name"] == name), None)
        if arguments is None:
            problems = [call["error"] for call in message.invalid_tool_calls]
            warnings = message.response_metadata.get("warnings") or ()
            problems += [warning["text"] for warning in warnings if warning["type"] == "invalid"]
            text = next(filter(None, problems), f"The model made no call of {name!r}.")
            raise shared_error(InvalidToolCall(text, text=str(message.text)))
        text = json.dumps(arguments if key is None else arguments.get(key))
        try:
            return convert(output_type.parse(text))
        except ValueError as error:
            raise shared_error(InvalidToolCall(f"The call is not valid: {error}", text=text)) from error

    return parse


def _with_raw(parser: Runnable[Any, Any]) -> Callable[[AIMessage], dict[str, Any]]:
    def parse(message: AIMessage) -> dict[str, Any]:
        raw = _complete(message) if isinstance(message, AIMessageChunk) else message
        try:
            return {"raw": raw, "parsed": parser.invoke(raw), "parsing_error": None}
        except (ValueError, ModelError) as error:  # So are the errors of LangChain's parsers and of pydantic.
            return {"raw": raw, "parsed": None, "parsing_error": error}

    return parse


def _complete(chunk: AIMessageChunk) -> AIMessage:
    """Return the message of a stream. LangChain completed the arguments of invalid calls: they become invalid again."""
    message: AIMessage = message_chunk_to_message(chunk)
    errors = chunk.response_metadata.get(INVALID_CALLS) or {}
    invalid: dict[Any, dict[str, Any]] = {
        call["id"]: {
            "type": "invalid_tool_call", "name": call["name"], "args": call["args"], "id": call["id"],
            "error": errors[call["id"]],
        }
        for call in chunk.tool_call_chunks if call["id"] in errors
    }  # fmt: skip
    if not invalid:
        return message
    content = message.content
    if isinstance(content, list):
        content = [invalid.get(block.get("id"), block) if isinstance(block, dict) else block for block in content]
    calls = [call for call in message.tool_calls if call["id"] not in invalid]
    update = {"content": content, "tool_calls": calls, "invalid_tool_calls": list(invalid.values())}
    return message.model_copy(update=update)


def _output_type(schema: Any) -> tuple[Grammar, Callable[[Any], Any]]:
    """Return the output type of modelport, and a function that converts a parsed output for the caller."""
    convert: Callable[[Any], Any] = lambda value: value  # noqa: E731
    if is_typeddict(schema) or (isinstance(schema, dict) and schema.get("type") != "json_schema"):
        # LangChain has its own way to write defaults and descriptions in a TypedDict, and takes tools as schemas.
        schema = _json_schema(schema)
    elif isinstance(schema, type) and is_basemodel_subclass(schema) and not issubclass(schema, BaseModel):
        convert = schema.parse_obj  # type: ignore[attr-defined]  # A model of pydantic 1.
        schema = _json_schema(schema)
    if (output_type := grammar_from(schema)) is None:
        raise InvalidRequest("the schema is that of free text: call the model without with_structured_output")
    return output_type, convert


def _json_schema(schema: Any) -> dict[str, Any]:
    try:
        return convert_to_json_schema(schema)  # type: ignore[no-any-return]
    except ValueError:  # A JSON schema without a title, which LangChain requires.
        if isinstance(schema, dict):
            return schema
        raise


def _parser(output_type: Grammar, convert: Callable[[Any], Any]) -> Callable[[AIMessage], Any]:
    def parse(message: AIMessage) -> Any:
        text = str(message.text)
        if problem := message.response_metadata.get(OUTPUT_ERROR):
            raise shared_error(InvalidOutput(problem, text=text))
        try:
            return convert(output_type.parse(text))
        except ValueError as error:
            raise shared_error(InvalidOutput(f"The output is not valid: {error}", text=text)) from error

    return parse
