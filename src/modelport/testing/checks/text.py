"""Rows about plain answers: whole and streamed, stop sequences, limits, usage, log probabilities."""

from __future__ import annotations

import asyncio
import time
from copy import deepcopy
from typing import Any

from modelport.errors import ContextWindowExceeded, InvalidRequest
from modelport.model import Model
from modelport.testing.conformance import Check, NotChecked, Subject
from modelport.types.deltas import ChatMessageStreamDelta, accumulate
from modelport.types.messages import ChatMessage, MessageRole

FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")


def same_text(subject: Subject, a: ChatMessage, b: ChatMessage) -> None:
    """Two answers to one request at temperature 0."""
    if subject.strict_text:
        assert a.content == b.content, f"{a.content!r} is not {b.content!r}"


def well_ended(deltas: list[ChatMessageStreamDelta]) -> None:
    """Usage and finish reason come once, last."""
    reasons = [i for i, delta in enumerate(deltas) if delta.finish_reason is not None]
    usages = [i for i, delta in enumerate(deltas) if delta.token_usage is not None]
    assert reasons == [len(deltas) - 1], f"the finish reason came in deltas {reasons} of {len(deltas)}"
    assert usages in ([], [len(deltas) - 1]), f"token usage came in deltas {usages} of {len(deltas)}"


def generate(subject: Subject, model: Model) -> None:
    """An answer has text, a role, a finish reason and the model's name."""
    message = model.generate(subject.prompt("plain"), temperature=0, max_tokens=60)
    assert message.content and isinstance(message.content, str), f"content is {message.content!r}"
    assert message.role == MessageRole.ASSISTANT
    assert message.finish_reason in FINISH_REASONS, f"finish_reason is {message.finish_reason!r}"
    assert message.model_id, "model_id is missing"
    assert str(message) == message.content


def stream(subject: Subject, model: Model) -> str:
    """The deltas of a stream, many of them, accumulate to what generate answers."""
    whole = model.generate(subject.prompt("plain"), temperature=0, max_tokens=60)
    with model.generate_stream(subject.prompt("plain"), temperature=0, max_tokens=60) as stream:
        deltas = list(stream)
    well_ended(deltas)
    texts = [delta.content for delta in deltas if delta.content]
    assert len(texts) > 1, "the whole answer came in one delta"
    same_text(subject, stream.message, whole)
    assert stream.message == accumulate(deltas, model.model_id)
    assert stream.message.finish_reason == whole.finish_reason
    return f"{len(texts)} deltas"


def asynchronous(subject: Subject, model: Model) -> None:
    """agenerate and agenerate_stream answer as their synchronous twins."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    whole = model.generate(subject.prompt("plain"), **options)

    async def both() -> tuple[ChatMessage, list[ChatMessageStreamDelta]]:
        message = await model.agenerate(subject.prompt("plain"), **options)
        async with model.agenerate_stream(subject.prompt("plain"), **options) as deltas:
            return message, [delta async for delta in deltas]

    message, deltas = asyncio.run(both())
    same_text(subject, message, whole)
    same_text(subject, accumulate(deltas), whole)
    well_ended(deltas)


def stop(subject: Subject, model: Model) -> None:
    """The answer ends before the first stop sequence to complete; none of it gets out, whole or streamed."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    text = model.generate(subject.prompt("plain"), **options).text
    middle = len(text) // 2
    single, later = text[middle : middle + 3], text[middle + 2 : middle + 9]
    assert single and later, f"the answer is too short to cut: {text!r}"
    for stops in ([single], [later, single], ["never to be seen ⊥", later]):
        end = min(text.index(s) + len(s) for s in stops if s in text)
        cut = max((s for s in stops if text[:end].endswith(s)), key=len)
        expected = text[: end - len(cut)]
        whole = model.generate(subject.prompt("plain"), stop_sequences=stops, **options)
        with model.generate_stream(subject.prompt("plain"), stop_sequences=stops, **options) as stream:
            deltas = list(stream)
        well_ended(deltas)
        for message in (whole, stream.message):
            assert message.finish_reason == "stop", f"finish_reason is {message.finish_reason!r}"
            assert message.stop_sequence in (cut, None), f"stop_sequence is {message.stop_sequence!r}, not {cut!r}"
            assert not any(s in message.text for s in stops), f"{message.text!r} holds a stop sequence"
            if subject.strict_text:
                assert message.text == expected, f"{message.text!r} is not {expected!r}"


