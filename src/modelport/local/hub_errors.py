"""Turns exceptions of `huggingface_hub` into modelport's errors, and removes secrets from their text."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequest,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)


def redact_text(text: str) -> str:
    """Remove what may be secret from a text: access tokens, and credentials and queries in URLs."""
    text = re.sub(r"(\w://)[^\s'\"<>]*@", r"\1", text)
    text = re.sub(r"(\w://[^\s'\"<>?]*)\?[^\s'\"<>]*", r"\1", text)
    return re.sub(r"\bhf_\w+|(?<=Bearer )[^\s'\"]+", "***", text)


@contextlib.contextmanager
def silence_logger(name: str) -> Iterator[None]:
    """Suppress a package's log messages, which would repeat what modelport's error says."""
    import logging

    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def error_from_hub(error: Exception, repo: str, file: str) -> ModelError:
    """Return modelport's error for an exception of `huggingface_hub`.

    Args:
        error: The exception.
        repo: The repository, as `owner/name`.
        file: The file or other content that was requested, for the message.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        # huggingface_hub raises it if a request failed and its cache lacks the file. The cause is the request's error.
        error = error.__cause__
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    no_repo = isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError)
    what = f"{file} of {repo}"
    if no_repo or status == 404:
        missing = f"repository {repo}, or HF_TOKEN has no access to it" if no_repo else f"file {file} in {repo}"
        return NotFoundError(f"The Hugging Face hub has no {missing}.", status=status)
    if status in (401, 403):
        return AuthenticationError(
            f"The Hugging Face hub refused {what} (HTTP {status}). Set HF_TOKEN to a token that may read it. If the "
            f"model is gated, request access on its page first.",
            status=status,
        )
    if status is not None:
        kind = RateLimited if status == 429 else ServerError if status >= 500 else InvalidRequest
        return kind(f"The Hugging Face hub responded with HTTP {status} for {what}.", status=status)
    reason = f"{type(error).__name__}: {redact_text(str(error))}"
    if isinstance(error, errors.HFValidationError):
        return InvalidRequest(f"{repo!r} can't be a repository on the Hugging Face hub ({reason}).")
    # An `OSError` with an errno comes from the file system, unless it is one of these two classes of network errors.
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return ServerError(f"Can't store {what} in the hub's cache ({reason}).", retryable=False)
    return ConnectionFailed(
        f"Can't get {what} from the Hugging Face hub, and it is not in the local cache ({reason}). Check the network, "
        "the proxy, HF_ENDPOINT and HF_HUB_OFFLINE, or pass the path of a file that you have."
    )
