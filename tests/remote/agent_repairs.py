"""The calls that agents of smolagents repair: their own model classes hand over each of them as the model wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import smolagents

from modelport import Model
from tests.servers.faults import Call, Fault, FaultServer, Recorded

_RIGHT_CALL = Call("forecast", '{"days": 3}', "call_right")


@smolagents.tool
def forecast(days: int) -> str:
    """Tells the weather of the next days.

    Args:
        days: The number of days.
    """
    return f"sunny for {days} days"


#: What the model does first, as fields of a `Reply`.
BAD_CALLS: Mapping[str, dict[str, Any]] = {
    "number as text": {"calls": (Call("forecast", '{"days": "3"}', "call_bad"),)},
    "missing argument": {"calls": (Call("forecast", "{}", "call_bad"),)},
    "unknown argument": {"calls": (Call("forecast", '{"days": 3, "city": "Rome"}', "call_bad"),)},
    "unknown tool": {"calls": (Call("guess", "{}", "call_bad"),)},
    "broken JSON": {"calls": (Call("forecast", '{"days": 3', "call_bad"),)},
    "arguments are a list": {"calls": (Call("forecast", "[3]", "call_bad"),)},
    "no call": {"text": "I think that it will be sunny."},
    "call in the text": {"text": 'Action:\n{"name": "forecast", "arguments": {"days": 3}}'},
}
#: A body with which services refuse the model's call. The text of the call is in it.
REFUSED_CALL = json.dumps({
    "error": {
        "message": "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details.",
        "type": "invalid_request_error", "code": "tool_use_failed", "failed_generation": "<function=forecast>3",
    }
}).encode()  # fmt: skip


def run_agent(server: FaultServer, model: Model, first: Fault, streamed: bool) -> list[str]:
    """Run an agent whose model begins with `first`, and calls its tools correctly afterwards.

    Returns:
        The names of the errors that the agent noted.
    """
    wire = type(first)

    def then(request: Recorded) -> Fault:
        done = "sunny for 3 days" in str(request.json)
        call = Call("final_answer", '{"answer": "It stays sunny."}', "call_last") if done else _RIGHT_CALL
        return wire.ok("", calls=(call,))

    server.script([first], then=then)
    agent = smolagents.ToolCallingAgent(
        tools=[forecast], model=model, max_steps=4, stream_outputs=streamed, verbosity_level=0
    )
    agent.prompt_templates["system_prompt"] = "Solve the task with the tools."
    assert agent.run("How will the weather be?") == "It stays sunny."
    return [type(step.error).__name__ for step in agent.memory.steps if getattr(step, "error", None) is not None]


#: What the model of a code agent does first.
BAD_CODE: Mapping[str, str] = {
    "no code": "I think that it will be sunny.",
    "broken code": "<code>\nforecast(\n</code>",
    "wrong argument": "<code>\nforecast('three', 4)\n</code>",
    "unknown tool": "<code>\nguess()\n</code>",
}


def run_code_agent(server: FaultServer, model: Model, wire: type[Fault], first: str, streamed: bool) -> list[str]:
    """Run a code agent whose model begins with `first`, and writes correct code afterwards.

    Returns:
        The names of the errors that the agent noted.
    """
    server.script([wire.ok(first)], then=wire.ok("Thought: I look.\n<code>\nfinal_answer(forecast(3))\n</code>"))
    agent = smolagents.CodeAgent(tools=[forecast], model=model, max_steps=3, stream_outputs=streamed, verbosity_level=0)
    agent.prompt_templates["system_prompt"] = "Solve the task with the tools."
    assert agent.run("How will the weather be?") == "sunny for 3 days"
    return [type(step.error).__name__ for step in agent.memory.steps if getattr(step, "error", None) is not None]


def _structured(**fields: str) -> str:
    return json.dumps({"thought": "I look.", **fields})


#: What the model of a code agent with structured output does first, as arguments of `ok`, and how often.
BAD_STRUCTURES: Mapping[str, tuple[int, dict[str, str]]] = {
    "truncated": (1, {"text": '{"thought": "I look.", "co', "finish_reason": "length"}),
    "never JSON": (6, {"text": "I think that it will be sunny."}),
    "missing key": (1, {"text": _structured()}),
    "broken code": (1, {"text": _structured(code="forecast(")}),
}


def run_structured_agent(
    server: FaultServer, model: Model, wire: type[Fault], first: tuple[int, dict[str, str]], streamed: bool
) -> list[str]:
    """Run a code agent with structured output whose model begins with `first`, and writes correct code afterwards.

    Returns:
        The names of the errors that the agent noted.
    """
    times, reply = first
    right = wire.ok(_structured(code="final_answer(forecast(3))"))
    server.script([wire.ok(**reply)] * times, then=right)  # type: ignore[arg-type]
    agent = smolagents.CodeAgent(
        tools=[forecast], model=model, max_steps=9, stream_outputs=streamed, verbosity_level=0,
        use_structured_outputs_internally=True,
    )  # fmt: skip
    agent.prompt_templates["system_prompt"] = "Solve the task with the tools."
    assert agent.run("How will the weather be?") == "sunny for 3 days"
    return [type(step.error).__name__ for step in agent.memory.steps if getattr(step, "error", None) is not None]
