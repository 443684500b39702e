"""Makes clients of httpx and httpx2 follow modelport's rules for redirects and error bodies.

Vendors' packages, such as `openai`, send requests with such clients. Some of these packages follow redirects. Some lose
the HTTP status of an error response if its body does not arrive completely. So modelport adds a hook to the client. The
hook receives each response before the package does:

- The hook refuses a redirect.
- The hook reads the body of an error response as far as it arrives, within the limits of `bodies`. The package then
  takes this part for the complete body.
"""

from __future__ import annotations

import asyncio
from typing import Any

from modelport.remote.http import bodies
from modelport.remote.http.errors import redirect_error
from modelport.remote.http.redaction import secrets_in


def install_response_hook(client: Any) -> None:
    """Add the hook to an asynchronous client, unless the client has it already.

    Args:
        client: An `AsyncClient` of httpx or httpx2.
    """
    if _check_response not in (hooks := client.event_hooks["response"]):
        hooks.append(_check_response)


async def _check_response(response: Any) -> None:
    """Refuse a redirect, and read the body of an error response.

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
    except Exception:  # Whatever interrupted the body, the package can report the status.
        pass
    # httpx sets `_content` in `aread`, which can't be used here: it raises and drops what has arrived if the body is
    # interrupted.
    response._content = bytes(body[: bodies.MAX_ERROR_BODY_SIZE])
    await response.aclose()
