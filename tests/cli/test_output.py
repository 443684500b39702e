"""What the command line prints: text, reasoning, warnings; on terminals, pipes, full disks and closed streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from modelport import CallWarning, ChatMessage, ChatMessageStreamDelta
from tests.cli.running import PROGRAM_ON_SCRIPTED_MODEL, read_terminal, start_in_terminal


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_reasoning_goes_to_standard_error(invoke: Any, stream: str) -> None:
    result, model = invoke("Hi", stream, answers=[ChatMessage("assistant", "Paris.", reasoning="France, so")])
    assert (result.stdout, result.stderr) == ("Paris.\n", "France, so\n")
    assert model.requests[0].stream is (stream == "--stream")


@pytest.mark.parametrize(
    ("text", "printed"), [("One\n", "One\n"), ("One\n\n", "One\n\n"), ("One", "One\n"), ("a b\nc", "a b\nc\n")]
)
def test_text_ends_with_a_newline_but_never_with_an_extra_one(invoke: Any, text: str, printed: str) -> None:
    for stream in ("--stream", "--no-stream"):
        assert invoke("Hi", stream, answers=[text])[0].stdout == printed


def test_warnings_and_early_ends_are_noted_on_standard_error(invoke: Any) -> None:
    def notes(text: str, reason: str, *args: str) -> str:
        warnings = [CallWarning("left_out", "x", "x was\nleft out.")] if text == "warned" else None
        delta = ChatMessageStreamDelta(finish_reason=reason, warnings=warnings)
        return str(invoke("Hi", *args, answers=[[text, delta]])[0].stderr)

    assert notes("fine", "stop") == ""
    assert notes("", "stop") == "modelport: the response is empty\n"
    assert "truncated" in notes("Once", "length")
    assert notes("Once", "length", "--max-tokens", "1") == ""
    assert "policy" in notes("Once", "content_filter")
    assert notes("warned", "stop") == "modelport: x was left out.\n"


def test_no_prompt_in_terminal_shows_the_help() -> None:
    terminal = start_in_terminal("['Fine.']")
    shown = terminal.read()
    terminal.close()
    assert terminal.exitstatus == 0 and "Examples:" in shown


@pytest.mark.parametrize(("env", "dim"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_reasoning_is_dim_in_terminals_with_colour(env: dict[str, str], dim: bool) -> None:
    message = "[__import__('modelport').ChatMessage('assistant', 'Paris.', reasoning='Hm.')]"
    shown = start_in_terminal(message, "Hi", env=env).read()
    assert shown == ("\x1b[2mHm.\x1b[0m" if dim else "Hm.") + "\r\nParis.\r\n"


def test_control_characters_of_the_model_are_removed_in_terminals() -> None:
    shown = start_in_terminal(r"['a\x1b[2Jb\x07\x9bc\td\ne']", "Hi").read()
    assert shown.replace("\t", "    ").split() == ["a[2Jbc", "d", "e"]


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_output_that_is_not_utf8_shows_question_marks(env: dict[str, str]) -> None:
    def printed(*args: str) -> bytes:
        command = [sys.executable, "-c", PROGRAM_ON_SCRIPTED_MODEL, r"['Pre \u2713']", *args]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, **env})
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()
        return done.stdout

    assert printed("Hi") == b"Pre ?\n"
    assert json.loads(printed("Hi", "--json"))["content"] == "Pre ✓"
    assert b"COMMAND [OPTIONS]" in printed("--help")
    assert b"| + | generate | passed" in printed("check", "x", "--only", "generate")


def test_full_disk_is_reported_in_one_line() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    for args in (["Hi"], ["models"], ["--help"]):
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-c", PROGRAM_ON_SCRIPTED_MODEL, "['Fine.']", *args]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE)
        expected = b"modelport: can't write to standard output: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, expected)


def test_closed_streams_are_no_error() -> None:
    script = f'exec \'{sys.executable}\' -c "$0" "[\'Fine.\']" "$@"'
    for redirection, status in ((">&-", 0), ("<&-", 0), ("2>&-", 0)):
        command = ["sh", "-c", f"{script} {redirection}", PROGRAM_ON_SCRIPTED_MODEL, "Hi"]
        done = subprocess.run(command, capture_output=True, timeout=30)
        assert (done.returncode, done.stderr) == (status, b"")


def test_messages_are_wrapped_between_words_in_terminals() -> None:
    failing = "__import__('modelport').NotFoundError('word ' * 40 + '/a/path/that/is/longer/than/a/line/of/this')"
    lines = read_terminal(40, "Hi", script=f"[{failing}]").splitlines()
    assert len(lines) > 5 and lines[-2].startswith("/a/path") and lines[-2].endswith("/this")
    assert {word for line in lines[1:-2] for word in line.split()} == {"word"}


@pytest.mark.parametrize("columns", [1, 20, 60])
def test_narrow_terminals_cause_no_error(columns: int) -> None:
    for args in (["models"], ["--help"], ["check", "x", "--only", "generate"]):
        terminal = start_in_terminal("['Fine.']", *args)
        terminal.setwinsize(24, columns)
        shown = terminal.read()
        terminal.close()
        assert terminal.exitstatus == 0 and "Traceback" not in shown, shown
