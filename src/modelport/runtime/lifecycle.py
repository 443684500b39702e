"""What happens to calls, threads and engines when the interpreter exits, and in a process that was forked.

When the interpreter exits, `_shut_down` runs before the exit handlers of the libraries that the engines import:

1. The portal cancels its calls and ends its loop thread.
2. Threads that still emit the items of a stream are asked to stop, and waited for. A thread that returned from native
   code later would be ended by force, and would take the process with it.
3. Every engine is closed.

Readers that still wait in daemon threads get nothing: they vanish with the interpreter, without a message.

A fork copies no threads. So the child process:

1. counts the fork (`forks`). Calls and streams compare this count with the count at their start, because asking for the
   process id would take a third of the time that a delta takes here;
2. detaches the engines of its parent, which are never closed or destroyed here: that would wait for threads which
   exist only in the parent;
3. ends without the exit handlers of native libraries if its parent had engines, for the same reason. Engines that such
   a child loads itself are not closed either.

The portal and the thread pools forget the parent's threads in fork handlers of their own.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

#: How long `close` waits for an engine or a connection to be released before it leaves that to the background, in
#: seconds.
CLOSE_TIMEOUT = 10.0

#: The number of forks between the first process and this one.
forks = 0
#: Whether the interpreter is exiting, so that nothing may be emitted any more.
exiting = False

_stop_calls: Callable[[], None] | None = None
_emitting: dict[threading.Thread, tuple[threading.Event, float]] = {}
_engines: weakref.WeakSet[Any] = weakref.WeakSet()
_engines_can_be_closed = True  # False in the child of a process that had engines.


def stop_calls_at_exit(stop: Callable[[], None]) -> None:
    """Call `stop` at interpreter exit, before anything else is closed. The portal calls this once."""
    global _stop_calls
    _stop_calls = stop


def stop_emitting_at_exit(thread: threading.Thread, abandoned: threading.Event, patience: float) -> None:
    """Ask a thread to stop at interpreter exit, and wait for it, unless `emitting_ended` was called for it before.

    Args:
        thread: Emits the items of a stream.
        abandoned: Is set to ask the thread to stop.
        patience: How long the exit waits for the thread, in seconds.
    """
    _emitting[thread] = abandoned, patience


def emitting_ended(thread: threading.Thread) -> None:
    """Forget a thread that has emitted everything."""
    _emitting.pop(thread, None)


def close_at_exit(engine: Any) -> None:
    """Call `engine.close()` at interpreter exit, after every call has been cancelled.

    In a child that is forked before that, call `engine.detach_after_fork()` instead, which ensures that the engine is
    never destroyed there. In such a child, do so at once.
    """
    if not _engines_can_be_closed:
        engine.detach_after_fork()
        return
    _engines.add(engine)
    # Exit handlers run in reverse order. `_shut_down` is registered again to run before the handlers of the libraries
    # that the engine has imported: multiprocessing's handler would wait for the engine's processes, or end them while
    # the engine still uses them.
    atexit.unregister(_shut_down)
    atexit.register(_shut_down)


@atexit.register
def _shut_down() -> None:
    global exiting
    if _stop_calls is not None:
        _stop_calls()
    exiting = True
    emitting = list(_emitting.items())
    for _, (abandoned, _) in emitting:
        abandoned.set()
    for thread, (_, patience) in emitting:
        thread.join(patience)
    for engine in list(_engines):
        engine.close()


def _after_fork_in_child() -> None:
    global forks
    forks += 1
    _emitting.clear()
    if engines := list(_engines):
        for engine in engines:
            engine.detach_after_fork()
        _engines.clear()
        _leave_without_destructors()


def _leave_without_destructors() -> None:
    """End this process without the exit handlers of native libraries, which would wait for the parent's threads."""
    global _engines_can_be_closed
    _engines_can_be_closed = False
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # Linux has it. It passes the exit status on to `_exit`.
        libc.on_exit(libc._exit, None)


os.register_at_fork(after_in_child=_after_fork_in_child)
