"""Rows about the form of an answer: schema, types, regex, choice, context-free grammar; images and reasoning."""

from __future__ import annotations

import itertools
import json
import re
import struct
import zlib
from typing import Any

from modelport.errors import InvalidOutput, InvalidToolCall, UnsupportedFeature
from modelport.inputs.output_types import grammar_from
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.model import Model
from modelport.testing.conformance import Check, NotChecked, Subject
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WAYS = ("enforced", "forced_tool", "validated")


def _both(subject: Subject, model: Model, prompt: str, **options: Any) -> list[ChatMessage]:
    """The answer, whole and streamed. An answer that only checks can form may fail, with `InvalidOutput`."""
    options = {"temperature": 0, "max_tokens": 200, **options}
    messages = []
    for streamed in (False, True):
        try:
            if streamed:
                with model.generate_stream(prompt, **options) as stream:
                    list(stream)
                messages.append(stream.message)
            else:
                messages.append(model.generate(prompt, **options))
        except InvalidOutput as error:
            if type(grammar_from(options["grammar"])) in model.capabilities.grammars:
                raise
            raise NotChecked(f"nothing enforces the form here, and the model missed it: {error}") from None
    for message in messages:
        assert message.enforcement in WAYS, f"enforcement is {message.enforcement!r}"
    return messages


def json_schema(subject: Subject, model: Model) -> str:
    """The answer is JSON of the schema, and `parsed` is its object."""
    for message in _both(subject, model, subject.prompt("schema"), grammar=SCHEMA):
        value = json.loads(message.text)
        JSONSchema(SCHEMA).parse(message.text)
        assert message.parsed == value, f"parsed is {message.parsed!r}, the text {message.text!r}"
    openai_form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    message = model.generate(subject.prompt("schema"), response_format=openai_form, temperature=0, max_tokens=200)
    JSONSchema(SCHEMA).parse(message.text)
    return str(message.enforcement)


def typed(subject: Subject, model: Model) -> str:
    """A Python type is a form, and `parsed` an object of it."""
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: str = Field(max_length=30)
        age: int = Field(ge=0, le=150)

    for message in _both(subject, model, subject.prompt("schema"), grammar=Person):
        assert isinstance(message.parsed, Person), f"parsed is {message.parsed!r}"
    return str(message.enforcement)


def cut_form(subject: Subject, model: Model) -> None:
    """A form cut off by max_tokens is an error that keeps the text, never a silent half; whole and streamed."""
    options: dict[str, Any] = {"grammar": SCHEMA, "temperature": 0, "max_tokens": 3}
    for streamed in (False, True):
        try:
            if streamed:
                text = "".join(d.content or "" for d in model.generate_stream(subject.prompt("schema"), **options))
            else:
                text = model.generate(subject.prompt("schema"), **options).text
        except InvalidOutput as error:
            assert error.partial is not None and error.partial.finish_reason == "length", f"{error.partial!r}"
            assert error.text == error.partial.text
            continue
        raise AssertionError(f"half a document was returned: {text!r}")


def strict(subject: Subject, model: Model) -> str:
    """With strict=True a form is enforced, or refused before anything is sent."""
    told = []
    forms = {"a schema": SCHEMA, "a regex": Regex("[12][0-9]{3}"), "a choice": Choice("yes", "no")}
    for name, form in forms.items():
        try:
            message = model.generate(subject.prompt("schema"), grammar=form, strict=True, temperature=0, max_tokens=200)
            assert message.enforcement == "enforced", f"{name}: enforcement is {message.enforcement!r}"
            assert not any("not enforced" in warning for warning in message.warnings), f"{name}: {message.warnings}"
            told.append(f"{name} is enforced")
        except UnsupportedFeature as error:
            assert "strict=True" in str(error), f"{name}: {error}"
            told.append(f"{name} is refused")
    return ", ".join(told)


