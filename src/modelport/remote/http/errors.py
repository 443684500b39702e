"""What refusals, redirects and faults of HTTP libraries mean."""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection, Mapping

from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, ModelError
from modelport.protocols.chat_completions.errors import error_from
from modelport.remote.http.outgoing import orjson_package
from modelport.remote.http.redaction import without_secrets

#: What to do where nobody answers.
CHECK_THE_WAY = "Check the address (api_base), the proxy, and that the server runs."
ADDRESS_HINT = "The option --api-base sets the address."


def service_error(status: int, headers: Mapping[str, str], body: bytes, secrets: Collection[str]) -> ModelError:
    """The error that an answer with a status of 300 or more means.

    Args:
        status: Of HTTP.
        headers: Of the answer.
        body: Of the answer.
        secrets: Of the request: `secrets_in`.
    """
    if status < 400:  # Following it would send the key to where the caller did not mean it to go.
        return redirected(status, headers, secrets)
    try:
        payload = orjson_package().loads(body)
    except ValueError:
        payload = body.decode("utf-8", "replace")
    payload = without_secrets(payload, secrets)
    return error_from(status, payload, {name.lower(): value for name, value in headers.items()})


def redirected(status: int, headers: Mapping[str, str], secrets: Collection[str]) -> ModelError:
    """The error that a redirect means. Its query is not shown: it may quote a key."""
    where = re.split(r"[?#]", headers.get("Location", ""))[0] or "elsewhere"
    where = without_secrets(where, secrets)
    return InvalidRequest(f"The service redirects to {where}; give that address instead.", status=status)


def is_unsendable(error: BaseException) -> bool:
    """Whether it is Python's word on a request that can't be made bytes."""
    return isinstance(error, UnicodeEncodeError) or (
        isinstance(error, TypeError | ValueError) and str(error).endswith(("JSON serializable", "JSON compliant"))
    )


def is_of_httpx(error: BaseException) -> bool:
    """Whether it is an exception of httpx, httpx2 or their core."""
    return type(error).__module__.startswith(("httpx", "httpcore"))


def httpx_error(error: BaseException) -> ModelError:
    """What a fault of httpx or httpx2 means."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message
            return ConnectionFailed(f"The service's certificate was not accepted: {why}.", retryable=False)
        cause = cause.__cause__ or cause.__context__
    kind = type(error).__name__
    if kind == "LocalProtocolError":
        return InvalidRequest("The request can't be sent: a header's value must be one line of text.")
    if kind in ("InvalidURL", "UnsupportedProtocol"):
        return InvalidRequest("The request can't be sent: its URL is not valid.")
    if kind.endswith("Timeout"):
        return ConnectionFailed(f"The service did not answer within the client's time-out ({kind}).")
    # One class for two faults: an answer that was cut short, and none at all.
    if kind == "RemoteProtocolError" and "complete message body" in str(error):
        return MalformedResponse("The service's answer was cut short: its body ended before its length said so.")
    advice, hint = (f" {CHECK_THE_WAY}", ADDRESS_HINT) if kind == "ConnectError" else ("", None)
    return ConnectionFailed(f"The connection to the service failed ({kind}).{advice}", hint=hint)
