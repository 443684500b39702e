"""Rate limits that several processes share, counted on a Redis server.

Theory of operation:

- One Lua script on the Redis server admits a request or returns how long to wait. Redis runs a script without
  interruption, so two requests cannot both take the last free capacity. The script reads the clock of the Redis server,
  so the clocks of the callers' machines need not agree.
- A request counts for one window (60 seconds) from the time at which it is admitted, even if its process dies. If the
  response of the script is lost, the script is run again for the same request, which is counted only once.
- Waiting requests are admitted in the order in which they first asked. Otherwise small requests would always take the
  capacity that a large request waits for. The order is a number and not a time, because the server's clock may step
  back.
- A request that will not be sent, because its caller has left, is removed at once (`leave`). If it stayed in the queue,
  callers with short time limits would leave as fast as others arrive, and nobody would ever be the first.
- Each waiting request must ask again from time to time. If it has not asked for `LEASE_MS` milliseconds, it is
  dropped from the queue, so a process that died delays the others for no longer than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequest,
    MalformedResponse,
    MissingDependency,
    ServerError,
)
from modelport.layers.limit.shared import SharedDelay
from modelport.runtime.per_loop import PerLoop
from modelport.secrets import Secret, hides_secrets

#: A Lua script that admits a request, or adds it to the queue. It returns 0 if the request is admitted, else the
#: milliseconds until there may be room for it; the milliseconds for which the limit of requests alone makes it wait;
#: and the Redis server's time.
#:
#: Keys: `entries` is a sorted set of the admitted requests, by the time at which they were admitted. `tokens` is a hash
#: with the tokens of each admitted request, and their sum under `total`. `waiting` is a sorted set of the waiting
#: requests, by a number that grows with each request that joins. `last_asked` is a hash with the time at which each
#: waiting request last asked.
#:
#: Arguments: the identifier of the request, the length of the window in milliseconds, `LEASE_MS`, the most requests and
#: the most tokens in one window, the estimated tokens of this request, `TURN_WAIT_MS`.
ACQUIRE_SCRIPT = """
local entries, tokens, waiting, last_asked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, window, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_requests, max_tokens, wanted = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local turn_wait = tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The request has been admitted already, and the response was lost.
local admitted_at = redis.call('ZSCORE', entries, id)
if admitted_at then return {0, 0, now} end

-- Drop the requests that have left the window.
for _, old in ipairs(redis.call('ZRANGEBYSCORE', entries, '-inf', '(' .. now - window)) do
  -- `0 - n` instead of `-n`, because Lua writes the negative of 0 as '-0', which HINCRBY does not accept.
  redis.call('HINCRBY', tokens, 'total', 0 - (redis.call('HGET', tokens, old) or 0))
  redis.call('HDEL', tokens, old)
  redis.call('ZREM', entries, old)
end
-- If the server's clock was set back, some requests were admitted in the future. They would stay in the window for too
-- long, so they count from now.
for _, future in ipairs(redis.call('ZRANGEBYSCORE', entries, '(' .. now, '+inf')) do
  redis.call('ZADD', entries, now, future)
end

-- Drop requests from the front of the queue until the first one has asked again in time.
local first = redis.call('ZRANGE', waiting, 0, 0)
while first[1] and first[1] ~= id do
  local asked = tonumber(redis.call('HGET', last_asked, first[1]) or 0)
  -- If the server's clock was set back, the first one has asked in the future. Its lease begins anew.
  if asked > now then redis.call('HSET', last_asked, first[1], now) end
  if now - asked <= lease then break end
  redis.call('ZREM', waiting, first[1])
  redis.call('HDEL', last_asked, first[1])
  first = redis.call('ZRANGE', waiting, 0, 0)
end
local others_first = first[1] and first[1] ~= id

local count, total = redis.call('ZCARD', entries), tonumber(redis.call('HGET', tokens, 'total') or 0)
local fits = count < max_requests and total + wanted <= max_tokens
if fits and not others_first then
  redis.call('ZADD', entries, now, id)
  redis.call('HSET', tokens, id, wanted)
  redis.call('HINCRBY', tokens, 'total', wanted)
  redis.call('PEXPIRE', entries, window + 1000)
  redis.call('PEXPIRE', tokens, window + 1000)
  redis.call('ZREM', waiting, id)
  redis.call('HDEL', last_asked, id)
  return {0, 0, now}
