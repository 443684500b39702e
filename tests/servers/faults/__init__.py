"""A small OpenAI chat completions server that fails at exact bytes, in a thread of the test process.

It does what no other server does on command: a reset, a stall or a truncated body after so many bytes, a stale
kept-alive connection, the dialects of streamed tool calls and usage. It records what reached it, down to connections.

    with FaultServer() as server:
        server.script([Fault.reset(), Fault.cut("stall", after_events=3), OK])
        ...  # A client talks to server.base_url.
        assert len(server.requests) == 3

A `Reply` (`replies.py`) is what the model says; a `Fault` (`fault.py`) is how a reply is sent; the `FaultServer`
(`server.py`) takes one fault for each request and sends it through a `Connection` (`connection.py`).
"""

from .connection import Connection
from .fault import OK, End, Fault, Framing, Recorded
from .replies import TWO_CALLS, Call, Reply, split_text, sse
from .server import FaultServer

__all__ = [
    "OK",
    "TWO_CALLS",
    "Call",
    "Connection",
    "End",
    "Fault",
    "FaultServer",
    "Framing",
    "Recorded",
    "Reply",
    "split_text",
    "sse",
]
