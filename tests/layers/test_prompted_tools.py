"""Tools for models that have none: put into the prompt, and read back from the text."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelport.constrained.lark import as_lark
from modelport.errors import ConnectionFailed, InvalidToolCall, StreamInterrupted
from modelport.layers.adapt.prompted_tools import CLOSE, OPEN, prompted, read_calls
from modelport.local.grammar_matching import check_grammar
from modelport.model import Model
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image, Text
from modelport.types.deltas import ChatMessageStreamDelta, accumulate
from modelport.types.messages import ChatMessage
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool
from modelport.types.usage import TokenUsage

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


class Toolless(Model):
    """Plays one list of texts and errors per request, and keeps the requests."""

    def __init__(self, *answers: list[Any] | str, **settings: Any) -> None:
        super().__init__("toolless", retry=False, **settings)
        self.answers = [[answer] if isinstance(answer, str) else answer for answer in answers]
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        for item in self.answers[len(self.requests) - 1]:
            if isinstance(item, Exception):
                raise item
            yield Delta(content=item) if isinstance(item, str) else item
        yield Delta(finish_reason="stop", token_usage=TokenUsage(10, 5))


def calls_of(message: ChatMessage) -> list[tuple[str, Any]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]


# --- reading ----------------------------------------------------------------------------------------------------------


def read(pieces: list[str], forced: bool = False, reason: str | None = "stop") -> tuple[ChatMessage, list[Delta]]:
    async def backend() -> AsyncGenerator[Delta, None]:
        for piece in pieces:
            yield Delta(content=piece)
        yield Delta(finish_reason=reason)

    async def work() -> list[Delta]:
        return [delta async for delta in read_calls(backend(), forced)]

    deltas = asyncio.run(work())
    return accumulate(deltas), deltas


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.text(st.sampled_from("<tol_ca>ab"), max_size=12).filter(lambda text: OPEN not in text),
    st.sampled_from(["", CALL, f"{CALL}\n{CALL}", f"{OPEN}\n{PARIS}\n{CLOSE} so", f"{OPEN}{PARIS}", f"{OPEN}no"]),
    st.lists(st.integers(0, 150), max_size=6),
)
@example("Let me see. ", CALL, list(range(150)))
@example("<tool_cal", "", [])
def test_the_split_of_the_text_changes_nothing(before: str, call: str, cuts: list[int]) -> None:
    text = before + call
    whole, _ = read([text])
    split, deltas = read([text[a:b] for a, b in pairwise([0, *sorted(cuts), len(text)])])
    assert (split.content or "", calls_of(split)) == (whole.content or "", calls_of(whole))
    assert split.finish_reason == whole.finish_reason == ("tool_calls" if call else "stop")
    assert (split.content or "") == before
    shown = "".join(delta.content or "" for delta in deltas)
    assert before.startswith(shown), "a part of a call was shown as text"


@pytest.mark.parametrize("cut", range(len("Yes. " + CALL)))
def test_a_call_split_anywhere_in_two_is_the_same_call(cut: int) -> None:
    text = "Yes. " + CALL
    message, _ = read([text[:cut], text[cut:]])
    assert (message.content, calls_of(message)) == ("Yes. ", [("weather", {"city": "Paris"})])


def test_text_before_a_call_is_shown_as_it_comes() -> None:
    _, deltas = read(["Let ", "me ", "see. ", CALL])
    assert [delta.content for delta in deltas[:3]] == ["Let ", "me ", "see. "]


def test_several_calls_each_get_an_id() -> None:
    message, _ = read([CALL, "\n", CALL])
    assert calls_of(message) == [("weather", {"city": "Paris"})] * 2
    ids = [call.id for call in message.tool_calls or ()]
    assert len(set(ids)) == 2
    assert all(identifier.startswith("call_") for identifier in ids)


@pytest.mark.parametrize("text", [PARIS, f"[{PARIS}]", f" {PARIS}\n", PARIS.replace("arguments", "parameters")])
def test_a_forced_call_is_bare_json(text: str) -> None:
    assert calls_of(read([text], forced=True)[0]) == [("weather", {"city": "Paris"})]


def test_a_list_of_forced_calls_is_several_calls() -> None:
    assert len(calls_of(read([f"[{PARIS}, {PARIS}]"], forced=True)[0])) == 2


@pytest.mark.parametrize("text", ["a <tool_", f"a {OPEN}", f"a {OPEN}{CLOSE}"])
def test_what_is_no_call_after_all_stays_text(text: str) -> None:
    message, _ = read([text])
    assert (message.content, message.tool_calls, message.finish_reason) == (text, None, "stop")


def test_nothing_is_lost_where_the_backend_gives_no_finish_reason() -> None:
    assert read(["a <"], reason=None)[0].content == "a <"
    assert calls_of(read([CALL], reason=None)[0]) == [("weather", {"city": "Paris"})]


# --- through a model --------------------------------------------------------------------------------------------------


def test_a_tool_is_called_through_the_prompt_and_this_is_said() -> None:
    model = Toolless(["Let me see. ", CALL])
    message = model.generate("The weather in Paris?", tools=[WEATHER])
    assert calls_of(message) == [("weather", {"city": "Paris"})]
    assert (message.content, message.finish_reason) == ("Let me see. ", "tool_calls")
    assert "put into the prompt" in message.warnings[0]
    system, question = model.requests[0].messages
    assert (system.role, question.content) == ("system", "The weather in Paris?")
    assert json.dumps(CITY) in system.text
    assert OPEN in system.text
    assert model.requests[0].tools == ()


def test_a_streamed_call_arrives_too() -> None:
    model = Toolless(["Let me see. ", *CALL])
    with model.generate_stream("?", tools=[WEATHER]) as stream:
        deltas = list(stream)
    assert accumulate(deltas, "toolless") == stream.message
    assert calls_of(stream.message) == [("weather", {"city": "Paris"})]
    assert [d.token_usage for d in deltas] == [None] * (len(deltas) - 1) + [TokenUsage(10, 5)]


def test_a_model_may_answer_without_a_call() -> None:
    message = Toolless("It is noon.").generate("?", tools=[WEATHER])
    assert (message.content, message.tool_calls, message.finish_reason) == ("It is noon.", None, "stop")


def test_a_forced_call_is_held_to_its_schema_by_the_backends_grammar() -> None:
    model = Toolless(PARIS, capabilities={"grammars": {JSONSchema}})
    message = model.generate("?", tools=[WEATHER, TIME], tool_choice="required", stop_sequences=["}"])
    assert calls_of(message) == [("weather", {"city": "Paris"})]
    request = model.requests[0]
    assert isinstance(request.grammar, JSONSchema)
    assert request.grammar.parse(PARIS)["name"] == "weather"
    assert request.grammar.parse('{"name": "time", "arguments": {}}')
    for wrong in ('{"name": "weather", "arguments": {}}', '{"name": "moon", "arguments": {}}', f"[{PARIS}]"):
        with pytest.raises(ValueError):
            request.grammar.parse(wrong)
    assert request.stop_sequences == ()  # Stop sequences are for text; a call may hold them.


def test_a_forced_call_without_a_grammar_is_asked_for_in_words() -> None:
    model = Toolless(PARIS)
    assert calls_of(model.generate("?", tools=[WEATHER], tool_choice="required")) == [("weather", {"city": "Paris"})]
    assert model.requests[0].grammar is None
    assert "nothing else" in model.requests[0].messages[0].text


def test_a_named_tool_is_the_only_one_shown() -> None:
    model = Toolless(PARIS)
    model.generate("?", tools=[WEATHER, TIME], tool_choice="weather")
    assert '"time"' not in model.requests[0].messages[0].text


def test_several_calls_may_be_forced_at_once() -> None:
    model = Toolless(f"[{PARIS}, {PARIS}]", capabilities={"grammars": {JSONSchema}})
    message = model.generate("?", tools=[WEATHER], tool_choice="required", parallel_tool_calls=True)
    assert len(calls_of(message)) == 2
    assert model.requests[0].grammar is not None
    assert model.requests[0].grammar.parse(f"[{PARIS}]")
    assert "parallel_tool_calls" not in model.requests[0].parameters


def test_without_parallel_calls_the_first_counts() -> None:
    message = Toolless(f"{CALL}{CALL}").generate("?", tools=[WEATHER], parallel_tool_calls=False)
    assert len(calls_of(message)) == 1
    assert any("several tool calls" in warning for warning in message.warnings)


def test_tools_that_are_not_to_be_called_are_left_out() -> None:
    model = Toolless(CALL)
    message = model.generate("?", tools=[WEATHER], tool_choice="none")
    assert (message.content, message.tool_calls) == (CALL, None)
    assert len(model.requests[0].messages) == 1


def test_schemas_with_definitions_stay_resolvable_in_the_forced_calls_schema() -> None:
    inner = {"$defs": {"Place": CITY}, "type": "object", "properties": {"at": {"$ref": "#/$defs/Place"}}}
    request = Request((ChatMessage("user", "?"),), tools=(Tool("go", "", inner), TIME), tool_choice="required")
    rewritten, forced = prompted(request, Capabilities(grammars={JSONSchema}))
    assert forced
    assert rewritten.grammar is not None
    assert rewritten.grammar.parse('{"name": "go", "arguments": {"at": {"city": "Rome"}}}')
    with pytest.raises(ValueError, match="city"):
        rewritten.grammar.parse('{"name": "go", "arguments": {"at": {"city": 5}}}')


def forced_calls(*schemas: dict[str, Any]) -> JSONSchema:
    """What the engine's mask holds a forced call of these tools to, which are named `a`, `b` and so on."""
    tools = tuple(Tool(name, "", schema) for name, schema in zip("ab", schemas, strict=False))
    request = Request((ChatMessage("user", "?"),), tools=tools, tool_choice="required")
    grammar = prompted(request, Capabilities(grammars={JSONSchema}))[0].grammar
    assert isinstance(grammar, JSONSchema)
    check_grammar(as_lark(grammar), "any")
    return grammar