def early_close(subject: Subject, model: Model) -> None:
    """Closing a stream frees the engine at once; the next call works."""
    with model.generate_stream(subject.prompt("long"), max_tokens=400) as stream:
        next(stream), next(stream)
    assert list(stream) == [], "a closed stream went on"
    _idle(subject)

    async def leave() -> None:
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
        assert not subject.busy, "a cancelled call went on to its end"

    asyncio.run(leave())
    _idle(subject)
    assert model.generate(subject.prompt("plain"), max_tokens=20).text


def _idle(subject: Subject, seconds: float = 3.0) -> None:
    if subject.busy is None:
        return
    end = time.monotonic() + seconds
    while subject.busy() and time.monotonic() < end:
        time.sleep(0.02)
    assert not subject.busy(), f"the engine still works on {subject.busy()} requests after {seconds:g} s"


def max_tokens(subject: Subject, model: Model) -> None:
    """max_tokens cuts the answer, and the finish reason says so."""
    message = model.generate(subject.prompt("long"), max_tokens=5, temperature=0)
    assert message.finish_reason == "length", f"finish_reason is {message.finish_reason!r}"
    usage = message.token_usage
    assert usage is None or usage.output_tokens is None or usage.output_tokens <= 5, f"it cost {usage}"


def deterministic(subject: Subject, model: Model) -> None:
    """At temperature 0 one request has one answer."""
    if not subject.strict_text:
        raise NotChecked("its engine's batches may change the text")
    first = model.generate(subject.prompt("long"), temperature=0, max_tokens=24)
    second = model.generate(subject.prompt("long"), temperature=0, max_tokens=24)
    same_text(subject, first, second)


def seeded(subject: Subject, model: Model) -> None:
    """One seed gives one answer, at any temperature."""
    first = model.generate(subject.prompt("long"), temperature=1.2, seed=7, max_tokens=16)
    second = model.generate(subject.prompt("long"), temperature=1.2, seed=7, max_tokens=16)
    same_text(subject, first, second)


def usage(subject: Subject, model: Model) -> None:
    """Tokens are counted as the model's tokenizer counts them, streamed and not, also where a stop sequence cuts."""
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": subject.prompt("plain")}]
    whole = model.generate(messages, temperature=0, max_tokens=30)
    with model.generate_stream(messages, temperature=0, max_tokens=30) as stream:
        list(stream)
    for message in (whole, stream.message):
        counts = message.token_usage
        assert counts is not None and counts.input_tokens and counts.output_tokens, f"usage is {counts}"
        if subject.count_tokens is not None:
            expected = subject.count_tokens(messages)
            assert counts.input_tokens == expected, f"{counts.input_tokens} input tokens; the tokenizer says {expected}"
    assert whole.token_usage and stream.message.token_usage
    if subject.strict_text:
        assert whole.token_usage.output_tokens == stream.message.token_usage.output_tokens
    cut = model.generate(messages, stop_sequences=[whole.text[2:5]], temperature=0, max_tokens=30)
    # A service that was cut off in mid-stream can't count: unknown, but never a made-up number.
    counts = cut.token_usage
    assert counts is None or counts.output_tokens is None or 0 < counts.output_tokens <= 30, f"usage is {counts}"


def cached(subject: Subject, model: Model) -> str:
    """A prompt that begins like an earlier one is reported as cached where it was not computed again."""
    story = "Once upon a time there was a fox. " * 20
    model.generate(f"{story} What animal is it?", max_tokens=2, temperature=0)
    usage = model.generate(f"{story} Who was there?", max_tokens=2, temperature=0).token_usage
    assert usage is not None and usage.input_tokens is not None
    if usage.cached_input_tokens is None:
        raise NotChecked("this answer did not say how much was cached")
    assert 0 <= usage.cached_input_tokens <= usage.input_tokens, f"usage is {usage}"
    return f"{usage.cached_input_tokens} of {usage.input_tokens} tokens"


def logprobs(subject: Subject, model: Model) -> None:
    """Each token has its log probability and the best alternatives."""
    message = model.generate(subject.prompt("plain"), temperature=0, max_tokens=8, logprobs=True, top_logprobs=2)
    assert message.logprobs, "there are none"
    for entry in message.logprobs:
        assert isinstance(entry["token"], str) and entry["logprob"] <= 0, f"a token's entry is {entry}"
        assert 1 <= len(entry["top_logprobs"]) <= 2, f"a token's entry is {entry}"
    told = "".join(entry["token"] for entry in message.logprobs)
    assert told.startswith(message.text), f"the tokens {told!r} are not the text {message.text!r}"