end

-- Wait in the queue. If the request waits already, NX leaves its position unchanged.
local last = redis.call('ZRANGE', waiting, -1, -1, 'WITHSCORES')
redis.call('ZADD', waiting, 'NX', (tonumber(last[2]) or 0) + 1, id)
redis.call('HSET', last_asked, id, now)
redis.call('PEXPIRE', waiting, 2 * lease)
redis.call('PEXPIRE', last_asked, 2 * lease)
if fits then return {turn_wait, 0, now} end
-- Find the admitted request after whose departure from the window there is enough room, and wait until it leaves.
local oldest, requests_wait = redis.call('ZRANGE', entries, 0, -1, 'WITHSCORES'), 0
for i = 1, #oldest, 2 do
  local wait = math.max(1, tonumber(oldest[i + 1]) + window + 1 - now)
  if count >= max_requests then requests_wait = wait end
  count, total = count - 1, total - tonumber(redis.call('HGET', tokens, oldest[i]) or 0)
  if count < max_requests and total + wanted <= max_tokens then return {wait, requests_wait, now} end
end
return {1, 0, now}
"""
#: Removes a request that will not be sent: from the queue, and from the window if it has been admitted meanwhile. The
#: keys are those of `ACQUIRE_SCRIPT`.
LEAVE_SCRIPT = """
local entries, tokens, waiting, last_asked, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
redis.call('ZREM', waiting, id)
redis.call('HDEL', last_asked, id)
if redis.call('ZREM', entries, id) == 1 then
  redis.call('HINCRBY', tokens, 'total', 0 - (redis.call('HGET', tokens, id) or 0))
  redis.call('HDEL', tokens, id)
