"""A target of fuzzing, and the bounds that hold for each of its inputs."""

from __future__ import annotations

import json
import pickle
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from modelport import ChatMessage
from modelport.errors import ModelError
from modelport.testing import ScriptedModel

#: The most processor time, in seconds, that one input may take: five seconds of validation, and the rest of the call.
MAX_CPU = 8.0
#: The most memory, in bytes, by which one input may raise what the process has used before.
MAX_MEMORY = 512 * 2**20


@dataclass
class Target:
    """A target of fuzzing.

    Args:
        strategy: Generates inputs.
        play: Plays an input: returns a message or another result, or raises a `ModelError`.

    Attributes:
        counts: The numbers of `inputs`, `responses`, typed `errors`, and inputs that were `lost`.
        cpu: The most processor time of one input, in seconds.
        memory: The most memory of one input, in bytes.
        lost: The first example of each kind of defect, by the line that raised it.
    """

    strategy: st.SearchStrategy[Any]
    play: Callable[[Any], Any]
    counts: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0
    memory: int = 0
    lost: dict[str, str] = field(default_factory=dict)

    def run(self, value: Any) -> None:
        """Play an input, and count the result."""
        self.counts["inputs"] += 1
        try:
            with self._bounded():
                outcome = self._play(value)
            self.counts[outcome] += 1
        except Exception as error:
            self.counts["lost"] += 1
            frames = traceback.extract_tb(error.__traceback__)
            last = next((f for f in reversed(frames) if "modelport" in f.filename), frames[-1])
            where = f"{type(error).__name__} at {last.filename}:{last.lineno}"
            if isinstance(error, AssertionError):  # Assertions on different lines may share a function of the tests.
                where += f" {str(error)[:40]}"
            if where not in self.lost:
                text = "".join(traceback.format_exception(error)[-12:])
                self.lost[where] = f"{where}: {str(error)[:300]}\n{text[-3000:]}\ninput: {str(value)[:1500]}"

    def _play(self, value: Any) -> str:
        """Play an input, and return what it led to: `responses` or `errors`."""
        try:
            result = self.play(value)
        except ModelError as error:
            assert len(str(error)) < 5000, f"an error of {len(str(error))} characters"
            pickle.loads(pickle.dumps(error))
            repr(error)
            return "errors"
        if isinstance(result, ChatMessage):
            check_message(result)
        return "responses"

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Measure an input, and raise an error if it exceeds a bound."""
        memory, begin = _reset_peak_memory(), time.process_time()
        yield
        cpu, used = time.process_time() - begin, _peak_memory() - memory
        self.cpu, self.memory = max(self.cpu, cpu), max(self.memory, used)
        if cpu > MAX_CPU:
            raise AssertionError(f"an input took {cpu:.1f} s of processor time")
        if used > MAX_MEMORY:
            raise AssertionError(f"an input took {used >> 20} MiB of memory")


#: A function that opens what a target needs, and yields the target.
OpenTarget = Callable[[], AbstractContextManager[Target]]


def check_message(message: ChatMessage) -> None:
    """Assert that a message has the declared types, and can be printed, stored and sent back."""
    assert isinstance(message.content, str | None) and isinstance(message.reasoning, str | None)
    assert message.finish_reason in ("stop", "length", "tool_calls", "content_filter")
    assert isinstance(message.model_id, str | None) and isinstance(message.stop_sequence, str | None)
    for call in message.tool_calls or ():
        assert isinstance(call.id, str) and isinstance(call.function.name, str)
    if (usage := message.token_usage) is not None:
        assert all(count is None or type(count) is int for count in usage.dict().values()), usage
    assert isinstance(message.logprobs, list | None) and all(isinstance(p, dict) for p in message.logprobs or ())
    str(message), repr(message), json.dumps(message.to_dict()), message.render_as_markdown()
    ScriptedModel("ok").generate([message, {"role": "user", "content": "and?"}])


_PROCESS = Path("/proc/self")


def _reset_peak_memory() -> int:
    """Let the kernel measure a new peak of the process's memory, and return the memory now. Linux alone has this."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS:")


def _peak_memory() -> int:
    return _status("VmHWM:")


def _status(name: str) -> int:
    """Return a size from the status of the process, in bytes; 0 where the system has none."""
    try:
        text = (_PROCESS / "status").read_text()
    except OSError:
        return 0
    return int(text.partition(name)[2].split(maxsplit=1)[0]) * 1024
