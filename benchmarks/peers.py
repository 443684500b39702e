"""The clients that `remote.py` measures on one server, each used as its users would: a call, a stream, and both async.

A library is imported when its client is made, so that a cold start measures this client alone. All requests have
`stop`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

STOP = ["Observation:"]
KEY = "sk-benchmark-0123456789"
Messages = list[dict[str, Any]]


class Peer:
    """One client for one base URL. A client without an asynchronous interface runs in threads."""

    #: Whether the client has an asynchronous, and a synchronous, interface.
    asynchronous = True
    synchronous = True

    def call(self, messages: Messages) -> str:
        return asyncio.run(self.acall(messages))

    def stream(self, messages: Messages) -> Iterator[str]:
        raise NotImplementedError

    async def acall(self, messages: Messages) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads(), self.call, messages)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            for piece in self.stream(messages):
                loop.call_soon_threadsafe(queue.put_nowait, piece)
            loop.call_soon_threadsafe(queue.put_nowait, None)

        loop.run_in_executor(self._threads(), read)
        while (piece := await queue.get()) is not None:
            yield piece

    def _threads(self) -> Any:
        if not hasattr(self, "_pool"):
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(200)
        return self._pool


def _body(messages: Messages, **more: Any) -> dict[str, Any]:
    return {"model": "bench", "messages": messages, "stop": STOP, **more}


STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class RawSocket(Peer):
    """The lower bound: one open socket and the json module, without error handling."""

    asynchronous = False

    def __init__(self, url: str) -> None:
        import socket

        _, _, host, self._path = url.split("/", 3)
        name, port = host.split(":")
        self._socket = socket.create_connection((name, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _send(self, body: dict[str, Any]) -> None:
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        head = (
            f"POST /{self._path}/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + data)

    def call(self, messages: Messages) -> str:
        self._send(_body(messages))
        head, _, body = self._socket.recv(65536).partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(65536)
        return str(json.loads(body)["choices"][0]["message"]["content"])

    def stream(self, messages: Messages) -> Iterator[str]:
        self._send(_body(messages, **STREAMED))
        rest = b""
        while True:
            data = rest + self._socket.recv(262144)
            *lines, rest = data.split(b"\n")
            for line in lines:
                if line.startswith(b"data: ["):
                    while not data.endswith(b"0\r\n\r\n"):
                        data += self._socket.recv(65536)
                    return
                if line.startswith(b"data: "):
                    choices = json.loads(line[6:])["choices"]
                    if choices and (text := choices[0]["delta"].get("content")):
                        yield text


class RawAiohttp(Peer):
    synchronous = False

    def __init__(self, url: str) -> None:
        self._url = url + "/chat/completions"
        self._session: Any = None

    def _post(self, body: dict[str, Any]) -> Any:
        if self._session is None:
            import aiohttp

            connector = aiohttp.TCPConnector(limit=1000)
            self._session = aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {KEY}"})
        return self._session.post(self._url, json=body)

    async def acall(self, messages: Messages) -> str:
        async with self._post(_body(messages)) as response:
            return str((await response.json())["choices"][0]["message"]["content"])

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        async with self._post(_body(messages, **STREAMED)) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    choices = json.loads(line[6:])["choices"]
                    if choices and (text := choices[0]["delta"].get("content")):
                        yield text

    def call(self, messages: Messages) -> str:
        async def once() -> str:
            try:
                return await self.acall(messages)
            finally:
                await self._session.close()

        return asyncio.run(once())


class OpenAISDK(Peer):
    def __init__(self, url: str) -> None:
        self._clients: dict[str, Any] = {}
        self._settings = {"base_url": url, "api_key": KEY, "max_retries": 2}

    def _client(self, kind: str) -> Any:
        if kind not in self._clients:
            import openai

            self._clients[kind] = getattr(openai, kind)(**self._settings)
        return self._clients[kind].chat.completions

    def call(self, messages: Messages) -> str:
        return str(self._client("OpenAI").create(**_body(messages)).choices[0].message.content)

    def stream(self, messages: Messages) -> Iterator[str]:
        for chunk in self._client("OpenAI").create(**_body(messages, **STREAMED)):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text

    async def acall(self, messages: Messages) -> str:
        return str((await self._client("AsyncOpenAI").create(**_body(messages))).choices[0].message.content)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        async for chunk in await self._client("AsyncOpenAI").create(**_body(messages, **STREAMED)):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text


class Smolagents(Peer):
    asynchronous = False

    def __init__(self, url: str) -> None:
        from smolagents import OpenAIServerModel

        self._model = OpenAIServerModel("bench", api_base=url, api_key=KEY)

    def call(self, messages: Messages) -> str:
        return str(self._model.generate(messages, stop_sequences=STOP).content)

    def stream(self, messages: Messages) -> Iterator[str]:
        for delta in self._model.generate_stream(messages, stop_sequences=STOP):
            if delta.content:
                yield delta.content


class LiteLLM(Peer):
    def __init__(self, url: str) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Otherwise its import downloads a file.
        import litellm

        self._litellm = litellm
        self._settings = {"model": "openai/bench", "api_base": url, "api_key": KEY, "stop": STOP}

    def call(self, messages: Messages) -> str:
        return str(self._litellm.completion(messages=messages, **self._settings).choices[0].message.content)

    def stream(self, messages: Messages) -> Iterator[str]:
        for chunk in self._litellm.completion(messages=messages, **STREAMED, **self._settings):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text

    async def acall(self, messages: Messages) -> str:
        response = await self._litellm.acompletion(messages=messages, **self._settings)
        return str(response.choices[0].message.content)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        async for chunk in await self._litellm.acompletion(messages=messages, **STREAMED, **self._settings):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text


class LangChain(Peer):
    def __init__(self, url: str) -> None:
        from langchain_openai import ChatOpenAI

        self._model = ChatOpenAI(model="bench", base_url=url, api_key=KEY, stop=STOP)

    def call(self, messages: Messages) -> str:
        return str(self._model.invoke(messages).content)

    def stream(self, messages: Messages) -> Iterator[str]:
        return (str(chunk.content) for chunk in self._model.stream(messages) if chunk.content)

    async def acall(self, messages: Messages) -> str:
        return str((await self._model.ainvoke(messages)).content)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        async for chunk in self._model.astream(messages):
            if chunk.content:
                yield str(chunk.content)


class AnyLLM(Peer):
    def __init__(self, url: str) -> None:
        from any_llm import AnyLLM

        # A client that was used on one event loop can't be used on another.
        self._sync, self._async = (AnyLLM.create("openai", api_key=KEY, api_base=url) for _ in range(2))

    def call(self, messages: Messages) -> str:
        return str(self._sync.completion(**_body(messages)).choices[0].message.content)

    def stream(self, messages: Messages) -> Iterator[str]:
        for chunk in self._sync.completion(**_body(messages, **STREAMED)):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text

    async def acall(self, messages: Messages) -> str:
        return str((await self._async.acompletion(**_body(messages))).choices[0].message.content)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        async for chunk in await self._async.acompletion(**_body(messages, **STREAMED)):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text


class PydanticAI(Peer):
    """pydantic-ai's direct requests, without an agent."""

    def __init__(self, url: str) -> None:
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        # A client that was used on one event loop can't be used on another.
        self._sync, self._async = (
            OpenAIChatModel("bench", provider=OpenAIProvider(base_url=url, api_key=KEY)) for _ in range(2)
        )

    def _arguments(self, messages: Messages) -> dict[str, Any]:
        from pydantic_ai import messages as m

        parts = {"system": m.SystemPromptPart, "user": m.UserPromptPart}
        history = [
            m.ModelResponse(parts=[m.TextPart(message["content"])])
            if message["role"] == "assistant"
            else m.ModelRequest(parts=[parts[message["role"]](message["content"])])
            for message in messages
        ]
        return {"messages": history, "model_settings": {"stop_sequences": STOP}}

    def call(self, messages: Messages) -> str:
        from pydantic_ai.direct import model_request_sync

        return str(model_request_sync(self._sync, **self._arguments(messages)).parts[0].content)

    def stream(self, messages: Messages) -> Iterator[str]:
        from pydantic_ai.direct import model_request_stream_sync

        with model_request_stream_sync(self._sync, **self._arguments(messages)) as events:
            yield from filter(None, map(_text_of, events))

    async def acall(self, messages: Messages) -> str:
        from pydantic_ai.direct import model_request

        return str((await model_request(self._async, **self._arguments(messages))).parts[0].content)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        from pydantic_ai.direct import model_request_stream

        async with model_request_stream(self._async, **self._arguments(messages)) as events:
            async for event in events:
                if text := _text_of(event):
                    yield text


