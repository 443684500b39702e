"""Conformance checks of text: streams, stop sequences, cancellation, limits, usage, log probabilities, messages."""

from __future__ import annotations

import asyncio
import time
from copy import deepcopy
from typing import Any

from modelport.errors import ContextWindowExceeded, InvalidRequest
from modelport.model import Model
from modelport.testing.check import Check, NotChecked
from modelport.testing.subject import Subject
from modelport.types.deltas import ChatMessageStreamDelta, accumulate
from modelport.types.messages import ChatMessage, MessageRole

FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")


def assert_same_text(subject: Subject, first: ChatMessage, second: ChatMessage) -> None:
    """Assert that two responses to equal requests have equal text, if the subject is deterministic."""
    if subject.deterministic:
        assert first.content == second.content, f"{first.content!r} is not {second.content!r}"


def assert_ends_once(deltas: list[ChatMessageStreamDelta]) -> None:
    """Assert that only the last delta has a finish reason, and that no other delta has token usage."""
    reasons = [i for i, delta in enumerate(deltas) if delta.finish_reason is not None]
    usages = [i for i, delta in enumerate(deltas) if delta.token_usage is not None]
    assert reasons == [len(deltas) - 1], f"the finish reason came in deltas {reasons} of {len(deltas)}"
    assert usages in ([], [len(deltas) - 1]), f"token usage came in deltas {usages} of {len(deltas)}"


def generate(subject: Subject, model: Model) -> None:
    """A message has text, a role, a finish reason and the model's name."""
    message = model.generate(subject.prompt("plain"), temperature=0, max_tokens=60)
    assert message.content and isinstance(message.content, str), f"content is {message.content!r}"
    assert message.role == MessageRole.ASSISTANT
    assert message.finish_reason in FINISH_REASONS, f"finish_reason is {message.finish_reason!r}"
    assert message.model_id, "model_id is missing"
    assert str(message) == message.content


def stream(subject: Subject, model: Model) -> str:
    """A stream has several deltas, and they accumulate to the message that generate returns."""
    complete = model.generate(subject.prompt("plain"), temperature=0, max_tokens=60)
    with model.generate_stream(subject.prompt("plain"), temperature=0, max_tokens=60) as stream:
        deltas = list(stream)
    assert_ends_once(deltas)
    texts = [delta.content for delta in deltas if delta.content]
    assert len(texts) > 1, "all of the text came in one delta"
    assert_same_text(subject, stream.message, complete)
    assert stream.message == accumulate(deltas, model.model_id)
    assert stream.message.finish_reason == complete.finish_reason
    return f"{len(texts)} deltas"


