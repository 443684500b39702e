"""The fault server itself: it listens in a thread of the test process, and follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ClassVar, Self

from ..process import HOST
from .connection import Connection
from .fault import OK, Fault, Recorded

_POLL_S = 0.005


class FaultServer:
    """The fault server. It listens between `__enter__` and `__exit__`."""

    paths: ClassVar[tuple[str, ...]] = ("/chat/completions", "/responses")
    """The ends of the paths that the script applies to."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        """The scripted requests that were read, in order."""
        self.connections_opened = 0
        self.stale_hits = 0
        """The number of requests that arrived on a stale connection and were not read."""
        self.errors: list[Exception] = []
        """Failures of the server itself, such as a request that is not HTTP or JSON; `__exit__` raises the first."""
        self.port = 0
        self._lock = threading.Lock()
        self._script: deque[Fault] = deque()
        self._then: Fault | Callable[[Recorded], Fault] = OK
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-server", daemon=True)
        self._listener: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.start_listening()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        if self.errors and error is None:
            raise RuntimeError(f"the server could not handle a request: {self.errors[0]!r}") from self.errors[0]

    @property
    def url(self) -> str:
        """The URL of the server, without a path."""
        return f"http://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        """The base URL for clients of OpenAI's API."""
        return f"{self.url}/v1"

    @property
    def open_connections(self) -> int:
        """The number of connections that are open."""
        return len(self._connections)

    @property
    def unused(self) -> int:
        """The number of scripted faults that no request has met yet."""
        return len(self._script)

    def script(self, faults: Iterable[Fault] = (), *, then: Fault | Callable[[Recorded], Fault] = OK) -> None:
        """Replace the script.

        Args:
            faults: What to do with the next requests, in order of arrival.
            then: What to do with all further requests: a fault, or a function of the request that returns one.
        """
        with self._lock:
            self._script = deque(faults)
            self._then = then

    def clear(self) -> None:
        """Delete the script, the requests and the counts."""
        self.script()
        self.requests.clear()
        self.connections_opened = self.open_connections
        self.stale_hits = 0

    def settle(self) -> None:
        """Prepare for the next test: clear everything, and wait until no connection of an earlier test is open."""
        if self.open_connections:
            self.wait_for(self._collect_connections)
        self.clear()

    def _collect_connections(self) -> bool:
        # A model without references closes its connections when it is collected, which may be minutes later. A thread
        # may refer to the model a moment longer than the test.
        gc.collect()
        return self.open_connections == 0

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until `condition` holds, such as `lambda: server.open_connections == 0`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                connections = ", ".join(map(str, list(self._connections.values()))) or "none"
                raise TimeoutError(
                    f"the condition is false after {timeout_s:g} s: {len(self.requests)} requests on"
                    f" {self.connections_opened} connections; open: {connections}"
                )
            time.sleep(_POLL_S)

    def stop_listening(self) -> None:
        """Refuse new connections; open ones stay open."""
        self._run_in_thread(self._close_listener())

    def start_listening(self) -> None:
        """Listen again, on the same port."""
        self._run_in_thread(self._listen())

    # --- the thread of the server ---------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _run_in_thread(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    def _stop(self) -> None:
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            self._run_in_thread(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        if not self._thread.is_alive():
            self._loop.close()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, HOST, self.port, reuse_address=True)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _shut_down(self) -> None:
        await self._close_listener()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections_opened += 1
        connection = self._connections[task] = Connection(self.connections_opened, reader, writer)
        try:
            while (request := await connection.read_request()) is not None:
                if not await self._respond(connection, request):
                    break
        except ConnectionError:
            pass  # The client left.
        except asyncio.CancelledError:
            writer.transport.abort()  # The server stops.
        except Exception as error:
            self.errors.append(error)
        finally:
            await connection.close()
            del self._connections[task]

    async def _respond(self, connection: Connection, request: Recorded) -> bool:
        """Respond to a request, and return whether the connection stays open."""
        if request.method != "POST" or not request.target.partition("?")[0].endswith(self.paths):
            listing = request.target.endswith("/models")
            content = b'{"object": "list", "data": [{"id": "scripted", "object": "model"}]}' if listing else b"{}"
            return await connection.respond(request, Fault(status_code=200 if listing else 404, content=content))
        with self._lock:
            scripted = self._script.popleft() if self._script else self._then
            self.requests.append(request)
        request.fault = scripted if isinstance(scripted, Fault) else scripted(request)
        try:
            alive = await connection.respond(request, request.fault)
        except ConnectionError:
            request.client_left = True
            raise
        request.done = not request.client_left
        if not alive or request.fault.goes_stale == "at_once":
            return False
        if request.fault.goes_stale == "on_next_request":
            if await connection.reader.read(1):
                self.stale_hits += 1
                connection.reset()
            return False
        return True
