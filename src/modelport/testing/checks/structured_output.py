"""Conformance checks of structured output: JSON schemas, Python types, regexes, choices, context-free grammars."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, NoReturn

from modelport.errors import InvalidOutput, InvalidToolCall, MalformedResponse, ModelError, UnsupportedFeature
from modelport.inputs.output_types import grammar_from
from modelport.model import Model
from modelport.testing.check import Check, NotChecked
from modelport.testing.checks.tools import TOOLS, assert_tools_warning, raise_for_invalid_call
from modelport.testing.subject import Subject
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
#: The values of `message.enforcement`.
ENFORCEMENTS = ("enforced", "forced_tool", "validated")
_UNUSABLE = "an unusable output, reported as an error"


def generate_both_ways(subject: Subject, model: Model, prompt: str, **options: Any) -> list[ChatMessage]:
    """Return the model's messages for one prompt: the first without streaming, the second with streaming.

    Args:
        subject: The subject of the check.
        model: The model that `subject.make` has returned.
        prompt: The prompt.
        **options: Options of the call. They must contain `grammar`.

    Raises:
        InvalidOutput: The output does not match, although the model's capabilities say that it enforces the grammar.
        NotChecked: The output does not match, and the model's capabilities do not say that it enforces the grammar.
    """
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
            _raise_for_invalid_output(error, model, type(grammar_from(options["grammar"])))
    for message in messages:
        assert message.enforcement in ENFORCEMENTS, f"enforcement is {message.enforcement!r}"
    return messages


def _raise_for_invalid_output(error: InvalidOutput, model: Model, kind: type) -> NoReturn:
    """Raise the error if the model enforces this kind of output type; otherwise raise `NotChecked`."""
    if kind in model.capabilities.grammars:
        raise error
    raise NotChecked(f"nothing enforces the output here, and the model's output does not match: {error}") from None


def json_schema(subject: Subject, model: Model) -> str:
    """The text is JSON that matches the schema, and `parsed` is its value."""
    for message in generate_both_ways(subject, model, subject.prompt("schema"), grammar=SCHEMA):
        value = json.loads(message.text)
        JSONSchema(SCHEMA).parse(message.text)
        assert message.parsed == value, f"parsed is {message.parsed!r}, the text {message.text!r}"
    response_format = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    options: dict[str, Any] = {"response_format": response_format, "temperature": 0, "max_tokens": 200}
    try:
        message = model.generate(subject.prompt("schema"), **options)
    except InvalidOutput as error:
        _raise_for_invalid_output(error, model, JSONSchema)
    JSONSchema(SCHEMA).parse(message.text)
    return str(message.enforcement)


def typed_output(subject: Subject, model: Model) -> str:
    """A Python type can be the output type, and `parsed` is an instance of it."""
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: str = Field(max_length=30)
        age: int = Field(ge=0, le=150)

    for message in generate_both_ways(subject, model, subject.prompt("schema"), grammar=Person):
        assert isinstance(message.parsed, Person), f"parsed is {message.parsed!r}"
    return str(message.enforcement)


def truncated_structured_output(subject: Subject, model: Model) -> None:
    """Output truncated by max_tokens raises `InvalidOutput` with the text so far, with and without streaming."""
    options: dict[str, Any] = {"grammar": SCHEMA, "temperature": 0, "max_tokens": 3}
    for streamed in (False, True):
        try:
            if streamed:
                text = "".join(d.content or "" for d in model.generate_stream(subject.prompt("schema"), **options))
            else:
                text = model.generate(subject.prompt("schema"), **options).text
        except InvalidOutput as error:
            assert error.partial is not None
            if error.partial.finish_reason != "length":  # The output ended before it could be truncated.
                _raise_for_invalid_output(error, model, JSONSchema)
            assert error.text == error.partial.text
            continue
        raise AssertionError(f"truncated output was returned: {text!r}")


def strict_structured_output(subject: Subject, model: Model) -> str:
    """With strict=True, the output type is enforced, or the request is refused before anything is sent."""
    results = []
    grammars = {"a schema": SCHEMA, "a regex": Regex("[12][0-9]{3}"), "a choice": Choice("yes", "no")}
    for name, grammar in grammars.items():
        options: dict[str, Any] = {"grammar": grammar, "strict": True, "temperature": 0, "max_tokens": 200}
        try:
            message = model.generate(subject.prompt("schema"), **options)
            assert message.enforcement == "enforced", f"{name}: enforcement is {message.enforcement!r}"
            assert not any(warning.type == "not_enforced" for warning in message.warnings), (
                f"{name}: {message.warnings}"
            )
            results.append(f"{name} is enforced")
        except UnsupportedFeature as error:
            assert "strict=True" in str(error), f"{name}: {error}"
            results.append(f"{name} is refused")
    return ", ".join(results)


def structured_output_with_tools(subject: Subject, model: Model) -> str:
    """With tools and an output schema, the response is a tool call or matches the schema, streamed or not.

    An output that is neither is reported as an error. If there are only errors, the outcome is "not checked".
    """
    results = set()
    last_error: ModelError | None = None
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
            results.add(_UNUSABLE)
            last_error = error
            continue
        except MalformedResponse as error:
            raise_for_invalid_call(error, model, "auto")
        assert_tools_warning(model, message)
        if message.tool_calls:
            assert message.parsed is None and message.finish_reason == "tool_calls", f"{message!r}"
            results.add("a tool call")
        else:
            JSONSchema(SCHEMA).parse(message.text)
            assert message.parsed == json.loads(message.text), f"{message!r}"
            assert message.enforcement in ENFORCEMENTS, f"{message!r}"
            results.add(f"structured output, {message.enforcement}")
    if results == {_UNUSABLE}:
        raise NotChecked(f"nothing enforces the output here, and the model's output can't be used: {last_error}")
    return "; ".join(sorted(results))


def partial_objects(subject: Subject, model: Model) -> str:
    """During a stream, `stream.partial` is the object that the JSON received so far contains."""
    states: list[Any] = []
    try:
        with model.generate_stream(subject.prompt("schema"), grammar=SCHEMA, temperature=0, max_tokens=200) as stream:
            for _ in stream:
                states.append(stream.partial)
    except InvalidOutput as error:
        _raise_for_invalid_output(error, model, JSONSchema)
    assert states and states[-1] == stream.message.parsed, (
        f"the last partial object is {states[-1:]}, the text {stream.message.text!r}"
    )
    objects = [state for state in states if state is not None]
    assert all({*a} <= {*b} for a, b in itertools.pairwise(objects)), f"a later object lacks keys: {objects}"
    return f"{len({json.dumps(state) for state in objects})} states"


def regex(subject: Subject, model: Model) -> str:
    """The whole text matches a regular expression."""
    pattern = r"[12]\d{3}-\d\d-\d\d"
    prompt = "When was the Bastille stormed? Answer as 1999-12-31."
    for message in generate_both_ways(subject, model, prompt, grammar=Regex(pattern)):
        assert re.fullmatch(pattern, message.text, re.ASCII), f"{message.text!r} does not match"
        assert message.parsed == message.text
    return str(message.enforcement)


def choice(subject: Subject, model: Model) -> str:
    """The text is one of a few strings."""
    options = ("positive", "negative", "neutral / other")
    prompt = "The mood of 'I love it': positive or negative?"
    for message in generate_both_ways(subject, model, prompt, grammar=Choice(*options)):
        assert message.text in options, f"{message.text!r} is not an option"
        assert message.parsed == message.text
    return str(message.enforcement)


def context_free_grammar(subject: Subject, model: Model) -> str:
    """The text matches a context-free grammar: balanced brackets, which no regular expression can describe."""
    grammar = Lark('start: list\nlist: "[" item ("," item){0,3} "]"\nitem: /[0-9]{1,2}/ | list')
    prompt = "Write a short nested list of numbers."
    try:
        messages = generate_both_ways(subject, model, prompt, grammar=grammar, max_tokens=120)
    except InvalidOutput as error:
        assert error.partial is not None and error.partial.finish_reason == "length"
        raise NotChecked("the output was truncated by max_tokens") from None
    for message in messages:
        assert _is_balanced(message.text), f"{message.text!r} does not match the grammar"
    return str(message.enforcement)


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth < 0 or character not in "[],0123456789":
            return False
    return depth == 0 and text.startswith("[")


CHECKS = (
    Check("JSON schema", "The text is JSON that matches the schema.", json_schema),
    Check("typed output", "`message.parsed` is an instance of the requested type.", typed_output),
    Check(
        "truncated structured output", "Truncated output raises `InvalidOutput` with the text so far.",
        truncated_structured_output,
    ),
    Check(
        "strict structured output", "With strict=True, the output type is enforced or refused.",
        strict_structured_output,
    ),
    Check(
        "structured output with tools", "The response is a tool call, or its text matches the schema.",
        structured_output_with_tools,
    ),
    Check("partial objects", "During a stream, the JSON that has arrived can be read.", partial_objects),
    Check("regex", "The whole text matches the regular expression.", regex),
    Check("choice", "The text is one of a few strings.", choice),
    Check(
        "context-free grammar", "The text matches the grammar.", context_free_grammar,
        is_supported=lambda c: Lark in c.grammars,
        request_unsupported=lambda subject, model: model.generate("hi", grammar=Lark('start: "a"')),
    ),
)  # fmt: skip
