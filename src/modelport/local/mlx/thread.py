"""Threads for MLX, which are used again and never end.

A thread that has used MLX runs destructors of it as it ends, after Python takes it for ended. They need the
interpreter's lock, and where the interpreter is going down by then they abort the process. A thread that waits for work
does not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

_lock = threading.Lock()
_idle: list[SimpleQueue[Callable[[], None]]] = []


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _idle.clear()  # a fork copies no threads


os.register_at_fork(after_in_child=_after_fork)


def start(work: Callable[[], None]) -> None:
    """Runs `work`, which must not raise, in a thread that does nothing else meanwhile."""
    with _lock:
        inbox = _idle.pop() if _idle else None
    if inbox is None:
        inbox = SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), name="modelport-mlx", daemon=True).start()
    inbox.put(work)


def _serve(inbox: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        inbox.get()()
        with _lock:
            _idle.append(inbox)
