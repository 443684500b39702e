"""Rate limits that several processes keep together, in a Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from modelport.errors import AuthenticationError, ConnectionFailed, InvalidRequest, MissingDependency, ServerError
from modelport.runtime.per_loop import PerLoop
from modelport.secrets import Secret

#: Takes a place in the window, or says how many milliseconds to wait. One script, so that nobody comes in between; it
#: asks for the time itself, so that the clocks of the callers' machines don't matter.
#:
#: A request is counted from the moment in which it is let through, whatever becomes of the process that sent it. To ask
#: again for one that is counted already (an answer of Redis's that was lost) changes nothing. Those who wait go in the
#: order in which they came, or a large request would never find room among small ones. Each has to ask from time to
#: time: one who has not is taken for gone, so that a process that died holds nobody up for longer than that.
TAKE = """
local entries, tokens, waiting, seen = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, window, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most, most_tokens, wanted = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local known = redis.call('ZSCORE', entries, id)
if known then return {0, tonumber(known)} end

for _, old in ipairs(redis.call('ZRANGEBYSCORE', entries, '-inf', '(' .. now - window)) do
  redis.call('HINCRBY', tokens, 'total', 0 - (redis.call('HGET', tokens, old) or 0))  -- of 0, -n would be '-0'
  redis.call('HDEL', tokens, old)
  redis.call('ZREM', entries, old)
end
for _, late in ipairs(redis.call('ZRANGEBYSCORE', entries, '(' .. now, '+inf')) do  -- the clock was set back
  redis.call('ZADD', entries, now, late)
end

local first = redis.call('ZRANGE', waiting, 0, 0)
while first[1] and first[1] ~= id and now - tonumber(redis.call('HGET', seen, first[1]) or 0) > lease do
  redis.call('ZREM', waiting, first[1])
  redis.call('HDEL', seen, first[1])
  first = redis.call('ZRANGE', waiting, 0, 0)
end
local behind = first[1] and first[1] ~= id

local count, total = redis.call('ZCARD', entries), tonumber(redis.call('HGET', tokens, 'total') or 0)
local fits = count < most and total + wanted <= most_tokens
if fits and not behind then
  redis.call('ZADD', entries, now, id)
  redis.call('HSET', tokens, id, wanted)
  redis.call('HINCRBY', tokens, 'total', wanted)
  redis.call('PEXPIRE', entries, window + 1000)
  redis.call('PEXPIRE', tokens, window + 1000)
  redis.call('ZREM', waiting, id)
  redis.call('HDEL', seen, id)
  return {0, now}
end

redis.call('ZADD', waiting, 'NX', now, id)
redis.call('HSET', seen, id, now)
redis.call('PEXPIRE', waiting, 2 * lease)
redis.call('PEXPIRE', seen, 2 * lease)
if fits then return {tonumber(ARGV[7]), now} end
local oldest = redis.call('ZRANGE', entries, 0, -1, 'WITHSCORES')
for i = 1, #oldest, 2 do
  count, total = count - 1, total - tonumber(redis.call('HGET', tokens, oldest[i]) or 0)
  if count < most and total + wanted <= most_tokens then
    return {math.max(1, tonumber(oldest[i + 1]) + window + 1 - now), now}
  end
