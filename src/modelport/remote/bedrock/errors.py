"""What the errors of boto3 mean: those that AWS gives, and those that never reached it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)
from modelport.protocols.chat_completions.errors import retry_after

#: AWS gives no code of its own for these.
_CONTEXT_WORDS = re.compile(
    r"(?:input|prompt) is too long|too many (?:input )?tokens|context (?:length|window|limit)|maximum (?:input|context)"
    r"|exceeds? the maximum (?:number of )?(?:input )?tokens",
    re.I,
)
_BY_CODE: dict[str, type[ModelError]] = {
    "throttlingexception": RateLimited, "toomanyrequestsexception": RateLimited,
    "servicequotaexceededexception": RateLimited,
    "validationexception": InvalidRequest, "accessdeniedexception": AuthenticationError,
    "unrecognizedclientexception": AuthenticationError, "expiredtokenexception": AuthenticationError,
    "invalidsignatureexception": AuthenticationError, "missingauthenticationtokenexception": AuthenticationError,
    "resourcenotfoundexception": NotFoundError,
    "modeltimeoutexception": ServerError, "internalserverexception": ServerError, "modelerrorexception": ServerError,
    "serviceunavailableexception": ServerError, "modelstreamerrorexception": ServerError,
    "modelnotreadyexception": ServerError,
}  # fmt: skip
_SAID = {
    RateLimited: "Too many requests",
    InvalidRequest: "The service refused the request",
    ServerError: "The service failed",
    AuthenticationError: "The service refused the credentials, or they may not use this model",
    NotFoundError: "The service does not know this model in this region",
}  # fmt: skip


def error_from(code: str, text: str, status: int | None, headers: Mapping[str, str]) -> ModelError:
    """The error that a service's answer means, by its code, else by its status.

    Args:
        code: AWS's name of the exception, as an error or as an event of a stream.
        text: What the service says.
        status: The HTTP status; `None` for an event of a stream.
        headers: With names in lower case.
    """
    kind = _BY_CODE.get(code.lower()) or _by_status(status)
    details: dict[str, Any] = {"status": status, "retry_after": retry_after(headers)}
    # A refused signature is followed by the request as it should have been signed, keys included.
    text = text.strip().partition("\n")[0][:600].rstrip(".") or "no reason given"
    if kind is InvalidRequest and _CONTEXT_WORDS.search(text):
        return ContextWindowExceeded(f"The prompt does not fit the model's context: {text} ({code}).", **details)
    return kind(f"{_SAID[kind]}: {text} ({code}).", **details)


def _by_status(status: int | None) -> type[ModelError]:
    if status in (401, 403):
        return AuthenticationError
    if status == 404:
        return NotFoundError
    if status == 429:
        return RateLimited
    if status is not None and 300 <= status < 500 and status not in (408, 409, 424, 425):
        return InvalidRequest
    return ServerError


NO_CREDENTIALS = (
    "There are no AWS credentials. Give api_key=… (a Bedrock API key) or set AWS_BEARER_TOKEN_BEDROCK; or set "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile_name=…, or log in with `aws sso login`."
)
_NO_REGION = "No AWS region was given. Pass region_name='us-east-1', or set AWS_REGION."


def translated(error: Exception) -> ModelError | None:
    """Our error for one of boto3, or of the HTTP library under it; `None` for any other."""
    import botocore.eventstream
    import botocore.exceptions as boto
    import botocore.parsers
    import urllib3.exceptions as http

    if isinstance(error, ModelError):
        return error
    if isinstance(error, boto.ClientError):
        said, about = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        text, status = str(said.get("Message") or ""), about.get("HTTPStatusCode")
        return error_from(str(said.get("Code", "")), text, status, about.get("HTTPHeaders", {}))
    if isinstance(error, boto.NoCredentialsError | boto.NoAuthTokenError):
        return AuthenticationError(NO_CREDENTIALS)
    credentials = (
        boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError, boto.SSOError,
        boto.UnknownCredentialError, boto.MetadataRetrievalError, boto.RefreshWithMFAUnsupportedError,
    )  # fmt: skip
    if isinstance(error, credentials) or type(error).__name__.startswith("Login"):
        return AuthenticationError(f"The AWS credentials can't be used: {_connection(error)}. {NO_CREDENTIALS}")
    if isinstance(error, boto.NoRegionError):
        return InvalidRequest(_NO_REGION, hint="The option --set region_name=us-east-1 names the region.")
    if isinstance(error, boto.ParamValidationError):
        return InvalidRequest(f"The Converse API has no such request: {_connection(error, 600)}.")
    if isinstance(error, boto.SSLError):
        return ConnectionFailed(f"The service's certificate was not accepted: {_connection(error)}.", retryable=False)
    if isinstance(error, boto.ReadTimeoutError | http.ReadTimeoutError):
        return ConnectionFailed("The service did not answer within the client's time-out.")
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError | boto.ProxyConnectionError):
        return ConnectionFailed(f"{_connection(error)}. Is the region right?")
    if isinstance(error, boto.HTTPClientError):
        return _broken(error.kwargs.get("error"))
    if isinstance(error, http.HTTPError):
        return _broken(error)
    if isinstance(error, botocore.eventstream.ParserError):
        return MalformedResponse(f"The service's event stream is damaged: {_connection(error)}.")
    unread = isinstance(error, botocore.parsers.ResponseParserError | boto.IncompleteReadError | UnicodeDecodeError)
    if unread or (_of_parsing(error) and not isinstance(error, boto.BotoCoreError)):
        return MalformedResponse(f"The service's answer can't be read: {_connection(error)}.")
    if isinstance(error, boto.BotoCoreError):
        return InvalidRequest(f"boto3 can't make this call: {_connection(error)}.")
    return None


def _broken(error: Any) -> ModelError:
    """What a fault of a connection means: an answer that just ends was cut by something that thinks it is whole."""
    import urllib3.exceptions as http

    causes = [error, *getattr(error, "args", ()), getattr(error, "__cause__", None)]
    names = [type(cause).__name__ for cause in causes if isinstance(cause, OSError)]
    if not names and isinstance(error, http.ProtocolError):
        return MalformedResponse("The service's answer was cut short: its body ended before its length said so.")
    return ConnectionFailed(f"The connection to the service broke ({(names or [type(error).__name__])[0]}).")


def _of_parsing(error: BaseException) -> bool:
    """Whether the error is one that botocore never meant to raise, of an answer of another form than its model's."""
    if not isinstance(error, TypeError | AttributeError | LookupError | ValueError | RecursionError):
        return False
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and str(at.tb_frame.f_globals.get("__name__")).startswith(("botocore.", "json"))


def _connection(error: Exception, most: int = 300) -> str:
    return " ".join(str(error).split())[:most].rstrip(".")
