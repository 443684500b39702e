"""Everything that LiteLLM reaches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

from modelport.errors import AuthenticationError, InvalidRequest, MalformedResponse, ModelError
from modelport.inputs.parameters import EFFORTS
from modelport.inputs.settings import check_kind
from modelport.layers.retry import RetryPolicy
from modelport.model import Model
from modelport.protocols.chat_completions.dialects import DIALECTS, OPENAI_API
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.remote.http.connections import CONNECT_TIMEOUT
from modelport.remote.http.redaction import HiddenStr
from modelport.remote.http.requests import check_headers
from modelport.remote.http.transport import ServiceCall
from modelport.remote.litellm.errors import error_of
from modelport.remote.litellm.isolation import ClientIsolation
from modelport.remote.litellm.package import (
    RETRIES,
    ResponseStream,
    as_dict,
    in_common,
    known_capabilities,
    litellm_package,
    require_litellm,
    secret_of,
    secrets_of,
)
from modelport.remote.litellm.servers import Servers
from modelport.remote.schema_subsets import OPENAI
from modelport.remote.unconstrained_reasoning import RENDER_PATH, grammar_after_reasoning
from modelport.runtime.per_loop import PerLoop
from modelport.secrets import Secret
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request

DEFAULT_MODEL = "anthropic/claude-3-5-sonnet-20240620"
#: Whose API takes a message's text only as a string.
FLATTENED = ("ollama", "groq", "cerebras")
#: Seconds that LiteLLM is to wait; the port keeps the caller's own limits.
_A_DAY = 86400.0
#: Fields of a dialect's, which are no parameters of LiteLLM's.
_FOR_THE_BODY = (
    "grammar", "structured_outputs", "chat_template_kwargs", "thinking_budget_tokens", "thinking_token_budget",
)  # fmt: skip


class LiteLLMModel(Model):
    """A model of any provider that LiteLLM knows.

    LiteLLM is imported at the first call, or the first look at `capabilities`, which takes seconds. It fetches nothing
    then, and does not retry: this model's `retry` does. Callbacks that you register with `litellm` are called.

    What LiteLLM does not tell, this class can't. An error event whose data has no `error` only shows as an answer that
    was cut. With providers that LiteLLM serves through its own HTTP client (`hosted_vllm/…` is one, `openai/…` is not)
    it passes over broken events of a stream in silence, takes `[DONE]` for a finish reason, and sends a request once
    more by itself where the connection was reset before the answer began.

    Args:
        model_id: LiteLLM's name for the model, `provider/model`; by default `anthropic/claude-3-5-sonnet-20240620`.
            See https://docs.litellm.ai/docs/providers
        api_base: The base URL; by default the provider's own, or what its environment variable says.
        api_key: The key; by default LiteLLM reads the provider's environment variable, such as `ANTHROPIC_API_KEY`.
        custom_role_conversions: See `Model`.
        flatten_messages_as_text: See `Model`; by default so for `ollama…`, `groq…` and `cerebras…`.
        dialect: `llama.cpp` or `vllm`, for what those servers take beyond OpenAI's API (any grammar); by default
            OpenAI's API alone.
        accept_missing_finish: Whether a stream without a finish reason is complete; by default it counts as cut short.
        **settings: See `Model`; everything that it does not know is passed to `litellm.acompletion`. `num_retries` or
            `max_retries` becomes this model's `retry`.

    Raises:
        MissingDependency: LiteLLM is not installed.

    Example:
        >>> model = LiteLLMModel("groq/llama-3.3-70b-versatile", temperature=0.2, requests_per_minute=60)
    """

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        max_stop_sequences=4,
        tools=True,
        grammars=frozenset({JSONSchema}),
        schema_rules=OPENAI,  # the form in which it takes schemas; it rewrites them for other services
        grammar_with_tools=True,
        inputs=frozenset({"text", "image", "audio", "file"}),
        image_urls=True,
        logprobs=True,
        seed=True,
        reasoning=True,
        reasoning_efforts=frozenset(EFFORTS),
        usage=True,
        cached_tokens=True,
    )
    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key"})
    api_key: Secret | None = None
    _servers: Servers | None = None

    def __init__(
        self,
        model_id: str | None = None,
        api_base: str | None = None,
        api_key: Secret | str | None = None,
        custom_role_conversions: Mapping[str, str] | None = None,
        flatten_messages_as_text: bool | None = None,
        *,
        dialect: str | None = None,
        accept_missing_finish: bool = False,
        **settings: Any,
    ) -> None:
        require_litellm()
        check_kind(str, model_id=model_id, api_base=api_base, dialect=dialect)
        check_kind(bool, accept_missing_finish=accept_missing_finish)
        model_id = model_id or DEFAULT_MODEL
        if dialect is not None and dialect not in DIALECTS:
            raise InvalidRequest(f"dialect={dialect!r} is unknown; there are {', '.join(DIALECTS)}, or None")
        if api_base is not None and not api_base.startswith(("http://", "https://")):
            raise InvalidRequest(
                f"api_base={api_base!r}: must be a URL such as 'http://localhost:8000/v1'",
                hint="The option --api-base sets the address.",
            )
        for name in RETRIES:
            if (again := settings.pop(name, None)) is not None:
                if not isinstance(again, int):
                    raise InvalidRequest(f"{name}={again!r}: must be a whole number")
                settings.setdefault("retry", RetryPolicy(attempts=again + 1))
        if flatten_messages_as_text is None:
            flatten_messages_as_text = model_id.startswith(FLATTENED)
        super().__init__(
            model_id,
            custom_role_conversions=custom_role_conversions,
            flatten_messages_as_text=flatten_messages_as_text,
            **settings,
        )
        self.api_base = api_base
        self.api_key = secret_of(api_key, model_id) if api_key is not None else None
        self.dialect = dialect
        self.accept_missing_finish = accept_missing_finish
        self._kept: PerLoop[ClientIsolation] = PerLoop(ClientIsolation.aclose)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in ("_kept", "_servers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._kept = PerLoop(ClientIsolation.aclose)

    def _declare(self) -> Capabilities:
        # LiteLLM keeps OpenAI's maximum of stop sequences.
        server = OPENAI_API if self.dialect is None else DIALECTS[self.dialect]
        dialect = {k: v for k, v in server.capabilities.items() if k != "max_stop_sequences"}
        known = (
            known_capabilities(
                self.declared_capabilities,
                parameters["model"],
                parameters.get("custom_llm_provider"),
                parameters.get("api_base"),
            )
            for parameters in self._deployments()
        )
        return in_common(known).replace(**dialect)

    def _deployments(self) -> Sequence[Mapping[str, Any]]:
        """Where the model is served, as LiteLLM's parameters."""
        return [{**self.kwargs, "model": self.model_id, "api_base": self.api_base, "api_key": self.api_key}]

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`."""
        if self.dialect == "llama.cpp":
            # Its server works on for a caller of a whole answer who has left; one who streams frees the slot at once.
            request = request.replace(stream=True)
        litellm_package()
        kept = await self._kept.get(ClientIsolation)
        reader = ChatResponseReader(self.accept_missing_finish)
        arguments = self._arguments(request)
        if self.dialect == "llama.cpp":
            await self._free_thought(arguments, request)
        stream: Any = None
        # The error is raised where LiteLLM's is no more: a traceback with locals would show what that quotes.
        failure: ModelError | None = None
        try:
            answer = await kept.during(self._complete(arguments))
            if not request.stream:
                yield reader.read_response(as_dict(answer))
                return
            stream, empty = ResponseStream(answer, kept), True
            async for chunk in stream.chunks():
                if (piece := reader.read_chunk(chunk)) is not None:
                    empty = empty and not piece.delivers
                    yield piece
        except ModelError:
            raise
        except Exception as error:
            failure = self._error(error, arguments)
        finally:
            if stream is not None:
                await stream.close()
        if failure is not None:
            raise failure
        if empty and stream.is_bare():
            raise MalformedResponse("The service sent no stream, or one without any part of an answer.")
        reader.read_chunk(stream.ending())
        yield reader.finish()

    def _arguments(self, request: Request) -> dict[str, Any]:
        """What LiteLLM is called with."""
        import httpx

        arguments = self._body(request) | {
            **dict.fromkeys(RETRIES, 0),
            "timeout": httpx.Timeout(_A_DAY, connect=CONNECT_TIMEOUT),
        }
        if self.api_base is not None:
            arguments["api_base"] = self.api_base
        if self.api_key is not None:
            arguments["api_key"] = HiddenStr(self.api_key.reveal())
        return arguments

    def _body(self, request: Request) -> dict[str, Any]:
        for name in ("extra_headers", "headers"):
            check_kind(Mapping, **{name: request.parameters.get(name)})
            check_headers(request.parameters.get(name) or {})
        body = body_from(request, self.model_id, self.capabilities, self.dialect)
        if (budget := body.pop("reasoning_budget", None)) is not None:
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        extra = {name: body.pop(name) for name in _FOR_THE_BODY if name in body}
        if extra:
            body["extra_body"] = {**extra, **(body.get("extra_body") or {})}
        if "tools" in body:
            # All of them are functions. Looking for tools of its MCP gateway, LiteLLM 1.106 wants a package that it
            # does not require, and other versions import their proxy.
            body["_skip_mcp_handler"] = True
        return body

    async def _free_thought(self, arguments: dict[str, Any], request: Request) -> None:
        """Makes the grammar of a call begin where its thought ends."""
        if self._servers is None:
            self._servers = Servers(self._deployments())
        servers, extra = self._servers, arguments.get("extra_body") or {}
        headers = arguments.get("extra_headers") or {}
        grammar = await grammar_after_reasoning(
            {**arguments, **extra}, request, lambda body: servers.call(ServiceCall(RENDER_PATH, body, headers))
        )
        if grammar:
            arguments["extra_body"] = {**extra, "grammar": grammar}

    async def _complete(self, arguments: dict[str, Any]) -> Any:
        return await litellm_package().acompletion(**arguments)

    def _error(self, error: Exception, arguments: Mapping[str, Any]) -> ModelError:
        ours = error_of(error, secrets_of(arguments))
        if isinstance(ours, AuthenticationError) and not self.api_key:
            missing = litellm_package().validate_environment(self.model_id).get("missing_keys") or ()
            if missing:
                ours.args = (f"No key was given. Pass api_key=…, or set {' and '.join(missing)}. {ours.message}",)
        return ours

    def close(self) -> None:
        """Closes the connections of synchronous calls, once their callbacks have ended."""
        from modelport.runtime.portal import run

        run(self._close_clients())

    async def aclose(self) -> None:
        """Closes those of the running loop, and of synchronous calls."""
        await self._close_clients()
        await super().aclose()

    async def _close_clients(self) -> None:
        await self._kept.aclose()
        if self._servers is not None:
            await self._servers.aclose()
