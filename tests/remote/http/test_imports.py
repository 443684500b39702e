"""Packages that are imported at the first call."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from modelport.remote.http.packages import no_fork_during_import


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_waits_for_an_import_in_another_thread() -> None:
    """In the child, the package stayed half imported: each call raised MalformedResponse about a circular import."""
    is_importing, is_imported = threading.Event(), threading.Event()

    def import_slowly() -> None:
        with no_fork_during_import():
            is_importing.set()
            is_imported.wait(0.2)  # Nobody sets it: the fork waits as long.
            is_imported.set()

    thread = threading.Thread(target=import_slowly)
    thread.start()
    is_importing.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # Without the handlers of forks, the child would wait for ever.
        with no_fork_during_import():
            os._exit(0 if is_imported.is_set() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()
    with no_fork_during_import():  # The lock is free in the parent too.
        assert "modelport" in sys.modules
