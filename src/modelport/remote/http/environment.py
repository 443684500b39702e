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
    """Return the value of aiohttp's parameter `ssl` with which it verifies certificates as the `openai` package does.

    The trusted certificates are those of `cafile`, else those of `capath`, else those of the system's store. For the
    system's store, the result is one of these:

    - On macOS and Windows, a context of the package truststore, if truststore is installed.
    - Otherwise `True`: aiohttp then uses the context that it has made at its import. A new context would read the store
      once more, which takes a tenth of a cold start.

    Args:
        cafile: The value of `SSL_CERT_FILE`, the path of a file.
        capath: The value of `SSL_CERT_DIR`, the path of a folder.

    Raises:
        InvalidRequest: The file does not exist, or contains no certificates.
    """
    try:
        if cafile or capath:
            return ssl.create_default_context(cafile=cafile or None, capath=None if cafile else capath)
    except OSError as error:
        raise InvalidRequest(f"SSL_CERT_FILE={cafile!r}: {error.strerror or error}") from None
    if sys.platform in ("darwin", "win32"):
        try:  # OpenSSL can't read the store of these systems. truststore, which the `openai` package installs, can.
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
            f"the environment sets a {kind} proxy, which aiohttp can't use; set an HTTP proxy, or have the openai "
            "package send the requests: OpenAIServerModel does so with any client_kwargs, such as {'timeout': 60}, if "
            "`pip install 'httpx[socks]'` was run"
        )
    return proxy