def holding(kind: str, key: str = "$defs", **keywords: Any) -> dict[str, Any]:
    """A schema whose property `x` is of the type, by a definition `Item`."""
    return {
        "type": "object", "properties": {"x": {"$ref": f"#/{key}/Item"}}, "required": ["x"],
        key: {"Item": {"type": kind}}, **keywords,
    }  # fmt: skip


@pytest.mark.parametrize(
    "schemas",
    [
        (holding("integer"), holding("string")),
        (holding("integer", "definitions"), holding("string", "definitions")),
        (holding("integer"), holding("string", "definitions")),
        (holding("integer", **{"$id": "https://e.com/a"}), holding("string", **{"$schema": "https://e.com/draft"})),
    ],
)
def test_definitions_of_one_name_in_two_tools_are_kept_apart(schemas: tuple[dict[str, Any], ...]) -> None:
    before = copy.deepcopy(schemas)
    grammar = forced_calls(*schemas)
    assert grammar.parse('{"name": "a", "arguments": {"x": 1}}')
    assert grammar.parse('{"name": "b", "arguments": {"x": "one"}}')
    for wrong in ('{"name": "a", "arguments": {"x": "one"}}', '{"name": "b", "arguments": {"x": 1}}'):
        with pytest.raises(ValueError):
            grammar.parse(wrong)
    assert schemas == before


