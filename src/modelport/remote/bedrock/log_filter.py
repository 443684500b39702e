"""What botocore logs at DEBUG, without keys: the headers that it sends, what it signs, and what a service quotes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from modelport.remote.http.redaction import HiddenStr

#: Those of botocore's loggers that write headers, canonical requests and bodies.
LOGGERS = ("botocore.endpoint", "botocore.auth", "botocore.parsers")
_FIELDS = re.compile(r"(?i)((?:authorization|x-amz-security-token)['\"]?\s*[:=]\s*b?['\"]?)[^'\"\n}]+")


class _Redacted(logging.Filter):
    """Keeps all records, and takes keys out of their text."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[HiddenStr] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        shown = _FIELDS.sub(r"\1***", said)
        for key in list(self.keys):
            shown = shown.replace(key, "***")
        if shown != said:
            record.msg, record.args = shown, ()
        return True


_redacted = _Redacted()


def keep_out_of_the_log(keys: Iterable[str]) -> None:
    """From now on botocore's loggers don't show these, nor the headers that hold keys."""
    _redacted.keys |= {HiddenStr(key) for key in keys if key}
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_redacted)  # which does nothing where it is there already
