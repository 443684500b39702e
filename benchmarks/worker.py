"""Runs one client in a process of its own, for `remote.py`.

python benchmarks/worker.py serve PEER        reads cases from stdin, one JSON object a line, and writes results
python benchmarks/worker.py cold PEER URL     one call in a new process
python benchmarks/worker.py memory PEER URL   resident memory after a call, and with 1,000 open streams
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers import Peer


def conversation(count: int = 1, size: int = 60) -> list[dict[str, str]]:
    """Messages of `size` bytes each: a system prompt, then the user and the assistant in turn."""
    text = ("The agent looked at the page and noted what it says about trains, bread and the weather. " * 40)[:size]
    roles = ["system"] * (count > 1) + ["user" if i % 2 == 0 else "assistant" for i in range(count - (count > 1))]
    return [{"role": role, "content": text} for role in roles]


def serve(name: str) -> None:
    import asyncio
    import json
    import os
    import time

    from vendors import ALL

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    peers: dict[str, Peer] = {}
    loop = asyncio.new_event_loop()

    def calls(peer: Peer, messages: list[dict[str, str]]) -> int:
        peer.call(messages)
        return 1

    def chunks(peer: Peer, messages: list[dict[str, str]]) -> int:
        return sum(1 for _ in peer.stream(messages))

    async def acalls(peer: Peer, messages: list[dict[str, str]]) -> int:
        await peer.acall(messages)
        return 1

    async def achunks(peer: Peer, messages: list[dict[str, str]]) -> int:
        return sum([1 async for _ in peer.astream(messages)])

    def repeat(work: object, peer: Peer, messages: list[dict[str, str]], seconds: float) -> int:
        done, end = 0, time.process_time() + seconds
        while time.process_time() < end:
            done += work(peer, messages)  # type: ignore[operator]
        return done

    async def at_once(work: object, peer: Peer, messages: list[dict[str, str]], width: int, seconds: float) -> int:
        end = time.process_time() + seconds

        async def one() -> int:
            done = 0
            while time.process_time() < end:
                done += await work(peer, messages)  # type: ignore[operator]
            return done

        return sum(await asyncio.gather(*(one() for _ in range(width))))

    for line in sys.stdin:
        case = json.loads(line)
        key = case["url"]
        if key not in peers:
            peers[key] = ALL[name](key)
        peer, messages = peers[key], conversation(case.get("messages", 1), case.get("size", 60))

        def run(seconds: float, case: dict = case, peer: Peer = peer, messages: list = messages) -> int:  # type: ignore[type-arg]
            work = {"calls": (calls, acalls), "chunks": (chunks, achunks)}[case["what"]][case["async"]]
            if case["async"]:
                return loop.run_until_complete(at_once(work, peer, messages, case["width"], seconds))
            return repeat(work, peer, messages, seconds)

        run(0.05)  # This opens connections and fills caches.
        cpu, wall = time.process_time(), time.perf_counter()
        done = run(case["seconds"])
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu": cpu / done, "wall": wall / done, "done": done}), flush=True)
    os._exit(0)  # Closing hundreds of connections would take long.


def cold(name: str, url: str) -> None:
    from vendors import ALL

    assert ALL[name](url).call(conversation()).startswith(" token")


def memory(name: str, url: str) -> None:
    import asyncio
    import json
    import os
    import resource

    from vendors import ALL

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    peer = ALL[name](url)
    if peer.synchronous:
        peer.call(conversation())
    after_call = resident()

    async def streams() -> int:
        opened = [aiter(peer.astream(conversation())) for _ in range(1000)]
        await asyncio.gather(*(anext(stream) for stream in opened))
        return resident()

    if not peer.asynchronous:
        open_streams = [peer.stream(conversation()) for _ in range(1000)]
        for stream in open_streams:
            next(stream)
        with_streams = resident()
    else:
        with_streams = asyncio.new_event_loop().run_until_complete(streams())
    print(json.dumps({"call": after_call, "streams": with_streams}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    {"serve": serve, "cold": cold, "memory": memory}[sys.argv[1]](*sys.argv[2:])