def beside_tools(subject: Subject, model: Model) -> str:
    """With tools and a form, a call comes or an answer of the form; whole and streamed."""
    from modelport.testing.checks.tools import TOOLS

    came = set()
    for streamed, prompt in ((False, "tool"), (True, "tool"), (True, "schema")):
        options: dict[str, Any] = {"tools": TOOLS, "grammar": SCHEMA, "temperature": 0, "max_tokens": 80}
        try:
            if streamed:
                with model.generate_stream(subject.prompt(prompt), **options) as stream:
                    list(stream)
                message = stream.message
            else:
                message = model.generate(subject.prompt(prompt), **options)
        except (InvalidToolCall, InvalidOutput) as error:
            if isinstance(error, InvalidOutput) and JSONSchema in model.capabilities.grammars:
                raise
            assert error.text
            came.add("something broken, and said so")
            continue
        if message.tool_calls:
            assert message.parsed is None and message.finish_reason == "tool_calls", f"{message!r}"
            came.add("a call")
        else:
            JSONSchema(SCHEMA).parse(message.text)
            assert message.parsed == json.loads(message.text) and message.enforcement in WAYS, f"{message!r}"
            came.add(f"an answer, {message.enforcement}")
    return "; ".join(sorted(came))


def partial(subject: Subject, model: Model) -> str:
    """While it streams, the JSON that has come so far can be read."""
    seen: list[Any] = []
    try:
        with model.generate_stream(subject.prompt("schema"), grammar=SCHEMA, temperature=0, max_tokens=200) as stream:
            for _ in stream:
                seen.append(stream.partial)
    except InvalidOutput as error:
        if JSONSchema in model.capabilities.grammars:
            raise
        raise NotChecked(f"nothing enforces the form here, and the model missed it: {error}") from None
    assert seen and seen[-1] == stream.message.parsed, f"it ended as {seen[-1:]}, the answer is {stream.message.text!r}"
    kept = [value for value in seen if value is not None]
    assert all({*a} <= {*b} for a, b in itertools.pairwise(kept)), f"it did not grow: {kept}"
    return f"{len({json.dumps(value) for value in kept})} states"


def regex(subject: Subject, model: Model) -> str:
    """The answer matches a regular expression as a whole."""
    pattern = r"[12]\d{3}-\d\d-\d\d"
    for message in _both(
        subject, model, "When was the Bastille stormed? Answer as 1999-12-31.", grammar=Regex(pattern)
    ):
        assert re.fullmatch(pattern, message.text, re.ASCII), f"{message.text!r} does not match"
        assert message.parsed == message.text
    return str(message.enforcement)


def choice(subject: Subject, model: Model) -> str:
    """The answer is one of a few strings."""
    options = ("positive", "negative", "neutral / other")
    for message in _both(subject, model, "The mood of 'I love it': positive or negative?", grammar=Choice(*options)):
        assert message.text in options, f"{message.text!r} is no option"
        assert message.parsed == message.text
    return str(message.enforcement)


def lark(subject: Subject, model: Model) -> str:
    """The answer is of a context-free grammar: balanced brackets, which no regex can ask for."""
    grammar = Lark('start: list\nlist: "[" item ("," item){0,3} "]"\nitem: /[0-9]{1,2}/ | list')
    for message in _both(subject, model, "Write a short nested list of numbers.", grammar=grammar, max_tokens=120):
        assert _balanced(message.text), f"{message.text!r} is not of the grammar"
    return str(message.enforcement)


def _lark_or_cut(subject: Subject, model: Model) -> str:
    try:
        return lark(subject, model)
    except InvalidOutput as error:
        assert error.partial is not None and error.partial.finish_reason == "length"
        raise NotChecked("the model went on to max_tokens") from None


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth < 0 or character not in "[],0123456789":
            return False
    return depth == 0 and text.startswith("[")


def picture(colour: tuple[int, int, int], size: int = 32) -> bytes:
    """A PNG of one colour, without any imaging library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * size) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _seeing(subject: Subject, colour: tuple[int, int, int]) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": subject.prompt("image")}, {"type": "image", "image": picture(colour)}]
    return [{"role": "user", "content": parts}]


def image(subject: Subject, model: Model) -> None:
    """An image reaches the model: two pictures give two answers, or at least other probabilities."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
    if model.capabilities.logprobs:
        options |= {"logprobs": True, "top_logprobs": 3}
    red, blue = (model.generate(_seeing(subject, colour), **options) for colour in ((200, 30, 30), (30, 30, 200)))
    if not model.capabilities.logprobs:
        if subject.strict_text and red.text != blue.text:
            return
        raise NotChecked("images are taken; without log probabilities it can't be told whether they are seen")
    assert red.logprobs and blue.logprobs
    assert red.logprobs[0]["logprob"] != blue.logprobs[0]["logprob"], "a red and a blue picture make no difference"


