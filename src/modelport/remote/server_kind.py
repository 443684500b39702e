"""Recognises llama.cpp's and vLLM's servers, for calls that need what such a server accepts beyond OpenAI's API.

A server at an address that modelport does not know is asked once, before the first request that has tools or an output
type:

1. llama.cpp's server answers `/props` with the model's chat template and its own build.
2. vLLM answers `/version` with its version, as other servers do too. So it must also call itself the owner of its
   models.

An answer of another kind, an error or none within the time limit means that the server is not known. This is recorded
too, and the request is sent as to OpenAI's API. See
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md and
https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/openai/models/protocol.py
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from modelport.errors import ConnectionFailed, ModelError
from modelport.types.request import Timeouts

T = TypeVar("T")

#: The most seconds for all questions to a server before a request. At most half of the request's own time is used.
PROBE_TIMEOUT = 5.0
#: The ends of a base URL's path that belong to OpenAI's API. What the server offers beside it begins before them.
_API_ENDS = ("/chat/completions", "/v1")


def beside_api(url: str | None, path: str) -> str:
    """Return the path of something that a server offers beside OpenAI's API.

    A server behind a proxy has it below the proxy's prefix, as `/models/a/props` beside `/models/a/v1`.

    Args:
        url: The base URL of the API.
        path: The path, which begins with a slash.
    """
    prefix = urlsplit(url or "").path.rstrip("/")
    for end in _API_ENDS:
        prefix = prefix.removesuffix(end)
    return f"{prefix}{path}"


async def kind_of_server(get: Callable[[str], Awaitable[Any]], timeouts: Timeouts) -> str | None:
    """Return the dialect of a server, a key of `DIALECTS`, or `None` if it is not known.

    Args:
        get: Gets what a server has at a path beside its API, as parsed JSON.
        timeouts: The time limits of the call.
    """
    try:
        return await within_limit(_ask(get), timeouts)
    except (ModelError, TimeoutError):
        return None


async def within_limit(answer: Awaitable[T], timeouts: Timeouts) -> T:
    """Await the answer to a question that no call waits for any longer than necessary.

    Args:
        answer: The answer.
        timeouts: The time limits of the call.

    Raises:
        TimeoutError: The answer took too long.
    """
    import asyncio  # Imported at the first call and not with the package, because the import takes long.

    seconds = [PROBE_TIMEOUT]
    if timeouts.deadline is not None:
        seconds.append((timeouts.deadline - asyncio.get_running_loop().time()) / 2)
    if timeouts.first_token_timeout is not None:
        seconds.append(timeouts.first_token_timeout / 2)
    return await asyncio.wait_for(answer, max(min(seconds), 0.0))


async def _ask(get: Callable[[str], Awaitable[Any]]) -> str | None:
    props = await _answer(get, "/props")
    if isinstance(props.get("build_info"), str) and isinstance(props.get("default_generation_settings"), dict):
        return "llama.cpp"
    if isinstance((await _answer(get, "/version")).get("version"), str):
        models = (await _answer(get, "/v1/models")).get("data")
        models = models if isinstance(models, list) else ()
        owners = [model.get("owned_by") for model in models if isinstance(model, dict)]
        if "vllm" in owners:
            return "vllm"
    return None


async def _answer(get: Callable[[str], Awaitable[Any]], path: str) -> Mapping[str, Any]:
    """Return the object at a path; an empty one if the server has none there."""
    try:
        answer = await get(path)
    except ConnectionFailed:
        raise  # The other paths can't be reached either.
    except ModelError:
        return {}
    return answer if isinstance(answer, dict) else {}
