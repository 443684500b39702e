"""How calls run: the event-loop portal, threads, streams and concurrency slots.

A synchronous call runs its coroutine on the portal's loop thread (`portal`) and reads its deltas through a stream
(`streams`). Blocking work gets threads of its own (`threads`), and `per_loop` has one resource for each event loop.
`lifecycle` says what happens to all of them at interpreter exit and after a fork.
"""
