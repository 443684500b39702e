"""Targets: saved data, which must run no code, open no connection, listen nowhere and write no file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from modelport import Model
from modelport.registry import BACKENDS, BACKENDS_BY_CLASS
from tests.fuzz.saved_inputs import CANARY, CLASSES, HOSTILE_PORT, saved
from tests.fuzz.target import OpenTarget, Target

#: Events of Python's audit hooks that data must not cause.
_FORBIDDEN = (
    "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.", "socket.bind",
    "socket.connect", "socket.getaddrinfo", "pickle.find_class", "os.remove", "os.rename", "os.rmdir", "shutil.",
    "urllib.", "ftplib.",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Audit:
    """Records what must not happen while data is loaded."""

    _installed = False
    _running: Audit | None = None

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record events inside of the `with` block, in every thread."""
        if not Audit._installed:  # A hook can't be removed.
            Audit._installed = True
            sys.addaudithook(Audit._hook)
        Audit._running = self
        try:
            yield
        finally:
            Audit._running = None

    @staticmethod
    def _hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (running := Audit._running) is not None and (problem := _problem(event, arguments)):
            running.found.append(problem)


def _problem(event: str, arguments: tuple[Any, ...]) -> str:
    """Return what is wrong with an event; empty if nothing is."""
    if event == "import":
        return f"imports {arguments[0]}" if CANARY in str(arguments[0]) else ""
    if event in ("exec", "compile"):
        return f"{event} of data" if CANARY in str(arguments[0]) else ""
    if event == "open":
        path, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & _WRITES
        return f"writes {path}" if writes and path not in (os.devnull, "/dev/null") else ""
    if event == "socket.bind" and arguments[1][0] == "::1":
        return ""  # urllib3 finds out in this way whether the machine has IPv6.
    if event in ("socket.connect", "socket.getaddrinfo"):
        # llama.cpp's engine is asked for its settings over a loopback port.
        host, port = (arguments[1] if event == "socket.connect" else arguments)[:2]
        if host == "127.0.0.1" and port != HOSTILE_PORT:
            return ""
    return f"{event}{arguments!s:.200}" if event.startswith(_FORBIDDEN) else ""


def _listeners() -> set[str]:
    """Return the addresses on which this process listens, except for loopback; Linux alone shows them."""
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            inodes.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue  # It was closed meanwhile.
    found = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6") if inodes else ():
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            listens, mine = words[3] == "0A", f"socket:[{words[9]}]" in inodes
            if listens and mine and not words[1].startswith(("0100007F", "00000000000000000000000001000000")):
                found.add(words[1])
    return found


@contextmanager
def _open(classes: tuple[str, ...], make_model: Callable[[Path], Path] | None) -> Iterator[Target]:
    """Yield a target that loads data.

    Args:
        classes: The names of the classes in the data.
        make_model: Makes the model whose path the data names; without it, no such file exists.
    """
    for name in {BACKENDS[BACKENDS_BY_CLASS[name]] for name in classes if name in BACKENDS_BY_CLASS}:
        import_module(name.partition(":")[0])  # What a class itself imports is not caused by the data.
    with TemporaryDirectory() as name:
        folder, canary = Path(name), Path(name) / "canary"
        model_id = folder / "model.gguf" if make_model is None else make_model(folder / "model.gguf")

        def play(data: Any) -> Any:
            audit = Audit()
            try:
                with audit.watching():
                    model = Model.from_dict(data)
                assert not (outside := _listeners()), f"listens on {outside}"
                repr(model)
                model.close()
                return model
            finally:
                assert not canary.exists(), "a command in the data was run"
                assert not audit.found, f"loading the data {audit.found[0]}"

        yield Target(saved(canary, str(model_id), classes), play)


def _small_gguf(path: Path) -> Path:
    from tests.fuzz.small_models import write_gguf

    return write_gguf(path)


SAVED: dict[str, OpenTarget] = {
    "saved data: every class": partial(_open, CLASSES, None),
    "saved data: with an engine": partial(_open, ("LlamaCppModel",), _small_gguf),
}
