"""Turns error responses, redirects and the exceptions of HTTP libraries into modelport's errors.

A redirect becomes an error: if it were followed, the prompt and the API key would be sent to an address that the caller
did not choose. The error message shows the new address without its query, which may contain the key.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, ModelError
from modelport.protocols.chat_completions.errors import error_from
from modelport.remote.http.packages import aiohttp_package, orjson_package
from modelport.remote.http.redaction import redact

if TYPE_CHECKING:
    import aiohttp

#: The advice in the error message if the server can't be reached.
_CHECK_ADDRESS = "Check the address (api_base), the proxy, and that the server runs."
#: The same advice for users of the command line.
_ADDRESS_HINT = "The option --api-base sets the address."
_TRUNCATED = "The service's response was truncated: its body ended before the announced length."


def error_from_response(status: int, headers: Mapping[str, str], body: bytes, secrets: Collection[str]) -> ModelError:
    """Return the error for a response with a status of 300 or more.

    Args:
        status: The HTTP status.
        headers: The headers of the response.
        body: The body of the response.
        secrets: The secrets of the request, as `secrets_in` returns them.
    """
    if status < 400:
        return redirect_error(status, headers, secrets)
    try:
        payload = orjson_package().loads(body)
    except ValueError:
        payload = body.decode("utf-8", "replace")
    payload = redact(payload, secrets)
    return error_from(status, payload, {name.lower(): value for name, value in headers.items()})


def redirect_error(status: int, headers: Mapping[str, str], secrets: Collection[str]) -> ModelError:
    """Return the error for a redirect.

    Args:
        status: The HTTP status.
        headers: The headers of the response.
        secrets: The secrets of the request, as `secrets_in` returns them.
    """
    target = re.split(r"[?#]", headers.get("Location", ""))[0] or "another address"
    target = redact(target, secrets)
    return InvalidRequest(f"The service redirects to {target}; pass that address instead.", status=status)


def error_from_aiohttp(error: aiohttp.ClientError | TimeoutError) -> ModelError:
    """Return the error for an exception of aiohttp."""
    aiohttp = aiohttp_package()
    if not isinstance(error, aiohttp.ClientError):
        return ConnectionFailed("The connection could not be made in time.")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConnectionFailed(f"The service's certificate was not accepted: {error}.", retryable=False)
    if isinstance(error, aiohttp.ClientSSLError):
        return _no_tls(error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ConnectionFailed(f"The proxy refused to connect (HTTP {error.status}).", retryable=error.status >= 500)
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error.strerror or error.os_error
        return ConnectionFailed(
            f"No connection to {error.host}:{error.port}: {reason}. {_CHECK_ADDRESS}", hint=_ADDRESS_HINT
        )
    if isinstance(error, aiohttp.ServerTimeoutError):
        return ConnectionFailed(f"The service did not answer within the client's timeout ({type(error).__name__}).")
    if isinstance(error, aiohttp.InvalidURL):
        return InvalidRequest("api_base is not a valid URL.")
    if isinstance(error, aiohttp.ClientPayloadError):
        # aiohttp raises this error in two cases, which only the text distinguishes. If the server closed the connection
        # normally after a truncated body, the text ends with the error's cause. If the connection broke, the text goes
        # on with the connection's exception.
        if error.__cause__ is None or str(error).endswith(repr(error.__cause__)):
            return MalformedResponse(_TRUNCATED)
        return ConnectionFailed("The connection broke while the response was read.")
    if isinstance(error, aiohttp.ClientResponseError):
        return MalformedResponse(f"The service's response is not valid HTTP: {error.message}.")
    return ConnectionFailed(f"The connection to the service broke ({type(error).__name__}).")


def _no_tls(error: BaseException) -> ConnectionFailed:
    return ConnectionFailed(
        f"No TLS connection: {error}. If the server has no TLS, write http:// in its address.", retryable=False
    )


def is_httpx_exception(error: BaseException) -> bool:
    """Return whether an exception comes from httpx, httpx2, or the package `httpcore` that they use."""
    return type(error).__module__.startswith(("httpx", "httpcore"))


def error_from_httpx(error: BaseException) -> ModelError:
    """Return the error for an exception of httpx or httpx2."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message
            return ConnectionFailed(f"The service's certificate was not accepted: {reason}.", retryable=False)
        if isinstance(cause, ssl.SSLError):
            return _no_tls(cause)
        cause = cause.__cause__ or cause.__context__
    kind = type(error).__name__
    if kind == "LocalProtocolError":
        return InvalidRequest("The request can't be sent: a header's value must be one line of text.")
    if kind in ("InvalidURL", "UnsupportedProtocol"):
        return InvalidRequest("The request can't be sent: its URL is not valid.")
    if kind.endswith("Timeout"):
        return ConnectionFailed(f"The service did not answer within the client's timeout ({kind}).")
    # httpx raises this class both for a truncated response and for no response at all.
    if kind == "RemoteProtocolError" and "complete message body" in str(error):
        return MalformedResponse(_TRUNCATED)
    advice, hint = (f" {_CHECK_ADDRESS}", _ADDRESS_HINT) if kind == "ConnectError" else ("", None)
    return ConnectionFailed(f"The connection to the service failed ({kind}).{advice}", hint=hint)


def is_encoding_error(error: BaseException) -> bool:
    """Return whether an exception of Python says that a request can't be encoded as JSON or as bytes."""
    return isinstance(error, UnicodeEncodeError) or (
        isinstance(error, TypeError | ValueError) and str(error).endswith(("JSON serializable", "JSON compliant"))
    )
