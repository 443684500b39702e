"""The command line: `modelport "What is the capital of France?"`."""

from __future__ import annotations

import signal
import sys
from typing import Any, Never

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> Never:
    """Runs the command line on the arguments of this process, and ends it."""
    status: Any = INTERRUPTED
    try:
        import warnings

        from modelport.cli.commands import cli
        from modelport.cli.terminal import drop_output, lenient_output, note

        warnings.showwarning = lambda message, *args, **kwargs: note(str(message))
        lenient_output()
        cli(prog_name="modelport")
    except KeyboardInterrupt:
        pass
    except SystemExit as end:
        status = end.code
    except OSError as error:  # while click printed its help
        drop_output()
        note(f"can't write to standard output: {error.strerror or error}")
        status = 1
    if status == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends it at once, however engines are closing
    sys.exit(status)
