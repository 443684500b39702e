"""Fetches images that are given by URL, for backends that need their bytes.

Whoever writes the URL (a user of the caller's, a web page that an agent reads) must not thereby reach what only this
machine can reach: addresses are looked up once, checked, and connected to as they were checked, at each redirect anew.
The text is read once too, by the type that connects: two readers of a URL may find two hosts in it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from modelport.errors import ConnectionFailed, DeadlineExceeded, InvalidRequest, MissingDependency, ModelError
from modelport.runtime.threads import in_thread
from modelport.secrets import Url
from modelport.types.content import MAX_IMAGE_BYTES, Image, sniff_image
from modelport.types.messages import ChatMessage
from modelport.types.request import Request, Timeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Bytes of one image.
MAX_BYTES = MAX_IMAGE_BYTES
#: Seconds for one image, redirects included.
TIMEOUT = 20.0
MAX_REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: All of IPv6 that has been given out for the open internet. What is outside it is nobody's, or wraps addresses in ways
#: that a router here may undo (`::127.0.0.1`, `64:ff9b:1::/48`).
_UNICAST = ipaddress.ip_network("2000::/3")
#: Special ranges that Python's `is_global` takes for public, or took in versions that we run on.
_SPECIAL = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "3fff::/20"))
)


async def with_bytes(request: Request, *, allow_private: bool = False) -> Request:
    """The request with the bytes of its images in the place of their URLs; each URL is fetched once.

    Args:
        request: In normal form.
        allow_private: Whether addresses of this machine and its network may be fetched from.

    Raises:
        InvalidRequest: A URL is not allowed, there is nothing, or what is there is no image.
        ConnectionFailed: A server can't be reached, or is too slow.
        DeadlineExceeded: The call's time ran out.
    """
    known: dict[str, Image] = {}
    messages = []
    for i, message in enumerate(request.messages):
        if isinstance(message.content, str) or not message.content:
            messages.append(message)
            continue
        parts: list[Any] = []
        for j, part in enumerate(message.content):
            if isinstance(part, Image) and part.data is None:
                url = part.url or ""
                if url not in known:
                    place = f"messages[{i}]['content'][{j}]"
                    known[url] = await _in_time(request.timeouts, url, place, allow_private)
                found = known[url]
                part = Image(found.data, found.media_type, detail=part.detail)
            parts.append(part)
        changed = ChatMessage(**{name: getattr(message, name) for name in ChatMessage.__slots__})
        changed.content = tuple(parts)
        messages.append(changed)
    return request.replace(messages=tuple(messages))


async def _in_time(limits: Timeouts, url: str, place: str, allow_private: bool) -> Image:
    """An image within what is left of the call's time."""
    if limits.deadline is None or limits.timeout is None:
        return await fetch_image(url, place, allow_private=allow_private)
    now = asyncio.get_running_loop().time
    if (left := limits.deadline - now()) > 0:
        try:
            return await fetch_image(url, place, allow_private=allow_private, timeout=min(TIMEOUT, left))
        except ConnectionFailed:
            if now() < limits.deadline - 0.001:  # a loop's clock may ring a little early
                raise
    raise DeadlineExceeded(f"timeout={limits.timeout:g} s ran out before {place} was fetched from {_host(url)}.")


async def fetch_image(
    url: str, place: str = "image", *, allow_private: bool = False, timeout: float = TIMEOUT
) -> Image:
    """An image by its URL.

    Args:
        url: http or https. Errors name its host alone: the rest may be a signature.
        place: What errors call it.
        allow_private: As for `with_bytes`.
        timeout: Seconds, redirects included.

    Raises:
        InvalidRequest: The URL is not allowed, there is nothing, or what is there is no image.
        ConnectionFailed: The server can't be reached, or is too slow.
    """
    url = Url(url)
    got = await _fetched(url, place, allow_private, timeout)
    if isinstance(got, bytes):
        media_type = sniff_image(got[:16])
        if media_type is None:
            raise InvalidRequest(f"{place}: what {_host(url)} gave is no PNG, JPEG, GIF, WebP or BMP image")
        return Image(got, media_type)
    try:
        raise got
    finally:
        del got  # or the error would hold the frame that holds it


async def _fetched(url: str, place: str, allow_private: bool, timeout: float) -> bytes | ModelError:
    """The bytes, or the error to raise, without the frames and causes of aiohttp's, which hold the whole URL."""
    aiohttp = _aiohttp()
    connector = aiohttp.TCPConnector(resolver=_resolver(allow_private), use_dns_cache=False, force_close=True)
    try:
        async with (
            asyncio.timeout(timeout),
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # a small body must not become a large one
                headers={"Accept": "image/*", "Accept-Encoding": "identity"},
                trust_env=False,  # a proxy would look addresses up by itself
                request_class=_request_class(allow_private),
            ) as session,
        ):
            return await _body(session, url, place, allow_private)
    except ModelError as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except TimeoutError:
        return ConnectionFailed(f"{place}: {_host(url)} did not give the image within {timeout:g} s.")
    except (aiohttp.InvalidURL, UnicodeError):
        return InvalidRequest(f"{place}: the image's URL is not valid")
    except aiohttp.ClientError as error:
        refused = _refusal_in(error)
        if refused is not None:
            return InvalidRequest(f"{place}: {refused}")
        return ConnectionFailed(f"{place}: no image from {_host(url)} ({type(error).__name__}).")


