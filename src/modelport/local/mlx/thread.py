"""Threads for MLX, which are used again and never end.

When a thread that has used MLX ends, it runs MLX's destructors after Python regards the thread as ended. They need the
interpreter's lock, and if the interpreter is exiting by then, they abort the process. A thread that waits for work does
not run them.
"""

from __future__ import annotations

from modelport.runtime.threads import ThreadPool

#: Does a piece of work, which must not raise, in a thread that does nothing else meanwhile.
start = ThreadPool("modelport-mlx", "modelport-mlx", idle_timeout=None).start