def asynchronous(subject: Subject, model: Model) -> None:
    """`agenerate` and `agenerate_stream` return the text that `generate` returns."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    expected = model.generate(subject.prompt("plain"), **options)

    async def call_both() -> tuple[ChatMessage, list[ChatMessageStreamDelta]]:
        message = await model.agenerate(subject.prompt("plain"), **options)
        async with model.agenerate_stream(subject.prompt("plain"), **options) as deltas:
            return message, [delta async for delta in deltas]

    message, deltas = asyncio.run(call_both())
    assert_same_text(subject, message, expected)
    assert_same_text(subject, accumulate(deltas), expected)
    assert_ends_once(deltas)


def stop_sequences(subject: Subject, model: Model) -> None:
    """The text ends before the stop sequence that is complete first, and contains no part of it, streamed or not.

    If two stop sequences are complete at the same character, the text ends before the longer one.
    """
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    text = model.generate(subject.prompt("plain"), **options).text
    middle = len(text) // 2
    single, later = text[middle : middle + 3], text[middle + 2 : middle + 9]
    assert single and later, f"the text is too short for a stop sequence: {text!r}"
    for stops in ([single], [later, single], ["never to be seen ⊥", later]):
        end = min(text.index(s) + len(s) for s in stops if s in text)
        matched = max((s for s in stops if text[:end].endswith(s)), key=len)
        expected = text[: end - len(matched)]
        complete = model.generate(subject.prompt("plain"), stop_sequences=stops, **options)
        with model.generate_stream(subject.prompt("plain"), stop_sequences=stops, **options) as stream:
            deltas = list(stream)
        assert_ends_once(deltas)
        for message in (complete, stream.message):
            assert message.finish_reason == "stop", f"finish_reason is {message.finish_reason!r}"
            assert message.stop_sequence in (matched, None), (
                f"stop_sequence is {message.stop_sequence!r}, not {matched!r}"
            )
            assert not any(s in message.text for s in stops), f"{message.text!r} contains a stop sequence"
            if subject.deterministic:
                assert message.text == expected, f"{message.text!r} is not {expected!r}"


def cancellation(subject: Subject, model: Model) -> None:
    """Closing a stream, or cancelling a task, stops the engine's work on the request soon, and the next call works."""
    with model.generate_stream(subject.prompt("long"), max_tokens=400) as stream:
        next(stream), next(stream)
    assert list(stream) == [], "a closed stream went on"
    _assert_idle_soon(subject)

    async def leave_and_cancel() -> None:
        async with model.agenerate_stream(subject.prompt("long"), max_tokens=400) as deltas:
            async for _ in deltas:
                break
        task = asyncio.create_task(model.agenerate(subject.prompt("long"), max_tokens=400))
        await asyncio.sleep(0.05)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return
        # Without `busy`, the model may be a server of fixed responses, which has responded within 0.05 s.
        assert subject.busy is None, "a cancelled call went on to its end"

    asyncio.run(leave_and_cancel())
    _assert_idle_soon(subject)
    assert model.generate(subject.prompt("plain"), max_tokens=20).text


def _assert_idle_soon(subject: Subject, seconds: float = 3.0) -> None:
    if subject.busy is None:
        return
    end = time.monotonic() + seconds
    while subject.busy() and time.monotonic() < end:
        time.sleep(0.02)
    assert not subject.busy(), f"the engine still works on {subject.busy()} requests after {seconds:g} s"


def max_tokens(subject: Subject, model: Model) -> None:
    """max_tokens truncates the output, and the finish reason is then "length"."""
    message = model.generate(subject.prompt("long"), max_tokens=5, temperature=0)
    assert message.finish_reason == "length", f"finish_reason is {message.finish_reason!r}"
    usage = message.token_usage
    assert usage is None or usage.output_tokens is None or usage.output_tokens <= 5, f"usage is {usage}"


def deterministic(subject: Subject, model: Model) -> None:
    """At temperature 0, equal requests return equal text."""
    if not subject.deterministic:
        raise NotChecked("the engine's batching may change the text")
    first = model.generate(subject.prompt("long"), temperature=0, max_tokens=24)
    second = model.generate(subject.prompt("long"), temperature=0, max_tokens=24)
    assert_same_text(subject, first, second)


def seed(subject: Subject, model: Model) -> None:
    """Equal requests with equal seeds return equal text, at any temperature."""
    first = model.generate(subject.prompt("long"), temperature=1.2, seed=7, max_tokens=16)
    second = model.generate(subject.prompt("long"), temperature=1.2, seed=7, max_tokens=16)
    assert_same_text(subject, first, second)


def usage(subject: Subject, model: Model) -> None:
    """Token counts equal those of the model's tokenizer, streamed or not, and include all messages.

    If a stop sequence ends the text, the count of output tokens may be missing.
    """
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": subject.prompt("plain")}]
    complete = model.generate(messages, temperature=0, max_tokens=30)
    with model.generate_stream(messages, temperature=0, max_tokens=30) as stream:
        list(stream)
    for message in (complete, stream.message):
        counts = message.token_usage
        assert counts is not None and counts.input_tokens and counts.output_tokens, f"usage is {counts}"
        if subject.count_tokens is not None:
            expected = subject.count_tokens(messages)
            assert counts.input_tokens == expected, (
                f"{counts.input_tokens} input tokens; the tokenizer counts {expected}"
            )
    assert complete.token_usage and stream.message.token_usage
    if subject.deterministic:
        assert complete.token_usage.output_tokens == stream.message.token_usage.output_tokens
    _assert_all_messages_are_counted(model, messages, complete.token_usage.input_tokens)
    stopped = model.generate(messages, stop_sequences=[complete.text[2:5]], temperature=0, max_tokens=30)
    # If modelport closes the stream at the stop sequence, a remote service can't report a count. Then the count must be
    # missing: modelport must not invent one.
    counts = stopped.token_usage
    assert counts is None or counts.output_tokens is None or 0 < counts.output_tokens <= 30, f"usage is {counts}"


