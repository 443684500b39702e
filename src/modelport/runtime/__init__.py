"""How calls run: the event-loop portal, threads, streams and concurrency slots.

A synchronous call runs its coroutine on the portal's loop thread (`portal`). Blocking work gets threads of its own
(`threads`), and `per_loop` keeps one resource for each event loop.
"""
