"""How calls run: on which event loop and in which threads.

- `portal` runs synchronous calls on one event loop in a thread of modelport's own.
- `streams` has the objects through which callers read the deltas of a response.
- `threads` runs blocking work for calls.
- `slots` counts who still works for a call with `max_concurrency`.
- `per_loop` makes one resource, such as an HTTP session, for each event loop.
- `lifecycle` ends calls, threads and engines at interpreter exit, and detaches a child process from them after a fork.
"""
