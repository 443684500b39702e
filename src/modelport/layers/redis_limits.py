"""Rate limits that several processes share, counted in a Redis.

Theory of operation:

- One Lua script admits a request or returns how long to wait. Redis runs a script as one step, so no other process acts
  in between. The script reads the time from Redis, so the clocks of the callers' machines don't matter.
- A request counts from the time at which it is admitted, whatever happens to the process that sends it. Asking again
  for a request that is already counted (because the first response was lost) changes nothing.
- Waiting requests are admitted in the order in which they first asked. Otherwise a large request would never find room
  among small ones.
- Each waiting request has to ask again from time to time. A request that has not asked for `LEASE_MS` is dropped from
  the queue, so a process that died delays the others for no longer than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from modelport.errors import AuthenticationError, ConnectionFailed, InvalidRequest, MissingDependency, ServerError
from modelport.runtime.per_loop import PerLoop
from modelport.secrets import Secret

#: Admits a request, or returns the milliseconds to wait. The second value that it returns is the time on Redis's clock.
#:
#: Keys: `entries` is a sorted set of admitted requests by their time; `tokens` is a hash with the tokens of each of
#: them, and their `total`; `waiting` is a sorted set of waiting requests by the time at which they first asked;
#: `last_asked` is a hash with the time at which each of them last asked.
ACQUIRE_SCRIPT = """
local entries, tokens, waiting, last_asked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, window, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_requests, max_tokens, wanted = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local turn_wait = tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The request has been admitted already, and the response was lost.
local admitted_at = redis.call('ZSCORE', entries, id)
if admitted_at then return {0, tonumber(admitted_at)} end

-- Drop the requests that have left the window.
for _, old in ipairs(redis.call('ZRANGEBYSCORE', entries, '-inf', '(' .. now - window)) do
  -- `0 - n` instead of `-n`, because Lua writes the negative of 0 as '-0', which HINCRBY does not accept.
  redis.call('HINCRBY', tokens, 'total', 0 - (redis.call('HGET', tokens, old) or 0))
  redis.call('HDEL', tokens, old)
  redis.call('ZREM', entries, old)
end
-- If the clock was set back, requests lie in the future, and would stay in the window for too long.
for _, future in ipairs(redis.call('ZRANGEBYSCORE', entries, '(' .. now, '+inf')) do
  redis.call('ZADD', entries, now, future)
end

-- Drop the first waiting requests if they have not asked again in time.
local first = redis.call('ZRANGE', waiting, 0, 0)
while first[1] and first[1] ~= id and now - tonumber(redis.call('HGET', last_asked, first[1]) or 0) > lease do
  redis.call('ZREM', waiting, first[1])
  redis.call('HDEL', last_asked, first[1])
  first = redis.call('ZRANGE', waiting, 0, 0)
end
local behind = first[1] and first[1] ~= id

local count, total = redis.call('ZCARD', entries), tonumber(redis.call('HGET', tokens, 'total') or 0)
local fits = count < max_requests and total + wanted <= max_tokens
if fits and not behind then
  redis.call('ZADD', entries, now, id)
  redis.call('HSET', tokens, id, wanted)
  redis.call('HINCRBY', tokens, 'total', wanted)
  redis.call('PEXPIRE', entries, window + 1000)
  redis.call('PEXPIRE', tokens, window + 1000)
  redis.call('ZREM', waiting, id)
  redis.call('HDEL', last_asked, id)
  return {0, now}
end

-- Wait in the queue. NX keeps the time at which the request first asked.
redis.call('ZADD', waiting, 'NX', now, id)
redis.call('HSET', last_asked, id, now)
redis.call('PEXPIRE', waiting, 2 * lease)
redis.call('PEXPIRE', last_asked, 2 * lease)
if fits then return {turn_wait, now} end
-- Find the request whose departure from the window makes enough room.
local oldest = redis.call('ZRANGE', entries, 0, -1, 'WITHSCORES')
for i = 1, #oldest, 2 do
  count, total = count - 1, total - tonumber(redis.call('HGET', tokens, oldest[i]) or 0)
  if count < max_requests and total + wanted <= max_tokens then
    return {math.max(1, tonumber(oldest[i + 1]) + window + 1 - now), now}
  end
