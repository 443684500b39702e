"""Reads from environment variables which proxy is used, and which certificates are trusted."""

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
    """Return the value of aiohttp's parameter `ssl` with which it verifies certificates as OpenAI's SDK does.

    The trusted certificates are those of the file, else those of the folder, else those of the system's store. For the
    system's store the result is `True`, which stands for the context that aiohttp makes when it is imported. Another
    context would read the store once more, which takes a tenth of a cold start.

    Args:
        cafile: The value of `SSL_CERT_FILE`.
        capath: The value of `SSL_CERT_DIR`.

    Raises:
        InvalidRequest: The file does not exist, or contains no certificates.
    """
    try:
        if cafile or capath:
            return ssl.create_default_context(cafile=cafile or None, capath=None if cafile else capath)
    except OSError as error:
        raise InvalidRequest(f"SSL_CERT_FILE={cafile!r}: {error.strerror or error}") from None
    if sys.platform in ("darwin", "win32"):
        try:  # OpenSSL can't read the store of these systems, but truststore can. OpenAI's SDK installs truststore.
            return import_module("truststore").SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # type: ignore[no-any-return]
        except ImportError:
            pass
    return True


def environment_proxy(url: str) -> str | None:
    """Return the proxy that the environment sets for a URL, or `None`.

    The variables are `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.

    Args:
        url: The address of the service.

    Raises:
        InvalidRequest: The proxy is of a kind that aiohttp can't use, such as SOCKS.
    """
    parts, proxies = urlsplit(url), urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        kind = proxy.partition("://")[0]
        raise InvalidRequest(
            f"a {kind} proxy is set in the environment; pass client_kwargs={{…}} to send requests through the openai "
            "package"
        )
    return proxy
