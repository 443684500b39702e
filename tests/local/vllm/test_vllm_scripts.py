"""VLLMModel in programs of its own: how they begin and end. They run at the same time, since each loads an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.smollm2 import as_hub_cache
from tests.servers.vllm_env import ENGINE, use_variables, vllm_environment
from tests.test_examples import SWITCHED, run

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

#: The page of smolagents' reference, with the import changed: a script, without `if __name__ == "__main__"`.
REFERENCE = """
from modelport import VLLMModel

model = VLLMModel(model_id="HuggingFaceTB/SmolLM-135M-Instruct")

print(model([{"role": "user", "content": "Ok!"}], stop_sequences=["great"]))
"""

#: What is added to it: a Ctrl-C that the terminal sends to all, a forked child that ends, another call; then the end.
GOES_ON = """
import os, signal, sys
for process in model._engine().core.processes:
    os.kill(process.pid, signal.SIGINT)
    print("process", process.pid)
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print(model("What is the capital of France? Answer in one sentence.", temperature=0))
stream = model.generate_stream("Write a long story.")
next(stream)
"""

CRASHES = """
import os, signal, subprocess, threading, time
from modelport import ModelError, ServerError, StreamInterrupted, VLLMModel

model = VLLMModel({path!r}, **{engine!r})
waiting = []

def wait():
    try:
        model("Write a long story.", ignore_eos=True)
    except ModelError as error:
        waiting.append(error)

thread = threading.Thread(target=wait)
thread.start()
with model.generate_stream("Write a long story.", ignore_eos=True) as stream:
    next(stream)
    (process,) = model._engine().core.processes
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    try:
        list(stream)
    except StreamInterrupted as error:
        assert isinstance(error.__cause__, ServerError) and "died" in str(error.__cause__), error
        assert error.partial.text
    else:
        raise AssertionError("it went on")
thread.join()
assert "died" in str(waiting[0]), waiting
assert time.monotonic() - begin < 10
try:
    model("Hello")
except ServerError as error:
    assert "died" in str(error) and not error.retryable
else:
    raise AssertionError("it went on")
model.close()
print("process", process.pid)
"""

#: Is killed while it has an engine, as a notebook's kernel is.
IS_KILLED = """
import os, signal
from modelport import VLLMModel

model = VLLMModel({path!r}, **{engine!r})
for process in model._engine().core.processes:
    print("process", process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

#: Ctrl-C while it loads: within a second or so, and nothing is left.
IS_INTERRUPTED = """
import multiprocessing, os, signal, threading, time
from modelport import VLLMModel

def interrupt():
    while not multiprocessing.active_children():
        time.sleep(0.01)
    time.sleep(1)
    print("process", multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are begun without
threading.Thread(target=interrupt, daemon=True).start()
try:
    VLLMModel({path!r}, **{engine!r})
except KeyboardInterrupt:
    assert not multiprocessing.active_children()
    print("interrupted")
"""


class Script:
    """A program that runs."""

    def __init__(self, folder: Path, name: str, code: str, **variables: str) -> None:
        self.path = folder / f"{name}.py"
        self.path.write_text(code)
        self.process = subprocess.Popen(
            [sys.executable, str(self.path)], env={**os.environ, **variables}, cwd=folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self) -> tuple[int, list[str], str]:
        """Its status, the lines it said and what it said on standard error."""
        out, error = self.process.communicate(timeout=240)
        return self.process.returncode, out.splitlines(), error


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Script]]:
    folder = tmp_path_factory.mktemp("scripts")
    environment = vllm_environment()
    use_variables(environment)
    cache = as_hub_cache(folder / "hub", "HuggingFaceTB/SmolLM-135M-Instruct")
    # The page's snippet has no enforce_eager, and torch would compile the model for a minute.
    compiled_not = {"VLLM_USE_AOT_COMPILE": "0", "TORCHDYNAMO_DISABLE": "1"}
    settings = {"path": str(environment.model), "engine": ENGINE}
    running = {
        "reference": Script(folder, "reference", REFERENCE + GOES_ON, **compiled_not, HF_HUB_CACHE=str(cache)),
        "crashes": Script(folder, "crashes", CRASHES.format(**settings)),
        "is_killed": Script(folder, "is_killed", IS_KILLED.format(**settings)),
        "is_interrupted": Script(folder, "is_interrupted", IS_INTERRUPTED.format(**settings)),
    }
    yield running
    for script in running.values():
        script.process.kill()
        script.process.wait()


def ends(told: list[str], seconds: float) -> bool:
    """Whether the processes that a program named have ended, or do within some seconds."""
    (pid,) = (int(line.split()[1]) for line in told if line.startswith("process "))
    end = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}"):
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_the_page_of_the_reference(scripts: dict[str, Script]) -> None:
    """As a script without a guard; it survives Ctrl-C and a fork, and at its end it is quiet and leaves nothing."""
    status, told, error = scripts["reference"].end()
    assert status == 0 and error == "", error
    assert told[0] and "great" not in told[0]
    assert told[-1] == "The capital of France is Paris."
    assert ends(told, 1)


def test_a_crash_of_the_engine(scripts: dict[str, Script]) -> None:
    status, told, error = scripts["crashes"].end()
    assert status == 0, error
    assert ends(told, 1)


def test_the_engine_ends_with_a_program_that_is_killed(scripts: dict[str, Script]) -> None:
    status, told, error = scripts["is_killed"].end()
    assert status == -9, error
    assert ends(told, 30)


def test_ctrl_c_while_it_loads(scripts: dict[str, Script]) -> None:
    status, told, error = scripts["is_interrupted"].end()
    assert status == 0 and told[-1] == "interrupted", error
    assert ends(told, 1)


def test_the_program_that_switches_backends(scripts: dict[str, Script]) -> None:
    """After those above have ended: five engines at once are too many for a small machine."""
    for script in scripts.values():
        script.process.wait(timeout=150)
    environment = vllm_environment()
    assert run("switch.py", f"vllm/{environment.model}", json.dumps(ENGINE), **environment.variables) == SWITCHED