def allow_reasoning(subject: Subject, model: Model) -> None:
    """The thinking is free, and the answer after it has its form."""
    if "reasoning" not in subject.prompts:
        raise NotChecked("no prompt is known here that makes the model think")
    form = Regex("[A-Z][a-z]{1,20} [a-z]{1,20}[.]")
    for message in _both(subject, model, subject.prompt("reasoning"), grammar=form):
        assert message.reasoning and re.fullmatch(form.pattern, message.reasoning.strip()) is None, f"{message!r}"
        assert re.fullmatch(form.pattern, message.text), f"{message.text!r} does not match"


def effort(subject: Subject, model: Model) -> str:
    """How much to think can be told by one name; what the model can't be told is refused."""
    offered = [e for e in REASONING_EFFORTS if e in model.capabilities.reasoning_efforts]
    for name in offered or ["low"]:
        try:
            assert model.generate(subject.prompt("plain"), reasoning_effort=name, temperature=0).finish_reason
        except InvalidOutput:
            pass  # a thought as long as max_tokens, where the subject asks for a form
    for name in () if model.capabilities.reasoning_budget else {*REASONING_EFFORTS} - {"none", *offered}:
        try:
            model.generate(subject.prompt("plain"), reasoning_effort=name)
        except UnsupportedFeature:
            continue
        raise AssertionError(f"{name!r} was neither offered nor refused")
    return f"by name: {', '.join(offered) or 'none'}; in tokens: {model.capabilities.reasoning_budget}"


def reasoning(subject: Subject, model: Model) -> None:
    """The model's thinking is apart from its answer, whole and streamed."""
    if "reasoning" not in subject.prompts:
        raise NotChecked("no prompt is known here that makes the model think")
    whole = model.generate(subject.prompt("reasoning"), temperature=0)
    with model.generate_stream(subject.prompt("reasoning"), temperature=0) as stream:
        deltas = list(stream)
    for message in (whole, stream.message):
        assert message.reasoning, "there is no reasoning"
        assert message.content and message.reasoning not in message.text, "the thinking is in the answer"
        assert "<think>" not in message.text and "</think>" not in message.text
    assert any(delta.reasoning for delta in deltas)
    # Some services want the thinking back, and refuse it where it has changed: an answer can be sent as it came.
    for form in (whole, stream.message, whole.to_dict()):
        asked = {"role": "user", "content": subject.prompt("reasoning")}
        model.generate([asked, form, {"role": "user", "content": subject.prompt("plain")}], temperature=0)
    same = whole.reasoning == stream.message.reasoning
    assert same or not subject.strict_text


CHECKS = (
    Check("JSON schema", "The answer is JSON of the schema", json_schema),
    Check("typed output", "message.parsed is an object of the type asked for", typed),
    Check("a cut form", "It is InvalidOutput with the text kept", cut_form),
    Check("strict forms", "Enforced, or refused before anything is sent", strict),
    Check("a form beside tools", "A call, or an answer of the form", beside_tools),
    Check("partial objects", "What has come of the JSON can be read while it streams", partial),
    Check("regex", "The answer matches as a whole", regex),
    Check("choice", "The answer is one of a few strings", choice),
    Check(
        "context-free grammar", "The answer is of the grammar", _lark_or_cut, lambda c: Lark in c.grammars,
        lambda subject, model: model.generate("hi", grammar=Lark('start: "a"')),
    ),
    Check(
        "image input", "Two images give two answers", image, lambda c: "image" in c.inputs,
        lambda subject, model: model.generate(_seeing(subject, (1, 2, 3))),
    ),
    Check("reasoning", "The thinking is apart from the answer", reasoning, lambda c: c.reasoning),
    Check(
        "a form after thinking", "The thinking is free, the answer is of the form", allow_reasoning,
        lambda c: c.reasoning and Regex in c.grammars,
    ),
    Check(
        "reasoning effort", "One name says how much to think", effort,
        lambda c: bool(c.reasoning_efforts or c.reasoning_budget),
        lambda subject, model: model.generate(subject.prompt("plain"), reasoning_effort="low"),
    ),
)  # fmt: skip