def _assert_all_messages_are_counted(model: Model, messages: list[dict[str, Any]], tokens: int | None) -> None:
    """Assert that a longer system message, and earlier messages, each raise the number of input tokens.

    The system message is lengthened, not added: some chat templates have a longer one for conversations without any.
    """
    system, question = messages
    long_system = {**system, "content": f"{system['content']} Never write more than one sentence, and no lists."}
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello! How can I help you?"}]
    for addition, longer in (
        ("a longer system message", [long_system, question]),
        ("earlier messages", [system, *history, question]),
    ):
        counts = model.generate(longer, temperature=0, max_tokens=8).token_usage
        assert counts is not None and (counts.input_tokens or 0) > (tokens or 0), (
            f"with {addition}, usage is {counts}; without, there are {tokens} input tokens: was it sent?"
        )


def cached_tokens(subject: Subject, model: Model) -> str:
    """If a prompt begins like an earlier one, the response reports how many of its tokens were cached."""
    story = "Once upon a time there was a fox. " * 20
    model.generate(f"{story} What animal is it?", max_tokens=2, temperature=0)
    usage = model.generate(f"{story} Who was there?", max_tokens=2, temperature=0).token_usage
    assert usage is not None and usage.input_tokens is not None
    if usage.cached_input_tokens is None:
        raise NotChecked("the response did not say how many tokens were cached")
    assert 0 <= usage.cached_input_tokens <= usage.input_tokens, f"usage is {usage}"
    return f"{usage.cached_input_tokens} of {usage.input_tokens} tokens"


def logprobs(subject: Subject, model: Model) -> None:
    """Each token is reported with its log probability and the most probable alternatives."""
    message = model.generate(subject.prompt("plain"), temperature=0, max_tokens=8, logprobs=True, top_logprobs=2)
    assert message.logprobs, "the message has no log probabilities"
    for entry in message.logprobs:
        assert isinstance(entry["token"], str) and entry["logprob"] <= 0, f"a token's entry is {entry}"
        assert 1 <= len(entry["top_logprobs"]) <= 2, f"a token's entry is {entry}"
    tokens = "".join(entry["token"] for entry in message.logprobs)
    assert tokens.startswith(message.text), f"the tokens {tokens!r} are not the text {message.text!r}"


def roles(subject: Subject, model: Model) -> None:
    """System messages and consecutive messages of one role are accepted, even if the chat template refuses them."""
    cache_mark = {"cache_control": {"type": "ephemeral"}}
    conversations: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": [{"type": "text", "text": subject.prompt("plain"), **cache_mark}]}],
        [{"role": "system", "content": "You are terse."}, {"role": "user", "content": subject.prompt("plain")}],
        [{"role": "user", "content": "Hello."}, {"role": "user", "content": subject.prompt("plain")}],
        [
            {"role": "system", "content": "You are terse."},
            {"role": "system", "content": "You are kind."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "assistant", "content": "How can I help?"},
            {"role": "tool-response", "content": "Observation: none."},
            {"role": "user", "content": subject.prompt("plain")},
        ],
    ]
    for messages in conversations:
        before = deepcopy(messages)
        model.generate(messages, max_tokens=8)
        assert messages == before, "the caller's messages were changed"


