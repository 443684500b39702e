"""Every OpenAI-compatible server."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from modelport.capabilities import Capabilities
from modelport.chat_completions import AnswerReader, body_from
from modelport.errors import InvalidRequest, ModelError
from modelport.grammar import Choice, JSONSchema, Lark, Regex
from modelport.layers.retry import RetryPolicy
from modelport.messages import ChatMessageStreamDelta
from modelport.model import Model
from modelport.remote.profiles import PROFILES
from modelport.remote.transport import Call, HTTPTransport, Transport
from modelport.request import Request
from modelport.secrets import Secret

_ALL_GRAMMARS = frozenset({JSONSchema, Regex, Choice, Lark})

#: What servers do beyond OpenAI's own API, by the `dialect` that a user names.
DIALECTS: dict[str, dict[str, Any]] = {
    "llama.cpp": {
        "grammars": _ALL_GRAMMARS, "grammar_with_tools": False, "max_stop_sequences": None,
        "tool_choices": frozenset({"auto", "none", "required"}), "image_urls": False,
    },
    "vllm": {"grammars": _ALL_GRAMMARS},
}  # fmt: skip


class OpenAIServerModel(Model):
    """A model behind any server that speaks OpenAI's chat completions.

    By default requests go to the wire through a fast HTTP library. With `client` or `client_kwargs` they go through the
    `openai` package. Either way keys, `OPENAI_*` variables, proxies and TLS settings work as that package's users know.

    Args:
        model_id: The server's name for the model, such as `gpt-4o`.
        api_base: The base URL; by default `OPENAI_BASE_URL`, else OpenAI's own.
        api_key: The key, or a function (also async) that gives one; by default `OPENAI_API_KEY`.
        organization: By default `OPENAI_ORG_ID`.
        project: By default `OPENAI_PROJECT_ID`.
        client: An `openai.OpenAI` or `openai.AsyncOpenAI` of your own.
        client_kwargs: For an `openai.AsyncOpenAI` made here, as `{"timeout": 20, "http_client": …}`. Its `max_retries`
            becomes this model's `retry`, since the SDK's own retries are switched off.
        default_headers: Sent with every request; `OPENAI_CUSTOM_HEADERS` are too.
        default_query: Put on every URL.
        dialect: `llama.cpp` or `vllm`, for what those servers take beyond OpenAI's API (any grammar, more
            stop sequences); by default OpenAI's API alone.
        accept_missing_finish: Whether a stream without a finish reason is complete (some servers, such as Ollama, send
            none); by default it counts as cut short.
        **settings: See `Model`; everything that it does not know goes into the request's body. `extra_headers`,
            `extra_query` and `extra_body` work as in the SDK.

    Example:
        >>> model = OpenAIServerModel("gpt-4o", api_key=os.environ["OPENAI_API_KEY"])
    """

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        max_stop_sequences=4,
        tools=True,
        grammars=frozenset({JSONSchema}),
        grammar_with_tools=True,
        inputs=frozenset({"text", "image", "audio", "file"}),
        image_urls=True,
        logprobs=True,
        seed=True,
        reasoning=True,
        usage=True,
        cached_tokens=True,
    )
    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key"})
    _learnt: Capabilities | None = None
    _dropped: frozenset[str] = frozenset()

    def __init__(
        self,
        model_id: str | None = None,
        api_base: str | None = None,
        api_key: Secret | str | Callable[[], str | Awaitable[str]] | None = None,
        organization: str | None = None,
        project: str | None = None,
        client: Any = None,
        client_kwargs: Mapping[str, Any] | None = None,
        *,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, Any] | None = None,
        dialect: str | None = None,
        accept_missing_finish: bool = False,
        **settings: Any,
    ) -> None:
        if not model_id:
            raise InvalidRequest(
                "model_id is missing: name the model, as OpenAIServerModel('gpt-4o') or 'openai/gpt-4o'"
            )
        if dialect is not None and dialect not in DIALECTS:
            raise InvalidRequest(f"dialect={dialect!r} is unknown; there are {', '.join(DIALECTS)}, or None")
        if client is not None and client_kwargs:
            raise InvalidRequest("client and client_kwargs: give one; the settings of a client are its own")
        if client_kwargs and "max_retries" in client_kwargs and "retry" not in settings:
            settings["retry"] = RetryPolicy(attempts=client_kwargs["max_retries"] + 1)
        super().__init__(model_id, **settings)
        self.api_base = api_base
        self.api_key = api_key if callable(api_key) else Secret.of(api_key, "OPENAI_API_KEY")
        self.organization = organization
        self.project = project
        self.client = client
        self.client_kwargs = client_kwargs
        self.default_headers = default_headers
        self.default_query = default_query
        self.dialect = dialect
        self.accept_missing_finish = accept_missing_finish
        self._transport = self._make_transport()

    def __getstate__(self) -> dict[str, Any]:
        if self.client is not None:
            raise TypeError(f"{self!r} holds a client of yours, which can't be pickled")
        return {key: value for key, value in super().__getstate__().items() if key != "_transport"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._transport = self._make_transport()

    def _make_transport(self) -> Transport:
        if self.client is not None or self.client_kwargs:
            from modelport.remote.sdk import SDKTransport

            return SDKTransport(self.client, None if self.client is not None else self._make_client)
        base = self.api_base or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        if isinstance(self.api_key, Secret):
            self.api_key.reveal()  # A missing key is found here, not at the first call.
        return HTTPTransport(base, self._headers, self.default_query)

    def _make_client(self) -> Any:
        from modelport.remote.sdk import openai_package

        key: Any = self._key
        if isinstance(self.api_key, Secret):
            key = self.api_key.reveal() if self.api_key else None
        own = {
            "api_key": key,
            "base_url": self.api_base,
            "organization": self.organization,
            "project": self.project,
            "default_headers": self.default_headers,
            "default_query": self.default_query,
        }
        return openai_package().AsyncOpenAI(**{**own, **(self.client_kwargs or {}), "max_retries": 0})

    async def _key(self) -> str:
        if isinstance(self.api_key, Secret):
            return self.api_key.reveal()
        key = self.api_key()
        return await key if inspect.isawaitable(key) else key

    async def _headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {await self._key()}"}
        for name, value in (
            ("OpenAI-Organization", self.organization or os.environ.get("OPENAI_ORG_ID")),
            ("OpenAI-Project", self.project or os.environ.get("OPENAI_PROJECT_ID")),
        ):
            if value:
                headers[name] = value
        for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip()] = value.strip()
        return {**headers, **(self.default_headers or {})}

    def _declare(self) -> Capabilities:
        declared = self.declared_capabilities.but(**DIALECTS.get(self.dialect or "", {}))
        return declared.profiled(self.model_id, PROFILES)

    @property
    def capabilities(self) -> Capabilities:
        """See `Model.capabilities`; what the service's refusals have taught included."""
        return self._learnt or super().capabilities

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`."""
        while True:
            known = (self.capabilities, self._dropped)
            try:
                async with aclosing(self._send(request)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except InvalidRequest as error:
                # Refused before anything was answered: once more, where it has taught something, or where another
                # call that was refused meanwhile has.
                if known == (self.capabilities, self._dropped) and not self._learn(error, request):
                    raise

    async def _send(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        if self.dialect == "llama.cpp":
            # Its server works on for a caller of a whole answer who has left; one who streams frees the slot at once.
            request = request.but(stream=True)
        call = self._call(request)
        reader = AnswerReader(self.accept_missing_finish)
        if not request.stream:
            delta = reader.whole(await self._transport.call(call))
            delta.warnings = self._warnings(request)
            yield delta
            return
        async with aclosing(self._transport.stream(call)) as events:
            async for event in events:
                if (piece := reader.chunk(event)) is not None:
                    yield piece
        closing = reader.end()
        closing.warnings = self._warnings(request)
        yield closing

    def _call(self, request: Request) -> Call:
        parameters = {k: v for k, v in request.parameters.items() if k not in self._dropped}
        headers, query, extra = (parameters.pop(f"extra_{name}", None) or {} for name in ("headers", "query", "body"))
        if "tool_choice" in self._dropped:
            request = request.but(tool_choice="auto")
        body = body_from(request.but(parameters=parameters), self.model_id, self.capabilities, self.dialect)
        return Call("chat/completions", {**body, **extra}, headers, query)

    def _warnings(self, request: Request) -> list[str] | None:
        left_out = sorted(self._dropped & {*request.parameters, "tool_choice" if request.tools else ""})
        return [f"{name} was left out: {self.model_id} does not take it" for name in left_out] or None

    def _learn(self, error: ModelError, request: Request) -> bool:
        """Takes a refusal of a parameter as this model's profile, for its lifetime; whether there was one to take."""
        name = (error.parameter or "").partition(".")[0]
        known = self.capabilities
        if name == "stop" and known.stop:
            self._learnt = known.but(stop=False)
        elif name == "max_tokens" and "max_tokens" not in known.renamed:
            self._learnt = known.but(renamed={**known.renamed, "max_tokens": "max_completion_tokens"})
        elif name == "stream_options" and name not in known.refused:
            self._learnt = known.but(refused=known.refused | {name})
        elif (name in request.parameters or (name == "tool_choice" and request.tools)) and name not in self._dropped:
            self._dropped |= {name}
        else:
            return False
        warnings.warn(f"{self.model_id} refuses {name!r}; from now on it is sent without", stacklevel=2)
        return True

    def close(self) -> None:
        """Closes the connections of synchronous calls."""
        from modelport.loop import run

        run(self._transport.aclose())

    async def aclose(self) -> None:
        """Closes the connections of the running loop, and those of synchronous calls."""
        await self._transport.aclose()
        await super().aclose()


#: The short name.
OpenAIModel = OpenAIServerModel