end
return {1, now}
"""
#: Replaces the estimated tokens of a request by those that it used, while it is in the window.
CORRECT_SCRIPT = """
local estimate = redis.call('HGET', KEYS[1], ARGV[1])
if estimate then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'total', ARGV[2] - estimate)
end
"""
#: Milliseconds after which a waiting request that has not asked again is dropped. Waiters ask every second.
LEASE_MS = 3000
#: Milliseconds after which a request asks again if there is room for it but other requests wait before it.
TURN_WAIT_MS = 20
_NO_LIMIT = 10**15


class RedisLimits:
    """Have the models of several processes share `requests_per_minute` and `tokens_per_minute`.

    `max_concurrency` remains a limit of each process.

    Args:
        url: `redis://[user:password@]host:port/db`, `rediss://…` or `unix://…`; by default the value of the environment
            variable `REDIS_URL`. The URL is treated as a secret: a saved model contains only the variable's name.
        name: The name of the limit, such as that of an account. Models whose limits have the same name share one limit.
            By default the model's id.
        on_unavailable: What happens to a call while Redis cannot be reached. `error`: it fails with `ConnectionFailed`.
            `local`: each process enforces the whole limit alone, so that all processes together may exceed it; the
            message's `warnings` say so.
        timeout: Seconds within which Redis must respond; 1 by default.

    Raises:
        InvalidRequest: An argument is not valid.
        MissingDependency: The `redis` package is not installed.

    Examples:
        >>> limits = RedisLimits("redis://localhost:6379/0")
        >>> model = OpenAIServerModel("gpt-4o", requests_per_minute=500, shared_limits=limits)
    """

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

    async def acquire(
        self, name: str, request_id: str, seconds: float, requests: float | None, tokens: float | None, wanted: int
    ) -> float:
        """Admit a request, or return the seconds to wait before asking again; 0 means that it is admitted.

        Args:
            name: The name of the limit, if this object has no name of its own.
            request_id: The identifier of the request, the same each time it asks.
            seconds: The length of the window.
            requests: The most requests in one window; `None` for no limit.
            tokens: The most tokens in one window; `None` for no limit.
            wanted: The estimated tokens of this request.

        Raises:
            ConnectionFailed: Redis cannot be reached, or does not respond in time.
            ServerError: Redis responds with an error.
            AuthenticationError: Redis refuses the credentials of its URL.
        """
        return (await self._acquire(name, request_id, seconds, requests, tokens, wanted))[0]

    async def correct(self, name: str, request_id: str, tokens: int) -> None:
        """Replace the estimated tokens of an admitted request by those that it used.

        Args:
            name: The name of the limit, if this object has no name of its own.
            request_id: The identifier of the request.
            tokens: The tokens that the request used.

        Raises:
            ConnectionFailed: Redis cannot be reached, or does not respond in time.
            ServerError: Redis responds with an error.
            AuthenticationError: Redis refuses the credentials of its URL.
        """
        await self._run(CORRECT_SCRIPT, name, ("tokens",), request_id, tokens)

    async def aclose(self) -> None:
        """Close the connections of the running event loop. A loop that ends closes its connections by itself."""
        await self._clients.aclose()

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments of the constructor, with the name of an environment variable as the URL."""
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
    ) -> tuple[float, float]:
        """Do what `acquire` does, and also return the time on Redis's clock."""
        limits = [_NO_LIMIT if limit is None else int(limit) for limit in (requests, tokens)]
        arguments = (request_id, round(seconds * 1000), LEASE_MS, *limits, wanted, TURN_WAIT_MS)
        keys = ("entries", "tokens", "waiting", "last_asked")
        wait, now = await self._run(ACQUIRE_SCRIPT, name, keys, *arguments)
        return wait / 1000, now / 1000

    async def _run(self, script: str, name: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        name = self.name or name
        try:
            client = await self._clients.get(self._make_client)
            # The braces keep the keys of one name on one node of a cluster. Any string may be a name, also one that
            # UTF-8 cannot encode.
            full_keys = [f"modelport:{{{name}}}:{key}".encode(errors="backslashreplace") for key in keys]
            return await client.register_script(script)(full_keys, arguments)
        except (self._redis.RedisError, OSError, TimeoutError) as error:
            translated = self._translate(error)
        raise translated  # Outside of `except`, so that the error does not refer to the frames of the client.

    def _make_client(self) -> Any:
        if not self.url:
            raise InvalidRequest(f"No Redis server is configured. Pass url='redis://…', or set {self.url.env}.")
        if (client := self._client_or_none()) is not None:
            return client
        raise InvalidRequest(
            "The URL of the Redis server is not valid. Write redis://[user:password@]host:port/db, and behind a '?' "
            "only parameters that the redis package accepts."
        )

    def _client_or_none(self) -> Any:
        """Return a client, or `None` if the URL is not valid.

        It does not raise, because the errors of the redis package, and the local variables here, may hold the password.
        """
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            parts = urlsplit(self.url.reveal())
            if parts.scheme != "unix":
                int(unquote(parts.path).strip("/") or 0)  # The redis package would read anything else as 0.
            client = self._redis.asyncio.from_url(
                self.url.reveal(),
                socket_timeout=self.timeout,
                socket_connect_timeout=self.timeout,
                # One retry, on a new connection, because Redis may have been restarted since the last call.
                retry=Retry(NoBackoff(), 1),
            )
            # The parameters behind the "?" are checked when a connection object is created. That opens no connection.
            settings = client.connection_pool.connection_kwargs
            client.connection_pool.connection_class(**settings)
            "".encode(settings.get("encoding", "utf-8"))
        except Exception:  # The redis package raises errors of many types.
            return None
        return client

    def _translate(self, error: Exception) -> ConnectionFailed | ServerError | AuthenticationError:
        kinds = self._redis.exceptions
        server = f"The Redis server at {self._address()}, which counts the shared rate limits,"
        refused = kinds.AuthenticationError | kinds.NoPermissionError | kinds.AuthenticationWrongNumberOfArgsError
        # If a command of several words comes first, Redis 7 reports a missing password without an error code.
        if isinstance(error, refused) or str(error).startswith("Protocol error: unauthenticated"):
            return AuthenticationError(f"{server} refuses the credentials of its URL.")
        if isinstance(error, kinds.ResponseError):
            return ServerError(f"{server} responded with an error: {str(error)[:300]}")
        return ConnectionFailed(f"{server} cannot be reached ({type(error).__name__}).")

    def _address(self) -> str:
        parts = urlsplit(self.url.reveal())
        return parts.netloc.rpartition("@")[2] or parts.path or "localhost"


def _from_dict(settings: Mapping[str, Any]) -> RedisLimits:
    return RedisLimits(**settings)
