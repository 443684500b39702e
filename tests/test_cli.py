"""The command line: on the embedded model as a user runs it, and on scripted models for all its corners."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pexpect
import pytest
from click.testing import CliRunner, Result

import modelport
from modelport import ChatMessage, ChatMessageStreamDelta, Image, Model, Secret, errors
from modelport.cli.commands import cli
from modelport.testing import ScriptedModel
from modelport.testing.conformance import Outcome
from modelport.types.capabilities import Capabilities

CLI = [sys.executable, "-m", "modelport.cli"]
PARIS = "What is the capital of France? Answer in one sentence."
STORY = "Write a long story about a fox who finds a library in the forest."
#: One thread: with two, llama.cpp is much slower beside another busy process on a machine of two cores.
EMBEDDED = ["-m", "llamacpp", "--set", "threads=1", "--set", "context_length=2048", "-t", "0"]
#: Before click 8.2 a runner mixed standard error into standard output by default.
RUNNER = CliRunner(**({"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}))
#: Runs the command line on a scripted model, in a process of its own.
SCRIPTED = "\n".join(
    (
        "import sys, modelport.registry",
        "from modelport.cli import main",
        "from modelport.testing import ScriptedModel",
        "model = ScriptedModel(*eval(sys.argv.pop(1)), repeat=True)",
        "modelport.registry.load_model = lambda spec, **settings: model",
        "main()",
    )
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELPORT_MODEL", "MODELPORT_DEBUG", "NO_COLOR", "COLUMNS", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)


class Script(ScriptedModel):
    closed = 0

    def close(self) -> None:
        self.closed += 1


class Loaded:
    """What the command line asked `load_model` for, and the models that it got."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.models: dict[str, Any] = {}

    def __call__(self, spec: str, **settings: Any) -> Model:
        self.calls.append((spec, settings))
        model = self.models.get(spec, self.models.get("*"))
        if isinstance(model, BaseException):
            raise model
        return model


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    loaded = Loaded()
    monkeypatch.setattr("modelport.registry.load_model", loaded)
    return loaded


Ask = Callable[..., tuple[Result, Script]]


@pytest.fixture
def ask(loaded: Loaded) -> Ask:
    """Runs the command line on a scripted model; returns the result and the model."""

    def run(*args: str, answers: Any = ("Paris.",), stdin: str | bytes | None = None, **settings: Any) -> Any:
        model = Script(*answers, **settings)
        loaded.models["*"] = model
        return RUNNER.invoke(cli, args, input=stdin, prog_name="modelport"), model

    return run


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8", "timeout": 120, **options}
    if "input" in options:
        del options["stdin"]
    return subprocess.run([*CLI, *args], **options)


# --- on the embedded model --------------------------------------------------------------------------------------------


def test_the_embedded_model_answers() -> None:
    done = run(*EMBEDDED, PARIS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is Paris.\n", "")


def test_a_piped_prompt_and_the_whole_message() -> None:
    done = run("ask", *EMBEDDED, "--json", input=f"{PARIS}\n")
    message = json.loads(done.stdout)
    assert message["content"] == "The capital of France is Paris."
    assert message["finish_reason"] == "stop" and message["token_usage"]["input_tokens"] > 10
    assert done.returncode == 0


def test_an_answer_of_a_schema(tmp_path: Path) -> None:
    schema = tmp_path / "person.json"
    properties = {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}}
    form = {"type": "object", "properties": properties, "required": ["name", "age"], "additionalProperties": False}
    schema.write_text(json.dumps(form))
    done = run(*EMBEDDED, "Make up a person.", "--schema", str(schema))
    person = json.loads(done.stdout)
    assert isinstance(person["name"], str) and isinstance(person["age"], int)
    cut = run(*EMBEDDED, "Make up a person.", "--schema", str(schema), "--max-tokens", "3")
    assert (cut.returncode, cut.stdout, cut.stderr.count("\n")) == (1, "", 1)
    assert cut.stderr.startswith(
        "modelport: The output was truncated by max_tokens before it matched the output type: "
    )


def test_an_answer_ends_at_a_stop_sequence() -> None:
    done = run(*EMBEDDED, PARIS, "--stop", " Paris", "--stop", "nothing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is\n", "")


def start(*args: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*CLI, *args], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


