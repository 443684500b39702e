"""The command line: `modelport "What is the capital of France?"`.

`main` runs click's commands (`commands.py`), which read the options (`options.py`), load a model by its name and print
its messages (`terminal.py`, `chat.py`) or tables (`tables.py`, `report.py`). The other modules are imported in `main`,
so that Ctrl-C during these imports ends the process without a traceback.
"""

from __future__ import annotations

import signal
import sys
from typing import Any, Never

#: The exit status after Ctrl-C: 128 + SIGINT, by the convention of shells.
INTERRUPTED = 130


def main() -> Never:
    """Run the command line on the arguments of this process, and end the process."""
    status: Any = INTERRUPTED
    try:
        import warnings

        from modelport.cli.commands import cli
        from modelport.cli.terminal import discard_output, print_note, replace_unencodable_characters

        warnings.showwarning = lambda message, *args, **kwargs: print_note(str(message))
        replace_unencodable_characters()
        cli(prog_name="modelport")
    except KeyboardInterrupt:
        pass
    except SystemExit as end:
        status = end.code
    except OSError as error:  # click could not write its help.
        discard_output()
        print_note(f"can't write to standard output: {error.strerror or error}")
        status = 1
    if status == INTERRUPTED:
        # A second Ctrl-C must end the process at once, even while engines are closing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)
