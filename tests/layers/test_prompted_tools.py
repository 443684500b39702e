"""Tools for backends that support none: put into the prompt, and read from the text."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelport.constrained.lark import as_lark
from modelport.errors import ConnectionFailed, InvalidToolCall, StreamInterrupted
from modelport.layers.adapt.prompted_tools import CLOSE, OPEN, put_tools_into_prompt, read_calls
from modelport.local.grammar_matching import check_grammar
from modelport.model import Model
from modelport.protocols.output_text.calls import CallFormat
from modelport.protocols.output_text.json_calls import read_json_calls
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image, Text
from modelport.types.deltas import ChatMessageStreamDelta, accumulate
from modelport.types.messages import ChatMessage
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool
from modelport.types.usage import TokenUsage
from tests.properties import examples

Delta = ChatMessageStreamDelta
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "The weather in a city.", CITY)
TIME = Tool("time", "The time.", {"type": "object", "properties": {}})
PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'
CALL = f"{OPEN}{PARIS}{CLOSE}"


class ToollessBackend(Model):
    """Responds to each request with the next list of texts and errors, and records the requests."""

    def __init__(self, *responses: list[Any] | str, **settings: Any) -> None:
        super().__init__("toolless", retry=False, **settings)
        self.responses = [[response] if isinstance(response, str) else response for response in responses]
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        for item in self.responses[len(self.requests) - 1]:
            if isinstance(item, Exception):
                raise item
            yield Delta(content=item) if isinstance(item, str) else item
        yield Delta(finish_reason="stop", token_usage=TokenUsage(10, 5))


def names_and_arguments(message: ChatMessage) -> list[tuple[str, Any]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]


# --- reading calls ----------------------------------------------------------------------------------------------------


def read(pieces: list[str], forced: bool = False, reason: str | None = "stop") -> tuple[ChatMessage, list[Delta]]:
    async def backend() -> AsyncGenerator[Delta, None]:
        for piece in pieces:
            yield Delta(content=piece)
        yield Delta(finish_reason=reason)

    async def work() -> list[Delta]:
        return [delta async for delta in read_calls(backend(), forced)]

    deltas = asyncio.run(work())
    return accumulate(deltas), deltas


@examples(300)
@given(
    st.text(st.sampled_from("<tol_ca>ab"), max_size=12).filter(lambda text: OPEN not in text),
    st.sampled_from(["", CALL, f"{CALL}\n{CALL}", f"{OPEN}\n{PARIS}\n{CLOSE} so", f"{OPEN}{PARIS}", f"{OPEN}no"]),
    st.lists(st.integers(0, 150), max_size=6),
)
@example("Let me see. ", CALL, list(range(150)))
@example("<tool_cal", "", [])
def test_read_calls_does_not_depend_on_how_the_text_is_split(before: str, call: str, splits: list[int]) -> None:
    text = before + call
    one_piece, _ = read([text])
    pieces, deltas = read([text[a:b] for a, b in pairwise([0, *sorted(splits), len(text)])])
    assert (pieces.content or "", names_and_arguments(pieces)) == (
        one_piece.content or "", names_and_arguments(one_piece),
    )  # fmt: skip
    assert pieces.finish_reason == one_piece.finish_reason == ("tool_calls" if call else "stop")
    behind = "so" if call.endswith(" so") else ""
    separator = "\n" if before.strip() and behind else ""
    assert (pieces.content or "") == before + separator + behind
    emitted = "".join(delta.content or "" for delta in deltas[:-2])
    assert before.startswith(emitted), "a part of a call was emitted as text"


@pytest.mark.parametrize("split", range(len("Yes. " + CALL)))
def test_read_calls_finds_a_call_that_is_split_in_two(split: int) -> None:
    text = "Yes. " + CALL
    message, _ = read([text[:split], text[split:]])
    assert (message.content, names_and_arguments(message)) == ("Yes. ", [("weather", {"city": "Paris"})])


def test_read_calls_emits_text_before_a_call_as_it_arrives() -> None:
    _, deltas = read(["Let ", "me ", "see. ", CALL])
    assert [delta.content for delta in deltas[:3]] == ["Let ", "me ", "see. "]


def test_read_calls_gives_each_call_an_id() -> None:
    message, _ = read([CALL, "\n", CALL])
    assert names_and_arguments(message) == [("weather", {"city": "Paris"})] * 2
    ids = [call.id for call in message.tool_calls or ()]
    assert len(set(ids)) == 2
    assert all(identifier.startswith("call_") for identifier in ids)


@pytest.mark.parametrize("text", [PARIS, f"[{PARIS}]", f" {PARIS}\n", PARIS.replace("arguments", "parameters")])
def test_read_calls_parses_a_forced_call_as_bare_json(text: str) -> None:
    assert names_and_arguments(read([text], forced=True)[0]) == [("weather", {"city": "Paris"})]


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        (CALL, [("weather", {"city": "Paris"})], None),
        (f"I see.\n{CALL}\n{CALL}", [("weather", {"city": "Paris"})] * 2, "I see."),
        (f"{OPEN}no{CLOSE}", [("", "no")], None),
        ("Sure! I will.", [], "Sure! I will."),
        (f"```json\n{PARIS}\n```", [], f"```json\n{PARIS}\n```"),
    ],
)
def test_read_calls_reads_a_forced_call_that_is_not_bare_json(text: str, calls: Any, content: str | None) -> None:
    message, _ = read([text], forced=True)
    assert (names_and_arguments(message), message.content) == (calls, content)


def test_read_calls_parses_a_list_of_forced_call_grammar() -> None:
    assert len(names_and_arguments(read([f"[{PARIS}, {PARIS}]"], forced=True)[0])) == 2


@pytest.mark.parametrize("end", ["", "</call>"])
def test_read_calls_finds_every_call_with_and_without_end_marks(end: str) -> None:
    async def backend() -> AsyncGenerator[Delta, None]:
        yield Delta(content="".join(f"[CALL]{PARIS.replace('Paris', city)}{end}" for city in ("Rome", "Paris", "Oslo")))
        yield Delta(finish_reason="stop")

    async def work() -> list[Delta]:
        return [delta async for delta in read_calls(backend(), False, CallFormat(("[CALL]",), end, read_json_calls))]

    calls = names_and_arguments(accumulate(asyncio.run(work())))
    assert calls == [("weather", {"city": city}) for city in ("Rome", "Paris", "Oslo")]


@pytest.mark.parametrize("text", ["a <tool_", f"a {OPEN}", f"a {OPEN}{CLOSE}"])
def test_read_calls_keeps_an_empty_call_as_text(text: str) -> None:
    message, _ = read([text])
    assert (message.content, message.tool_calls, message.finish_reason) == (text, None, "stop")


def test_read_calls_keeps_reasoning_and_logprobs_of_deltas_with_token_usage() -> None:
    async def backend() -> AsyncGenerator[Delta, None]:
        for number, text in enumerate(["I ", "think."], 1):
            yield Delta(reasoning=text, logprobs=[{"token": text}], token_usage=TokenUsage(1, number))
        yield Delta(content=CALL, token_usage=TokenUsage(1, 3))
        yield Delta(finish_reason="stop")

    async def work() -> list[Delta]:
        return [delta async for delta in read_calls(backend(), False)]

    deltas = asyncio.run(work())
    message = accumulate(deltas)
    assert (message.reasoning, message.finish_reason) == ("I think.", "tool_calls")
    assert message.logprobs == [{"token": "I "}, {"token": "think."}]
    assert message.token_usage == TokenUsage(1, 3)
    assert [delta.token_usage for delta in deltas[:-1]] == [None] * (len(deltas) - 1)


def test_read_calls_loses_nothing_without_a_finish_reason() -> None:
    assert read(["a <"], reason=None)[0].content == "a <"
    assert names_and_arguments(read([CALL], reason=None)[0]) == [("weather", {"city": "Paris"})]


# --- through a model --------------------------------------------------------------------------------------------------


def test_prompted_tool_is_called_and_a_warning_says_so() -> None:
    model = ToollessBackend(["Let me see. ", CALL])
    message = model.generate("The weather in Paris?", tools=[WEATHER])
    assert names_and_arguments(message) == [("weather", {"city": "Paris"})]
    assert (message.content, message.finish_reason) == ("Let me see. ", "tool_calls")
    assert "put into the prompt" in str(message.warnings[0])
    system, question = model.requests[0].messages
    assert (system.role, question.content) == ("system", "The weather in Paris?")
    assert json.dumps(CITY) in system.text
    assert OPEN in system.text
    assert model.requests[0].tools == ()


def test_prompted_tool_is_called_in_a_stream() -> None:
    model = ToollessBackend(["Let me see. ", *CALL])
    with model.generate_stream("?", tools=[WEATHER]) as stream:
        deltas = list(stream)
    assert accumulate(deltas, "toolless") == stream.message
    assert names_and_arguments(stream.message) == [("weather", {"city": "Paris"})]
    assert [d.token_usage for d in deltas] == [None] * (len(deltas) - 1) + [TokenUsage(10, 5)]


def test_prompted_tool_need_not_be_called() -> None:
    message = ToollessBackend("It is noon.").generate("?", tools=[WEATHER])
    assert (message.content, message.tool_calls, message.finish_reason) == ("It is noon.", None, "stop")


def test_forced_call_is_enforced_by_the_backends_grammar() -> None:
    model = ToollessBackend(PARIS, capabilities={"grammars": {JSONSchema}})
    message = model.generate("?", tools=[WEATHER, TIME], tool_choice="required", stop_sequences=["}"])
    assert names_and_arguments(message) == [("weather", {"city": "Paris"})]
    request = model.requests[0]
    assert isinstance(request.grammar, JSONSchema)
    assert request.grammar.parse(PARIS)["name"] == "weather"
    assert request.grammar.parse('{"name": "time", "arguments": {}}')
    for wrong in ('{"name": "weather", "arguments": {}}', '{"name": "moon", "arguments": {}}', f"[{PARIS}]"):
        with pytest.raises(ValueError):
            request.grammar.parse(wrong)
    assert request.stop_sequences == ()  # Stop sequences are meant for text, and a call may contain them.


def test_forced_call_without_a_grammar_is_described_in_the_prompt() -> None:
    model = ToollessBackend(PARIS)
    assert names_and_arguments(model.generate("?", tools=[WEATHER], tool_choice="required")) == [
        ("weather", {"city": "Paris"})
    ]
    assert model.requests[0].grammar is None
    assert "nothing else" in model.requests[0].messages[0].text


def test_named_tool_is_the_only_one_in_the_prompt() -> None:
    model = ToollessBackend(PARIS)
    model.generate("?", tools=[WEATHER, TIME], tool_choice="weather")
    assert '"time"' not in model.requests[0].messages[0].text


def test_forced_calls_are_a_list_if_parallel_calls_are_allowed() -> None:
    model = ToollessBackend(f"[{PARIS}, {PARIS}]", capabilities={"grammars": {JSONSchema}})
    message = model.generate("?", tools=[WEATHER], tool_choice="required", parallel_tool_calls=True)
    assert len(names_and_arguments(message)) == 2
    assert model.requests[0].grammar is not None
    assert model.requests[0].grammar.parse(f"[{PARIS}]")
    assert "parallel_tool_calls" not in model.requests[0].parameters


def test_prompted_tools_with_parallel_tool_calls_false_keep_the_first_call() -> None:
    message = ToollessBackend(f"{CALL}{CALL}").generate("?", tools=[WEATHER], parallel_tool_calls=False)
    assert len(names_and_arguments(message)) == 1
    assert any("several tool calls" in str(warning) for warning in message.warnings)


def test_tool_choice_none_leaves_the_tools_out_of_the_prompt() -> None:
    model = ToollessBackend(CALL)
    message = model.generate("?", tools=[WEATHER], tool_choice="none")
    assert (message.content, message.tool_calls) == (CALL, None)
    assert len(model.requests[0].messages) == 1


def test_definitions_of_a_tool_resolve_in_the_schema_of_a_forced_call() -> None:
    inner = {"$defs": {"Place": CITY}, "type": "object", "properties": {"at": {"$ref": "#/$defs/Place"}}}
    request = Request((ChatMessage("user", "?"),), tools=(Tool("go", "", inner), TIME), tool_choice="required")
    rewritten, forced = put_tools_into_prompt(request, Capabilities(grammars=frozenset({JSONSchema})))
    assert forced
    assert rewritten.grammar is not None
    assert rewritten.grammar.parse('{"name": "go", "arguments": {"at": {"city": "Rome"}}}')
    with pytest.raises(ValueError, match="city"):
        rewritten.grammar.parse('{"name": "go", "arguments": {"at": {"city": 5}}}')


def forced_call_grammar(*schemas: dict[str, Any]) -> JSONSchema:
    """Return the grammar of a forced call of tools with these schemas, which are named `a`, `b` and so on."""
    tools = tuple(Tool(name, "", schema) for name, schema in zip("ab", schemas, strict=False))
    request = Request((ChatMessage("user", "?"),), tools=tools, tool_choice="required")
    grammar = put_tools_into_prompt(request, Capabilities(grammars=frozenset({JSONSchema})))[0].grammar
    assert isinstance(grammar, JSONSchema)
    check_grammar(as_lark(grammar), "any")
    return grammar


def schema_with_definition(kind: str, key: str = "$defs", **keywords: Any) -> dict[str, Any]:
    """Return a schema whose property `x` has the type, by a reference to a definition `Item`."""
    return {
        "type": "object", "properties": {"x": {"$ref": f"#/{key}/Item"}}, "required": ["x"],
        key: {"Item": {"type": kind}}, **keywords,
    }  # fmt: skip


@pytest.mark.parametrize(
    "schemas",
    [
        (schema_with_definition("integer"), schema_with_definition("string")),
        (schema_with_definition("integer", "definitions"), schema_with_definition("string", "definitions")),
        (schema_with_definition("integer"), schema_with_definition("string", "definitions")),
        (
            schema_with_definition("integer", **{"$id": "https://e.com/a"}),
            schema_with_definition("string", **{"$schema": "https://e.com/draft"}),
        ),
    ],
    ids=["$defs", "definitions", "both", "with $id"],
)
def test_definitions_of_the_same_name_in_two_tools_stay_separate(schemas: tuple[dict[str, Any], ...]) -> None:
    before = copy.deepcopy(schemas)
    grammar = forced_call_grammar(*schemas)
    assert grammar.parse('{"name": "a", "arguments": {"x": 1}}')
    assert grammar.parse('{"name": "b", "arguments": {"x": "one"}}')
    for wrong in ('{"name": "a", "arguments": {"x": "one"}}', '{"name": "b", "arguments": {"x": 1}}'):
        with pytest.raises(ValueError):
            grammar.parse(wrong)
    assert schemas == before


@pytest.mark.parametrize(
    "reference", ["#", "#/properties/kids/items/anyOf/0", "https://e.com/tree", "https://e.com/tree#"]
)
def test_self_reference_of_a_tool_means_its_arguments_and_not_the_call(reference: str) -> None:
    kids = {"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"const": {"$ref": "#"}}]}}
    tree: dict[str, Any] = {
        "type": "object", "additionalProperties": False,
        "properties": {"kids": kids, "next": {"$ref": reference}, "$ref": {"type": "integer"}},
    }  # fmt: skip
    if reference.startswith("https:"):
        tree["$id"] = "https://e.com/tree"
    grammar = forced_call_grammar(tree)
    assert grammar.parse('{"name": "a", "arguments": {"kids": [{"kids": []}, {"$ref": 1}, {"$ref": "#"}]}}')
    assert grammar.parse('{"name": "a", "arguments": {"next": {"next": {}}}}')
    with pytest.raises(ValueError):
        grammar.parse('{"name": "a", "arguments": {"kids": [{"name": "a", "arguments": {}}]}}')


# --- invalid calls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "choice", "raw", "problem"),
    [
        (f'{OPEN}{{"name": "weather", "argu', "auto", '{"name": "weather", "argu', "no valid JSON"),
        (f"{OPEN}not json{CLOSE}", "auto", "not json", "no valid JSON"),
        ("Sure! I will.", "required", "Sure! I will.", "made none"),
        ('{"name": "weather", "argu', "required", '{"name": "weather", "argu', "no valid JSON"),
        ("", "required", "", "made none"),
        ("[]", "required", "[]", "made none"),
        (f'{OPEN}{{"name": "moon", "arguments": {{}}}}{CLOSE}', "auto", "{}", "no such tool"),
        (f'{OPEN}{{"name": "weather", "arguments": {{"city": 5}}}}{CLOSE}', "auto", '{"city": 5}', r"\$\.city"),
        (
            f'{OPEN}{{"arguments": 1, "\\u0069d": [","], "name": "weather", '
            f'"arguments":  {{"city":"a",  "city": 5}} }}{CLOSE}',
            "auto",
            '{"city":"a",  "city": 5}',
            r"\$\.city",
        ),
        (
            f'{OPEN}{{"name": "weather", "args": {{"city": "a"}}}}{CLOSE}',
            "auto",
            '{"name": "weather", "args": {"city": "a"}}',
            "no such tool",
        ),
        ('{"name": "weather", "parameters": {"city":5}}', "required", '{"city":5}', r"\$\.city"),
        (f'{OPEN}[{{"name": "weather", "arguments": {{"city": 5}}}}]{CLOSE}', "auto", '{"city": 5}', r"\$\.city"),
        (f"{OPEN}" + "[" * 100_000, "auto", "[" * 100_000, "no valid JSON"),
    ],
    ids=[
        "truncated", "not JSON", "forced text", "forced and truncated", "forced nothing", "forced and empty",
        "unknown tool", "wrong type", "duplicate keys", "wrong key", "parameters", "a list", "deep nesting",
    ],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_invalid_call_keeps_its_raw_text(output: str, choice: Any, raw: str, problem: str, streamed: bool) -> None:
    model = ToollessBackend(output)
    with pytest.raises(InvalidToolCall, match=problem) as raised:
        if streamed:
            list(model.generate_stream("?", tools=[WEATHER], tool_choice=choice))
        else:
            model.generate("?", tools=[WEATHER], tool_choice=choice)
    assert raised.value.text == raw
    assert raised.value.partial is not None
    assert len(model.requests) == 1


def test_incomplete_call_is_kept_if_the_stream_is_interrupted() -> None:
    with pytest.raises(StreamInterrupted) as raised:
        list(ToollessBackend(["a ", OPEN, '{"na', ConnectionFailed("reset")]).generate_stream("?", tools=[WEATHER]))
    assert raised.value.partial.content == f'a {OPEN}{{"na'
    with pytest.raises(StreamInterrupted) as raised:
        list(ToollessBackend(["a ", "<tool", ConnectionFailed("reset")]).generate_stream("?", tools=[WEATHER]))
    assert raised.value.partial.content == "a <tool"


# --- earlier turns ----------------------------------------------------------------------------------------------------

HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "The weather in Paris?"},
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
]


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}], ids=["text", "object"])
@pytest.mark.parametrize("tools", [[WEATHER], []], ids=["tools", "no tools"])
def test_calls_and_results_of_earlier_turns_are_written_as_text(arguments: Any, tools: list[Tool]) -> None:
    """They have the format that the model is asked for, whether the arguments are given as text or as an object."""
    history = copy.deepcopy(HISTORY)
    history[1]["tool_calls"][0]["function"]["arguments"] = arguments
    before = copy.deepcopy(history)
    model = ToollessBackend("Rain.")
    model.generate(history, tools=tools or None)
    question, call, result = model.requests[0].messages[-3:]
    assert (question.role, question.content) == ("user", "The weather in Paris?")
    assert (call.role, call.content, call.tool_calls) == ("assistant", f"Let me see.\n{CALL}", None)
    assert (result.role, result.content) == ("user", "<tool_response>\nrain\n</tool_response>")
    assert history == before


def test_earlier_call_without_arguments_is_written_with_an_empty_object() -> None:
    model = ToollessBackend("Noon.")
    call = {"id": "c1", "function": {"name": "time", "arguments": ""}}
    model.generate([{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}])
    assert model.requests[0].messages[1].content == f'{OPEN}{{"name": "time", "arguments": {{}}}}{CLOSE}'


def test_image_in_a_tool_result_reaches_the_model() -> None:
    image = Image(b"\x89PNG\r\n\x1a\n", "image/png")
    model = ToollessBackend("A cat.", capabilities={"inputs": {"text", "image"}})
    model.generate([*HISTORY[:2], {"role": "tool", "tool_call_id": "c1", "content": [Text("see"), image]}])
    content = model.requests[0].messages[-1].content
    assert content is not None
    assert image in content
    assert Text("see") in content


@pytest.mark.parametrize(
    "capabilities",
    [{"system_role": False}, {"system_role": False, "consecutive_roles": False}],
    ids=["no system role", "alternating roles"],
)
def test_prompted_tools_are_adapted_to_the_roles_of_the_backend(capabilities: dict[str, Any]) -> None:
    model = ToollessBackend("Rain.", capabilities=capabilities)
    model.generate([*HISTORY, {"role": "user", "content": "And now?"}], tools=[WEATHER])
    roles = [str(message.role) for message in model.requests[0].messages]
    assert roles == ["user", "assistant", "user"] + ["user"] * capabilities.get("consecutive_roles", True)
    assert "weather" in model.requests[0].messages[0].text


def test_named_tool_choice_forces_a_call() -> None:
    request = Request((ChatMessage("user", "?"),), tools=(WEATHER, TIME), tool_choice=NamedToolChoice("time"))
    rewritten, forced = put_tools_into_prompt(request, Capabilities())
    assert forced
    assert rewritten.tool_choice == "auto"
    assert rewritten.tools == ()
