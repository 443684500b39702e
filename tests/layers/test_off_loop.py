"""Validation of a response holds the event loop for a moment at most, and ends with the call's `timeout`."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel

from modelport.combine.fallback import FallbackModel
from modelport.constrained.continuation import could_continue
from modelport.errors import DeadlineExceeded, InvalidOutput, InvalidToolCall, StreamInterrupted
from modelport.layers.adapt.off_loop import run_in_thread
from modelport.remote.schema_subsets import OPENAI
from modelport.schema import time_limit
from modelport.schema.json_text import read_json
from modelport.schema.python_types import parse_json_as
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.request import Timeouts
from modelport.types.tools import Tool
from tests.loop_hold import longest_hold

from .adapt_backend import SCHEMA, Delta, Person, ScriptedBackend, tool_call

#: Checking one of these texts against the schema takes about 0.2 s, and a step of it microseconds.
SLOW = {"type": "object", "properties": {"a": {"type": "array", "items": {"enum": [*range(500)]}}}, "required": ["a"],
        "additionalProperties": False}  # fmt: skip
VALID, INVALID = json.dumps({"a": [499] * 400}), json.dumps({"a": [499] * 399 + [-1]})
SHORT = json.dumps({"a": [499] * 99})
#: The longest time for which this thread may be held, in seconds of its processor time.
LONGEST = 0.1


async def call(model: ScriptedBackend | FallbackModel, streams: bool, **options: Any) -> Any:
    if not streams:
        return await model.agenerate("?", **options)
    async with model.agenerate_stream("?", **options) as stream:
        async for _ in stream:
            pass
    return stream.message


def _slow(value: list[int]) -> list[int]:
    while time.thread_time() < _slow_until.setdefault(threading.get_ident(), time.thread_time() + 0.3):
        pass
    _slow_until.clear()
    return value


_slow_until: dict[int, float] = {}


class Slow(BaseModel):
    a: Annotated[list[int], AfterValidator(_slow)]


ENFORCED: dict[str, Any] = {"grammars": frozenset({JSONSchema, Regex, Choice, Lark})}
TOOLS: dict[str, Any] = {"tools": True, "tool_choices": frozenset({"auto", "none", "required", "named"})}
TOOL = Tool("f", "", SLOW)
CALLS = [piece for i in range(20) for piece in tool_call("f", SHORT if i < 19 else INVALID, f"c{i}")[:1]]
for index, delta in enumerate(CALLS):
    delta.tool_calls[0].index = index
CASES: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any], Any]] = {
    "enforced": ([VALID], ENFORCED, {"grammar": SLOW}, None),
    "enforced, invalid": ([INVALID], ENFORCED, {"grammar": SLOW}, InvalidOutput),
    "validated": ([INVALID, Delta(finish_reason="length")], {}, {"grammar": SLOW}, InvalidOutput),
    "forced tool": (tool_call("answer", VALID), TOOLS, {"grammar": SLOW}, None),
    "nulls removed": ([VALID], {**ENFORCED, "schema_rules": OPENAI}, {"grammar": SLOW}, None),
    "20 calls": ([*CALLS, Delta(finish_reason="tool_calls")], TOOLS, {"tools": [TOOL]}, InvalidToolCall),
    "prompted tools": ([f'<tool_call>{{"name": "f", "arguments": {INVALID}}}</tool_call>'], {"tools": False},
                       {"tools": [TOOL]}, InvalidToolCall),
    "python type": ([VALID], ENFORCED, {"grammar": Slow}, None),
    "pattern": ([json.dumps({"a": "ab" * 2000})], ENFORCED, {"grammar": {"type": "object", "properties": {
        "a": {"pattern": "(?:[a-z]{0,250}[A-Z]?){20}x"}}}}, InvalidOutput),
}  # fmt: skip


@pytest.mark.parametrize("streams", [False, True], ids=["message", "stream"])
@pytest.mark.parametrize("name", CASES)
async def test_long_validation_does_not_hold_the_event_loop(name: str, streams: bool) -> None:
    deltas, capabilities, options, error = CASES[name]
    model = ScriptedBackend(deltas, capabilities=capabilities)
    result, held = await longest_hold(call(model, streams, **options))
    if error is None:
        assert result.parsed is not None, result
    else:
        result = result.__cause__ if isinstance(result, StreamInterrupted) else result
        assert isinstance(result, error), result
    assert held < LONGEST


async def test_long_validation_of_a_fallback_model_does_not_hold_the_event_loop() -> None:
    models = ScriptedBackend([INVALID], capabilities=ENFORCED), ScriptedBackend([VALID], capabilities=ENFORCED)
    model = FallbackModel([*models], fallback_on=(InvalidOutput,))
    result, held = await longest_hold(call(model, False, grammar=SLOW))
    assert json.dumps(result.parsed) == VALID and held < LONGEST


@pytest.mark.parametrize(
    "step",
    [
        lambda: could_continue(Regex("a+"), "a"),  # It compiles a grammar.
        lambda: read_json("1" * 200_000),
        lambda: parse_json_as(int, "1"),  # It runs validators of a caller's type.
        lambda: Regex("(?:a{1,999}){1,99}").parse("a" * 99),
    ],
    ids=["grammar", "long JSON", "Python type", "regular expression"],
)
def test_steps_that_cannot_be_interrupted_need_a_thread(step: Callable[[], Any]) -> None:
    with time_limit.time_limit(on_loop=True), pytest.raises(time_limit.ThreadNeeded):
        step()


class Ages(BaseModel):
    a: list[Literal[tuple(range(500))]]  # type: ignore[valid-type]  # Its schema takes as long as `SLOW`.


#: What the model wrote, and what is still missing when its output is checked against the schema that was sent.
DISPROOFS: dict[str, tuple[Any, str, str | None]] = {
    "nothing missing": (Person, '{"age": "x"}', None),
    "jsonschema not imported": (Person, '{"age": "x"}', "jsonschema"),
    "dict, jsonschema not imported": (SCHEMA, '{"age": "x"}', "jsonschema"),
    "slow schema": (Ages, INVALID, None),
    "long text": (Person, json.dumps({"age": "x" * 200_000}), None),
}


@pytest.mark.parametrize("name", DISPROOFS)
async def test_disproof_needs_no_luck_with_time_or_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid output of a service that may ignore output types is requested in another way, and so is found."""
    grammar, text, missing = DISPROOFS[name]
    good = json.dumps({"a": [1]} if grammar is Ages else {"age": 1})
    model = ScriptedBackend([text], [good], capabilities=ENFORCED)
    monkeypatch.setattr(type(model), "_may_ignore_output_types", True)
    if missing is not None:
        monkeypatch.delitem(sys.modules, missing, raising=False)
    with pytest.warns(UserWarning, match="ignored it"):
        message = await model.agenerate("?", grammar=grammar)
    assert message.text == good and len(model.requests) == 2


