"""Agents of the smolagents package, unchanged, on modelport models: on real weights and through servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module, reload
from pathlib import Path

import pytest

from modelport import (
    AmazonBedrockServerModel,
    AzureOpenAIServerModel,
    ChatMessage,
    FallbackModel,
    InferenceClientModel,
    InvalidRequest,
    Lark,
    LlamaCppModel,
    Model,
    OpenAIServerModel,
    ServerError,
)
from modelport.inputs.options import normalise_options
from modelport.testing import ScriptedModel
from tests.servers.bedrock import BedrockServer, Converse
from tests.servers.faults import Call, Fault, FaultServer, Recorded
from tests.servers.llamacpp import model_file

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

smolagents = pytest.importorskip("smolagents", reason="installed by the test environment")

#: A step of a code agent in the format that smolagents parses. A model with 135 million parameters writes it only under
#: constrained decoding.
STEP = Lark(
    r'start: "Thought: " /[a-zA-Z ]{3,30}/ "\n<code>\nfinal_answer(get_weather(\"" /[A-Z][a-z]{2,12}/ "\"))\n</code>"'
)

#: Replaces the agents' own system prompts of 3000 tokens, which take the processor 15 seconds. The page on agents and
#: the example run an agent with its own prompt.
SHORT_PROMPT = (
    "Solve the task with the tools, step by step. Give the result to the tool final_answer." + " Be brief." * 30
)


@smolagents.tool
def get_weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
        city: The city's name.
    """
    return f"sunny in {city}"


@pytest.fixture(scope="module")
def local_model() -> Iterator[Model]:
    with LlamaCppModel(model_file(), context_length=8192, threads=1, temperature=0, max_tokens=120) as model:
        yield model


