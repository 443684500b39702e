"""Agents of smolagents on services that refuse calls whose provider data does not come back.

An agent of smolagents keeps each response in its memory, but writes earlier calls into the next prompt as text. So its
requests contain no calls that a service could refuse. A conversation that goes on from the memory contains them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelport import Model, OpenAIServerModel
from tests.remote.test_responses_api import strict_server
from tests.servers.faults import Call, Fault, FaultServer, Recorded
from tests.servers.responses import ResponsesFault
from tests.servers.strict import Answer, StrictService

smolagents = pytest.importorskip("smolagents", reason="installed by the test environment")

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:.* in earlier messages:UserWarning")]

TASK = "Do I need an umbrella?"
FINAL = Call("final_answer", '{"answer": "It is sunny."}', "call_final")
NAMES = ("gemini", "deepseek", "openrouter", "proxy", "responses")


@smolagents.tool
def get_weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
        city: The city's name.
    """
    return f"sunny in {city}"


class AgentService(StrictService):
    """Answers two requests with calls of the tool, and later ones with the agent's final answer.

    Text of the model is accepted without provider data, as the services do.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.requests = 0

    def __call__(self, request: Recorded) -> Fault:
        if problem := self._problem(request.json["messages"], request.json):
            self.refusals.append(problem)
            return Fault.status(400, message=problem)
        self.requests += 1
        if self.requests > 2:
            return Fault.tools(FINAL)
        step = self.requests - 1
        return Answer(turn=self.service.turns[step], prefix=f"{self.name}{step}")

    def _is_own_text(self, message: dict[str, Any]) -> bool:
        return True


class ResponsesService:
    """The same by the Responses API: encrypted reasoning comes back directly before its call, or the answer is 400."""

    def __init__(self) -> None:
        self.requests = 0
        self.refusals: list[str] = []

    def __call__(self, request: Recorded) -> Fault:
        answer: Fault = strict_server(request)
        if answer.status_code != 200:
            self.refusals.append(str(answer.content))
            return answer
        self.requests += 1
        if self.requests > 2:
            return ResponsesFault.tools(FINAL, reasoning="")
        call = Call("get_weather", '{"city": "Paris"}', f"call_{self.requests}")
        return ResponsesFault.tools(call, reasoning="")


def run_agent(server: FaultServer, name: str, streamed: bool) -> tuple[Any, Model, Any]:
    """Run an agent of three steps. Return the agent, its model, and the service."""
    service: Any = ResponsesService() if name == "responses" else AgentService(name)
    server.script(then=service)
    settings: dict[str, Any] = {"api": "responses"} if name == "responses" else {}
    if name == "proxy":
        settings["reasoning_effort"] = "low"
    model = OpenAIServerModel("m", server.base_url, "key", retry=False, timeout=20, **settings)
    agent = smolagents.ToolCallingAgent(
        tools=[get_weather], model=model, max_steps=4, stream_outputs=streamed, verbosity_level=0
    )
    assert agent.run(TASK) == "It is sunny."
    return agent, model, service


@pytest.fixture(scope="module")
def server() -> Any:
    with FaultServer() as server:
        yield server


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
def test_agent_of_three_steps_is_never_refused(server: FaultServer, name: str, streamed: bool) -> None:
    before = len(server.requests)
    _, model, service = run_agent(server, name, streamed)
    bodies = [json.dumps(request.json) for request in server.requests[before:]]
    assert service.refusals == [] and len(bodies) == 3
    assert [r"Calling tools:\n" in body for body in bodies] == [False, True, True]
    model.release()


def conversation_of(agent: Any, as_data: bool) -> list[Any]:
    """Return the conversation with the calls themselves, from the agent's memory or from its saved data.

    Only an agent that does not stream keeps provider data: smolagents joins the pieces of a stream itself, without it.
    """
    messages: list[Any] = [{"role": "user", "content": TASK}]
    for step in agent.memory.steps[1:3]:
        message = json.loads(json.dumps(step.dict()["model_output_message"])) if as_data else step.model_output_message
        messages.append(message)
        calls = step.model_output_message.tool_calls
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    return messages


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_data", [False, True], ids=["memory", "saved data"])
def test_calls_of_the_memory_go_back_with_their_provider_data(server: FaultServer, name: str, as_data: bool) -> None:
    agent, model, service = run_agent(server, name, False)
    message = model.generate(conversation_of(agent, as_data), tools=[get_weather, agent.tools["final_answer"]])
    assert message.tool_calls and message.tool_calls[0].function.name == "final_answer"
    assert (service.refusals, message.warnings) == ([], [])
    model.release()
