"""`--usage`, `/usage` and the notes about truncated responses: what is shown, and what is not known."""

from __future__ import annotations

import re
from typing import Any

import pytest

from modelport import ChatMessage, TokenUsage
from modelport.cli.usage import Stopwatch, format_tokens, format_usage
from modelport.types.deltas import ChatMessageStreamDelta

COUNTED = ChatMessage("assistant", "Paris.", token_usage=TokenUsage(31, 8, 12, 3))
SECONDS = r"\d+\.\d\d s"


@pytest.mark.parametrize(
    ("usages", "text"),
    [
        ([TokenUsage(1200, 8, 12, 3)], "1,200 tokens read (12 from the cache), 8 generated (3 of reasoning)"),
        ([TokenUsage(31, 8, 0)], "31 tokens read (0 from the cache), 8 generated"),
        ([TokenUsage(31, 8)], "31 tokens read, 8 generated"),
        ([TokenUsage(output_tokens=8)], "? tokens read, 8 generated"),
        ([TokenUsage()], "? tokens read, ? generated"),
        ([TokenUsage(), TokenUsage(1, 2)], "1 tokens read, 2 generated"),
        ([TokenUsage(3, 4, 1), TokenUsage(1, 2)], "4 tokens read (1 from the cache), 6 generated"),
    ],
)
def test_unknown_count_is_never_zero(usages: list[TokenUsage], text: str) -> None:
    assert format_tokens(usages) == text


def test_time_to_first_output_is_shown_if_there_was_a_stream() -> None:
    message = ChatMessage("assistant", "x")
    assert format_usage(message, 1.5, None) == "? tokens read, ? generated, 1.50 s"
    assert format_usage(message, 1.5, 0.25).endswith(", 1.50 s (the first output after 0.25 s)")


def test_clock_ignores_deltas_without_output(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 102.0, 103.0])
    monkeypatch.setattr("modelport.cli.usage.time.perf_counter", lambda: next(times))
    clock = Stopwatch()
    clock.start()
    clock.see(ChatMessageStreamDelta())
    clock.see(ChatMessageStreamDelta(content="A"))
    clock.see(ChatMessageStreamDelta(content="B"))
    clock.stop()
    assert (clock.first_output, clock.seconds) == (2.0, 3.0)


@pytest.mark.parametrize("flag", ["-u", "--usage"])
@pytest.mark.parametrize("option", [[], ["--no-stream"], ["--choice", "Paris."], ["--json"]])
def test_usage_goes_to_standard_error(invoke: Any, flag: str, option: list[str]) -> None:
    result, _ = invoke("Hi", flag, *option, answers=[COUNTED])
    first = rf" \(the first output after {SECONDS}\)" if not option else ""
    pattern = rf"modelport: 31 tokens read \(12 from the cache\), 8 generated \(3 of reasoning\), {SECONDS}{first}\n"
    assert re.fullmatch(pattern, result.stderr) and "tokens read" not in result.stdout
    assert result.exit_code == 0 and "Paris." in result.stdout


def test_usage_is_shown_for_each_response_of_a_chat(invoke: Any) -> None:
    result, _ = invoke("chat", "-u", stdin="Hi\nAgain\n", answers=[COUNTED, COUNTED])
    assert result.stderr.count("modelport: 31 tokens read") == 2


def test_usage_command_shows_no_zero_for_unknown_counts(invoke: Any) -> None:
    unknown = ChatMessage("assistant", "x", token_usage=TokenUsage())
    result, _ = invoke("chat", stdin="Hi\n/usage\n", answers=[unknown])
    assert result.stderr == "1 response: ? tokens read, ? generated; 1 response came without a count\n"


@pytest.mark.parametrize(
    ("args", "note"),
    [
        ([], "modelport: the response was truncated: it reached 1,024 tokens; set --max-tokens\n"),
        (["-m", "openai/gpt-4o"], "modelport: the response was truncated: it reached the model's limit\n"),
        (["--max-tokens", "3"], ""),
    ],
)
def test_note_of_truncated_response_names_the_limit(invoke: Any, args: list[str], note: str) -> None:
    truncated = ChatMessage("assistant", "Once upon", finish_reason="length")
    result, _ = invoke("Hi", *args, answers=[truncated])
    assert result.stderr == note
    result, _ = invoke("chat", *args, stdin="Hi\n", answers=[truncated])
    assert result.stderr == note
