"""`modelport ask`: which request reaches the model for which arguments, and which arguments are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelport import ChatMessage, Image
from tests.cli.running import PROGRAM_ON_SCRIPTED_MODEL, FakeLoadModel


@pytest.mark.parametrize("prompt_last", [False, True], ids=["prompt first", "prompt last"])
@pytest.mark.parametrize("command", [[], ["ask"]], ids=["no command", "ask"])
def test_options_before_and_after_prompt_reach_the_model(
    invoke: Any, load_model: FakeLoadModel, prompt_last: bool, command: list[str]
) -> None:
    options = ["-m", "openai/gpt-4o", "--temperature", "0.5", "--max-tokens", "9", "--seed", "7", "--stop", "A",
               "--stop", "B", "--system", "Be brief.", "--api-base", "http://x/v1", "--set", "dialect=llama.cpp",
               "--set", "timeout=30", "--set", 'default_headers={"a": "b"}']  # fmt: skip
    prompt = ["What is it?"]
    result, model = invoke(*command, *(options + prompt if prompt_last else prompt + options))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Paris.\n", "")
    [request] = model.requests
    assert [(m.role, m.content) for m in request.messages] == [("system", "Be brief."), ("user", "What is it?")]
    assert request.parameters == {"temperature": 0.5, "max_tokens": 9, "seed": 7}
    assert request.stop_sequences == ("A", "B")
    settings = {"dialect": "llama.cpp", "timeout": 30, "default_headers": {"a": "b"}, "api_base": "http://x/v1"}
    assert load_model.calls == [("openai/gpt-4o", settings)]
    assert request.stream and model.closed == 1


def test_model_option_takes_precedence_over_environment(
    invoke: Any, load_model: FakeLoadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("Hi")
    monkeypatch.setenv("MODELPORT_MODEL", "openai/o3")
    invoke("Hi")
    invoke("Hi", "-m", "mine")
    assert [spec for spec, _ in load_model.calls] == ["llamacpp", "openai/o3", "mine"]


@pytest.mark.parametrize("args", [["ask", "chat"], ["--", "chat"], ["-t", "0", "--", "chat"], ["ask", "--", "chat"]])
def test_name_of_command_can_be_the_prompt(invoke: Any, args: list[str]) -> None:
    _, model = invoke(*args)
    assert model.requests[0].messages[0].content == "chat"


@pytest.mark.parametrize(
    "args",
    [
        ["ask", "chek"],
        ["--", "chek"],
        ["What"],
        ["help me"],
        ["task"],
        ["Check this text."],
        ["cheese"],
        ["-u", "Hello"],
    ],
)
def test_prompt_that_resembles_a_command_can_be_sent(invoke: Any, args: list[str]) -> None:
    result, model = invoke(*args)
    assert result.exit_code == 0 and model.requests[0].messages[0].content == args[-1]


@pytest.mark.parametrize(
    ("args", "max_tokens"),
    [
        ([], 1024),
        (["--max-tokens", "7"], 7),
        (["--set", "max_tokens=9"], None),
        (["-m", "llamacpp/model.gguf"], None),
        (["-m", "openai/gpt-4o"], None),
    ],
)
def test_default_local_model_has_a_limit_unless_the_user_sets_one(
    invoke: Any, args: list[str], max_tokens: int | None
) -> None:
    _, model = invoke("Hi", *args)
    assert model.requests[0].parameters.get("max_tokens") == max_tokens
    _, model = invoke("chat", *args, stdin="Hi\n")
    assert model.requests[0].parameters.get("max_tokens") == max_tokens


def test_options_before_command_belong_to_the_command(invoke: Any) -> None:
    result, model = invoke("-t", "0.5", "--set", "a=1", "chat", stdin="Hello\n")
    assert (result.exit_code, result.stdout) == (0, "Paris.\n")
    assert model.requests[0].parameters == {"temperature": 0.5, "max_tokens": 1024}
    result, _ = invoke("-t", "0", "models")
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
def test_prompt_joins_standard_input_and_argument(
    invoke: Any, args: list[str], stdin: str | None, prompt: str | None
) -> None:
    result, model = invoke(*args, stdin=None if stdin is None else stdin.encode())
    assert [request.messages[0].content for request in model.requests] == ([] if prompt is None else [prompt])
    assert result.exit_code == (2 if prompt is None else 0)


def test_standard_input_from_device_is_not_read() -> None:
    with open("/dev/zero", "rb") as endless:
        command = [sys.executable, "-c", PROGRAM_ON_SCRIPTED_MODEL, "['Fine.']", "Hi"]
        done = subprocess.run(command, stdin=endless, capture_output=True, timeout=30)
    assert done.stdout == b"Fine.\n"


def test_standard_input_that_is_not_text_is_refused(invoke: Any) -> None:
    result, model = invoke("Hi", stdin=b"\xff\xfe\x00")
    assert (result.exit_code, model.requests, result.stderr.count("\n")) == (1, [], 1)
    assert "UTF-8" in result.stderr


def test_images_reach_the_model_and_errors_hide_signed_urls(invoke: Any, tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n rest")
    _, model = invoke("What is this?", "--image", str(path), "--image", "http://x/y.jpg")
    first, second, text = model.requests[0].messages[0].content
    assert isinstance(first, Image) and first.data == path.read_bytes()
    assert second.url == "http://x/y.jpg" and text.text == "What is this?"
    result, model = invoke("What is this?", "--image", "none.png")
    assert (result.exit_code, model.requests, result.stderr.count("\n")) == (1, [], 1)
    assert result.stderr.startswith("modelport: --image none.png: ")
    for url in ("ftp://host/x?sig=hidden", "data:image/png;base64,hidden!", "http:///x?sig=hidden"):
        result, _ = invoke("What is this?", "--image", url)
        assert "--image " in result.stderr and "hidden" not in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "text", "status"),
    [
        (["--choice", "yes", "--choice", "no"], "yes", 0),
        (["--choice", "yes", "--choice", "no"], "perhaps", 1),
        (["--regex", r"\d+"], "42", 0),
        (["--regex", r"\d+"], "many", 1),
    ],
)
def test_structured_output_is_printed_only_where_it_matches(
    invoke: Any, args: list[str], text: str, status: int
) -> None:
    result, model = invoke("Well?", *args, answers=[text])
    assert (result.exit_code, result.stdout) == (status, "" if status else f"{text}\n")
    assert not model.requests[0].stream, "invalid output must not be printed while it arrives"


def test_invalid_schema_file_is_refused_before_anything_is_sent(invoke: Any, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    for text, expected in (
        ("{", "is not JSON"),
        ('{"type": 3, "items": {}}', "invalid"),
        ("[]", "an object"),
        ("7", "an object"),
    ):
        path.write_text(text)
        result, model = invoke("Hi", "--schema", str(path))
        assert (result.exit_code, model.requests, result.stderr.count("\n")) == (1, [], 1)
        assert result.stderr.startswith(f"modelport: --schema {path}") and expected in result.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["What", "is", "this?"], "put quotes around it"),
        (["--nope", "Hi"], "No such option"),
        (["Hi", "--temperature", "warm"], "not a valid float"),
        (["Hi", "--schema", "nowhere.json"], "does not exist"),
        (["Hi", "--regex", "a", "--choice", "b"], "give one"),
        (["--frobnicate", "Hi"], "No such option '--frobnicate'.\n"),
        (["Hi", "--choise", "a"], "Did you mean '--choice'?"),
        (["chekc", "llamacpp"], "Did you mean 'modelport check'?"),
        (["chek"], "To send the word to a model: modelport ask chek"),
        (["-m", "openai/gpt-4o", "chek"], "Did you mean 'modelport check'?"),
        (["help"], "Did you mean 'modelport --help'?"),
        (["list", "--json"], "Did you mean 'modelport models'?"),
        (["Modles"], "Did you mean 'modelport models'?"),
        (["dowload", "mlx/a/b"], "Did you mean 'modelport download'?"),
        (["Chat", "with", "me"], "Put quotes around a prompt"),
        (["models", "--api-base", "http://x/v1"], "name a BACKEND"),
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
def test_wrong_usage_ends_with_status_2(invoke: Any, args: list[str], expected: str) -> None:
    result, model = invoke(*args)
    assert (result.exit_code, result.stdout, model.requests) == (2, "", [])
    assert expected in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["api_key", "apikey", "azure_ad_token", "aws_secret_access_key", "password"])
def test_secret_on_the_command_line_is_refused_and_not_repeated(invoke: Any, name: str) -> None:
    result, model = invoke("Hi", "--set", f"{name}=sk-0123456789")
    assert (result.exit_code, model.requests) == (2, [])
    assert "environment" in result.stderr and "sk-0123456789" not in result.output


@pytest.mark.parametrize("setting", ["tool_name_key=x", "max_tokens=5", "first_token_timeout=3"])
def test_setting_with_name_similar_to_a_secret_is_accepted(invoke: Any, setting: str) -> None:
    assert invoke("Hi", "--set", setting)[0].exit_code == 0


def test_json_option_prints_the_whole_message(invoke: Any) -> None:
    message = ChatMessage("assistant", "Père [bold]", reasoning="Hm.", warnings=["something was left out"])  # type: ignore[list-item]
    result, _ = invoke("Hi", "--json", answers=[message])
    printed = json.loads(result.stdout)
    assert (printed["content"], printed["reasoning"], printed["finish_reason"]) == ("Père [bold]", "Hm.", "stop")
    assert result.stderr == ""