def test_ctrl_c_in_the_middle_of_an_answer() -> None:
    with start(*EMBEDDED, STORY) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1000)  # streamed: the story takes much longer than this
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        rest, said = process.communicate(timeout=30)
        assert time.monotonic() - begin < 5
    assert (process.returncode, said) == (130, b"")
    assert first and (first + rest).endswith(b"\n")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see that the weights are being loaded")
def test_ctrl_c_while_the_weights_are_loaded() -> None:
    with start(*EMBEDDED, STORY) as process:
        while ".gguf" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        try:
            out, said = process.communicate(timeout=30)
        finally:
            process.kill()
    # An interrupt inside Python's exec() ends the process by the signal; a shell calls that 130 too.
    assert (process.returncode in (130, -signal.SIGINT), out, said) == (True, b"", b"")


def test_the_reader_of_the_answer_leaves() -> None:
    with start(*EMBEDDED, STORY) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_a_chat_in_a_terminal(tmp_path: Path) -> None:
    # Without env= it would be given what readline has set in this process behind Python's back, such as COLUMNS.
    chat = pexpect.spawn(
        CLI[0], [*CLI[1:], "chat", *EMBEDDED], encoding="utf-8", timeout=60, dimensions=(24, 100), env={**os.environ}
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
    turns = json.loads((tmp_path / "chat.json").read_text())
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert turns[1]["content"].startswith("Once")


def test_check_finds_out_what_the_embedded_model_can_do() -> None:
    rows = [arg for name in ("generate", "stream", "choice", "image input", "errors") for arg in ("--row", name)]
    done = run("check", "llamacpp", "--set", "threads=1", *rows)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(re.findall(r"^│ . │ (\w[\w ]*?) +│ (\w[\w ]*?) +│", done.stdout, re.MULTILINE))
    expected = {"generate": "works", "stream": "works", "choice": "works"}
    assert found == {**expected, "image input": "unsupported", "errors": "not checked"}
    assert done.stdout.endswith("llamacpp: works 3, declared 1, not checked 1\n")
    assert done.stderr == ""


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("command", [[], ["ask"]])
def test_options_reach_the_model_from_before_and_after_the_prompt(
    ask: Ask, loaded: Loaded, place: int, command: list[str]
) -> None:
    options = ["-m", "openai/gpt-4o", "--temperature", "0.5", "--max-tokens", "9", "--seed", "7", "--stop", "A",
               "--stop", "B", "--system", "Be brief.", "--api-base", "http://x/v1", "--set", "dialect=llama.cpp",
               "--set", "timeout=30", "--set", 'default_headers={"a": "b"}']  # fmt: skip
    prompt = ["What is it?"]
    result, model = ask(*command, *(options + prompt if place else prompt + options))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Paris.\n", "")
    [request] = model.requests
    assert [(m.role, m.content) for m in request.messages] == [("system", "Be brief."), ("user", "What is it?")]
    assert request.parameters == {"temperature": 0.5, "max_tokens": 9, "seed": 7}
    assert request.stop_sequences == ("A", "B")
    settings = {"dialect": "llama.cpp", "timeout": 30, "default_headers": {"a": "b"}, "api_base": "http://x/v1"}
    assert loaded.calls == [("openai/gpt-4o", settings)]
    assert request.stream and model.closed == 1


def test_the_model_of_the_environment(ask: Ask, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("Hi")
    monkeypatch.setenv("MODELPORT_MODEL", "openai/o3")
    ask("Hi")
    ask("Hi", "-m", "mine")
    assert [spec for spec, _ in loaded.calls] == ["llamacpp", "openai/o3", "mine"]


@pytest.mark.parametrize("args", [["ask", "chat"], ["--", "chat"], ["-t", "0", "--", "chat"], ["ask", "--", "chat"]])
def test_a_prompt_that_is_the_name_of_a_command(ask: Ask, args: list[str]) -> None:
    _, model = ask(*args)
    assert model.requests[0].messages[0].content == "chat"


def test_options_before_a_command_belong_to_it(ask: Ask) -> None:
    result, model = ask("-t", "0.5", "--set", "a=1", "chat", stdin="Hello\n")
    assert (result.exit_code, result.stdout) == (0, "Paris.\n")
    assert model.requests[0].parameters == {"temperature": 0.5}
    result, _ = ask("-t", "0", "models")
    assert result.exit_code == 2 and "No such option" in result.stderr


@pytest.mark.parametrize(
    ("args", "stdin", "prompt"),
    [
        (["What is this?"], "some\ncode\n", "some\ncode\n\nWhat is this?"),
        (["What is this?"], "", "What is this?"),
        (["What is this?"], "\n", "What is this?"),
        ([], "What is é?\r\n", "What is é?"),
        ([], "\ufeffHi", "Hi"),
        (["-5 + 3"], None, None),
        (["--", "-5 + 3"], None, "-5 + 3"),
    ],
)
def test_the_prompt(ask: Ask, args: list[str], stdin: str | None, prompt: str | None) -> None:
    result, model = ask(*args, stdin=None if stdin is None else stdin.encode())
    assert [request.messages[0].content for request in model.requests] == ([] if prompt is None else [prompt])
    assert result.exit_code == (2 if prompt is None else 0)


def test_a_device_as_standard_input_is_not_waited_for() -> None:
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPTED, "['Fine.']", "Hi"], stdin=endless, capture_output=True, timeout=30
        )
    assert done.stdout == b"Fine.\n"