@pytest.mark.parametrize(
    "reference", ["#", "#/properties/kids/items/anyOf/0", "https://e.com/tree", "https://e.com/tree#"]
)
def test_a_tool_that_refers_to_itself_means_its_arguments_and_not_the_call(reference: str) -> None:
    kids = {"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"const": {"$ref": "#"}}]}}
    tree: dict[str, Any] = {
        "type": "object", "additionalProperties": False,
        "properties": {"kids": kids, "next": {"$ref": reference}, "$ref": {"type": "integer"}},
    }  # fmt: skip
    if reference.startswith("https:"):
        tree["$id"] = "https://e.com/tree"
    grammar = forced_calls(tree)
    assert grammar.parse('{"name": "a", "arguments": {"kids": [{"kids": []}, {"$ref": 1}, {"$ref": "#"}]}}')
    assert grammar.parse('{"name": "a", "arguments": {"next": {"next": {}}}}')
    with pytest.raises(ValueError):
        grammar.parse('{"name": "a", "arguments": {"kids": [{"name": "a", "arguments": {}}]}}')


# --- broken calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "choice", "raw", "says"),
    [
        (f'{OPEN}{{"name": "weather", "argu', "auto", '{"name": "weather", "argu', "no valid JSON"),
        (f"{OPEN}not json{CLOSE}", "auto", "not json", "no valid JSON"),
        ("Sure! I will.", "required", "Sure! I will.", "no valid JSON"),
        ("", "required", "", "made none"),
        (f'{OPEN}{{"name": "moon", "arguments": {{}}}}{CLOSE}', "auto", "{}", "no such tool"),
        (f'{OPEN}{{"name": "weather", "arguments": {{"city": 5}}}}{CLOSE}', "auto", '{"city": 5}', r"\$\.city"),
        (
            f'{OPEN}{{"arguments": 1, "x{{\\"": [","], "name": "weather", '
            f'"arguments":  {{"city":"a",  "city": 5}} }}{CLOSE}',
            "auto",
            '{"city":"a",  "city": 5}',
            r"\$\.city",
        ),
        ('{"name": "weather", "parameters": {"city":5}}', "required", '{"city":5}', r"\$\.city"),
        (f'{OPEN}[{{"name": "weather", "arguments": {{"city": 5}}}}]{CLOSE}', "auto", '{"city": 5}', r"\$\.city"),
        (f"{OPEN}" + "[" * 100_000, "auto", "[" * 100_000, "no valid JSON"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_that_cannot_be_used_keeps_its_raw_text(
    answer: str, choice: Any, raw: str, says: str, streamed: bool
) -> None:
    model = Toolless(answer)
    with pytest.raises(InvalidToolCall, match=says) as raised:
        if streamed:
            list(model.generate_stream("?", tools=[WEATHER], tool_choice=choice))
        else:
            model.generate("?", tools=[WEATHER], tool_choice=choice)
    assert raised.value.text == raw
    assert raised.value.partial is not None
    assert len(model.requests) == 1


def test_half_a_call_is_not_lost_when_the_answer_breaks_off() -> None:
    with pytest.raises(StreamInterrupted) as raised:
        list(Toolless(["a ", OPEN, '{"na', ConnectionFailed("reset")]).generate_stream("?", tools=[WEATHER]))
    assert raised.value.partial.content == f'a {OPEN}{{"na'
    with pytest.raises(StreamInterrupted) as raised:
        list(Toolless(["a ", "<tool", ConnectionFailed("reset")]).generate_stream("?", tools=[WEATHER]))
    assert raised.value.partial.content == "a <tool"


# --- history ----------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
@pytest.mark.parametrize("tools", [[WEATHER], []])
def test_calls_and_results_of_the_history_are_written_as_text(arguments: Any, tools: list[Tool]) -> None:
    """In the form that is asked of the model, whether the caller holds the arguments as text or as an object."""
    history = copy.deepcopy(HISTORY)
    history[1]["tool_calls"][0]["function"]["arguments"] = arguments
    before = copy.deepcopy(history)
    model = Toolless("Rain.")
    model.generate(history, tools=tools or None)
    asked, called, result = model.requests[0].messages[-3:]
    assert (asked.role, asked.content) == ("user", "The weather in Paris?")
    assert (called.role, called.content, called.tool_calls) == ("assistant", f"Let me see.\n{CALL}", None)
    assert (result.role, result.content) == ("user", "<tool_response>\nrain\n</tool_response>")
    assert history == before


def test_a_call_without_arguments_is_written_with_an_empty_object() -> None:
    model = Toolless("Noon.")
    call = {"id": "c1", "function": {"name": "time", "arguments": ""}}
    model.generate([{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}])
    assert model.requests[0].messages[1].content == f'{OPEN}{{"name": "time", "arguments": {{}}}}{CLOSE}'


def test_an_image_in_a_tools_result_still_reaches_the_model() -> None:
    image = Image(b"\x89PNG\r\n\x1a\n", "image/png")
    model = Toolless("A cat.", capabilities={"inputs": {"text", "image"}})
    model.generate([*HISTORY[:2], {"role": "tool", "tool_call_id": "c1", "content": [Text("see"), image]}])
    content = model.requests[0].messages[-1].content
    assert content is not None
    assert image in content
    assert Text("see") in content


@pytest.mark.parametrize("capabilities", [{"system_role": False}, {"system_role": False, "consecutive_roles": False}])
def test_what_was_rewritten_still_fits_the_backends_roles(capabilities: dict[str, Any]) -> None:
    model = Toolless("Rain.", capabilities=capabilities)
    model.generate([*HISTORY, {"role": "user", "content": "And now?"}], tools=[WEATHER])
    roles = [str(message.role) for message in model.requests[0].messages]
    assert roles == ["user", "assistant", "user"] + ["user"] * capabilities.get("consecutive_roles", True)
    assert "weather" in model.requests[0].messages[0].text


def test_named_is_a_choice_of_its_own() -> None:
    request = Request((ChatMessage("user", "?"),), tools=(WEATHER, TIME), tool_choice=NamedToolChoice("time"))
    rewritten, forced = prompted(request, Capabilities())
    assert forced
    assert rewritten.tool_choice == "auto"
    assert rewritten.tools == ()
