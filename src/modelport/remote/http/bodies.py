"""Reads the bodies of HTTP responses, within limits of size and time.

The rules:

- A body, or one event of a stream, may be at most 16 MiB after decompression. `responses.EventReader` enforces the
  limit for events. The limit is larger than any usual response, images and speech included. A larger body is not read
  to its end, because a small compressed body can fill the memory when it is decompressed, and again when it is parsed:
  a list without items takes 3 bytes of JSON, and 64 bytes of memory.
- Of an error response's body, at most 64 KiB are read, for at most 2 seconds. If the body is truncated or stalls, the
  part that arrived is used, and the HTTP status is still reported.
- A stream is read to the end of the HTTP response, which may come after the last event. Only then can its connection
  be used again. The wait for that end is at most 0.5 seconds, and errors during that wait are ignored, because all
  events have arrived.

Successful responses have no time limit here: the layer `retry` enforces the time limits of the caller.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from modelport.errors import MalformedResponse
from modelport.remote.http.packages import aiohttp_package

if TYPE_CHECKING:
    import aiohttp

#: The most bytes of a non-streaming response, or of one event of a stream, after decompression.
MAX_RESPONSE_SIZE = 2**24
#: The most bytes of an error response's body that are read, and the most seconds for which they are read.
MAX_ERROR_BODY_SIZE, ERROR_BODY_TIMEOUT = 2**16, 2.0
#: The most seconds to wait for the end of the HTTP response after the last event of a stream.
DRAIN_TIMEOUT = 0.5


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read the body of a successful response.

    Args:
        response: The response, whose body has not been read.

    Raises:
        MalformedResponse: The body is larger than `MAX_RESPONSE_SIZE`.
    """
    body, size = io.BytesIO(), 0
    async for chunk in response.content.iter_any():
        size += body.write(chunk)
        del chunk  # Otherwise a traceback with local variables would show an API key that the response repeats.
        if size > MAX_RESPONSE_SIZE:
            raise MalformedResponse(f"The service's response is larger than {MAX_RESPONSE_SIZE >> 20} MiB.")
    return body.getvalue()


async def read_error_body(response: aiohttp.ClientResponse) -> bytes:
    """Read the body of an error response, as far as it arrives.

    Args:
        response: The response, whose body has not been read.
    """
    import asyncio

    aiohttp = aiohttp_package()
    # Unlike bytes, a `BytesIO` has a `repr` without its content. The body may repeat an API key, which a traceback with
    # local variables would show.
    body = io.BytesIO()
    try:
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            while body.tell() < MAX_ERROR_BODY_SIZE and not response.content.at_eof():
                body.write(await response.content.readany())
    except (aiohttp.ClientError, TimeoutError):
        pass
    return body.getvalue()[:MAX_ERROR_BODY_SIZE]


async def drain(response: aiohttp.ClientResponse) -> None:
    """Read a response to its end after its last event, so that its connection can be used again.

    Args:
        response: The response, whose last event has been read.
    """
    import asyncio

    aiohttp = aiohttp_package()
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT):
            async for _ in response.content.iter_any():
                pass
    except (aiohttp.ClientError, TimeoutError):
        pass