def test_images(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n rest")
    _, model = ask("What is this?", "--image", str(path), "--image", "http://x/y.jpg")
    first, second, text = model.requests[0].messages[0].content
    assert isinstance(first, Image) and first.data == path.read_bytes()
    assert second.url == "http://x/y.jpg" and text.text == "What is this?"
    result, model = ask("What is this?", "--image", "none.png")
    assert (result.exit_code, model.requests, result.stderr.count("\n")) == (1, [], 1)
    assert result.stderr.startswith("modelport: --image none.png: ")
    for url in ("ftp://host/x?sig=hidden", "data:image/png;base64,hidden!", "http:///x?sig=hidden"):
        result, _ = ask("What is this?", "--image", url)
        assert "--image " in result.stderr and "hidden" not in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "answer", "status"),
    [
        (["--choice", "yes", "--choice", "no"], "yes", 0),
        (["--choice", "yes", "--choice", "no"], "perhaps", 1),
        (["--regex", r"\d+"], "42", 0),
        (["--regex", r"\d+"], "many", 1),
    ],
)
def test_forms_of_an_answer(ask: Ask, args: list[str], answer: str, status: int) -> None:
    result, model = ask("Well?", *args, answers=[answer])
    assert (result.exit_code, result.stdout) == (status, "" if status else f"{answer}\n")
    assert not model.requests[0].stream, "a wrong answer must not be shown piece by piece"


def test_a_schema_that_is_none(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    for text, says in (
        ("{", "holds no JSON"),
        ('{"type": 3, "items": {}}', "invalid"),
        ("[]", "an object"),
        ("7", "an object"),
    ):
        path.write_text(text)
        result, model = ask("Hi", "--schema", str(path))
        assert (result.exit_code, model.requests, result.stderr.count("\n")) == (1, [], 1)
        assert result.stderr.startswith(f"modelport: --schema {path}") and says in result.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["What", "is", "this?"], "put quotes around it"),
        (["--nope", "Hi"], "No such option"),
        (["Hi", "--temperature", "warm"], "not a valid float"),
        (["Hi", "--schema", "nowhere.json"], "does not exist"),
        (["Hi", "--regex", "a", "--choice", "b"], "give one"),
        (["--frobnicate", "Hi"], "No such option '--frobnicate'.\n"),
        (["Hi", "--choise", "a"], "Did you mean '--choice'?"),
        (["chekc", "llamacpp"], "Did you mean the command 'check'?"),
        (["check", "llamacpp", "--json", "--report"], "give one"),
        (["Hi", "--set", "dialect"], "key=value"),
        (["Hi", "--set", 'headers={"a"'], "not valid JSON"),
        (["\udcff"], "not UTF-8"),
        ([], "There is no prompt"),
        ([""], "There is no prompt"),
        (["chat", "about", "dogs"], "unexpected extra argument"),
        (["check"], "Missing argument"),
    ],
)
def test_usage_errors(ask: Ask, args: list[str], says: str) -> None:
    result, model = ask(*args)
    assert (result.exit_code, result.stdout, model.requests) == (2, "", [])
    assert says in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["api_key", "apikey", "azure_ad_token", "aws_secret_access_key", "password"])
def test_keys_do_not_belong_on_the_command_line(ask: Ask, name: str) -> None:
    result, model = ask("Hi", "--set", f"{name}=sk-0123456789")
    assert (result.exit_code, model.requests) == (2, [])
    assert "environment" in result.stderr and "sk-0123456789" not in result.output


