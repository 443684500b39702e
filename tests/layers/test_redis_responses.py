"""`RedisLimits` and a Redis server that somebody else controls: what it responds, and where its URL points."""

from __future__ import annotations

import asyncio
import os
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from modelport import RedisLimits
from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, ModelError, ServerError
from modelport.layers.limit.shared import leave
from modelport.layers.redis_limits import TURN_WAIT_MS
from modelport.testing import ScriptedModel
from tests.servers.process import HOST, free_port

from .conftest import REDIS_PASSWORD

pytest.importorskip("redis", reason="installed by the test environment")

#: A time of a Redis server, in milliseconds.
NOW = 1_700_000_000_000


class HostileRedis(socketserver.ThreadingTCPServer):
    """A server that responds to scripts with given bytes, and to other commands with `OK`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Connection)
        self.response = b""

    @property
    def url(self) -> str:
        return f"redis://:{REDIS_PASSWORD}@{HOST}:{self.server_address[1]}/0"


class _Connection(socketserver.StreamRequestHandler):
    server: HostileRedis

    def handle(self) -> None:
        try:
            while header := self.rfile.readline():
                words = []
                for _ in range(int(header[1:])):
                    size = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(size + 2)[:-2])
                is_script = words[0] in (b"EVALSHA", b"SCRIPT")
                self.wfile.write(self.server.response if is_script else b"+OK\r\n")
        except OSError:
            pass  # The client has closed the connection.


@pytest.fixture
def hostile() -> Iterator[HostileRedis]:
    with HostileRedis() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def numbers(*values: object) -> bytes:
    return b"*%d\r\n" % len(values) + b"".join(b":%s\r\n" % str(value).encode() for value in values)


RESPONSES: dict[str, tuple[bytes, type[ModelError], str]] = {
    "a number": (b":5\r\n", MalformedResponse, "never returns"),
    "nil": (b"$-1\r\n", MalformedResponse, "never returns"),
    "text": (b"+fine\r\n", MalformedResponse, "never returns"),
    "texts": (b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n", MalformedResponse, "never returns"),
    "nils": (b"*3\r\n$-1\r\n$-1\r\n$-1\r\n", MalformedResponse, "never returns"),
    "two numbers": (numbers(0, 0), MalformedResponse, "never returns"),
    "four numbers": (numbers(0, 0, 0, 0), MalformedResponse, "never returns"),
    "negative wait": (numbers(-5000, 0, 5), MalformedResponse, "never returns"),
    "negative wait for requests": (numbers(5, -5000, 5), MalformedResponse, "never returns"),
    "negative time": (numbers(5, 0, -5), MalformedResponse, "never returns"),
    "longer wait for requests": (numbers(5, 6, 5), MalformedResponse, "never returns"),
    "wait longer than the window": (numbers(600_000, 0, 5), MalformedResponse, "never returns"),
    "huge wait": (numbers("9" * 400, 0, 5), MalformedResponse, "never returns"),
    "huge time": (numbers(0, 0, "9" * 300), MalformedResponse, "never returns"),
    "more digits than Python reads": (numbers("9" * 4400, 0, 5), ConnectionFailed, "InvalidResponse|ValueError"),
    "no number": (b"*x\r\n", ConnectionFailed, "ValueError"),
    "infinity and NaN": (b"*3\r\n,nan\r\n,inf\r\n,1e400\r\n", ConnectionFailed, "InvalidResponse"),
    "map with a list as a key": (b"%1\r\n*1\r\n:1\r\n:2\r\n", ConnectionFailed, "InvalidResponse"),
    "nested lists": (b"*1\r\n" * 100_000, ConnectionFailed, "InvalidResponse|RecursionError"),
    "negative length": (b"$-7\r\n", ConnectionFailed, "InvalidResponse"),
    "text of 2 GB": (b"$2000000000\r\n", ConnectionFailed, "InvalidResponse"),
    "list of 2 billion numbers": (b"*2000000000\r\n" + b":1\r\n" * 600, ConnectionFailed, "InvalidResponse"),
    "endless line": (b"+" + b"x" * 200_000, ConnectionFailed, "InvalidResponse|ValueError"),
    "another protocol": (b"HTTP/1.1 400 Bad\r\n\r\n", ConnectionFailed, "InvalidResponse"),
    "an error": (
        b"-MISCONF Redis is configured to save\r\n",
        ServerError,
        "error: MISCONF Redis is configured to save",
    ),
    "the password": (f"-ERR {REDIS_PASSWORD}\r\n".encode(), ServerError, "ResponseError .its text may quote"),
    "invalid UTF-8": (b"-ERR \xff\xfe\r\n", ServerError, "ResponseError .its text may quote"),
    "no such script": (b"-NOSCRIPT x\r\n", ServerError, "error: x"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_odd_response_raises_a_typed_error(name: str, hostile: HostileRedis) -> None:
    hostile.response, expected, text = RESPONSES[name]
    with pytest.raises(expected, match=text) as raised:
        asyncio.run(RedisLimits(hostile.url).acquire("m", "id", 60, 5, None, 0))
    assert type(raised.value) is expected and REDIS_PASSWORD not in str(raised.value)


@pytest.mark.parametrize("name", RESPONSES)
def test_odd_response_counts_as_unavailable(name: str, hostile: HostileRedis) -> None:
    hostile.response = RESPONSES[name][0]
    limits = RedisLimits(hostile.url, on_unavailable="local")
    message = ScriptedModel("ok", retry=False, requests_per_minute=5, shared_limits=limits)("?", timeout=20)
    assert message.content == "ok"
    assert [warning.feature for warning in message.warnings or ()] == ["shared_limits"]


def test_shortest_wait_is_that_for_a_turn(hostile: HostileRedis) -> None:
    """Otherwise a server that always says one millisecond would keep the processor busy."""

    async def delay() -> Any:
        return await RedisLimits(hostile.url).acquire("m", "id", 60, 5, None, 0)

    hostile.response = numbers(1, 0, NOW)
    assert asyncio.run(delay()) == (TURN_WAIT_MS / 1000, 0)
    hostile.response = numbers(0, 0, NOW)
    assert asyncio.run(delay()) == (0, 0)


def test_any_error_of_a_shared_window_is_retrieved_when_a_call_leaves() -> None:
    """Before, asyncio logged "Task exception was never retrieved"."""
    found: list[Any] = []

    class Window:
        async def leave(self, name: str, request_id: str) -> None:
            raise TypeError("an odd response")

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: found.append(context))
        await leave(Window(), "m", "id")  # type: ignore[arg-type]

    asyncio.run(work())
    assert found == []


# --- the URL ----------------------------------------------------------------------------------------------------------


def test_timeout_takes_precedence_over_that_of_the_url() -> None:
    limits = RedisLimits("redis://h/0?socket_timeout=1000&socket_connect_timeout=1000&protocol=3", timeout=0.5)
    settings = limits._make_client().connection_pool.connection_kwargs
    assert settings["socket_timeout"] == settings["socket_connect_timeout"] == 0.5


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
@pytest.mark.parametrize("path", ["/dev/null", ".", "/no/such/file", "a fifo"])
def test_url_with_a_file_that_is_not_regular_is_refused(name: str, path: str, tmp_path: Any) -> None:
    """The redis package reads the file on the event loop, and to open a FIFO or a terminal would block it."""
    if path == "a fifo":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
    with pytest.raises(InvalidRequest, match=f"URL of the Redis server is not valid: {name} must name a regular file"):
        RedisLimits(f"rediss://:{REDIS_PASSWORD}@{HOST}:{free_port()}/0?{name}={path}")


@pytest.mark.parametrize(
    ("text", "is_quoted"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'", True),
        ("", False),
        ("wrong: hunter2secret", False),
        ("wrong: HUNTER2SECRET", False),
        ("wrong: p@ss-hun", False),
        ("wrong: p%40ss-hun", False),
        ("wrong: hunter2s", False),
        ("wrong: hunter2", True),
        ("wrong: \\u0068unter2", False),
        ("wrong: &#104;unter2", False),
        ("user account-one may not", False),
        ("wrong: \x1b[31m", False),
        ("wrong: \u202e", False),
        ("client my-client-name", False),
        ("number 0", True),
    ],
)
def test_error_text_is_quoted_only_without_parts_of_the_url(text: str, is_quoted: bool) -> None:
    from modelport.layers.redis_client import quotable

    url = "redis://account-one:p%40ss-hunter2secret@h:1/0?client_name=my-client-name&db=0"
    assert quotable(text, url) == (text if is_quoted else "")


def test_error_text_is_shortened_and_short_passwords_are_not_quoted() -> None:
    from modelport.layers.redis_client import quotable

    assert quotable("x" * 1000, "redis://h") == "x" * 300
    assert quotable("it is ab", "redis://:ab@h") == ""
    assert quotable("x", "redis://[") == ""
