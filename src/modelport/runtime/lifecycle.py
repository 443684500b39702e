"""What happens to calls, threads and engines when the interpreter exits, and in a process that was forked.

When the interpreter exits, `_shut_down` runs before the exit handlers of the libraries that the engines import:

1. The portal cancels its calls and ends its loop thread.
2. Threads that still emit the items of a stream are asked to stop, and waited for. Otherwise a thread could return from
   native code while the interpreter exits. Python then ends the thread by force, which can crash the process.
3. Every engine is closed.

Daemon threads that still wait for an item of a stream receive neither an item nor an error. They end with the process.

A fork copies no threads. So the child process does this:

1. It counts the fork (`fork_count`). A call or stream of the parent finds that the count differs from the count at its
   start, so it is in a child. Asking for the process id instead would add a third to the time that a delta takes in
   modelport.
2. It detaches from its parent's engines. It never closes or destroys them, because that would wait for threads which
   exist only in the parent.
3. If its parent had engines, it exits without the exit handlers of native libraries, which would also wait for these
   threads. Engines that such a child loads itself are not closed either.

The portal and the thread pools forget the parent's threads in fork handlers of their own.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

#: How long closing a stream or an engine waits for its threads and connections to be released, in seconds. After this
#: time, `close` returns and the release continues in the background.
CLOSE_TIMEOUT = 10.0
#: The same for a call that is cancelled, because its deadline has passed or another model was faster: its caller must
#: get the result at once. Within this time most engines end a call, so that the next one finds them free.
CANCEL_TIMEOUT = 0.1

#: The number of forks between the first process and this one.
fork_count = 0
#: Whether the interpreter is exiting, so that nothing may be emitted any more.
exiting = False

#: The function that `stop_calls_at_exit` received; `None` before the first call.
_stop_calls: Callable[[], None] | None = None
#: Thread that emits the items of a stream -> the event that asks it to stop, and how long the exit waits for it.
_emitting: dict[threading.Thread, tuple[threading.Event, float]] = {}
#: The engines that `close_at_exit` received.
_engines: weakref.WeakSet[Any] = weakref.WeakSet()
_engines_can_be_closed = True  # False in the child of a process that had engines.


def stop_calls_at_exit(stop: Callable[[], None]) -> None:
    """Have `stop` called at interpreter exit, before anything else is closed. The portal uses this function once."""
    global _stop_calls
    _stop_calls = stop


def stop_emitting_at_exit(thread: threading.Thread, abandoned: threading.Event, patience: float) -> None:
    """Ask a thread to stop at interpreter exit, and wait for it, unless `emitting_ended` is called for it before.

    Args:
        thread: Emits the items of a stream.
        abandoned: Will be set to ask the thread to stop.
        patience: How long the exit waits for the thread, in seconds. The waits for several threads run together.
    """
    _emitting[thread] = abandoned, patience


def emitting_ended(thread: threading.Thread) -> None:
    """Forget a thread that has emitted everything."""
    _emitting.pop(thread, None)


def close_at_exit(engine: Any) -> None:
    """Have `engine.close()` called at interpreter exit, after every call has been cancelled.

    In a process that is forked later, `engine.detach_after_fork()` is called instead. It ensures that the child never
    destroys the engine. If this process is itself the child of a process that had engines, this function calls
    `engine.detach_after_fork()` at once.
    """
    if not _engines_can_be_closed:
        engine.detach_after_fork()
        return
    _engines.add(engine)
    # Exit handlers run in the reverse order of their registration. `_shut_down` is registered again, so that it runs
    # before the handlers of the libraries that the engine has imported: multiprocessing's handler would wait for the
    # engine's processes, or end them while the engine still uses them.
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
    begin = time.monotonic()
    for thread, (_, patience) in emitting:
        thread.join(max(0.0, begin + patience - time.monotonic()))
    for engine in list(_engines):
        engine.close()


def _after_fork_in_child() -> None:
    global fork_count
    fork_count += 1
    _emitting.clear()
    if engines := list(_engines):
        for engine in engines:
            engine.detach_after_fork()
        _engines.clear()
        _skip_native_exit_handlers()


def _skip_native_exit_handlers() -> None:
    """Make this process exit without the exit handlers of native libraries, which would wait for parent threads."""
    global _engines_can_be_closed
    _engines_can_be_closed = False
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # Only Linux has this function.
        # Handlers run in the reverse order of their registration, so libc calls `_exit` with the exit status before the
        # handlers that are registered already.
        libc.on_exit(libc._exit, None)


os.register_at_fork(after_in_child=_after_fork_in_child)
