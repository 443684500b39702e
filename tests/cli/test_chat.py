"""`modelport chat`: piped lines, its commands, and a conversation in a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pexpect
import pytest

from modelport import errors
from modelport.cli.chat import Chat
from modelport.cli.options import open_model
from modelport.testing import ScriptedModel
from tests.cli.running import ClosableModel, FakeLoadModel, start_in_terminal


def received(model: ClosableModel) -> list[list[tuple[str, Any]]]:
    """Return the messages of each request that reached the model."""
    return [[(str(m.role), m.content) for m in request.messages] for request in model.requests]


def test_each_piped_line_is_a_message(invoke: Any, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    lines = ["Hello", "", "  /etc is what?  ", "/system Be brief.", "Why?", f"/save {path}", "/usage", "/exit", "Never"]
    result, model = invoke("chat", stdin="\n".join(lines), answers=["A a", "B", "C"])
    assert (result.exit_code, result.stdout) == (0, "A a\nB\nC\n")
    history = [("user", "Hello"), ("assistant", "A a"), ("user", "/etc is what?"), ("assistant", "B"), ("user", "Why?")]
    assert received(model) == [history[:1], history[:3], [("system", "Be brief."), *history]]
    assert "3 responses" in result.stderr and "without a count" in result.stderr
    saved = json.loads(path.read_text())
    assert [(m["role"], m["content"]) for m in saved] == [("system", "Be brief."), *history, ("assistant", "C")]
    assert ScriptedModel("D").generate(saved).content == "D", "a saved conversation can't be sent again"
    assert model.closed == 1


def test_reset_forgets_history_and_keeps_system_message(invoke: Any) -> None:
    result, model = invoke("chat", "--system", "S", stdin="One\n/reset\nTwo\n/help\n", answers=["A", "B"])
    assert received(model)[1] == [("system", "S"), ("user", "Two")]
    assert "/reset" in result.stderr and "/save FILE" in result.stderr


def test_model_command_continues_with_another_model(invoke: Any, load_model: FakeLoadModel) -> None:
    load_model.models["openai/b"] = same_backend = ClosableModel("B")
    load_model.models["other/c"] = other_backend = ClosableModel("C")
    lines = "One\n/model\n/model openai/b\nTwo\n/model other/c\nThree\n"
    result, first = invoke("chat", "-m", "openai/a", "--set", "x=1", "--api-base", "u", stdin=lines, answers=["A"])
    assert result.stdout == "A\nB\nC\n"
    assert [message[1] for message in received(other_backend)[0]] == ["One", "A", "Two", "B", "Three"]
    settings = {"x": 1, "api_base": "u"}
    assert load_model.calls == [("openai/a", settings), ("openai/b", settings), ("other/c", {})]
    assert (first.closed, same_backend.closed, other_backend.closed) == (1, 1, 1)


@pytest.mark.parametrize("line", ["/nope", "/save", "/save /nowhere/at/all", "/model bad", "Fail"])
def test_piped_chat_ends_at_first_error(invoke: Any, load_model: FakeLoadModel, line: str) -> None:
    load_model.models["bad"] = errors.InvalidRequest("there is none")
    result, model = invoke("chat", stdin=f"Hi\n{line}\nMore\n", answers=["A", errors.NotFoundError("gone"), "B"])
    assert (result.exit_code, result.stdout, model.closed) == (1, "A\n", 1)
    assert result.stderr.startswith("modelport: ") and result.stderr.count("\n") == 1


def test_chat_in_terminal_goes_on_after_errors() -> None:
    failing = "__import__('modelport').NotFoundError('gone')"
    chat = start_in_terminal(f"['A1', {failing}, lambda r: 'saw ' + ' '.join(m.text for m in r.messages)]", "chat")
    steps = (
        ("One", "A1"), ("Two", "modelport: gone"), ("Three", "saw One A1 Three"), ("/what", "not a command"),
        ("/system S", "System: S"), ("/system", "System: S"), ("/system -", "no system message"),
        ("/save", "name of a file"), ("/model", "llamacpp"), ("/usage", "2 responses: .*; 2 responses came without"),
    )  # fmt: skip
    for line, expected in steps:
        chat.expect("you> ")
        chat.sendline(line)
        chat.expect(expected)
    chat.expect("you> ")
    chat.sendline("/exit")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_model_command_with_unknown_model_keeps_the_old_one(
    load_model: FakeLoadModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["/model bad", "Hi", "/usage", None])
    load_model.models |= {"mine/a": ClosableModel("A"), "bad": errors.InvalidRequest("there is none.")}
    chat = Chat("mine/a", lambda spec: open_model(spec, {}), None, {}, debug=False)
    monkeypatch.setattr(chat, "_interactive", True)
    monkeypatch.setattr(chat, "_next_line", lambda: next(lines))
    chat.run()
    output, status = capsys.readouterr()
    assert output == "A\n"
    assert "modelport: there is none. You are still talking with mine/a.\n" in status
    assert "\n1 response: " in status


def test_ctrl_c_before_the_response_forgets_the_question() -> None:
    waiting = "lambda r: print('received', flush=True) or 30"
    chat = start_in_terminal(f"[{waiting}, 'late', lambda r: 'saw ' + ' '.join(m.text for m in r.messages)]", "chat")
    chat.expect("you> ")
    chat.sendline("One")
    chat.expect("received")
    chat.sendintr()
    chat.expect(r"\(stopped\)")
    chat.expect("you> ")
    chat.sendline("Two")
    chat.expect("late")
    chat.expect("you> ")
    chat.sendline("Three")
    chat.expect("saw Two late Three")
    chat.expect("you> ")  # The prompt discards what was typed before it.
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0
