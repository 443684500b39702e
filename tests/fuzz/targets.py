"""All targets of fuzzing, by name: each is a function that opens the target."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

from tests.fuzz.byte_targets import BYTE_SOCKETS, BYTES
from tests.fuzz.chat_targets import CALLERS, CHAT
from tests.fuzz.converse_targets import CONVERSE_TARGETS
from tests.fuzz.file_targets import FILES
from tests.fuzz.output_targets import OUTPUTS
from tests.fuzz.responses_targets import RESPONSES_API
from tests.fuzz.saved_targets import SAVED
from tests.fuzz.schema_targets import SCHEMA_SOCKETS, SCHEMAS
from tests.fuzz.socket_targets import LITELLM_SOCKETS, SOCKETS
from tests.fuzz.target import OpenTarget
from tests.fuzz.tool_targets import TOOL_OBJECTS

#: The targets that need nothing but modelport.
LIGHT = {**CHAT, **RESPONSES_API, **CONVERSE_TARGETS, **CALLERS, **TOOL_OBJECTS, **OUTPUTS, **SCHEMAS, **BYTES}
TARGETS: dict[str, OpenTarget] = {
    **{name: partial(nullcontext, target) for name, target in LIGHT.items()},
    **SAVED, **FILES, **SOCKETS, **SCHEMA_SOCKETS, **BYTE_SOCKETS, **LITELLM_SOCKETS,
}  # fmt: skip


def _share(name: str) -> float:
    """Return the share of a target; an input that needs a server, an engine or many bytes costs more time."""
    return next((share for part, share in _SHARES if part in name), 1.0)


#: Parts of the names of targets -> their share of the inputs of a run.
_SHARES = (
    ("very many of one thing", 0.02), ("lines of a stream", 0.1), ("large and odd", 0.05), ("over a socket", 0.1),
    ("folders: transformers", 0.05), ("folders: MLX", 0.1), ("loaded and called", 0.2), ("with an engine", 0.1),
)  # fmt: skip
SHARES = {name: _share(name) for name in TARGETS}
