"""Fetches images that are given by URL, for backends that need the bytes of the images.

The URL may come from an attacker who wants to reach the network of this machine through it: a user of the caller's
service, or the author of a web page that an agent reads. These rules prevent such server-side request forgery (SSRF):

- A host name is looked up once, all its addresses are checked, and the connection is made to one of them. If the name
  were looked up again for the connection, the second answer could be an address that was not checked.
- Each redirect is checked in the same way.
- The address of the connection is checked once more before the request is sent.
- The URL is parsed once, and both the check and aiohttp use the result. A second parser could find another host in it.
- Errors show only the host, because the rest of the URL may contain a signature that gives access to the image.
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

#: The maximum size of one image in bytes.
MAX_BYTES = MAX_IMAGE_BYTES
#: The seconds within which one image must be fetched, redirects included.
TIMEOUT = 20.0
MAX_REDIRECTS = 3
#: IPv6 addresses that contain an IPv4 address in their last 32 bits, to which a NAT64 gateway connects.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: The IPv6 addresses that are assigned for the public internet. An address outside of this range is unassigned, local,
#: or contains another address to which a router may connect (`::127.0.0.1`, `64:ff9b:1::/48`).
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
#: Ranges that are not public, although `is_global` is true for them in some Python versions that modelport supports.
_NOT_PUBLIC_RANGES = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "3fff::/20"))
)


async def with_image_bytes(request: Request, *, allow_private: bool = False) -> Request:
    """Return the request with the bytes of its images instead of their URLs. Each URL is fetched once.

    Args:
        request: The request.
        allow_private: Whether images may be fetched from addresses that are not public, such as this machine's.

    Raises:
        InvalidRequest: A URL is not allowed, does not exist, or does not return an image.
        ConnectionFailed: A server cannot be reached, or is too slow.
        DeadlineExceeded: The deadline of the call has passed.
    """
    fetched: dict[str, Image] = {}
    messages = []
    for i, message in enumerate(request.messages):
        if isinstance(message.content, str) or not message.content:
            messages.append(message)
            continue
        parts: list[Any] = []
        for j, part in enumerate(message.content):
            if isinstance(part, Image) and part.data is None:
                url = part.url or ""
                if url not in fetched:
                    location = f"messages[{i}]['content'][{j}]"
                    fetched[url] = await _fetch_before_deadline(request.timeouts, url, location, allow_private)
                image = fetched[url]
                part = Image(image.data, image.media_type, detail=part.detail)
            parts.append(part)
        changed = ChatMessage(**{name: getattr(message, name) for name in ChatMessage.__slots__})
        changed.content = tuple(parts)
        messages.append(changed)
    return request.replace(messages=tuple(messages))


async def _fetch_before_deadline(timeouts: Timeouts, url: str, location: str, allow_private: bool) -> Image:
    """Fetch an image before the deadline of the call."""
    if timeouts.deadline is None or timeouts.timeout is None:
        return await fetch_image(url, location, allow_private=allow_private)
    now = asyncio.get_running_loop().time
    if (seconds_left := timeouts.deadline - now()) > 0:
        try:
            return await fetch_image(url, location, allow_private=allow_private, timeout=min(TIMEOUT, seconds_left))
        except ConnectionFailed:
            if now() < timeouts.deadline - 0.001:  # An event loop's timers may fire slightly early.
                raise
    raise DeadlineExceeded(f"timeout={timeouts.timeout:g} s ran out before {location} was fetched from {_host(url)}.")


async def fetch_image(
    url: str, location: str = "image", *, allow_private: bool = False, timeout: float = TIMEOUT
) -> Image:
    """Fetch an image.

    Args:
        url: An http or https URL.
        location: Where the image is in the request, such as `messages[0]['content'][1]`, for error messages.
        allow_private: Whether the image may be fetched from an address that is not public, such as this machine's.
        timeout: The time limit in seconds, redirects included; the default is 20.

    Raises:
        InvalidRequest: The URL is not allowed, does not exist, or does not return an image.
        ConnectionFailed: The server cannot be reached, or is too slow.
    """
    url = Url(url)
    result = await _fetch_bytes(url, location, allow_private, timeout)
    if isinstance(result, bytes):
        media_type = sniff_image(result[:16])
        if media_type is None:
            raise InvalidRequest(f"{location}: {_host(url)} did not return a PNG, JPEG, GIF, WebP or BMP image")
        return Image(result, media_type)
    try:
        raise result
    finally:
        del result  # Otherwise the error and this frame would refer to each other and stay in memory.


async def _fetch_bytes(url: str, location: str, allow_private: bool, timeout: float) -> bytes | ModelError:
    """Return the bytes of the image, or the error that the caller must raise.

    The error is returned, because the frames and causes of an error that aiohttp raised contain the whole URL.
    """
    aiohttp = _import_aiohttp()
    connector = aiohttp.TCPConnector(resolver=_make_resolver(allow_private), use_dns_cache=False, force_close=True)
    try:
        async with (
            asyncio.timeout(timeout),
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # A small compressed body could expand to a very large one.
                headers={"Accept": "image/*", "Accept-Encoding": "identity"},
                trust_env=False,  # A proxy would look up the host name itself, without the checks.
                request_class=_make_request_class(allow_private),
            ) as session,
        ):
            return await _read_body(session, url, location, allow_private)
    except ModelError as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except TimeoutError:
        return ConnectionFailed(f"{location}: {_host(url)} did not return the image within {timeout:g} s.")
    except (aiohttp.InvalidURL, UnicodeError):
        return InvalidRequest(f"{location}: the image's URL is not valid")
    except aiohttp.ClientError as error:
        refusal = _find_refusal(error)
        if refusal is not None:
            return InvalidRequest(f"{location}: {refusal}")
        return ConnectionFailed(f"{location}: {_host(url)} returned no image ({type(error).__name__}).")


async def _read_body(session: Any, url: str, location: str, allow_private: bool) -> bytes:
    """Return the body of the response, after any redirects."""
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(_check_url(url, location, allow_private), allow_redirects=False) as response:
            if response.status in (301, 302, 303, 307, 308) and (redirect := response.headers.get("Location")):
                try:
                    url = Url(urljoin(url, redirect))
                except ValueError:
                    raise InvalidRequest(f"{location}: {_host(url)} redirects to a URL that is not valid") from None
                continue
            if response.status != 200:
                kind = ConnectionFailed if response.status >= 500 or response.status == 429 else InvalidRequest
                raise kind(
                    f"{location}: {_host(url)} returned no image (HTTP {response.status})", status=response.status
                )
            return await _read_up_to_limit(response.content.iter_any(), location, url)
    raise InvalidRequest(f"{location}: {_host(url)} redirects more than {MAX_REDIRECTS} times")


async def _read_up_to_limit(chunks: AsyncIterator[bytes], location: str, url: str) -> bytes:
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > MAX_BYTES:
            raise InvalidRequest(f"{location}: the image at {_host(url)} is larger than {MAX_BYTES // 2**20} MiB")
    return bytes(data)


def _check_url(url: str, location: str, allow_private: bool) -> Any:
    """Return the URL as a `yarl.URL`, the type that aiohttp uses. If its host is a name, only the resolver checks it.

    Raises:
        InvalidRequest: The scheme is not http or https, the URL contains a user or a password, or its host is an
            address that is not public.
    """
    import yarl  # It is installed with aiohttp.

    try:
        target = yarl.URL(url)
        # `raw_host` is the host to which aiohttp connects. yarl has translated it to ASCII, so that a host like
        # `１２７。０。０。１` (full-width characters) is checked as the address 127.0.0.1.
        host, credentials = target.raw_host or "", target.raw_user or target.raw_password
    except ValueError:
        raise InvalidRequest(f"{location}: the image's URL is not valid") from None
    if target.scheme not in ("http", "https") or not host:
        raise InvalidRequest(f"{location}: an image is fetched only by http or https, from a URL with a host")
    if credentials:
        raise InvalidRequest(f"{location}: a URL that contains a user or a password is not fetched")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # aiohttp does not look up hosts such as `127.1` and `2130706433`, so the resolver would not check them. But the
        # operating system reads both as 127.0.0.1.
        if ":" in host or host.replace(".", "").isdigit():
            raise InvalidRequest(
                f"{location}: {host} is neither a host name nor an address in the usual notation"
            ) from None
        return target
    if not allow_private and not is_public(address):
        raise InvalidRequest(f"{location}: {_not_public_text(host)}")
    return target


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address belongs to the public internet.

    Some IPv6 addresses contain an IPv4 address, to which a gateway connects. They are public if that address is.
    """
    if isinstance(address, ipaddress.IPv6Address):
        contained = address.ipv4_mapped or address.sixtofour
        if contained is None and address.teredo:
            contained = address.teredo[1]  # The client's address.
        if contained is None and address in _NAT64:
            contained = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if contained is not None:
            return is_public(contained)
        if address not in _GLOBAL_UNICAST:
            return False
    is_excluded = any(address in network for network in _NOT_PUBLIC_RANGES)
    return address.is_global and not address.is_multicast and not is_excluded


