"""The backends that `soak.py` asks: what each is made of, and what may not be left of its calls."""

from __future__ import annotations

import gc
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.remote.matrix import BACKENDS
from tests.remote.matrix_runner import model_for, server_for

from modelport.layers.retry import RetryPolicy

#: Each backend, and a package that it needs: not all of them install beside each other.
REMOTE = {
    "openai": "aiohttp",
    "openai-sdk": "openai",
    "azure": "aiohttp",
    "huggingface": "huggingface_hub",
    "bedrock": "boto3",
    "litellm": "litellm",
    "litellm-router": "litellm",
    "litellm-http": "litellm",
}
LOCAL = {"llamacpp": "xllamacpp", "transformers": "transformers"}
#: How a program makes one of its own.
MAKE = {
    "llamacpp": "__import__('modelport').LlamaCppModel({weights!r}, context_length=2048, threads=1)",
    "transformers": "__import__('modelport').TransformersModel({weights!r}, context_length=2048)",
}


def installed() -> tuple[list[str], list[str]]:
    """The backends that can be asked in this environment, and those that can't."""
    every = REMOTE | LOCAL
    here = [name for name, package in every.items() if find_spec(package)]
    return here, [name for name in every if name not in here]


@dataclass
class Subject:
    """A backend under test; `left` says what is left of its calls, by name, once nobody asks any more."""

    model: Any
    left: Callable[[], dict[str, int]]
    prompts: tuple[str, ...] = ("hello",)
    options: dict[str, Any] = field(default_factory=dict)
    short: tuple[float, float] = (0.001, 0.05)
    faults: Counter[str] = field(default_factory=Counter)


@contextmanager
def remote(column: str, dice: random.Random) -> Iterator[Subject]:
    """A backend on a server that misbehaves at random."""
    wire = BACKENDS[column].wire
    kinds: dict[str, Callable[[], Any]] = {
        "429": lambda: wire.rate_limit(0.02),
        "500": lambda: wire.status(500),
        "503": lambda: wire.status(503),
        "400": lambda: wire.status(400),
        "reset": wire.reset,
        "hang up": wire.hang_up,
        "slow": lambda: wire.slow(0.05),
        "silence": lambda: wire.silence(2.0),
        "cut": lambda: wire.cut("close"),
        "broken": lambda: wire.cut("reset"),
        "stall": lambda: wire.cut("stall", stall_s=2.0),
        "malformed": wire.malformed,
        "bad UTF-8": wire.bad_utf8,
        "stale": wire.stale,
    }
    faults: Counter[str] = Counter()

    def answer(request: Any) -> Any:
        if len(server.requests) > 100:  # what the server keeps of them would be taken for a leak
            server.requests[:] = [request for request in server.requests if not (request.done or request.client_left)]
        if dice.random() < 0.5:
            return wire.ok().replace(pace_s=0.002)
        kind = dice.choice(list(kinds))
        faults[kind] += 1
        return kinds[kind]()

    with server_for(column) as server:
        server.script(then=answer)
        settings = {"timeout": 3.0, "first_token_timeout": 0.5, "idle_timeout": 0.5}
        with model_for(server, column, retry=RetryPolicy(attempts=3, base=0.005), **settings) as model:

            def left() -> dict[str, int]:
                unanswered = sum(not (request.done or request.client_left) for request in server.requests)
                if not unanswered:
                    model.release()  # of calls that came to their end, connections are kept until here
                return {"requests": unanswered, "connections": server.open_connections}

            yield Subject(model, left, faults=faults)
            server.requests.clear()


PROMPTS = (
    "Say hello.",
    "What is the capital of France?",
    "Write a long story about a lighthouse and the sea.",
    "word " * 400,
)


@contextmanager
def llamacpp(dice: random.Random) -> Iterator[Subject]:
    """llama.cpp in this process."""
    from tests.servers.llamacpp import model_file

    from modelport import LlamaCppModel

    with LlamaCppModel(model_file(), context_length=2048, threads=1, max_tokens=16) as model:

        def left() -> dict[str, int]:
            return {"slots": sum(slot["is_processing"] for slot in model._engine().query("/slots"))}

        yield Subject(model, left, PROMPTS, {"temperature": 0}, (0.001, 0.5))


@contextmanager
def transformers(dice: random.Random) -> Iterator[Subject]:
    """transformers in this process, with room for the caches of a few sequences alone."""

    from modelport import TransformersModel
    from modelport.local.transformers.caches import LibraryCache, PackedCache

    settings: dict[str, Any] = {"context_length": 2048, "max_tokens": 6, "prefix_cache_bytes": 64 * 2**20}
    with TransformersModel(weights("transformers"), **settings) as model:

        def left() -> dict[str, int]:
            engine = model._engine()
            gc.collect()
            caches = sum(type(thing) in (PackedCache, LibraryCache) for thing in gc.get_objects())
            over = engine.prefixes.nbytes > engine.prefixes.limit
            kept = len(engine.prefixes.entries)
            return {"rows": engine.busy, "caches beside the kept": max(0, caches - kept), "cache over limit": over}

        yield Subject(model, left, PROMPTS, {"temperature": 0}, (0.001, 0.5))


def opened(name: str, dice: random.Random) -> Any:
    """A subject by its name."""
    return {"llamacpp": llamacpp, "transformers": transformers}[name](dice) if name in LOCAL else remote(name, dice)


def weights(name: str) -> Path:
    """The weights of an engine."""
    from tests.servers.llamacpp import model_file
    from tests.servers.smollm2 import smollm2_folder

    return model_file() if name == "llamacpp" else smollm2_folder()
