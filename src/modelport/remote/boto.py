"""A boto3 client for async code: its blocking calls in threads, and a way to break one off."""

from __future__ import annotations

import inspect
import os
import socket
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

from modelport import __version__
from modelport.errors import AuthenticationError, InvalidRequest, MissingDependency
from modelport.remote.boto_errors import NO_CREDENTIALS, translated
from modelport.remote.transport import Hidden
from modelport.secrets import Secret
from modelport.threads import in_thread, iterate_in_thread

#: Seconds to connect. Reading is watched by the retry layer, which knows the caller's limits and breaks the call off.
CONNECT_TIMEOUT = 5.0
#: Seconds to wait for the end of a response whose answer has already come.
DRAIN_TIMEOUT = 0.5
#: Connections that are kept; how many are used is for max_concurrency to say.
CONNECTIONS = 100


class Line:
    """The connection of one call, so that a caller who leaves can break it off while a thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def connected(self, connection: socket.socket | None) -> None:
        """Notes the socket on which the request was sent; in the thread of the call."""
        with self._lock:
            self._socket = connection
            if self._cut:
                self._shut()

    def release(self) -> None:
        """The call is over: its connection may be another's by now."""
        with self._lock:
            self._socket = None

    def hurry(self) -> None:
        """What is still to be read matters no more."""
        with self._lock:
            if self._socket is not None:
                self._socket.settimeout(DRAIN_TIMEOUT)

    def cut(self) -> None:
        """Wakes the thread that waits for the connection, by its end; nothing where the call is over."""
        with self._lock:
            self._cut = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # under TLS as well
            except OSError:
                pass  # It has ended by itself.


_line: ContextVar[Line | None] = ContextVar("modelport_line", default=None)


class Boto:
    """A client of `bedrock-runtime`, made again in a forked child, whose connections would be its parent's too.

    Args:
        client: Of the user's; it is used as it is, and left open.
        make: Makes one, where there is no `client`.
    """

    def __init__(self, client: Any = None, make: Callable[[], Any] | None = None) -> None:
        self._theirs, self._make = client, make
        self._made = self._make_here() if make is not None else None

    async def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """The parsed answer of a method. A caller who leaves breaks the connection."""
        line = Line()

        def work() -> Any:
            _line.set(line)
            try:
                return getattr(self._client(), method)(**arguments)
            finally:
                line.release()

        try:
            return await in_thread(work)
        except Exception as error:
            raise _ours(error) from None
        finally:
            line.cut()

    async def stream(self, method: str, arguments: Mapping[str, Any], last: str) -> AsyncGenerator[Any, None]:
        """The events of a streamed answer, read to the true end of the response.

        Args:
            method: Of the client.
            arguments: Of the method.
            last: The event after which nothing more is of interest.
        """
        line = Line()

        def work(emit: Callable[[Any], bool]) -> None:
            _line.set(line)
            try:
                _read(getattr(self._client(), method)(**arguments)["stream"], line, emit, last)
            finally:
                line.release()

        try:
            async with aclosing(iterate_in_thread(work)) as events:
                try:
                    async for event in events:
                        yield event
                finally:
                    line.cut()
        except Exception as error:
            raise _ours(error) from None

    def close(self) -> None:
        """Closes the connections that no call uses; new ones are made when they are needed."""
        if self._made is None:
            return
        _, client, pools = self._made
        client.close()
        for pool in list(pools):  # which the client would leave to the garbage collector
            pool.close()

    def _client(self) -> Any:
        if self._made is None:
            return self._theirs
        if self._made[0] != os.getpid():
            self._made = self._make_here()
        return self._made[1]

    def _make_here(self) -> tuple[int, Any, weakref.WeakSet[Any]]:
        assert self._make is not None
        client = self._make()
        return os.getpid(), client, _note_connections(client)


def _read(stream: Any, line: Line, emit: Callable[[Any], bool], last: str) -> None:
    try:
        for event in stream:
            if emit(event):
                return
            if last in event:
                break
        else:
            return
        line.hurry()  # Read on to the true end, or the connection could not be kept; but nothing can fail any more.
        try:
            for _ in stream:
                pass
        except Exception:
            pass
    finally:
        stream.close()


def _ours(error: Exception) -> Exception:
    return translated(error) or error


# --- making one -------------------------------------------------------------------------------------------------------


