"""The command line on the default local model, in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pexpect
import pytest

from tests.cli.running import CLI, LOCAL_MODEL, PARIS, STORY, run_process, start_process
from tests.servers.llamacpp import llama_server

pytestmark = pytest.mark.engine


def test_prompt_is_answered_on_standard_output() -> None:
    done = run_process(*LOCAL_MODEL, PARIS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is Paris.\n", "")


def test_models_of_a_service_on_llamacpp_are_listed() -> None:
    with llama_server(slots=1, api_key="sk-0123456789") as server:
        env = {**os.environ, "OPENAI_API_KEY": "sk-0123456789", "COLUMNS": "300"}
        done = run_process("models", "openai", "--api-base", server.base_url, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"openai/\S*SmolLM2\S*\.gguf +│ llamacpp +│ +[\d,]+ │", done.stdout)


def test_piped_prompt_with_json_option_prints_message() -> None:
    done = run_process("ask", *LOCAL_MODEL, "--json", input=f"{PARIS}\n")
    message = json.loads(done.stdout)
    assert message["content"] == "The capital of France is Paris."
    assert message["finish_reason"] == "stop" and message["token_usage"]["input_tokens"] > 10
    assert done.returncode == 0


def test_schema_option_prints_matching_json_and_refuses_truncated_output(tmp_path: Path) -> None:
    path = tmp_path / "person.json"
    properties = {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}}
    schema = {"type": "object", "properties": properties, "required": ["name", "age"], "additionalProperties": False}
    path.write_text(json.dumps(schema))
    done = run_process(*LOCAL_MODEL, "Make up a person.", "--schema", str(path))
    person = json.loads(done.stdout)
    assert isinstance(person["name"], str) and isinstance(person["age"], int)
    truncated = run_process(*LOCAL_MODEL, "Make up a person.", "--schema", str(path), "--max-tokens", "3")
    assert (truncated.returncode, truncated.stdout, truncated.stderr.count("\n")) == (1, "", 1)
    assert truncated.stderr.startswith("modelport: ") and "max_tokens" in truncated.stderr


def test_text_ends_at_stop_sequence() -> None:
    done = run_process(*LOCAL_MODEL, PARIS, "--stop", " Paris", "--stop", "nothing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is\n", "")


def test_exceeded_context_names_option_of_the_command_line() -> None:
    done = run_process("-m", "llamacpp", "--set", "threads=1", "--set", "context_length=512", "word " * 3000)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.endswith(" The option --set context_length=… makes the context larger.\n")


def test_ctrl_c_during_response_ends_process_with_status_130() -> None:
    with start_process(*LOCAL_MODEL, STORY) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1000)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"")
    assert first and (first + rest).endswith(b"\n")
    assert len(rest.split()) < 100, "the model went on with its story"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see that the weights are being loaded")
def test_ctrl_c_during_loading_ends_process_with_status_130() -> None:
    with start_process(*LOCAL_MODEL, STORY) as process:
        while ".gguf" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        try:
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    # An interrupt inside Python's exec() ends the process by the signal, which a shell calls 130 too.
    assert (process.returncode in (130, -signal.SIGINT), output, errors) == (True, b"", b"")


def test_closed_pipe_ends_process_with_status_141() -> None:
    with start_process(*LOCAL_MODEL, STORY) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_chat_in_terminal_survives_ctrl_c_and_saves_conversation(tmp_path: Path) -> None:
    # Without env= the process would also get variables that readline sets in this process behind Python's back, such
    # as COLUMNS.
    chat = pexpect.spawn(
        CLI[0], [*CLI[1:], "chat", *LOCAL_MODEL], encoding="utf-8", timeout=60, dimensions=(24, 100), env={**os.environ}
    )
    try:
        chat.expect("Ctrl-D leaves")
        chat.expect("you> ")
        chat.sendline(STORY)
        chat.expect("Once")
        chat.sendintr()
        chat.expect(r"\(stopped\)")
        chat.expect("you> ")
        chat.sendline(PARIS)
        chat.expect(r"capital of France is Paris\.")
        chat.expect("you> ")
        chat.sendintr()
        chat.expect("/exit or Ctrl-D leaves")
        chat.expect("you> ")
        chat.sendline(f"/save {tmp_path / 'chat.json'}")
        chat.expect("Saved 4 messages")
        chat.expect("you> ")
        chat.sendeof()
        chat.expect(pexpect.EOF)
    finally:
        chat.close()
    assert (chat.exitstatus, chat.signalstatus) == (0, None)
    messages = json.loads((tmp_path / "chat.json").read_text())
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["content"].startswith("Once")


def test_check_prints_outcomes_of_selected_checks() -> None:
    names = ("generate", "stream", "choice", "image input", "errors")
    done = run_process("check", "llamacpp", "--set", "threads=1", *(arg for name in names for arg in ("--only", name)))
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = dict(re.findall(r"^│ . │ (\w[\w ]*?) +│ (\w[\w ]*?) +│", done.stdout, re.MULTILINE))
    expected = {"generate": "passed", "stream": "passed", "choice": "passed"}
    assert outcomes == {**expected, "image input": "unsupported", "errors": "not checked"}
    assert done.stdout.endswith("llamacpp: passed 3, unsupported 1, not checked 1\n")
    assert done.stderr == ""