def context_window_exceeded(subject: Subject, model: Model) -> None:
    """A prompt beyond the context window raises `ContextWindowExceeded`, and the next call works."""
    if "too long" not in subject.prompts:
        raise NotChecked("no prompt is known that exceeds this model's context window")
    for streamed in (False, True):
        try:
            if streamed:
                list(model.generate_stream(subject.prompt("too long"), max_tokens=4))
            else:
                model.generate(subject.prompt("too long"), max_tokens=4)
        except ContextWindowExceeded:
            continue
        raise AssertionError("the model responded")
    assert model.generate(subject.prompt("plain"), max_tokens=8).text


def invalid_input(subject: Subject, model: Model) -> None:
    """A mistake in the input raises an error that names the mistake's location, before anything is sent."""
    mistakes: list[tuple[Any, dict[str, Any], str]] = [
        ([{"role": "wizard", "content": "hi"}], {}, "messages[0]"),
        ([{"role": "user", "content": [{"text": "hi"}]}], {}, "messages[0]['content'][0]"),
        ([{"role": "user", "content": [{"type": "text", "text": "hi", "txt": "x"}]}], {}, "'txt'"),
        ([{"role": "user", "content": [{"type": "image", "path": "/no/such.png"}]}], {}, "/no/such.png"),
        ([], {}, "messages"),
        ("\ud800", {}, "messages: holds '\\ud800'"),
        ([_calling_message({"on": {1}})], {}, "messages[0]['tool_calls'][0]['function']['arguments']"),
        ([_calling_message({"x": float("nan")})], {}, "messages[0]['tool_calls'][0]['function']['arguments']"),
        ("hi", {"stream": True}, "stream=True"),
        ("hi", {"custom_role_conversions": {"system": "nobody"}}, "custom_role_conversions"),
        ("hi", {"max_tokens": -1}, "max_tokens=-1"),
        ("hi", {"temperature": "hot"}, "temperature='hot'"),
        ("hi", {"tool_choice": "perhaps"}, "tool_choice='perhaps'"),
        ("hi", {"stop_sequences": [""]}, "stop_sequences[0]"),
        ("hi", {"grammar": "a+"}, "grammar='a+'"),
    ]
    for messages, options, location in mistakes:
        try:
            model.generate_stream(messages, **options)  # The error must come before the stream is read.
        except InvalidRequest as error:
            assert location in str(error), f"{error} does not name {location}"
            continue
        raise AssertionError(f"{options or messages} was accepted")


def _calling_message(arguments: dict[str, Any]) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


CHECKS = (
    Check("generate", "A message has text, role, finish reason and the model's name.", generate),
    Check("stream", "The deltas accumulate to the message that generate returns.", stream),
    Check("async", "The async methods return what the sync methods return.", asynchronous),
    Check("stop sequences", "The text ends exactly before the first stop sequence.", stop_sequences),
    Check("cancellation", "Closing a stream or cancelling a task frees the engine.", cancellation),
    Check("max_tokens", "Truncated output has finish_reason='length'.", max_tokens),
    Check("deterministic", "At temperature 0, equal requests return equal text.", deterministic),
    Check(
        "seed", "Equal seeds return equal text.", seed, is_supported=lambda c: c.seed,
        request_unsupported=lambda subject, model: model.generate(subject.prompt("plain"), seed=7),
    ),
    Check("usage", "Token counts equal those of the model's tokenizer.", usage, is_supported=lambda c: c.usage),
    Check(
        "cached tokens", "Tokens read from a cache are reported.", cached_tokens,
        is_supported=lambda c: c.cached_tokens,
    ),
    Check(
        "logprobs", "Tokens have their log probabilities.", logprobs, is_supported=lambda c: c.logprobs,
        request_unsupported=lambda subject, model: model.generate(subject.prompt("plain"), logprobs=True),
    ),
    Check("roles", "System messages and consecutive messages of one role are accepted.", roles),
    Check("context window exceeded", "Too long a prompt raises `ContextWindowExceeded`.", context_window_exceeded),
    Check("invalid input", "The error names the location of the mistake before anything is sent.", invalid_input),
)  # fmt: skip
