"""Fixtures of the tests of limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from modelport.layers.limit import layer, queue
from tests.servers.redis import RedisServer, redis_server

REDIS_PASSWORD = "redis-password-0123456789"


@pytest.fixture
def without_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a waiter that nobody wakes wait for longer than any test does."""
    monkeypatch.setattr(queue, "POLL_SECONDS", 1000.0)


@pytest.fixture(scope="session")
def running_redis() -> Iterator[RedisServer]:
    with redis_server(password=REDIS_PASSWORD) as server:
        yield server


@pytest.fixture
def redis(running_redis: RedisServer) -> RedisServer:
    """A Redis server without data."""
    running_redis.command("FLUSHALL")
    return running_redis


@pytest.fixture
def set_window(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets the length, in seconds, of the windows of models that are made afterwards."""
    return lambda seconds: monkeypatch.setattr(layer, "WINDOW_SECONDS", seconds)
