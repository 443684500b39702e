"""Options and settings of the test suite."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression


def pytest_configure() -> None:
    # A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends", help="backends under test, separated by commas; by default those of the nox session `tests`"
    )
    parser.addoption("--loop-watch", help="a folder for the figures of tests/conformance/loop_watch.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip a file that its own `pytestmark` deselects: the environment may lack the packages that it imports."""
    expression = config.option.markexpr
    # Only a negated expression can tell from the mark of a file that it deselects every test of the file.
    if not expression.startswith("not ") or collection_path.suffix != ".py":
        return None
    declared = re.search(r"^pytestmark = (.+)$", collection_path.read_text(), re.M)
    marks = set(re.findall(r"pytest\.mark\.(\w+)", declared[1])) if declared else set()
    return True if marks and not Expression.compile(expression).evaluate(lambda name, /, **_: name in marks) else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check that pytest-xdist runs each group in one process. Otherwise several processes load the same engines."""
    if not getattr(session.config.option, "loadgroup", False):  # It is set in the processes that run tests.
        return
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if lost := [item.nodeid for item in grouped if "@" not in item.nodeid]:
        raise pytest.UsageError(f"this version of pytest-xdist ignores the group of {lost[0]}")
