"""Conformance checks of reasoning.

They check that the reasoning is separate from the text, that it may come before structured output, and that the model
accepts the reasoning efforts that it declares.
"""

from __future__ import annotations

import re

from modelport.errors import InvalidOutput, UnsupportedFeature
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.model import Model
from modelport.testing.check import Check, NotChecked
from modelport.testing.checks.structured_output import generate_both_ways
from modelport.testing.subject import Subject
from modelport.types.output_types import Regex


def _require_reasoning_prompt(subject: Subject) -> None:
    if "reasoning" not in subject.prompts:
        raise NotChecked("no prompt is known that makes this model reason")


def reasoning(subject: Subject, model: Model) -> None:
    """The model's reasoning is separate from its text, streamed or not, and can be sent in the next request."""
    _require_reasoning_prompt(subject)
    complete = model.generate(subject.prompt("reasoning"), temperature=0)
    with model.generate_stream(subject.prompt("reasoning"), temperature=0) as stream:
        deltas = list(stream)
    for message in (complete, stream.message):
        assert message.reasoning, "the message has no reasoning"
        assert message.content and message.reasoning not in message.text, "the reasoning is part of the text"
        assert "<think>" not in message.text and "</think>" not in message.text
    assert any(delta.reasoning for delta in deltas)
    # Some services require the reasoning of earlier messages in the next request, and refuse it if it was changed. So
    # the model must accept a message as it was returned, and as `to_dict` writes it.
    for previous in (complete, stream.message, complete.to_dict()):
        question = {"role": "user", "content": subject.prompt("reasoning")}
        model.generate([question, previous, {"role": "user", "content": subject.prompt("plain")}], temperature=0)
    assert complete.reasoning == stream.message.reasoning or not subject.deterministic


def structured_output_after_reasoning(subject: Subject, model: Model) -> None:
    """The reasoning is free text, and the text after it matches the regular expression."""
    _require_reasoning_prompt(subject)
    grammar = Regex("[A-Z][a-z]{1,20} [a-z]{1,20}[.]")
    for message in generate_both_ways(subject, model, subject.prompt("reasoning"), grammar=grammar):
        assert message.reasoning and re.fullmatch(grammar.pattern, message.reasoning.strip()) is None, f"{message!r}"
        assert re.fullmatch(grammar.pattern, message.text), f"{message.text!r} does not match"


def reasoning_effort(subject: Subject, model: Model) -> str:
    """The efforts that the model supports are accepted; the others, except `none`, are refused.

    A model that supports a reasoning budget accepts every effort: modelport sends an effort that the model does not
    support by name as a number of tokens. A model that never reasons accepts `none`, so `none` is not checked.
    """
    supported = [effort for effort in REASONING_EFFORTS if effort in model.capabilities.reasoning_efforts]
    for effort in supported or ["low"]:
        try:
            assert model.generate(subject.prompt("plain"), reasoning_effort=effort, temperature=0).finish_reason
        except InvalidOutput:
            pass  # The model was created with an output type, and the reasoning took all of max_tokens.
    refused = () if model.capabilities.reasoning_budget else {*REASONING_EFFORTS} - {"none", *supported}
    for effort in refused:
        try:
            model.generate(subject.prompt("plain"), reasoning_effort=effort)
        except UnsupportedFeature:
            continue
        raise AssertionError(f"{effort!r} was neither supported nor refused")
    return f"by name: {', '.join(supported) or 'none'}; in tokens: {model.capabilities.reasoning_budget}"


CHECKS = (
    Check("reasoning", "The reasoning is separate from the text.", reasoning, is_supported=lambda c: c.reasoning),
    Check(
        "structured output after reasoning", "The reasoning is free text, and the text after it matches.",
        structured_output_after_reasoning, is_supported=lambda c: c.reasoning and Regex in c.grammars,
    ),
    Check(
        "reasoning effort", "The supported efforts are accepted, the others refused.", reasoning_effort,
        is_supported=lambda c: bool(c.reasoning_efforts or c.reasoning_budget),
        request_unsupported=lambda subject, model: model.generate(subject.prompt("plain"), reasoning_effort="low"),
    ),
)  # fmt: skip