ENDLESS = {"type": "object", "properties": {"a": {"items": {"enum": [*range(10_000)]}}}}
ENDLESS_TEXT = json.dumps({"a": [-1] * 10_000})


@pytest.mark.parametrize("streams", [False, True], ids=["message", "stream"])
@pytest.mark.parametrize("of_call", [False, True], ids=["output", "tool call"])
async def test_validation_ends_with_the_timeout_of_the_call(streams: bool, of_call: bool) -> None:
    """The validation of the response takes 5 s of processor time, and then is refused."""
    if of_call:
        deltas, capabilities = tool_call("f", ENDLESS_TEXT), TOOLS
        options: dict[str, Any] = {"tools": [Tool("f", "", ENDLESS)]}
    else:
        deltas, capabilities, options = [ENDLESS_TEXT], ENFORCED, {"grammar": ENDLESS}
    model = ScriptedBackend(deltas, capabilities=capabilities)
    with pytest.raises((DeadlineExceeded, StreamInterrupted)) as raised:
        await call(model, streams, **options, timeout=1.5)
    error = raised.value.__cause__ if streams else raised.value
    assert isinstance(error, DeadlineExceeded)
    assert "timeout=1.5 s ran out" in str(error)


def test_validation_ends_with_the_timeout_of_a_synchronous_call() -> None:
    model = ScriptedBackend([ENDLESS_TEXT], capabilities=ENFORCED)
    with pytest.raises(DeadlineExceeded, match=r"timeout=1.5 s ran out"):
        model.generate("?", grammar=ENDLESS, timeout=1.5)


async def test_thread_ends_when_nobody_waits_for_its_validation() -> None:
    ended = threading.Event()

    def validate() -> None:
        try:
            while True:
                time_limit.check_time()
                time.sleep(0.001)
        finally:
            ended.set()

    past = asyncio.get_running_loop().time() - 1
    with pytest.raises(DeadlineExceeded, match=r"timeout=2 s ran out while the response was validated"):
        await run_in_thread(validate, Timeouts(timeout=2, deadline=past))
    task = asyncio.create_task(run_in_thread(validate, Timeouts()))
    await asyncio.sleep(0.01)
    ended.clear()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 60)