@pytest.mark.parametrize("setting", ["tool_name_key=x", "max_tokens=5", "first_token_timeout=3"])
def test_settings_that_only_sound_like_keys(ask: Ask, setting: str) -> None:
    assert ask("Hi", "--set", setting)[0].exit_code == 0


# --- what is printed --------------------------------------------------------------------------------------------------


def test_the_whole_message_as_json(ask: Ask) -> None:
    message = ChatMessage("assistant", "Père [bold]", reasoning="Hm.", warnings=["something was left out"])
    result, _ = ask("Hi", "--json", answers=[message])
    said = json.loads(result.stdout)
    assert (said["content"], said["reasoning"], said["finish_reason"]) == ("Père [bold]", "Hm.", "stop")
    assert result.stderr == ""


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_reasoning_goes_to_standard_error(ask: Ask, stream: str) -> None:
    result, model = ask("Hi", stream, answers=[ChatMessage("assistant", "Paris.", reasoning="France, so")])
    assert (result.stdout, result.stderr) == ("Paris.\n", "France, so\n")
    assert model.requests[0].stream is (stream == "--stream")


@pytest.mark.parametrize(
    ("text", "printed"), [("One\n", "One\n"), ("One\n\n", "One\n\n"), ("One", "One\n"), ("a b\nc", "a b\nc\n")]
)
def test_an_answer_ends_its_line_once(ask: Ask, text: str, printed: str) -> None:
    for stream in ("--stream", "--no-stream"):
        assert ask("Hi", stream, answers=[text])[0].stdout == printed


def test_what_a_reader_can_not_see_in_an_answer_is_said(ask: Ask) -> None:
    def ended(text: str, reason: str, *args: str) -> str:
        delta = ChatMessageStreamDelta(finish_reason=reason, warnings=["x was\nleft out"] if text == "warned" else None)
        return ask("Hi", *args, answers=[[text, delta]])[0].stderr

    assert ended("fine", "stop") == ""
    assert ended("", "stop") == "modelport: the answer is empty\n"
    assert "cut off" in ended("Once", "length")
    assert ended("Once", "length", "--max-tokens", "1") == ""
    assert "policy" in ended("Once", "content_filter")
    assert ended("warned", "stop") == "modelport: x was left out\n"


def in_terminal(answers: str, *args: str, **env: str) -> pexpect.spawn:
    command = ["-c", SCRIPTED, answers, *args]
    environment = {**os.environ, "TERM": "xterm", **env}
    return pexpect.spawn(sys.executable, command, encoding="utf-8", env=environment, timeout=30, dimensions=(24, 100))


def test_no_prompt_at_a_terminal_shows_the_help() -> None:
    terminal = in_terminal("['Fine.']")
    said = terminal.read()
    terminal.close()
    assert terminal.exitstatus == 0 and "Examples:" in said


@pytest.mark.parametrize(("env", "dim"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_reasoning_is_dim_in_a_terminal(env: dict[str, str], dim: bool) -> None:
    answer = "[__import__('modelport').ChatMessage('assistant', 'Paris.', reasoning='Hm.')]"
    said = in_terminal(answer, "Hi", **env).read()
    assert said == ("\x1b[2mHm.\x1b[0m" if dim else "Hm.") + "\r\nParis.\r\n"


def test_a_model_does_not_control_the_terminal() -> None:
    said = in_terminal(r"['a\x1b[2Jb\x07\x9bc\td\ne']", "Hi").read()
    assert said.replace("\t", "    ").split() == ["a[2Jbc", "d", "e"]


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_output_that_is_not_utf_8(env: dict[str, str]) -> None:
    def printed(*args: str) -> bytes:
        command = [sys.executable, "-c", SCRIPTED, r"['Pre \u2713']", *args]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, **env})
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()
        return done.stdout

    assert printed("Hi") == b"Pre ?\n"
    assert json.loads(printed("Hi", "--json"))["content"] == "Pre ✓"
    assert b"COMMAND [OPTIONS]" in printed("--help")
    assert b"| + | generate | works" in printed("check", "x", "--row", "generate")


def test_a_full_disk_is_one_line() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    for args in (["Hi"], ["models"], ["--help"]):
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-c", SCRIPTED, "['Fine.']", *args]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE)
        said = b"modelport: can't write to standard output: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said)


