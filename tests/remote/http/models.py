"""Models with every transport, for a server, and what the tests of the transports share."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import openai

from modelport import AzureOpenAIServerModel, InferenceClientModel, OpenAIServerModel
from modelport.remote.chat_model import ChatCompletionsModel
from modelport.runtime.portal import run
from tests.servers.faults import Reply

KEY = "sk-test-0123456789abcdef"
ANSWER = Reply().text
MESSAGES = [{"role": "user", "content": "hello"}]
#: The settings that choose a transport.
TRANSPORTS: dict[str, dict[str, Any]] = {"http": {}, "sdk": {"client_kwargs": {"timeout": 20.0}}}


@contextlib.contextmanager
def model_for(url: str | None, transport: str = "http", **settings: Any) -> Iterator[OpenAIServerModel]:
    """Make a model without retries, and close it."""
    model = OpenAIServerModel("m", url, **{"retry": False, "timeout": 20, **TRANSPORTS[transport], **settings})
    with model:
        yield model


LIMITS: dict[str, Any] = {"retry": False, "timeout": 20}
_AZURE: dict[str, Any] = {"model_id": "m", "azure_ad_token_provider": lambda: KEY, **LIMITS}
_SDK = TRANSPORTS["sdk"]
_VERSION = "2024-10-21"
#: By every path that a key takes to a service: a function that makes a model for a server's base URL.
MODELS_BY_KEY_PATH: dict[str, Callable[[str], ChatCompletionsModel]] = {
    "http": lambda url: OpenAIServerModel("m", url, KEY, **LIMITS),
    "sdk": lambda url: OpenAIServerModel("m", url, KEY, **_SDK, **LIMITS),
    "azure": lambda url: AzureOpenAIServerModel(azure_endpoint=url, api_version=_VERSION, **_AZURE),
    "azure-sdk": lambda url: AzureOpenAIServerModel(azure_endpoint=url, api_version=_VERSION, **_SDK, **_AZURE),
    "azure-sdk v1": lambda url: AzureOpenAIServerModel(azure_endpoint=url, **_SDK, **_AZURE),
    "huggingface": lambda url: InferenceClientModel("m", base_url=url, token=KEY, **LIMITS),
    "own client": lambda url: OpenAIServerModel("m", client=_client(openai.OpenAI, url), **LIMITS),
    "own async client": lambda url: OpenAIServerModel("m", client=_client(openai.AsyncOpenAI, url), **LIMITS),
    "own azure client": lambda url: AzureOpenAIServerModel(
        "m", client=_azure_client(openai.AzureOpenAI, url), **LIMITS
    ),
    "own async azure client": lambda url: AzureOpenAIServerModel(
        "m", client=_azure_client(openai.AsyncAzureOpenAI, url), **LIMITS
    ),
}


def _client(kind: Any, url: str) -> Any:
    """Return a client of the caller."""
    return kind(base_url=url, api_key=KEY)


def _azure_client(kind: Any, url: str) -> Any:
    """Return a client of the caller whose token comes from a function, so that the client does not hold the token."""
    endpoint = url.removesuffix("/v1")
    return kind(azure_endpoint=endpoint, api_version=_VERSION, azure_ad_token_provider=lambda: KEY)


def ask_and_close(model: ChatCompletionsModel, way: str, **options: Any) -> None:
    """Call a model in one of three ways, and close a client of the caller, as its owner would."""
    client = model.client
    is_async = inspect.iscoroutinefunction(getattr(client, "close", None))

    async def ask() -> None:
        try:
            await model.agenerate("hello", **options)
        finally:
            if is_async:
                await client.close()

    try:
        if way == "async":
            asyncio.run(ask())
        elif way == "sync":
            model.generate("hello", **options)
        else:
            list(model.generate_stream("hello", **options))
    finally:
        if client is not None and not (is_async and way == "async"):
            run(client.close()) if is_async else client.close()