end
"""
#: Replaces the estimated tokens of a request by the tokens that it used, if the request is still in the window.
CORRECT_SCRIPT = """
local estimate = redis.call('HGET', KEYS[1], ARGV[1])
if estimate then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'total', ARGV[2] - estimate)
end
"""
#: Milliseconds after which a waiting request that has not asked again is dropped. The limit layer asks every second.
LEASE_MS = 3000
#: Milliseconds after which a request asks again if there is room for it but other requests wait before it.
TURN_WAIT_MS = 20
_KEYS = ("entries", "tokens", "waiting", "last_asked")
#: A limit that no window reaches. The script compares numbers, so it cannot receive `None` for no limit.
_NO_LIMIT = 10**15
#: The latest time of a Redis server, in milliseconds: about the year 287,000.
_MAX_TIME = 2**53


class RedisLimits:
    """Make the models of several processes share `requests_per_minute` and `tokens_per_minute`.

    `max_concurrency` is not shared: it still limits each process by itself.

    Args:
        url: `redis://[user:password@]host:port/db`, `rediss://…` or `unix://…`; by default the value of the environment
            variable `REDIS_URL`. The URL is treated as a secret: a saved model contains only the variable's name. Files
            that the URL names (`ssl_ca_certs`) must be regular files.
        name: The name of the limit, for example the account that is charged. Models with limits of the same name share
            one limit. The default is the model's `model_id`.
        on_unavailable: What happens to a call while Redis cannot be reached. `error`: it fails with `ConnectionFailed`.
            `local`: each process enforces the whole limit for itself, so all processes together may exceed it. The
            `warnings` of the message say so.
        timeout: The seconds within which the Redis server must respond; the default is 1. It takes precedence over
            timeouts in the URL.

    Raises:
        InvalidRequest: An argument is not valid.
        MissingDependency: The `redis` package is not installed.

    Examples:
        >>> limits = RedisLimits("redis://localhost:6379/0")
        >>> model = OpenAIServerModel("gpt-4o", requests_per_minute=500, shared_limits=limits)
    """

    # For the `repr` of an object whose constructor raised.
    name: str | None = None
    on_unavailable: str = "error"

    @hides_secrets
    def __init__(
        self,
        url: Secret | str | Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        on_unavailable: Literal["error", "local"] = "error",
        timeout: float = 1.0,
    ) -> None:
        if on_unavailable not in ("error", "local"):
            raise InvalidRequest(f"on_unavailable={on_unavailable!r}: must be 'error' or 'local'")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 1e9:
            raise InvalidRequest(f"timeout={timeout!r}: must be a number of seconds above 0, and at most 1e9")
        if not isinstance(name, str | None):
            raise InvalidRequest(f"name={name!r}: must be a string")
        if isinstance(url, Mapping) and not isinstance(url.get("env"), str):
            raise InvalidRequest("url: as a dict it names an environment variable, as {'env': 'REDIS_URL'}")
        try:
            import redis.asyncio
        except ImportError:
            raise MissingDependency("redis", "redis") from None
        self._redis: Any = redis
        self.url = Secret(env=url.get("env")) if isinstance(url, Mapping) else Secret.from_value(url, "REDIS_URL")
        self.name, self.on_unavailable, self.timeout = name, on_unavailable, timeout
        self._clients: PerLoop[Any] = PerLoop(lambda client: client.aclose())
        if self.url:
            self._make_client()

    async def acquire(
        self, name: str, request_id: str, seconds: float, requests: float | None, tokens: float | None, wanted: int
    ) -> SharedDelay:
        """Admit a request, or return the seconds until there may be room for it.

        A waiting request that does not ask again within `LEASE_MS` milliseconds loses its position in the queue.

        Args:
            name: The name of the limit. The name that the constructor received, if any, overrides it.
            request_id: The identifier of the request, which must be the same each time it asks.
            seconds: The length of the window in seconds.
            requests: The most requests in one window; `None` for no limit.
            tokens: The most tokens in one window; `None` for no limit.
            wanted: The estimated tokens of this request.

        Raises:
            ConnectionFailed: Redis cannot be reached, or does not respond in time.
            ServerError: Redis responds with an error.
            MalformedResponse: Redis responds with something other than the result of the script.
            AuthenticationError: Redis refuses the credentials of its URL.
        """
        return (await self._acquire(name, request_id, seconds, requests, tokens, wanted))[0]

    async def leave(self, name: str, request_id: str) -> None:
        """Remove a request that will not be sent: it waits no longer and, if it has been admitted, does not count.

        Args:
            name: The name of the limit. The name that the constructor received, if any, overrides it.
            request_id: The identifier of the request.

        Raises:
            ConnectionFailed: Redis cannot be reached, or does not respond in time.
            ServerError: Redis responds with an error.
            AuthenticationError: Redis refuses the credentials of its URL.
        """
        await self._run(LEAVE_SCRIPT, name, _KEYS, request_id)

    async def correct(self, name: str, request_id: str, tokens: int) -> None:
        """Replace the estimated tokens of an admitted request by the tokens that it used.

        Args:
            name: The name of the limit. The name that the constructor received, if any, overrides it.
            request_id: The identifier of the request.
            tokens: The tokens that the request used.

        Raises:
            ConnectionFailed: Redis cannot be reached, or does not respond in time.
            ServerError: Redis responds with an error.
            AuthenticationError: Redis refuses the credentials of its URL.
        """
        await self._run(CORRECT_SCRIPT, name, ("tokens",), request_id, tokens)

    async def aclose(self) -> None:
        """Close the connections that belong to the running event loop.

        Nobody has to call this: the connections of an event loop are also closed when the loop ends.
        """
        await self._clients.aclose()

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments of the constructor. The URL is given as the name of its environment variable."""
        return {
            "url": {"env": self.url.env},
            "name": self.name,
            "on_unavailable": self.on_unavailable,
            "timeout": self.timeout,
        }

    def __repr__(self) -> str:
        return f"RedisLimits(name={self.name!r}, on_unavailable={self.on_unavailable!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RedisLimits) and (self.to_dict(), self.url) == (other.to_dict(), other.url)

    def __hash__(self) -> int:
        return hash((RedisLimits, self.name))

    def __reduce__(self) -> Any:
        return _from_dict, (self.to_dict(),)

    async def _acquire(
        self, name: str, request_id: str, seconds: float, requests: float | None, tokens: float | None, wanted: int
    ) -> tuple[SharedDelay, float]:
        """Do what `acquire` does, and also return the Redis server's time in seconds."""
        limits = [_NO_LIMIT if limit is None else int(limit) for limit in (requests, tokens)]
        window = round(seconds * 1000)
        arguments = (request_id, window, LEASE_MS, *limits, wanted, TURN_WAIT_MS)
        response = await self._run(ACQUIRE_SCRIPT, name, _KEYS, *arguments)
        if not _is_result(response, window):
            raise MalformedResponse(
                f"{self._server()} responded with a value that modelport's script never returns: three whole numbers, "
                f"of which the waits are at most the window of {window} ms."
            )
        wait, requests_wait, now = response
        # A server that always responds with a short wait would otherwise keep the processor busy.
        wait = max(wait, TURN_WAIT_MS) if wait else 0
        return SharedDelay(wait / 1000, requests_wait / 1000), now / 1000

    async def _run(self, script: str, name: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        name = self.name or name
        client = await self._clients.get(self._make_client)
        try:
            # A Redis cluster stores keys with the same text in braces on the same node, which a script requires.
            # `backslashreplace` is for names that UTF-8 cannot encode.
            full_keys = [f"modelport:{{{name}}}:{key}".encode(errors="backslashreplace") for key in keys]
            return await client.register_script(script)(full_keys, arguments)
        except Exception as error:  # For an invalid response, the redis package raises errors of many types.
            translated = self._translate(error)
        raise translated  # Outside of `except`, so that the original error is not chained: it may hold the password.

    def _make_client(self) -> Any:
        from modelport.layers.redis_client import client_or_none, wrong_file_parameter

        if not self.url:
            raise InvalidRequest(f"No Redis server is configured. Pass url='redis://…', or set {self.url.env}.")
        if (parameter := wrong_file_parameter(self.url.reveal())) is not None:
            raise InvalidRequest(f"The URL of the Redis server is not valid: {parameter} must name a regular file.")
        if (client := client_or_none(self.url.reveal(), self.timeout)) is not None:
            return client
        raise InvalidRequest(
            "The URL of the Redis server is not valid. Write redis://[user:password@]host:port/db, and behind a '?' "
            "only parameters that the redis package accepts."
        )

    def _translate(self, error: Exception) -> ConnectionFailed | ServerError | AuthenticationError:
        from modelport.layers.redis_client import quotable

        redis_errors = self._redis.exceptions
        refused = (
            redis_errors.AuthenticationError
            | redis_errors.NoPermissionError
            | redis_errors.AuthenticationWrongNumberOfArgsError
        )
        # Without a password, Redis 7 refuses a command with many arguments, such as a script's, with a protocol error
        # that has no error code. So the error is recognised by its text.
        if isinstance(error, refused) or str(error).startswith("Protocol error: unauthenticated"):
            return AuthenticationError(f"{self._server()} refuses the credentials of its URL.")
        name = type(error).__name__
        if isinstance(error, redis_errors.ResponseError):
            text = quotable(str(error), self.url.reveal()) or f"{name} (its text may quote the URL)"
            return ServerError(f"{self._server()} responded with an error: {text}")
        return ConnectionFailed(f"{self._server()} cannot be reached, or does not respond as Redis does ({name}).")

    def _server(self) -> str:
        parts = urlsplit(self.url.reveal())
        address = parts.netloc.rpartition("@")[2] or parts.path or "localhost"
        return f"The Redis server at {address}, which counts the shared rate limits,"


def _is_result(response: Any, window: int) -> bool:
    """Return whether `ACQUIRE_SCRIPT` may have returned this value, for a window of so many milliseconds."""
    if not isinstance(response, list) or len(response) != 3 or not all(type(number) is int for number in response):
        return False
    wait, requests_wait, now = response
    return bool(0 <= requests_wait <= wait <= window + 1 and 0 <= now <= _MAX_TIME)


def _from_dict(settings: Mapping[str, Any]) -> RedisLimits:
    return RedisLimits(**settings)
