"""Redacts secrets in what botocore logs at DEBUG level.

botocore logs the headers that it sends, the text that it signs, and the bodies of responses, in which a service may
quote a key.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from modelport.remote.http.redaction import HiddenStr

#: The loggers of botocore that log headers, canonical requests and bodies.
LOGGERS = ("botocore.endpoint", "botocore.auth", "botocore.parsers")
_SECRET_HEADERS = re.compile(r"(?i)((?:authorization|x-amz-security-token)['\"]?\s*[:=]\s*b?['\"]?)[^'\"\n}]+")


class _RedactingFilter(logging.Filter):
    """Lets all records pass, and redacts secrets in their messages."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[HiddenStr] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        redacted = _SECRET_HEADERS.sub(r"\1***", message)
        for secret in list(self.secrets):
            redacted = redacted.replace(secret, "***")
        if redacted != message:
            record.msg, record.args = redacted, ()
        return True


_redacting_filter = _RedactingFilter()


def redact_in_logs(secrets: Iterable[str]) -> None:
    """Redact these secrets, and the headers that contain secrets, in everything that botocore logs from now on."""
    _redacting_filter.secrets |= {HiddenStr(secret) for secret in secrets if secret}
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_redacting_filter)  # A logger ignores a filter that it already has.
