"""What the environment says of the way to a service: certificates and proxies."""

from __future__ import annotations

import functools
import ssl
import sys
import urllib.request
from importlib import import_module
from urllib.parse import urlsplit

from modelport.errors import InvalidRequest


@functools.lru_cache
def environment_tls(cafile: str | None, capath: str | None) -> ssl.SSLContext | bool:
    """Checks certificates as OpenAI's SDK does: against one file, else one folder, else the system's store.

    The last is True: aiohttp has read that store at its import; to do so again would take a tenth of a cold start.

    Raises:
        InvalidRequest: There is no such file, or it holds no certificates.
    """
    try:
        if cafile or capath:
            return ssl.create_default_context(cafile=cafile or None, capath=None if cafile else capath)
    except OSError as error:
        raise InvalidRequest(f"SSL_CERT_FILE={cafile!r}: {error.strerror or error}") from None
    if sys.platform in ("darwin", "win32"):
        try:  # OpenSSL itself can't read the store of these systems; the SDK brings this package along.
            return import_module("truststore").SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # type: ignore[no-any-return]
        except ImportError:
            pass
    return True


def environment_proxy(url: str) -> str | None:
    """The proxy for a URL by the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), or `None`.

    Raises:
        InvalidRequest: It is of a kind that only the SDK can use.
    """
    parts, proxies = urlsplit(url), urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        kind = proxy.partition("://")[0]
        raise InvalidRequest(
            f"a {kind} proxy is set in the environment; pass client_kwargs={{…}} to go through the SDK"
        )
    return proxy
