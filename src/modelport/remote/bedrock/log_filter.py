"""A filter that redacts keys in what botocore logs at DEBUG level.

botocore logs the headers that it sends, the text that it signs, and the bodies in which a service may quote a key.
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
    """Lets all records pass, and redacts keys in their messages."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[HiddenStr] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        redacted = _SECRET_HEADERS.sub(r"\1***", message)
        for key in list(self.keys):
            redacted = redacted.replace(key, "***")
        if redacted != message:
            record.msg, record.args = redacted, ()
        return True


_redacting_filter = _RedactingFilter()


def redact_in_logs(keys: Iterable[str]) -> None:
    """Redacts these keys, and the headers that hold keys, in everything that botocore logs from now on."""
    _redacting_filter.keys |= {HiddenStr(key) for key in keys if key}
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_redacting_filter)  # A logger ignores a filter that it already has.
