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

from modelport.errors import InvalidOutput, InvalidRequest
from modelport.inputs.output_types import grammar_from
from modelport.integrations.langchain.errors import shared_error
from modelport.types.output_types import Grammar

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
    traced = {"ls_structured_output_format": {"kwargs": {"method": method, "strict": strict}, "schema": schema}}
    if isinstance(schema, Grammar):
        traced = {}  # LangChain could not describe it in a trace.
    if include_raw:
        options = {**options, KEEP_INVALID_OUTPUT: True}
    parser: Runnable[Any, Any]
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        options = {"tool_errors": "return" if include_raw else "raise", **options}  # No agent corrects the call.
        llm = chat.bind_tools([schema], tool_choice=name, strict=strict, **options, **traced)
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            parser = PydanticToolsParser(tools=[schema], first_tool_only=True)
        else:
            parser = JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
            if include_raw:  # The call may have an error.
                parser |= RunnableLambda(_validator(_output_type(schema)[0]))
    elif method in ("json_schema", "json_mode"):
        output_type, convert = _output_type(schema)
        enforced: Any = output_type if method == "json_schema" else {"type": "json_object"}
        if strict is not None and method == "json_schema":
            options = {**options, "strict": strict}
        llm = chat.bind(grammar=enforced, **options, **traced)
        parser = RunnableLambda(_parser(output_type, convert))
    else:
        raise InvalidRequest(f"method={method!r} is unknown; it must be json_schema, function_calling or json_mode")
    return llm | (RunnableLambda(_with_raw(parser)) if include_raw else parser)


def _validator(output_type: Grammar) -> Callable[[Any], Any]:
    def validate(arguments: Any) -> Any:
        if arguments is not None:
            output_type.parse(json.dumps(arguments))
        return arguments

    return validate


def _with_raw(parser: Runnable[Any, Any]) -> Callable[[AIMessage], dict[str, Any]]:
    def parse(message: AIMessage) -> dict[str, Any]:
        raw = message_chunk_to_message(message) if isinstance(message, AIMessageChunk) else message
        try:
            return {"raw": raw, "parsed": parser.invoke(raw), "parsing_error": None}
        except ValueError as error:  # So are the errors of LangChain's parsers and of pydantic.
            return {"raw": raw, "parsed": None, "parsing_error": error}

    return parse


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
        try:
            return convert(output_type.parse(text))
        except ValueError as error:
            raise shared_error(InvalidOutput(f"The output is not valid: {error}", text=text)) from error

    return parse
