"""Tools of other libraries: MCP tools that a real server lists, and tools of LangChain."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool
from langchain_core.tools import Tool as LangChainTool
from langchain_core.tools import tool as langchain_tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from mcp import Client
from mcp.server import MCPServer
from pydantic import BaseModel, Field

from modelport import ChatMessage, InvalidToolCall, LlamaCppModel
from modelport.inputs.tools import tools_from
from modelport.testing import ScriptedModel
from tests.servers.llamacpp import model_file

pytestmark = pytest.mark.server


class Place(BaseModel):
    """Somewhere."""

    city: str
    country: Literal["France", "Italy"] = "France"


def forecast(place: Place, days: int = 3) -> str:
    """The weather to come.

    Args:
        place: Where.
        days: How far ahead.
    """
    return f"{place.city}: sunny for {days} days"


def message_with_call(name: str, arguments: Any) -> ChatMessage:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return ChatMessage.from_dict({"role": "assistant", "content": None, "tool_calls": [call]})


GOOD, BAD = {"place": {"city": "Rome", "country": "Italy"}}, {"place": {"city": "Rome", "country": "Spain"}}


def check_that_calls_are_validated(tool: Any, name: str) -> None:
    """Check that a valid call is returned parsed, and that an invalid call raises an error with its raw text."""
    model = ScriptedModel(
        message_with_call(name, GOOD), message_with_call(name, BAD), message_with_call(name, '{"place":')
    )
    message = model.generate("?", tools=[tool])
    assert message.tool_calls and message.tool_calls[0].function.arguments == GOOD
    for raw in ('{"place": {"city": "Rome", "country": "Spain"}}', '{"place":'):
        with pytest.raises(InvalidToolCall) as raised:
            model.generate("?", tools=[tool])
        assert raised.value.text == raw


async def test_tools_from_mcp_server_tool_can_be_called() -> None:
    server = MCPServer("weather")
    server.tool()(forecast)
    async with Client(server) as client:
        (listed,) = (await client.list_tools()).tools
        (tool,) = tools_from([listed])
        assert (tool.name, tool.description.split("\n")[0]) == ("forecast", "The weather to come.")
        assert tool.parameters == listed.input_schema and tool.parameters["required"] == ["place"]
        message = await ScriptedModel(message_with_call("forecast", GOOD)).agenerate("?", tools=[listed])
        assert message.tool_calls
        answer = await client.call_tool("forecast", message.tool_calls[0].function.arguments)
        assert answer.content[0].text == "Rome: sunny for 3 days"  # type: ignore[union-attr]


async def test_mcp_tool_calls_are_validated() -> None:
    server = MCPServer("weather")
    server.tool()(forecast)
    async with Client(server) as client:
        (listed,) = (await client.list_tools()).tools
    check_that_calls_are_validated(listed, "forecast")


class Say(BaseTool):
    name: str = "say"
    description: str = "Says something."

    def _run(self, what: Annotated[str, Field(description="What.")], loud: bool = False) -> str:
        return what


def look_up(query: str, user: Annotated[str, InjectedToolArg]) -> str:
    """Looks something up.

    Args:
        query: What.
        user: Who asks. The model must not choose the user.
    """
    return query


def test_tools_from_langchain_decorator_is_validated() -> None:
    decorated = langchain_tool(forecast)
    (tool,) = tools_from([decorated])
    assert (tool.name, tool.description.split("\n")[0]) == ("forecast", "The weather to come.")
    assert tool.parameters["required"] == ["place"] and "Place" in tool.parameters["$defs"]
    check_that_calls_are_validated(decorated, "forecast")
    assert decorated.invoke(GOOD) == "Rome: sunny for 3 days"


def test_tools_from_langchain_injected_argument_is_left_out() -> None:
    (tool,) = tools_from([StructuredTool.from_function(look_up)])
    assert [*tool.parameters["properties"]] == ["query"]


def test_tools_from_langchain_base_tool_reads_arguments_of_run() -> None:
    (tool,) = tools_from([Say()])
    assert (tool.name, tool.parameters["required"]) == ("say", ["what"])


def test_tools_from_langchain_tool_with_one_text_has_its_schema() -> None:
    text_tool = LangChainTool(name="say", description="Says it.", func=str.upper)
    (tool,) = tools_from([text_tool])
    converted = convert_to_openai_tool(text_tool)["function"]
    assert (tool.name, tool.description) == (converted["name"], converted["description"])
    assert {**tool.parameters} == {**converted["parameters"]}
    assert text_tool.invoke({"__arg1": "hi"}) == "HI"
    with_schema = LangChainTool(name="say", description="Says it.", func=str.upper, args_schema=Place)
    assert [*tools_from([with_schema])[0].parameters["properties"]] == ["city", "country"]


def test_tools_from_langchain_json_schema_is_kept() -> None:
    schema = {"title": "f", "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    (tool,) = tools_from([StructuredTool(name="f", description="d", args_schema=schema, func=lambda a: a)])
    assert tool.parameters["properties"] == {"a": {"type": "integer"}}


def test_local_model_calls_foreign_tools() -> None:
    """Two kinds of tools are in one request, and the engine enforces the schema of the call."""
    with LlamaCppModel(model_file(), context_length=2048, threads=1) as model:
        message = model.generate(
            "The weather in Rome, Italy?", tools=[langchain_tool(forecast), Say()], tool_choice="forecast",
            temperature=0, max_tokens=80,
        )  # fmt: skip
    assert message.tool_calls and Place(**message.tool_calls[0].function.arguments["place"])
