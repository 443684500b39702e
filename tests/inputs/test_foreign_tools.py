"""Tools as the packages that make them hand them out: MCP's client from a real server, and LangChain's."""

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


def calling(name: str, arguments: Any) -> ChatMessage:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return ChatMessage.from_dict({"role": "assistant", "content": None, "tool_calls": [call]})


GOOD, BAD = {"place": {"city": "Rome", "country": "Italy"}}, {"place": {"city": "Rome", "country": "Spain"}}


def held_to_its_schema(tool: Any, name: str) -> None:
    """A good call comes back parsed; a broken one is an error with its raw text."""
    model = ScriptedModel(calling(name, GOOD), calling(name, BAD), calling(name, '{"place":'))
    message = model.generate("?", tools=[tool])
    assert message.tool_calls and message.tool_calls[0].function.arguments == GOOD
    for raw in ('{"place": {"city": "Rome", "country": "Spain"}}', '{"place":'):
        with pytest.raises(InvalidToolCall) as raised:
            model.generate("?", tools=[tool])
        assert raised.value.text == raw


async def test_tools_of_an_mcp_server() -> None:
    server = MCPServer("weather")
    server.tool()(forecast)
    async with Client(server) as client:
        (listed,) = (await client.list_tools()).tools
        (tool,) = tools_from([listed])
        assert (tool.name, tool.description.split("\n")[0]) == ("forecast", "The weather to come.")
        assert tool.parameters == listed.input_schema and tool.parameters["required"] == ["place"]
        message = await ScriptedModel(calling("forecast", GOOD)).agenerate("?", tools=[listed])
        assert message.tool_calls
        answer = await client.call_tool("forecast", message.tool_calls[0].function.arguments)
        assert answer.content[0].text == "Rome: sunny for 3 days"  # type: ignore[union-attr]


async def test_calls_of_an_mcp_tool_are_held_to_its_schema() -> None:
    server = MCPServer("weather")
    server.tool()(forecast)
    async with Client(server) as client:
        (listed,) = (await client.list_tools()).tools
    held_to_its_schema(listed, "forecast")


class Told(BaseTool):
    name: str = "told"
    description: str = "Says something."

    def _run(self, what: Annotated[str, Field(description="What.")], loud: bool = False) -> str:
        return what


def look_up(query: str, user: Annotated[str, InjectedToolArg]) -> str:
    """Looks something up.

    Args:
        query: What.
        user: Who asks, which the model is not to say.
    """
    return query


def test_tools_of_langchain() -> None:
    tool = langchain_tool(forecast)
    (ours,) = tools_from([tool])
    assert (ours.name, ours.description.split("\n")[0]) == ("forecast", "The weather to come.")
    assert ours.parameters["required"] == ["place"] and "Place" in ours.parameters["$defs"]
    held_to_its_schema(tool, "forecast")
    assert tool.invoke(GOOD) == "Rome: sunny for 3 days"


def test_what_langchain_injects_is_not_the_models_to_say() -> None:
    (ours,) = tools_from([StructuredTool.from_function(look_up)])
    assert [*ours.parameters["properties"]] == ["query"]


def test_a_class_of_langchains() -> None:
    (ours,) = tools_from([Told()])
    assert (ours.name, ours.parameters["required"]) == ("told", ["what"])


def test_langchains_tool_of_one_text() -> None:
    tool = LangChainTool(name="say", description="Says it.", func=str.upper)
    (ours,) = tools_from([tool])
    converted = convert_to_openai_tool(tool)["function"]
    assert (ours.name, ours.description) == (converted["name"], converted["description"])
    assert {**ours.parameters} == {**converted["parameters"]}
    assert tool.invoke({"__arg1": "hi"}) == "HI"
    with_schema = LangChainTool(name="say", description="Says it.", func=str.upper, args_schema=Place)
    assert [*tools_from([with_schema])[0].parameters["properties"]] == ["city", "country"]


def test_a_schema_for_langchain() -> None:
    schema = {"title": "f", "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    (ours,) = tools_from([StructuredTool(name="f", description="d", args_schema=schema, func=lambda a: a)])
    assert ours.parameters["properties"] == {"a": {"type": "integer"}}


def test_a_real_model_calls_them() -> None:
    """Both kinds in one request; the engine's mask holds the call to the schema."""
    with LlamaCppModel(model_file(), context_length=2048, threads=1) as model:
        message = model.generate(
            "The weather in Rome, Italy?", tools=[langchain_tool(forecast), Told()], tool_choice="forecast",
            temperature=0, max_tokens=80,
        )  # fmt: skip
    assert message.tool_calls and Place(**message.tool_calls[0].function.arguments["place"])