def test_closed_streams() -> None:
    script = f'exec \'{sys.executable}\' -c "$0" "[\'Fine.\']" "$@"'
    for redirection, status in ((">&-", 0), ("<&-", 0), ("2>&-", 0)):
        done = subprocess.run(["sh", "-c", f"{script} {redirection}", SCRIPTED, "Hi"], capture_output=True, timeout=30)
        assert (done.returncode, done.stderr) == (status, b"")


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_an_error_is_one_line(ask: Ask) -> None:
    result, model = ask("Hi", answers=[errors.RateLimited("slow down.\n  Try\tlater", model_id="m")], retry=False)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "modelport: slow down. Try later (model: m)\n"
    assert model.closed == 1


def test_an_unexpected_error_is_one_line_too(ask: Ask, loaded: Loaded) -> None:
    loaded.models["other"] = TypeError("missing argument")
    result, _ = ask("Hi", "-m", "other")
    assert result.exit_code == 1
    assert result.stderr == "modelport: TypeError: missing argument (--debug shows where)\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("No key was given. Pass api_key=…, or set the environment variable A_KEY.",
         "No key was given. Set the environment variable A_KEY."),
        ("No endpoint was given. Pass azure_endpoint='https://R.x.com', or set the environment variable E.",
         "No endpoint was given. Set the environment variable E."),
        ("name the model, as OpenAIServerModel('gpt-4o')", "name the model, as -m openai/gpt-4o"),
        ("api_base='x': must be a URL", "--api-base 'x': must be a URL"),
        ("make the model with a larger context_length=…", "make the model with a larger --set context_length=…"),
    ],
)  # fmt: skip
def test_errors_speak_of_options_and_not_of_python(ask: Ask, text: str, said: str) -> None:
    assert ask("Hi", answers=[errors.InvalidRequest(text)])[0].stderr == f"modelport: {said} (model: scripted)\n"