def _text_of(event: Any) -> str:
    """Return the text of an event of pydantic-ai."""
    piece = getattr(event, "delta", None) or (event.part if event.event_kind == "part_start" else None)
    return getattr(piece, "content_delta", None) or getattr(piece, "content", None) or ""


class Modelport(Peer):
    """modelport with all layers in use: stop sequences, retries, and limits that are never reached."""

    name = "OpenAIServerModel"

    def __init__(self, url: str) -> None:
        import modelport

        settings: dict[str, Any] = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "max_concurrency": 10**6}
        self._model = getattr(modelport, self.name)(**self._settings(url), **settings)

    def _settings(self, url: str) -> dict[str, Any]:
        return {"model_id": "bench", "api_base": url, "api_key": KEY}

    def call(self, messages: Messages) -> str:
        return str(self._model.generate(messages, STOP).content)

    def stream(self, messages: Messages) -> Iterator[str]:
        for delta in self._model.generate_stream(messages, STOP):
            if delta.content:
                yield delta.content

    async def acall(self, messages: Messages) -> str:
        return str((await self._model.agenerate(messages, STOP)).content)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        async for delta in self._model.agenerate_stream(messages, STOP):
            if delta.content:
                yield delta.content


PEERS: dict[str, type[Peer]] = {
    "raw socket + json": RawSocket,
    "raw aiohttp + json": RawAiohttp,
    "openai SDK": OpenAISDK,
    "smolagents": Smolagents,
    "any-llm": AnyLLM,
    "LangChain": LangChain,
    "pydantic-ai": PydanticAI,
    "LiteLLM": LiteLLM,
    "modelport": Modelport,
}
#: The first import of each client.
IMPORTS = {
    "raw socket + json": "import socket, json",
    "raw aiohttp + json": "import aiohttp",
    "openai SDK": "import openai",
    "smolagents": "import smolagents",
    "any-llm": "import any_llm",
    "LangChain": "from langchain_openai import ChatOpenAI",
    "pydantic-ai": "import pydantic_ai",
    "LiteLLM": "import litellm",
    "modelport": "from modelport import Model, ChatMessage",
}