def make_client(
    region: str | None, profile: str | None, endpoint: str | None, api_key: Secret | None, settings: Mapping[str, Any]
) -> Any:
    """A client of `bedrock-runtime`, its own retries switched off.

    Args:
        region: By default what boto3 finds.
        profile: Of the user's AWS configuration.
        endpoint: By default the region's.
        api_key: A Bedrock API key; by default boto3's chain of credentials.
        settings: For `boto3.Session.client`; keys in them are `Secret`s.

    Raises:
        MissingDependency: boto3 is not installed.
        InvalidRequest: The region or a setting is wrong.
        AuthenticationError: There are no credentials.
    """
    boto3, botocore = boto_package()
    given = {name: Hidden(value.reveal()) if isinstance(value, Secret) else value for name, value in settings.items()}
    own: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT, "read_timeout": None, "tcp_keepalive": True,
        "max_pool_connections": CONNECTIONS, "user_agent_extra": f"modelport/{__version__}",
    }  # fmt: skip
    if api_key is not None:
        own["signature_version"] = "bearer"
    config = botocore.config.Config(**own)
    if given.get("config") is not None:
        config = config.merge(given["config"])
    # Merged last: the one retry loop is the port's.
    given["config"] = config.merge(botocore.config.Config(retries={"total_max_attempts": 1}))
    if endpoint is not None:
        given.setdefault("endpoint_url", endpoint)
    try:
        session = boto3.Session(profile_name=profile, region_name=region)
        # boto3 does not read AWS_REGION, which AWS's other SDKs do and its own machines set.
        if region := region or session.region_name or os.environ.get("AWS_REGION"):
            given.setdefault("region_name", region)
        if api_key is not None:
            session._session.register_component("token_provider", _Bearer(api_key))
        client = session.client("bedrock-runtime", **given)
        signed = client.meta.config.signature_version is not botocore.UNSIGNED
        bearer = api_key is not None or os.environ.get("AWS_BEARER_TOKEN_BEDROCK")
        if signed and not bearer and "aws_access_key_id" not in given and session.get_credentials() is None:
            raise AuthenticationError(NO_CREDENTIALS)
        if given.get("endpoint_url") is None:
            _check_region(session, client.meta.region_name, client.meta.endpoint_url)
    except TypeError as error:
        raise InvalidRequest(f"client_kwargs: boto3 refuses them: {error}") from None
    except ValueError as error:
        raise translated(error) or InvalidRequest(f"boto3 refuses its settings: {error}") from None
    except Exception as error:
        raise _ours(error) from None
    return client


def boto_package() -> tuple[Any, Any]:
    """boto3 and botocore.

    Raises:
        MissingDependency: They are not installed.
    """
    try:
        import boto3
        import botocore
        import botocore.config
        import botocore.tokens
    except ImportError:
        raise MissingDependency("boto3", "bedrock") from None
    return boto3, botocore


def check_client(client: Any) -> None:
    """Whether a client of the user's can be used.

    Raises:
        InvalidRequest: It is for another service, too old or asynchronous.
    """
    if not (hasattr(client, "converse") and hasattr(client, "converse_stream")):
        raise InvalidRequest(
            f"client: {type(client).__name__} has no 'converse'; make it as boto3.client('bedrock-runtime'), of boto3 "
            "1.34.116 or newer"
        )
    if inspect.iscoroutinefunction(client.converse) or type(client).__module__.startswith("aiobotocore"):
        raise InvalidRequest("client: must be one of boto3, which is run in threads, not of aiobotocore")


def attempts_of(client: Any) -> int:
    """How often a client of the user's sends a request by itself, at most."""
    retries = getattr(client.meta.config, "retries", None) or {}
    return int(retries.get("total_max_attempts", retries.get("max_attempts", 4) + 1))


class _Bearer:
    """Gives boto3 the user's Bedrock API key."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def load_token(self, **kwargs: Any) -> Any:
        return boto_package()[1].tokens.FrozenAuthToken(Hidden(self._key.reveal()))


def _check_region(session: Any, region: str, endpoint: str) -> None:
    """A region that does not exist would only show as an address that can't be found."""
    known = {name for p in session.get_available_partitions() for name in session.get_available_regions("ec2", p)}
    if region in known or f".{region}.amazonaws.com" not in endpoint:
        return
    close = get_close_matches(region, sorted(known), 2)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise InvalidRequest(
        f"region_name={region!r}: boto3 knows no such AWS region; {hint}For one that is newer than your boto3, update "
        "boto3 or pass api_base='https://bedrock-runtime.REGION.amazonaws.com'"
    )


def _note_connections(client: Any) -> weakref.WeakSet[Any]:
    """Has the client's connections tell which call uses them, and its pools be known.

    Where boto3 has changed inside, calls that are left and pools that are closed just end later.
    """
    known: weakref.WeakSet[Any] = weakref.WeakSet()
    http_session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    pools = getattr(http_session, "_pool_classes_by_scheme", None)
    if isinstance(pools, dict):  # the one that its pool managers look into
        pools.update({scheme: _noting(pool, known) for scheme, pool in pools.items()})
    return known


def _noting(pool: Any, known: weakref.WeakSet[Any]) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def request(self, *args: Any, **kwargs: Any) -> Any:
            result = super().request(*args, **kwargs)
            if (line := _line.get()) is not None:
                line.connected(self.sock)
            return result

    class Pool(pool):  # type: ignore[misc]
        ConnectionCls = Connection

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            known.add(self)

    return Pool
