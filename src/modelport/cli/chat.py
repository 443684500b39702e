"""A conversation in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from modelport import __version__
from modelport.cli.options import DEBUG
from modelport.cli.terminal import Answer, Failure, decoded, explain, is_terminal, note, remark, write, write_aside
from modelport.errors import ModelError, StreamInterrupted
from modelport.messages import ChatMessage, MessageRole, TokenUsage
from modelport.model import Model

PROMPT = "you> "
Open = Callable[[str], AbstractContextManager[Model]]


class Chat:
    """A conversation: its history, its model, and the commands that change them.

    Args:
        spec: The model to begin with.
        open: Gives a model for a spec.
        system: What the model is told before everything else.
        call: The arguments of each call.
    """

    def __init__(self, spec: str, open: Open, system: str | None, call: dict[str, Any]) -> None:
        self._spec = spec
        self._open = open
        self._system = system
        self._call = call
        self._turns: list[ChatMessage] = []
        self._used = TokenUsage(0, 0, 0)
        self._calls = 0
        self._interactive = is_terminal(sys.stdin)
        self._commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "/help": ("list these commands", self._help),
            "/reset": ("forget the conversation", self._reset),
            "/system": ("TEXT  tell the model this before everything else; without TEXT, show it", self._tell),
            "/model": ("SPEC  go on with another model; without SPEC, show this one", self._switch),
            "/save": ("FILE  save the conversation as JSON", self._save),
            "/usage": ("show the tokens used so far", self._usage),
            "/exit": ("leave", self._exit),
        }
    ...
