"""Turns exceptions of boto3 and botocore into modelport's errors.

`model_error_from` classifies an exception by its class. If AWS returned an error, it calls `error_from`, which
classifies the error by AWS's error code, or by the HTTP status if the code is unknown. AWS has one code for all
requests that it refuses. What is wrong, such as a prompt that is too long, is recognised by the phrases in its message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)
from modelport.protocols.chat_completions.errors import TEMPORARY_STATUSES, retry_after
from modelport.protocols.error_phrases import means_content_refused, means_context_exceeded
from modelport.protocols.parameter_phrases import incompatible_parameters_in, unsupported_parameter_in

#: AWS's error code, in lower case -> the class of modelport's error.
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
#: How the message of each error begins.
_SUMMARIES = {
    RateLimited: "Too many requests",
    InvalidRequest: "The service refused the request",
    ServerError: "The service failed",
    AuthenticationError: "The service refused the credentials, or they may not use this model",
    NotFoundError: "The service does not know this model in this region",
}  # fmt: skip


def error_from(code: str, text: str, status: int | None, headers: Mapping[str, str]) -> ModelError:
    """The error for an error response of AWS.

    Args:
        code: AWS's name of the exception, from an error response or from an event of a stream.
        text: AWS's message.
        status: The HTTP status; `None` for an event of a stream.
        headers: The response's headers, with names in lower case.
    """
    kind = _BY_CODE.get(code.lower()) or _by_status(status)
    details: dict[str, Any] = {"status": status, "retry_after": retry_after(headers)}
    # After the first line, AWS's message about a wrong signature quotes the whole request, including its keys.
    text = text.strip().partition("\n")[0][:600].rstrip(".") or "no reason given"
    if kind is InvalidRequest and means_context_exceeded(text):
        return ContextWindowExceeded(f"The prompt does not fit the model's context: {text} ({code}).", **details)
    if kind is InvalidRequest and means_content_refused(text):
        return ContentFiltered(f"The content policy refused the prompt or the response: {text} ({code}).", **details)
    if kind is InvalidRequest:
        other, parameter = incompatible_parameters_in(text) or (None, unsupported_parameter_in(text))
        refusal = InvalidRequest(f"{_SUMMARIES[kind]}: {text} ({code}).", parameter=parameter, **details)
        refusal.incompatible_with = other
        return refusal
    return kind(f"{_SUMMARIES[kind]}: {text} ({code}).", **details)


def _by_status(status: int | None) -> type[ModelError]:
    if status in (401, 403):
        return AuthenticationError
    if status == 404:
        return NotFoundError
    if status == 429:
        return RateLimited
    if status is not None and 300 <= status < 500 and status not in TEMPORARY_STATUSES:
        return InvalidRequest
    return ServerError


NO_CREDENTIALS = (
    "There are no AWS credentials. Give api_key=… (a Bedrock API key) or set AWS_BEARER_TOKEN_BEDROCK; or set "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile_name=…, or log in with `aws sso login`."
)
_NO_REGION = "No AWS region was given. Pass region_name='us-east-1', or set AWS_REGION."


def model_error_from(error: Exception) -> ModelError | None:
    """The error for an exception of boto3, botocore or their HTTP library; `None` for any other exception."""
    import botocore.eventstream
    import botocore.exceptions as boto
    import botocore.parsers
    import urllib3.exceptions as http

    if isinstance(error, ModelError):
        return error
    if isinstance(error, boto.ClientError):
        details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        text, status = str(details.get("Message") or ""), metadata.get("HTTPStatusCode")
        return error_from(str(details.get("Code", "")), text, status, metadata.get("HTTPHeaders", {}))
    if isinstance(error, boto.NoCredentialsError | boto.NoAuthTokenError):
        return AuthenticationError(NO_CREDENTIALS)
    credential_errors = (
        boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError, boto.SSOError,
        boto.UnknownCredentialError, boto.MetadataRetrievalError, boto.RefreshWithMFAUnsupportedError,
    )  # fmt: skip
    # Older versions of botocore lack the exceptions of `aws login`, so these are recognised by their names.
    if isinstance(error, credential_errors) or type(error).__name__.startswith("Login"):
        return AuthenticationError(f"The AWS credentials can't be used: {_on_one_line(error)}. {NO_CREDENTIALS}")
    if isinstance(error, boto.NoRegionError):
        # Only modelport's command line prints the hint.
        return InvalidRequest(_NO_REGION, hint="The option --set region_name=us-east-1 names the region.")
    if isinstance(error, boto.ParamValidationError):
        return InvalidRequest(f"The Converse API does not accept this request: {_on_one_line(error, 600)}.")
    if isinstance(error, boto.SSLError):
        return ConnectionFailed(f"The service's certificate was not accepted: {_on_one_line(error)}.", retryable=False)
    if isinstance(error, boto.ReadTimeoutError | http.ReadTimeoutError):
        return ConnectionFailed("The service did not respond within the client's time-out.")
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError | boto.ProxyConnectionError):
        return ConnectionFailed(f"{_on_one_line(error)}. Is the region right?")
    if isinstance(error, boto.HTTPClientError):
        return _broken_connection(error.kwargs.get("error"))
    if isinstance(error, http.HTTPError):
        return _broken_connection(error)
    if isinstance(error, botocore.eventstream.ParserError):
        return MalformedResponse(f"The service's event stream is damaged: {_on_one_line(error)}.")
    unreadable = isinstance(error, botocore.parsers.ResponseParserError | boto.IncompleteReadError | UnicodeDecodeError)
    if unreadable or (_is_raised_by_parser(error) and not isinstance(error, boto.BotoCoreError)):
        return MalformedResponse(f"The service's response can't be read: {_on_one_line(error)}.")
    if isinstance(error, boto.BotoCoreError):
        return InvalidRequest(f"boto3 can't make this call: {_on_one_line(error)}.")
    return None


def _broken_connection(error: Any) -> ModelError:
    """The error for a connection that ended during a call.

    A connection that breaks causes an `OSError`. If there is no `OSError`, the service closed the connection properly,
    but before it had sent as many bytes as announced.
    """
    import urllib3.exceptions as http

    causes = [error, *getattr(error, "args", ()), getattr(error, "__cause__", None)]
    names = [type(cause).__name__ for cause in causes if isinstance(cause, OSError)]
    if not names and isinstance(error, http.ProtocolError):
        return MalformedResponse("The service's response was truncated: its body is shorter than its announced length.")
    return ConnectionFailed(f"The connection to the service broke ({(names or [type(error).__name__])[0]}).")


def _is_raised_by_parser(error: BaseException) -> bool:
    """Whether the exception is an ordinary Python error that was raised in botocore's code or in the module `json`.

    Such an error means that botocore could not parse the response.
    """
    if not isinstance(error, TypeError | AttributeError | LookupError | ValueError | RecursionError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith(("botocore.", "json"))


def _on_one_line(error: Exception, max_length: int = 300) -> str:
    return " ".join(str(error).split())[:max_length].rstrip(".")
