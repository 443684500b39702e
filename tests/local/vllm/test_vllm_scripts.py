"""How programs with a `VLLMModel` start and end. The programs run at the same time, because each loads an engine."""

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
from tests.servers.vllm_env import ENGINE, NO_COMPILATION, use_variables, vllm_environment
from tests.test_examples import SWITCH_OUTPUT, run_example

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

#: The code of smolagents' reference page, with another import. The script has no `if __name__ == "__main__"`.
REFERENCE_SCRIPT = """
from modelport import VLLMModel

model = VLLMModel(model_id="HuggingFaceTB/SmolLM-135M-Instruct")

print(model([{"role": "user", "content": "Ok!"}], stop_sequences=["great"]))
"""

#: The rest of that script: a Ctrl-C that the terminal sends to every process, a forked child that ends, another call.
SURVIVE_CTRL_C_AND_FORK = """
import os, signal, sys
for process in model._engine().shared.processes:
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

CRASH_ENGINE = """
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
    (process,) = model._engine().shared.processes
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    try:
        list(stream)
    except StreamInterrupted as error:
        assert isinstance(error.__cause__, ServerError) and "died" in str(error.__cause__), error
        assert error.partial.text
    else:
        raise AssertionError("no error was raised")
thread.join()
assert "died" in str(waiting[0]), waiting
assert time.monotonic() - begin < 10
try:
    model("Hello")
except ServerError as error:
    assert "died" in str(error) and not error.retryable
else:
    raise AssertionError("no error was raised")
model.close()
print("process", process.pid)
"""

#: The program is killed while it has an engine, as happens to the kernel of a notebook.
KILL_PROGRAM = """
import os, signal
from modelport import VLLMModel

model = VLLMModel({path!r}, **{engine!r})
for process in model._engine().shared.processes:
    print("process", process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

#: Ctrl-C while the model is being loaded.
INTERRUPT_LOADING = """
import multiprocessing, os, signal, threading, time
from modelport import VLLMModel

def interrupt():
    while not multiprocessing.active_children():
        time.sleep(0.01)
    time.sleep(1)
    print("process", multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell starts background jobs without it.
threading.Thread(target=interrupt, daemon=True).start()
try:
    VLLMModel({path!r}, **{engine!r})
except KeyboardInterrupt:
    assert not multiprocessing.active_children()
    print("interrupted")
"""


class Script:
    """A running program."""

    def __init__(self, folder: Path, name: str, code: str, **variables: str) -> None:
        self.path = folder / f"{name}.py"
        self.path.write_text(code)
        self.process = subprocess.Popen(
            [sys.executable, str(self.path)], env={**os.environ, **variables}, cwd=folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self) -> tuple[int, list[str], str]:
        """Wait for its end, and return its exit status, its output lines, and its standard error."""
        out, error = self.process.communicate(timeout=240)
        return self.process.returncode, out.splitlines(), error


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Script]]:
    folder = tmp_path_factory.mktemp("scripts")
    environment = vllm_environment()
    use_variables(environment)
    cache = as_hub_cache(folder / "hub", "HuggingFaceTB/SmolLM-135M-Instruct")
    settings = {"path": str(environment.model), "engine": ENGINE}
    running = {
        "reference": Script(
            folder, "reference", REFERENCE_SCRIPT + SURVIVE_CTRL_C_AND_FORK, **NO_COMPILATION, HF_HUB_CACHE=str(cache)
        ),
        "crash": Script(folder, "crash", CRASH_ENGINE.format(**settings)),
        "kill": Script(folder, "kill", KILL_PROGRAM.format(**settings)),
        "interrupt": Script(folder, "interrupt", INTERRUPT_LOADING.format(**settings)),
    }
    yield running
    for script in running.values():
        script.process.kill()
        script.process.wait()


def process_ends(lines: list[str], seconds: float) -> bool:
    """Return whether the engine's process, which a program named in its output, ends within some seconds."""
    (pid,) = (int(line.split()[1]) for line in lines if line.startswith("process "))
    end = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}"):
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_reference_page_script_survives_ctrl_c_and_fork_and_ends_silently(scripts: dict[str, Script]) -> None:
    status, lines, error = scripts["reference"].end()
    assert status == 0 and error == "", error
    assert lines[0] and "great" not in lines[0]
    assert lines[-1] == "The capital of France is Paris."
    assert process_ends(lines, 1)


def test_crash_of_engine_ends_calls_with_server_error(scripts: dict[str, Script]) -> None:
    status, lines, error = scripts["crash"].end()
    assert status == 0, error
    assert process_ends(lines, 1)


def test_killed_program_leaves_no_engine_process(scripts: dict[str, Script]) -> None:
    status, lines, error = scripts["kill"].end()
    assert status == -9, error
    assert process_ends(lines, 30)


def test_ctrl_c_while_loading_leaves_no_engine_process(scripts: dict[str, Script]) -> None:
    status, lines, error = scripts["interrupt"].end()
    assert status == 0 and lines[-1] == "interrupted", error
    assert process_ends(lines, 1)


def test_switch_example_runs(scripts: dict[str, Script]) -> None:
    """The programs above must have ended first: five engines at once are too many for a small machine."""
    for script in scripts.values():
        script.process.wait(timeout=150)
    environment = vllm_environment()
    assert (
        run_example("switch.py", f"vllm/{environment.model}", json.dumps(ENGINE), **environment.variables)
        == SWITCH_OUTPUT
    )