def _not_public_text(host: str) -> str:
    return (
        f"{host} is not a public address, so nothing is fetched from it; create the model with allow_private_urls=True "
        "if you trust the authors of the URLs"
    )


class _RefusedAddress(OSError):
    """A host name is not valid, or an address is not public. The message says which, and is shown to the caller.

    This is an `OSError`, because aiohttp wraps that class in a `ClientError`, in which `_find_refusal` finds it.
    """


def _find_refusal(error: BaseException | None) -> str | None:
    """Return the message of the `_RefusedAddress` that caused an error, or `None` if there is none."""
    while error is not None:
        if isinstance(error, _RefusedAddress):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _make_resolver(allow_private: bool) -> Any:
    """Return a resolver that passes only checked addresses to aiohttp."""
    aiohttp = _import_aiohttp()

    class CheckingResolver(aiohttp.abc.AbstractResolver):  # type: ignore[name-defined,misc]
        async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[dict[str, Any]]:
            try:
                found = await in_thread(lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
            except UnicodeError:  # A part of the name between dots is empty, or has more than 63 characters.
                raise _RefusedAddress(f"{host[:80]} is not a valid host name") from None
            results = []
            for address_family, _, protocol, _, socket_address in found:
                address = ipaddress.ip_address(str(socket_address[0]).partition("%")[0])
                # One private address is enough to refuse the name: a host name that has both public and private
                # addresses is most likely an attack.
                if not allow_private and not is_public(address):
                    raise _RefusedAddress(_not_public_text(host))
                results.append({
                    "hostname": host, "host": str(address), "port": socket_address[1], "family": address_family,
                    "proto": protocol,
                    "flags": socket.AI_NUMERICHOST,
                })  # fmt: skip
            return results

        async def close(self) -> None:
            pass

    return CheckingResolver()


def _make_request_class(allow_private: bool) -> Any:
    """Return a request class that checks the address of its connection before it sends anything.

    This is a safety net for addresses that reach aiohttp without `_check_url` and the resolver.
    """
    aiohttp = _import_aiohttp()

    class CheckingRequest(aiohttp.ClientRequest):  # type: ignore[name-defined,misc]
        async def send(self, conn: Any) -> Any:
            peer = conn.transport and conn.transport.get_extra_info("peername")
            if not peer:
                raise aiohttp.ClientConnectionError("the connection was closed before the request was sent")
            address = str(peer[0]).partition("%")[0]
            if not allow_private and not is_public(ipaddress.ip_address(address)):
                raise _RefusedAddress(_not_public_text(address))
            return await super().send(conn)

    return CheckingRequest


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "the URL"
    except ValueError:
        return "the URL"


def _import_aiohttp() -> Any:
    try:
        import aiohttp
        import aiohttp.abc
    except ImportError:
        raise MissingDependency("aiohttp", "images") from None
    return aiohttp