async def _body(session: Any, url: str, place: str, allow_private: bool) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(_checked(url, place, allow_private), allow_redirects=False) as response:
            if response.status in (301, 302, 303, 307, 308) and (location := response.headers.get("Location")):
                try:
                    url = Url(urljoin(url, location))
                except ValueError:
                    raise InvalidRequest(f"{place}: {_host(url)} redirects to what is no valid URL") from None
                continue
            if response.status != 200:
                kind = ConnectionFailed if response.status >= 500 or response.status == 429 else InvalidRequest
                raise kind(f"{place}: {_host(url)} gave no image (HTTP {response.status})", status=response.status)
            return await _limited(response.content.iter_any(), place, url)
    raise InvalidRequest(f"{place}: {_host(url)} redirects more than {MAX_REDIRECTS} times")


async def _limited(chunks: AsyncIterator[bytes], place: str, url: str) -> bytes:
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > MAX_BYTES:
            raise InvalidRequest(f"{place}: the image at {_host(url)} is larger than {MAX_BYTES // 2**20} MiB")
    return bytes(data)


def _checked(url: str, place: str, allow_private: bool) -> Any:
    """The URL as aiohttp is to take it; what its host's name stands for is checked when it is looked up.

    Raises:
        InvalidRequest: It is of another kind, holds a password, or an address that is not public.
    """
    import yarl  # which aiohttp is built on

    try:
        target = yarl.URL(url)
        # As it is connected to: yarl has made ASCII of it, and of `１２７。０。０。１` an address.
        host, named = target.raw_host or "", target.raw_user or target.raw_password
    except ValueError:
        raise InvalidRequest(f"{place}: the image's URL is not valid") from None
    if target.scheme not in ("http", "https") or not host:
        raise InvalidRequest(f"{place}: an image is fetched by http or https alone, from a URL with a host")
    if named:
        raise InvalidRequest(f"{place}: a URL with a user or a password in it is not fetched")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # What aiohttp takes for an address it does not look up, and systems read `127.1` and `2130706433` as one.
        if ":" in host or host.replace(".", "").isdigit():
            raise InvalidRequest(f"{place}: {host} is neither a name nor an address as it is usually written") from None
        return target
    if not allow_private and not is_public(address):
        raise InvalidRequest(f"{place}: {_private(host)}")
    return target


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address belongs to the open internet, also where it wraps another one."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if wrapped is None and address.teredo:
            wrapped = address.teredo[1]
        if wrapped is None and address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address not in _UNICAST:
            return False
    special = any(address in network for network in _SPECIAL)
    return address.is_global and not address.is_multicast and not special


def _private(host: str) -> str:
    return (
        f"{host} is no public address, and is not fetched from; make the model with allow_private_urls=True if you "
        "trust who writes the URLs"
    )


class _Refused(OSError):
    """What a resolver or a request may raise, with words for the caller."""


def _refusal_in(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, _Refused):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _resolver(allow_private: bool) -> Any:
    """Gives aiohttp the addresses to connect to, after they were checked."""
    aiohttp = _aiohttp()

    class Checked(aiohttp.abc.AbstractResolver):  # type: ignore[name-defined,misc]
        async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[dict[str, Any]]:
            try:
                found = await in_thread(lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
            except UnicodeError:  # an empty label, or one of more than 63 characters
                raise _Refused(f"{host[:80]} is not a valid name of a host") from None
            results = []
            for kind, _, protocol, _, where in found:
                address = ipaddress.ip_address(str(where[0]).partition("%")[0])
                if not allow_private and not is_public(address):
                    raise _Refused(_private(host))  # one is enough: a name that stands for both is a trick
                results.append({
                    "hostname": host, "host": str(address), "port": where[1], "family": kind, "proto": protocol,
                    "flags": socket.AI_NUMERICHOST,
                })  # fmt: skip
            return results

        async def close(self) -> None:
            pass

    return Checked()


def _request_class(allow_private: bool) -> Any:
    """A request that is sent to public addresses alone, whichever way its connection came about.

    The second guard: it holds also where aiohttp connects to what neither `_checked` nor the resolver saw.
    """
    aiohttp = _aiohttp()

    class Guarded(aiohttp.ClientRequest):  # type: ignore[name-defined,misc]
        async def send(self, conn: Any) -> Any:
            peer = conn.transport and conn.transport.get_extra_info("peername")
            if not peer:
                raise aiohttp.ClientConnectionError("closed before the request was sent")
            where = str(peer[0]).partition("%")[0]
            if not allow_private and not is_public(ipaddress.ip_address(where)):
                raise _Refused(_private(where))
            return await super().send(conn)

    return Guarded


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "the URL"
    except ValueError:
        return "the URL"


def _aiohttp() -> Any:
    try:
        import aiohttp
        import aiohttp.abc
    except ImportError:
        raise MissingDependency("aiohttp", "images") from None
    return aiohttp
