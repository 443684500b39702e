"""Clients of httpx and httpx2, which vendors' packages make for us: they follow no redirect and lose no refusal."""

from __future__ import annotations

import asyncio
from typing import Any

from modelport.remote.http.errors import redirected
from modelport.remote.http.redaction import secrets_in
from modelport.remote.http.transport import ERROR_SIZE, ERROR_TIMEOUT


def guard(client: Any) -> None:
    """Has an asynchronous client look at what is no success before the package that uses it does."""
    if _look_at not in (hooks := client.event_hooks["response"]):
        hooks.append(_look_at)


async def _look_at(response: Any) -> None:
    """Refuses a redirect, and reads an error's body.

    Of a body that is cut, broken, stalled or endless the package would forget the status. What has come by then is its
    body, so that all that the package does with an error, it does with this one.

    Raises:
        InvalidRequest: The service redirects.
    """
    if response.status_code < 300:
        return
    if response.status_code < 400:
        sent = response.request
        raise redirected(response.status_code, response.headers, secrets_in(sent.headers, dict(sent.url.params)))
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_TIMEOUT):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) >= ERROR_SIZE:
                    break
    except Exception:  # Whatever broke it, its status is known.
        pass
    response._content = bytes(body[:ERROR_SIZE])  # as `aread` does, which would give up what came before a fault
    await response.aclose()
