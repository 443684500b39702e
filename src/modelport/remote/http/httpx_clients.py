"""Makes clients of httpx and httpx2 follow modelport's rules for redirects and error bodies.

Vendors' packages create such clients. Some of them follow redirects, and lose the status of an error whose body does
not arrive completely. A hook of the client receives each response before the vendor's package does:

- A redirect is refused.
- The body of an error is read as far as it arrives, within the limits of `bodies`, and is then the response's body.
"""

from __future__ import annotations

import asyncio
from typing import Any

from modelport.remote.http import bodies
from modelport.remote.http.errors import redirect_error
from modelport.remote.http.redaction import secrets_in


def install_response_hook(client: Any) -> None:
    """Add the hook to an asynchronous client, once.

    Args:
        client: An `AsyncClient` of httpx or httpx2.
    """
    if _check_response not in (hooks := client.event_hooks["response"]):
        hooks.append(_check_response)


async def _check_response(response: Any) -> None:
    """Refuse a redirect, and read the body of an error.

    Raises:
        InvalidRequest: The service redirects.
    """
    if response.status_code < 300:
        return
    if response.status_code < 400:
        request = response.request
        secrets = secrets_in(request.headers, dict(request.url.params))
        raise redirect_error(response.status_code, response.headers, secrets)
    body = bytearray()
    try:
        async with asyncio.timeout(bodies.ERROR_BODY_TIMEOUT):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) >= bodies.MAX_ERROR_BODY_SIZE:
                    break
    except Exception:  # Whatever broke the body, the status is known.
        pass
    # `aread` sets the same attribute, but raises if the body breaks, and drops what arrived before.
    response._content = bytes(body[: bodies.MAX_ERROR_BODY_SIZE])
    await response.aclose()