end
return {1, now}
"""
#: Puts the tokens that a request cost in the place of their estimate, while it is counted.
CORRECT = """
local was = redis.call('HGET', KEYS[1], ARGV[1])
if was then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'total', ARGV[2] - was)
end
"""
#: Milliseconds after which one who waits and has not asked again is taken for gone. Waiters ask every second.
LEASE = 3000
#: Milliseconds after which one asks again for whom there is room, but who is not the first.
TURN = 20
_NO_LIMIT = 10**15


class RedisLimits:
    """Where the models of several processes keep `requests_per_minute` and `tokens_per_minute` together.

    `max_concurrency` stays each process's own.

    Args:
        url: `redis://[user:password@]host:port/db`, `rediss://…` or `unix://…`; by default the environment variable
            `REDIS_URL`. It is kept as a secret: where the model is saved, the name of that variable is.
        name: What is limited, such as an account; models of equal names share one limit. By default the model's id.
        on_unavailable: What is done while the Redis can't be reached. `error`: the call fails with `ConnectionFailed`.
            `local`: each process keeps the whole limit by itself, so that all together may go above it; the message's
            `warnings` say so.
        timeout: Seconds within which the Redis must answer; by default 1.

    Example:
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

    async def take(
        self, of: str, entry: str, window: float, requests: float | None, tokens: float | None, wanted: int
    ) -> float:
        """Seconds to wait before asking again; 0 where the request has a place.

        Args:
            of: What is limited, where this object has no name of its own.
            entry: The request.
            window: Seconds for which it counts.
            requests: The most in a window; `None` for any number.
            tokens: Likewise.
            wanted: Tokens of this request.

        Raises:
            ConnectionFailed: The Redis can't be reached, or does not answer.
            ServerError: It answers with an error.
            AuthenticationError: It refuses the credentials of its URL.
        """
        return (await self._ask(of, entry, window, requests, tokens, wanted))[0]

    async def correct(self, of: str, entry: str, tokens: int) -> None:
        """Puts what a request cost in the place of its estimate; errors as for `take`."""
        await self._run(CORRECT, of, ("tokens",), entry, tokens)

    async def aclose(self) -> None:
        """Closes the running loop's connections; a loop that ends closes its own."""
        await self._clients.aclose()

    def to_dict(self) -> dict[str, Any]:
        """The settings, and the name of the variable that holds the URL."""
        rest = {"name": self.name, "on_unavailable": self.on_unavailable, "timeout": self.timeout}
        return {"url": {"env": self.url.env}, **rest}

    def __repr__(self) -> str:
        return f"RedisLimits(name={self.name!r}, on_unavailable={self.on_unavailable!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RedisLimits) and (self.to_dict(), self.url) == (other.to_dict(), other.url)

    def __hash__(self) -> int:
        return hash((RedisLimits, self.name))

    def __reduce__(self) -> Any:
        return _restored, (self.to_dict(),)

    async def _ask(
        self, of: str, entry: str, window: float, requests: float | None, tokens: float | None, wanted: int
    ) -> tuple[float, float]:
        """Seconds to wait, and the moment on the Redis's clock."""
        most = [_NO_LIMIT if limit is None else int(limit) for limit in (requests, tokens)]
        keys = ("entries", "tokens", "waiting", "seen")
        wait, now = await self._run(TAKE, of, keys, entry, round(window * 1000), LEASE, *most, wanted, TURN)
        return wait / 1000, now / 1000

    async def _run(self, script: str, of: str, keys: tuple[str, ...], *args: Any) -> Any:
        name = self.name or of  # in braces, which keeps the keys on one node of a cluster
        try:
            client = await self._clients.get(self._make)
            # Any string may be a name, also one that UTF-8 can't write.
            named = [f"modelport:{{{name}}}:{key}".encode(errors="backslashreplace") for key in keys]
            return await client.register_script(script)(named, args)
        except (self._redis.RedisError, OSError, TimeoutError) as error:
            ours = self._translated(error)
        raise ours  # outside, or the client's frames would hang on it

    def _make(self) -> Any:
        if not self.url:
            raise InvalidRequest(f"No Redis was named. Pass url='redis://…', or set {self.url.env}.")
        if (client := self._client()) is not None:
            return client
        raise InvalidRequest(
            "The Redis's URL is not valid: write redis://[user:password@]host:port/db, and behind a '?' only what the "
            "redis package takes."
        )

    def _client(self) -> Any:
        """The client; `None` where the URL is none: the errors of redis, and the locals here, may hold the password."""
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            parts = urlsplit(self.url.reveal())
            if parts.scheme != "unix":
                int(unquote(parts.path).strip("/") or 0)  # what is no number would be taken for 0
            client = self._redis.asyncio.from_url(
                self.url.reveal(),
                socket_timeout=self.timeout,
                socket_connect_timeout=self.timeout,
                # Once more, on a new connection: the Redis may have been restarted since the last call.
                retry=Retry(NoBackoff(), 1),
            )
            # What stands behind a "?" is looked at where a connection is made, which opens nothing yet.
            settings = client.connection_pool.connection_kwargs
            client.connection_pool.connection_class(**settings)
            "".encode(settings.get("encoding", "utf-8"))
        except Exception:  # Of many kinds, from within redis.
            return None
        return client

    def _translated(self, error: Exception) -> ConnectionFailed | ServerError | AuthenticationError:
        kinds = self._redis.exceptions
        where = f"The Redis at {self._where()} that keeps the limits"
        refused = kinds.AuthenticationError | kinds.NoPermissionError | kinds.AuthenticationWrongNumberOfArgsError
        # Redis 7 has no code for it where a command of several words comes first.
        if isinstance(error, refused) or str(error).startswith("Protocol error: unauthenticated"):
            return AuthenticationError(f"{where} refuses the credentials of its URL.")
        if isinstance(error, kinds.ResponseError):
            return ServerError(f"{where} answered with an error: {str(error)[:300]}")
        return ConnectionFailed(f"{where} can't be reached ({type(error).__name__}).")

    def _where(self) -> str:
        parts = urlsplit(self.url.reveal())
        return parts.netloc.rpartition("@")[2] or parts.path or "localhost"


def _restored(settings: Mapping[str, Any]) -> RedisLimits:
    return RedisLimits(**settings)