@pytest.fixture(params=[False, True], ids=["not streamed", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_tool_calling_agent_on_real_weights_succeeds(local_model: Model, streamed: bool) -> None:
    agent = smolagents.ToolCallingAgent(
        tools=[], model=local_model, max_steps=2, stream_outputs=streamed, verbosity_level=0
    )
    agent.prompt_templates["system_prompt"] = SHORT_PROMPT
    result = agent.run("Answer with the word Paris.", return_full_result=True)
    assert result.state == "success"
    assert isinstance(result.output, str | dict | int | float) and result.output
    assert result.token_usage is not None and result.token_usage.input_tokens > 100


def test_code_agent_on_real_weights_calls_its_tool() -> None:
    """The page on agents runs the same agent without streaming."""
    with LlamaCppModel(model_file(), context_length=8192, threads=1, grammar=STEP, temperature=0) as model:
        agent = smolagents.CodeAgent(
            tools=[get_weather], model=model, max_steps=2, stream_outputs=True, verbosity_level=0
        )
        agent.prompt_templates["system_prompt"] = SHORT_PROMPT
        output = agent.run("What is the weather in Paris?")
    assert str(output).startswith("sunny in ")


def call_tool_then_answer(request: Recorded) -> Fault:
    """Respond with a call of the tool first, and with a call of `final_answer` after its result."""
    if "sunny in Rome" in str(request.json):
        return Fault.tools(Call("final_answer", '{"answer": "It is sunny."}'))
    return Fault.tools(Call("get_weather", '{"city": "Rome"}'))


#: Functions that make a model on the server, for each backend of the chat completions API.
REMOTE: dict[str, Callable[[FaultServer], Model]] = {
    "openai": lambda server: OpenAIServerModel("gpt-4o", api_base=server.base_url, api_key="sk-agent"),
    "azure": lambda server: AzureOpenAIServerModel("gpt-4o", server.url, "az-agent", "2024-10-21"),
    "huggingface": lambda server: InferenceClientModel("gpt-4o", base_url=server.base_url, token="hf_agent"),
}


@pytest.mark.parametrize("backend", REMOTE)
def test_tool_calling_agent_through_a_server_succeeds(streamed: bool, backend: str) -> None:
    with FaultServer() as server:
        server.script(then=call_tool_then_answer)
        with REMOTE[backend](server) as model:
            agent = smolagents.ToolCallingAgent(
                tools=[get_weather], model=model, max_steps=4, stream_outputs=streamed, verbosity_level=0
            )
            assert agent.run("What is the weather in Rome?") == "It is sunny."
        assert [request.json["tool_choice"] for request in server.requests] == ["required"] * 2
        assert all(request.json["stop"] == ["Observation:", "Calling tools:"] for request in server.requests)


def test_agent_continues_with_second_model_when_the_first_fails(streamed: bool) -> None:
    with FaultServer() as first, FaultServer() as second:
        first.script([Fault.tools(Call("get_weather", '{"city": "Rome"}'))], then=Fault.status(503))
        second.script(then=call_tool_then_answer)
        models = [OpenAIServerModel(n, s.base_url, "k", retry=False) for n, s in (("a", first), ("b", second))]
        with FallbackModel(models) as model:
            agent = smolagents.ToolCallingAgent(
                tools=[get_weather], model=model, max_steps=4, stream_outputs=streamed, verbosity_level=0
            )
            assert agent.run("What is the weather in Rome?") == "It is sunny."
            saved = agent.to_dict()["model"]
        assert (len(first.requests), len(second.requests)) == (2, 1)
    assert saved["class"] == "FallbackModel" and [m["model_id"] for m in saved["data"]["models"]] == ["a", "b"]


def test_fallback_model_drives_code_agent_and_parses_calls_in_text(streamed: bool) -> None:
    code = "Thought: I look.\n<code>\nfinal_answer(get_weather('Rome'))\n</code>\nObservation: made up"
    first = ScriptedModel(ServerError("no"), model_id="first", retry=False)
    model = FallbackModel([first, ScriptedModel(code, 'Action: {"name": "x", "arguments": {}}')])
    agent = smolagents.CodeAgent(tools=[get_weather], model=model, stream_outputs=streamed, verbosity_level=0)
    assert agent.run("What is the weather in Rome?") == "sunny in Rome"
    message = model.parse_tool_calls(model("Call a tool."))
    assert message.tool_calls and message.tool_calls[0].function.name == "x"


def test_tool_calling_agent_on_bedrock_succeeds(streamed: bool) -> None:
    """The server validates every request against AWS's rules."""

    def respond(params: dict[str, object]) -> Converse:
        if "sunny in Rome" in str(params["messages"]):
            return Converse("", (Call("final_answer", '{"answer": "It is sunny."}', "tooluse_2"),))
        return Converse("I look.", (Call("get_weather", '{"city": "Rome"}', "tooluse_1"),))

    with (
        BedrockServer(api_key="bedrock-agent-key", model=respond) as server,
        AmazonBedrockServerModel(
            "us.amazon.nova-pro-v1:0", api_base=server.url, api_key="bedrock-agent-key", region_name="us-east-1"
        ) as model,
    ):
        agent = smolagents.ToolCallingAgent(
            tools=[get_weather], model=model, max_steps=4, stream_outputs=streamed, verbosity_level=0
        )
        assert agent.run("What is the weather in Rome?") == "It is sunny."
        assert [request["toolConfig"]["toolChoice"] for request in server.accepted] == [{"any": {}}] * 2
        stops = [request["inferenceConfig"]["stopSequences"] for request in server.accepted]
        assert stops == [["Observation:", "Calling tools:"]] * 2


def test_code_agent_output_ends_at_its_closing_tag(streamed: bool) -> None:
    code = "Thought: I look.\n<code>\nfinal_answer(get_weather('Rome'))\n</code>\nObservation: made up"
    model = ScriptedModel(code, "never requested")
    agent = smolagents.CodeAgent(tools=[get_weather], model=model, stream_outputs=streamed, verbosity_level=0)
    assert agent.run("What is the weather in Rome?") == "sunny in Rome"
    assert len(model.requests) == 1
    assert "</code>" in model.requests[0].stop_sequences


def test_agent_with_structured_output_passes_a_grammar() -> None:
    model = ScriptedModel('{"thought": "I know.", "code": "final_answer(6 * 7)"}')
    agent = smolagents.CodeAgent(
        tools=[], model=model, use_structured_outputs_internally=True, stream_outputs=False, verbosity_level=0
    )
    assert agent.run("Six times seven?") == 42
    assert model.requests[0].grammar is not None


def test_planning_agent_stores_plans_without_text_after_the_stop_sequence() -> None:
    model = ScriptedModel(
        "1. Look.<end_plan>and more", "<code>\nx = get_weather('Oslo')\nprint(x)\n</code>",
        "2. Answer.<end_plan>", "<code>\nfinal_answer(x)\n</code>",
    )  # fmt: skip
    agent = smolagents.CodeAgent(tools=[get_weather], model=model, planning_interval=1, verbosity_level=0)
    assert agent.run("What is the weather in Oslo?") == "sunny in Oslo"
    saved = agent.memory.get_full_steps()
    assert "and more" not in str(saved)


def test_saved_agent_contains_its_model_without_the_key() -> None:
    model = OpenAIServerModel("gpt-4o", api_base="http://127.0.0.1:1/v1", api_key="sk-very-secret", temperature=0.2)
    agent = smolagents.ToolCallingAgent(tools=[get_weather], model=model, verbosity_level=0)
    data = agent.to_dict()["model"]
    assert data["class"] == "OpenAIServerModel" and data["data"]["temperature"] == 0.2
    assert "sk-very-secret" not in str(data)


def test_message_of_smolagents_is_accepted() -> None:
    model = ScriptedModel("ok")
    message = smolagents.models.ChatMessage(
        role=smolagents.models.MessageRole.TOOL_RESPONSE, content=[{"type": "text", "text": "Observation: 4"}]
    )
    assert isinstance(model([message]), ChatMessage)
    assert (model.requests[0].messages[0].role, model.requests[0].messages[0].content) == ("user", "Observation: 4")


SAVED: dict[str, Callable[[], Model]] = {
    "remote": lambda: OpenAIServerModel("gpt-4o", api_base="http://127.0.0.1:1/v1", temperature=0.2),
    "local": lambda: LlamaCppModel(model_file(), context_length=512, threads=1),
    "several": lambda: FallbackModel([OpenAIServerModel("a", "http://127.0.0.1:1"), InferenceClientModel("b")]),
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_agent_is_loaded_with_its_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_module("modelport.integrations.smolagents")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-saved")
    model = SAVED[name]()
    agent = smolagents.CodeAgent(tools=[], model=model, verbosity_level=0)
    agent.save(tmp_path / "agent")
    for loaded in (
        smolagents.CodeAgent.from_folder(tmp_path / "agent"),
        smolagents.CodeAgent.from_dict(agent.to_dict()),
    ):
        assert type(loaded.model) is type(model)
        assert loaded.model.to_dict() == model.to_dict()


def test_saved_agent_with_a_model_of_smolagents_is_loaded_as_before() -> None:
    reload(import_module("modelport.integrations.smolagents"))  # As a notebook does.
    model = smolagents.InferenceClientModel("someone/model")
    loaded = smolagents.CodeAgent.from_dict(smolagents.CodeAgent(tools=[], model=model, verbosity_level=0).to_dict())
    assert type(loaded.model) is smolagents.InferenceClientModel


class OwnModel(OpenAIServerModel):
    """A model class of a user."""


def test_saved_agent_with_a_users_class_is_loaded_if_smolagents_knows_the_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_module("modelport.integrations.smolagents")
    model = OwnModel("gpt-4o", "http://127.0.0.1:1/v1", api_key="k", temperature=0.5)
    saved = smolagents.CodeAgent(tools=[], model=model, verbosity_level=0).to_dict()
    with pytest.raises(InvalidRequest, match=r"'OwnModel' is unknown; .* by its own from_dict"):
        smolagents.CodeAgent.from_dict(saved)
    classes = getattr(smolagents.models, "MODEL_REGISTRY", vars(smolagents.models))
    monkeypatch.setitem(classes, "OwnModel", OwnModel)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-saved")
    loaded = smolagents.CodeAgent.from_dict(saved).model
    assert type(loaded) is OwnModel and loaded.to_dict() == model.to_dict()


def test_format_of_code_agents_returns_invalid_output() -> None:
    """The format is that of the installed smolagents."""
    code_format = smolagents.models.CODEAGENT_RESPONSE_FORMAT
    for given, constructor, expected in (
        ({"response_format": code_format}, {}, "return"),
        ({"response_format": code_format, "output_errors": "raise"}, {}, "raise"),
        ({"response_format": code_format}, {"output_errors": "raise"}, None),
        ({"grammar": code_format}, {}, None),
        ({"response_format": {"type": "object"}}, {}, None),
        ({"response_format": int}, {}, None),
    ):
        assert normalise_options(given, constructor).get("output_errors") == expected, given


def test_code_agent_on_a_model_without_stop_counts_its_tokens(streamed: bool) -> None:
    """modelport ends the output at the agent's stop sequence. The usage comes behind it."""
    code = "Thought: I look.\n<code>\nfinal_answer(get_weather('Rome'))\n</code>\nObservation: made up"
    with FaultServer() as server, OpenAIServerModel("o3", api_base=server.base_url, api_key="sk-agent") as model:
        server.script(then=Fault.ok(code))
        agent = smolagents.CodeAgent(tools=[get_weather], model=model, stream_outputs=streamed, verbosity_level=0)
        agent.prompt_templates["system_prompt"] = SHORT_PROMPT
        result = agent.run("What is the weather in Rome?", return_full_result=True)
        assert not any("stop" in request.json for request in server.requests)
    assert result.output == "sunny in Rome"
    assert result.token_usage is not None and result.token_usage.output_tokens > 0