@pytest.mark.parametrize("args", [["--debug", "Hi"], ["Hi", "--debug"], ["Hi"]])
def test_debug_shows_the_traceback(ask: Ask, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if "--debug" not in args:
        monkeypatch.setenv("MODELPORT_DEBUG", "1")
    result, _ = ask(*args, answers=[errors.NotFoundError("no such model")])
    assert result.exit_code == 1 and "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("\nmodelport: no such model (model: scripted)\n")


def test_an_answer_that_breaks_off_has_been_printed(ask: Ask) -> None:
    def broken(request: Any) -> Iterator[str]:
        yield "Once upon"
        raise errors.ConnectionFailed("the connection broke")

    result, _ = ask("Hi", answers=[broken])
    assert (result.exit_code, result.stdout) == (1, "Once upon\n")
    assert result.stderr == "modelport: the answer broke off: the connection broke (model: scripted)\n"


def test_standard_input_that_is_no_text(ask: Ask) -> None:
    result, model = ask("Hi", stdin=b"\xff\xfe\x00")
    assert (result.exit_code, model.requests, result.stderr.count("\n")) == (1, [], 1)
    assert "UTF-8" in result.stderr


def test_errors_of_a_service_that_is_not_there() -> None:
    env = {**os.environ, "OPENAI_API_KEY": "sk-secret-0123"}
    done = run("-m", "openai/x", "--api-base", "http://127.0.0.1:9/v1", "--set", "retry=false", "Hi", env=env)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "127.0.0.1:9" in done.stderr and "sk-secret" not in done.stderr
    done = run("-m", "gpt-4o", "Hi")
    assert done.returncode == 1 and "did you mean 'openai/gpt-4o'?" in done.stderr


# --- chat -------------------------------------------------------------------------------------------------------------


def spoken(model: Script) -> list[list[tuple[str, Any]]]:
    return [[(str(m.role), m.content) for m in request.messages] for request in model.requests]


def test_each_piped_line_is_a_turn(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    lines = ["Hello", "", "  /etc is what?  ", "/system Be brief.", "Why?", f"/save {path}", "/usage", "/exit", "Never"]
    result, model = ask("chat", stdin="\n".join(lines), answers=["A a", "B", "C"])
    assert (result.exit_code, result.stdout) == (0, "A a\nB\nC\n")
    history = [("user", "Hello"), ("assistant", "A a"), ("user", "/etc is what?"), ("assistant", "B"), ("user", "Why?")]
    assert spoken(model) == [history[:1], history[:3], [("system", "Be brief."), *history]]
    assert "3 answers" in result.stderr and "without a count" in result.stderr
    saved = json.loads(path.read_text())
    assert [(m["role"], m["content"]) for m in saved] == [("system", "Be brief."), *history, ("assistant", "C")]
    assert ScriptedModel("D").generate(saved).content == "D", "what is saved can be sent"
    assert model.closed == 1


def test_a_chat_can_begin_anew(ask: Ask) -> None:
    result, model = ask("chat", "--system", "S", stdin="One\n/reset\nTwo\n/help\n", answers=["A", "B"])
    assert spoken(model)[1] == [("system", "S"), ("user", "Two")]
    assert "/reset" in result.stderr and "/save FILE" in result.stderr


def test_a_chat_goes_on_with_another_model(ask: Ask, loaded: Loaded) -> None:
    loaded.models["mine/b"] = same = Script("B")
    loaded.models["other/c"] = other = Script("C")
    lines = "One\n/model\n/model mine/b\nTwo\n/model other/c\nThree\n"
    result, first = ask("chat", "-m", "mine/a", "--set", "x=1", "--api-base", "u", stdin=lines, answers=["A"])
    assert result.stdout == "A\nB\nC\n"
    assert [turn[1] for turn in spoken(other)[0]] == ["One", "A", "Two", "B", "Three"]
    settings = {"x": 1, "api_base": "u"}
    assert loaded.calls == [("mine/a", settings), ("mine/b", settings), ("other/c", {})]
    assert (first.closed, same.closed, other.closed) == (1, 1, 1)


@pytest.mark.parametrize("line", ["/nope", "/save", "/save /nowhere/at/all", "/model bad", "Fail"])
def test_a_piped_chat_ends_at_an_error(ask: Ask, loaded: Loaded, line: str) -> None:
    loaded.models["bad"] = errors.InvalidRequest("there is none")
    result, model = ask("chat", stdin=f"Hi\n{line}\nMore\n", answers=["A", errors.NotFoundError("gone"), "B"])
    assert (result.exit_code, result.stdout, model.closed) == (1, "A\n", 1)
    assert result.stderr.startswith("modelport: ") and result.stderr.count("\n") == 1


def test_a_chat_in_a_terminal_survives_errors() -> None:
    failing = "__import__('modelport').NotFoundError('gone')"
    chat = in_terminal(f"['A1', {failing}, lambda r: 'saw ' + ' '.join(m.text for m in r.messages)]", "chat")
    steps = (
        ("One", "A1"), ("Two", "modelport: gone"), ("Three", "saw One A1 Three"), ("/what", "no command"),
        ("/system S", "System: S"), ("/system", "System: S"), ("/system -", "no system message"),
        ("/save", "name of a file"), ("/model", "llamacpp"), ("/usage", "2 answers: .*; 2 answers came without"),
    )  # fmt: skip
    for line, answer in steps:
        chat.expect("you> ")
        chat.sendline(line)
        chat.expect(answer)
    chat.expect("you> ")
    chat.sendline("/exit")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_a_model_that_can_not_be_had_leaves_the_old_one(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from modelport.cli.chat import Chat
    from modelport.cli.options import opened

    lines = iter(["/model bad", "Hi", "/usage", None])
    loaded.models |= {"mine/a": Script("A"), "bad": errors.InvalidRequest("there is none.")}
    chat = Chat("mine/a", lambda spec: opened(spec, {}), None, {}, debug=False)
    monkeypatch.setattr(chat, "_interactive", True)
    monkeypatch.setattr(chat, "_next_line", lambda: next(lines))
    chat.run()
    out, said = capsys.readouterr()
    assert out == "A\n"
    assert "modelport: there is none. You are still talking with mine/a.\n" in said and "\n1 answer: " in said


def test_ctrl_c_before_the_answer_forgets_the_question() -> None:
    waiting = "lambda r: print('asked', flush=True) or 30"
    chat = in_terminal(f"[{waiting}, 'late', lambda r: 'saw ' + ' '.join(m.text for m in r.messages)]", "chat")
    chat.expect("you> ")
    chat.sendline("One")
    chat.expect("asked")
    chat.sendintr()
    chat.expect(r"\(stopped\)")
    chat.expect("you> ")
    chat.sendline("Two")
    chat.expect("late")
    chat.expect("you> ")
    chat.sendline("Three")
    chat.expect("saw Two late Three")
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


# --- models and check -------------------------------------------------------------------------------------------------


def test_names_of_models_are_whole_in_a_terminal_of_80_columns() -> None:
    from modelport.cli.tables import CLIENTS

    said = shown(80, "models")
    assert all(f"  -m {client.example}\r\n" in said for client in CLIENTS.values())
    assert max(map(len, said.splitlines())) <= 80
    assert "│ -m openai/gpt-4o " in shown(200, "models")


def test_messages_are_broken_between_words_in_a_terminal() -> None:
    failing = "__import__('modelport').NotFoundError('word ' * 40 + '/a/path/that/is/longer/than/a/line/of/this')"
    lines = shown(40, "Hi", answers=f"[{failing}]").splitlines()
    assert len(lines) > 5 and lines[-2].startswith("/a/path") and lines[-2].endswith("/this")
    assert {word for line in lines[1:-2] for word in line.split()} == {"word"}


def shown(columns: int, *args: str, answers: str = "['Fine.']") -> str:
    """What a terminal of so many columns shows."""
    command = ["-c", SCRIPTED, answers, *args]
    terminal = pexpect.spawn(
        sys.executable, command, encoding="utf-8", env={**os.environ}, timeout=30, dimensions=(24, columns)
    )
    said = terminal.read()
    terminal.close()
    return str(said)


def test_a_backend_lacks_what_any_of_its_clients_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelport.cli import tables

    monkeypatch.setattr(tables, "find_spec", lambda name: None if name == "aiohttp" else name)
    rows = json.loads(RUNNER.invoke(cli, ["models", "--json"]).stdout)
    lacking = {row["name"] for row in rows if row["missing"] == ["aiohttp"] and not row["installed"]}
    assert lacking == {"azure", "huggingface", "openai"}


def test_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelport.cli import tables

    missing = {"xllamacpp"}
    monkeypatch.setattr(tables, "find_spec", lambda name: None if name in missing else name)
    monkeypatch.setattr("modelport.registry.backends", lambda: {
        "llamacpp": "modelport.local.llamacpp.model:LlamaCppModel",
        "openai": "modelport.remote.openai.model:OpenAIServerModel",
        "theirs": "theirs.models:TheirModel",
    })  # fmt: skip
    result = RUNNER.invoke(cli, ["models"])
    assert result.exit_code == 0
    assert "LlamaCppModel" in result.stdout and "no: xllamacpp" in result.stdout
    assert "\nFor llamacpp: pip install 'modelport[llamacpp]'\n" in result.stdout
    rows = {row["name"]: row for row in json.loads(RUNNER.invoke(cli, ["models", "--json"]).stdout)}
    assert rows["llamacpp"]["install"] == "pip install 'modelport[llamacpp]'" and not rows["llamacpp"]["installed"]
    assert rows["openai"] == {
        "name": "openai", "class": "OpenAIServerModel", "installed": True, "missing": [], "install": None,
        "example": "openai/gpt-4o",
    }  # fmt: skip
    assert rows["theirs"]["class"] == "TheirModel" and rows["theirs"]["installed"]


def test_the_packages_of_every_backend_are_known() -> None:
    from modelport.cli.tables import CLIENTS
    from modelport.registry import BACKENDS

    assert set(CLIENTS) == set(BACKENDS)


@pytest.mark.parametrize("columns", [1, 20, 60])
def test_narrow_terminals(columns: int) -> None:
    for args in (["models"], ["--help"], ["check", "x", "--row", "generate"]):
        terminal = in_terminal("['Fine.']", *args)
        terminal.setwinsize(24, columns)
        said = terminal.read()
        terminal.close()
        assert terminal.exitstatus == 0 and "Traceback" not in said, said


class Liar(Script):
    """Says that it takes images by declaration, and refuses nothing that it can't do."""

    declared_capabilities = Capabilities(stop=True, usage=True)


def test_check_says_which_promise_is_broken(loaded: Loaded) -> None:
    loaded.models["*"] = model = Liar("Paris.", repeat=True)
    args = ["check", "liar", "--row", "generate", "--row", "usage", "--row", "image input"]
    result = RUNNER.invoke(cli, args)
    assert (result.exit_code, model.closed) == (1, 1)
    assert re.search(r"✗ │ usage +│ broken", result.stdout)
    assert result.stdout.endswith("liar: works 1, declared 1, broken 1\n")
    assert "\nBroken: usage. " in result.stdout and "\ndeclared: the model says that it can't" in result.stdout
    outcomes = json.loads(RUNNER.invoke(cli, [*args, "--json"]).stdout)["outcomes"]
    assert [(o["check"], o["status"]) for o in outcomes] == [
        ("generate", "works"), ("usage", "broken"), ("image input", "unsupported"),
    ]  # fmt: skip
    twice = RUNNER.invoke(cli, ["check", "liar", "--row", "generate", "--row", "generate"])
    assert twice.stdout.endswith("liar: works 1\n")
    result = RUNNER.invoke(cli, ["check", "liar", "--row", "nope"])
    assert result.exit_code == 1 and result.stderr.startswith("modelport: --row 'nope' is no row")


class Keyed(Liar):
    """A model with a key, which a careless service repeats."""

    secret_settings = frozenset({"api_key"})

    def __init__(self, *answers: Any, **settings: Any) -> None:
        super().__init__(*answers, **settings)
        self.api_key = Secret.from_value("sk-very-secret", "OPENAI_API_KEY")


def test_a_report_says_what_helpers_ask_for_and_no_secret(loaded: Loaded) -> None:
    answer = errors.InvalidRequest("sk-very-secret is refused at https://ada:pw@host/v1 | sorry")
    loaded.models["*"] = Keyed(answer, repeat=True)
    args = ["check", "openai/https://ada:pw@host/v1", "--set", 'default_headers={"X": "hush"}']
    for form in ("--report", "--json"):
        result = RUNNER.invoke(cli, [*args, "--row", "generate", "--row", "image input", form])
        assert result.exit_code == 1, result.output
        assert not re.search("very-secret|hush|ada|pw@", result.stdout)
        assert all(
            word in result.stdout for word in ("default_headers", "pydantic", "max_stop_sequences", "refused at")
        )
        assert modelport.__version__ in result.stdout and platform.python_version() in result.stdout
    whole = json.loads(result.stdout)
    assert whole["counts"] == {"broken": 1, "unsupported": 1}
    assert set(whole["packages"]) >= {"click", "openai"} and "boto3" not in whole["packages"]
    told = RUNNER.invoke(cli, [*args, "--row", "generate", "--report"]).stdout
    assert (
        "| generate | broken | InvalidRequest: [a key] is refused at https://host/v1 \\| sorry (model: scripted) |"
        in told
    )


@pytest.mark.parametrize("error", [errors.AuthenticationError("Wrong key."), errors.ConnectionFailed("Nobody there.")])
def test_check_stops_where_the_model_cannot_be_asked(loaded: Loaded, error: errors.ModelError) -> None:
    loaded.models["*"] = model = Liar(error, repeat=True, retry=False)
    result = RUNNER.invoke(cli, ["check", "liar"])
    assert (result.exit_code, result.stdout, len(model.requests)) == (1, "", 1)
    assert result.stderr == f"modelport: liar can't be asked. {type(error).__name__}: {error}\n"


def test_check_that_is_broken_off_shows_what_it_found(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Iterator[Outcome]:
        yield Outcome("generate", "works")
        raise KeyboardInterrupt

    monkeypatch.setattr("modelport.testing.conformance.run_checks", interrupted)
    loaded.models["*"] = Liar()
    result = RUNNER.invoke(cli, ["check", "liar", "--row", "generate", "--row", "stream"])
    assert result.exit_code == 130
    assert result.stdout.endswith("liar: works 1 (1 of 2 rows)\n")


# --- help and start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["ask"], ["chat"], ["check"]])
def test_help_has_examples(command: list[str]) -> None:
    for flag in ("-h", "--help"):
        result = RUNNER.invoke(cli, [*command, flag], prog_name="modelport")
        assert result.exit_code == 0 and re.search(r"Examples:\n +(modelport|git)", result.stdout)
    if not command:
        assert all(word in result.stdout for word in ("--schema", "--image", "--api-base", "chat", "check", "models"))


def test_version() -> None:
    assert run("--version").stdout == f"modelport {modelport.__version__}\n"


def test_nothing_heavy_is_imported_for_the_help() -> None:
    code = "import sys, modelport.cli.commands; print(*sys.modules)"
    seen = set(subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8").stdout.split())
    assert "click" in seen
    heavy = {
        "rich",
        "asyncio",
        "pydantic",
        "jsonschema",
        "aiohttp",
        "xllamacpp",
        "modelport.model",
        "modelport.registry",
    }
    assert not heavy & seen