def roles(subject: Subject, model: Model) -> None:
    """A system message and two turns of one role are taken, whatever the model's template says."""
    mark = {"cache_control": {"type": "ephemeral"}}
    conversations: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": [{"type": "text", "text": subject.prompt("plain"), **mark}]}],
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


def too_long(subject: Subject, model: Model) -> None:
    """A prompt beyond the context is `ContextWindowExceeded`, and the model still answers afterwards."""
    if "too long" not in subject.prompts:
        raise NotChecked("no prompt is known here that is too long for it")
    for streamed in (False, True):
        try:
            if streamed:
                list(model.generate_stream(subject.prompt("too long"), max_tokens=4))
            else:
                model.generate(subject.prompt("too long"), max_tokens=4)
        except ContextWindowExceeded:
            continue
        raise AssertionError("it was answered")
    assert model.generate(subject.prompt("plain"), max_tokens=8).text


def bad_input(subject: Subject, model: Model) -> None:
    """A mistake is named by its place before anything is sent."""
    mistakes: list[tuple[Any, dict[str, Any], str]] = [
        ([{"role": "wizard", "content": "hi"}], {}, "messages[0]"),
        ([{"role": "user", "content": [{"text": "hi"}]}], {}, "messages[0]['content'][0]"),
        ([{"role": "user", "content": [{"type": "text", "text": "hi", "txt": "x"}]}], {}, "'txt'"),
        ([{"role": "user", "content": [{"type": "image", "path": "/no/such.png"}]}], {}, "/no/such.png"),
        ([], {}, "messages"),
        ("\ud800", {}, "messages: holds '\\ud800'"),
        ([_calling({"on": {1}})], {}, "messages[0]['tool_calls'][0]['function']['arguments']"),
        ([_calling({"x": float("nan")})], {}, "messages[0]['tool_calls'][0]['function']['arguments']"),
        ("hi", {"stream": True}, "stream=True"),
        ("hi", {"custom_role_conversions": {"system": "nobody"}}, "custom_role_conversions"),
        ("hi", {"max_tokens": -1}, "max_tokens=-1"),
        ("hi", {"temperature": "hot"}, "temperature='hot'"),
        ("hi", {"tool_choice": "perhaps"}, "tool_choice='perhaps'"),
        ("hi", {"stop_sequences": [""]}, "stop_sequences[0]"),
        ("hi", {"grammar": "a+"}, "grammar='a+'"),
    ]
    for messages, options, place in mistakes:
        try:
            model.generate_stream(messages, **options)  # not even begun
        except InvalidRequest as error:
            assert place in str(error), f"{error} does not name {place}"
            continue
        raise AssertionError(f"{options or messages} was accepted")


def _calling(arguments: dict[str, Any]) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


CHECKS = (
    Check("generate", "An answer has text, role, finish reason and the model's name", generate),
    Check("stream", "Deltas accumulate to what generate answers", stream),
    Check("async", "The async methods answer as the sync ones", asynchronous),
    Check("stop sequences", "The text ends exactly before the first stop sequence to complete", stop),
    Check("early close", "Closing a stream or cancelling a task frees the engine", early_close),
    Check("max_tokens", "A cut answer says finish_reason='length'", max_tokens),
    Check("deterministic", "Temperature 0 gives one answer", deterministic),
    Check(
        "seed", "One seed gives one answer", seeded, lambda c: c.seed,
        lambda subject, model: model.generate(subject.prompt("plain"), seed=7),
    ),
    Check("usage", "Tokens are counted as the tokenizer counts", usage, lambda c: c.usage),
    Check("cached tokens", "What a cache saved is reported", cached, lambda c: c.cached_tokens),
    Check(
        "logprobs", "Tokens come with their log probabilities", logprobs, lambda c: c.logprobs,
        lambda subject, model: model.generate(subject.prompt("plain"), logprobs=True),
    ),
    Check("roles", "System messages and consecutive turns of one role are taken", roles),
    Check("too long a prompt", "It is ContextWindowExceeded", too_long),
    Check("bad input", "It is named by its place before anything is sent", bad_input),
)  # fmt: skip
