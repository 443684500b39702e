"""The base class of models that ask their server of which kind it is, and what the model's chat template has.

Each question is asked once in the life of a model object: of several first calls on one event loop, one asks and the
others wait, within the same time limit. No call fails because a question failed: without an answer, the request is sent
as if nothing was known.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from modelport.errors import InvalidRequest, ModelError, UnsupportedFeature
from modelport.layers.base import Deltas, Layer, Next
from modelport.remote.http.redaction import with_hidden_repr
from modelport.remote.http.transport import ServiceCall
from modelport.remote.rejections import ObservingModel
from modelport.remote.schema_enforcement import IGNORING_HOSTS
from modelport.remote.server_kind import beside_api, kind_of_server, within_limit
from modelport.remote.services import host_of
from modelport.remote.template_tools import template_has_tools
from modelport.remote.unconstrained_reasoning import RENDER_PATH
from modelport.types.capabilities import Capabilities
from modelport.types.request import Request, Timeouts

if TYPE_CHECKING:
    from modelport.remote.http.transport import Transport

#: The statuses of a server that does not have a path.
_MISSING = (404, 405, 501)


class ProbingModel(ObservingModel):
    """The base class of models whose server may be of a kind that accepts more than OpenAI's API."""

    #: The values that the parameter `dialect` accepts.
    dialects: ClassVar[frozenset[str]] = frozenset({"openai", "llama.cpp", "vllm"})
    #: The setting `dialect`.
    dialect: str | None = None
    #: Whether the server has been asked of which kind it is, and the kind that it has named.
    _has_identified: bool = False
    _identified_dialect: str | None = None
    #: Whether the server has been asked whether the model's chat template has tools.
    _has_probed_tools: bool = False
    #: Whether the server has no path that renders a prompt, or has not answered there in time.
    _cannot_render: bool = False

    if TYPE_CHECKING:

        @property
        def _transport(self) -> Transport: ...

    @property
    def _dialect_name(self) -> str | None:
        """The server's kind, as the caller has named it or as the server has said; `None` for OpenAI's API alone."""
        return self._identified_dialect if self.dialect in (None, "openai") else self.dialect

    @property
    def _service(self) -> str | None:
        """The service's key in the table of vendor parameters; `None` if the service is not known."""
        return self._dialect_name

    @property
    def _url(self) -> str | None:
        """The address of the service, if the backend knows it."""
        return None

    @property
    def _host(self) -> str | None:
        """The host to which requests are sent, if the backend knows it."""
        return host_of(self._url)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_questions"}

    @asynccontextmanager
    async def _question(self, timeouts: Timeouts) -> AsyncGenerator[None, None]:
        """Enter a block in which only one call of the running event loop asks the server.

        Raises:
            TimeoutError: Another call has asked for too long.
        """
        from asyncio import Lock, get_running_loop  # Imported at the first question, because the import takes long.

        questions = self.__dict__.setdefault("_questions", WeakKeyDictionary())
        lock: Lock = questions.setdefault(get_running_loop(), Lock())
        await within_limit(lock.acquire(), timeouts)
        try:
            yield
        finally:
            lock.release()

    # --- the kind of the server ---------------------------------------------------------------------------------------

    def _layers(self) -> list[Layer]:
        return [self._identify_server, *super()._layers()]

    def _identify_server(self, request: Request, next: Next) -> Deltas:
        """The layer that asks an unknown server of which kind it is, before the first request that depends on it."""
        if request.grammar is None and not request.tools:
            return next(request)
        if self._identified_dialect is not None or self._may_identify:
            return self._send_identified(request, next)
        return next(request)

    @property
    def _may_identify(self) -> bool:
        if self._has_identified or self.dialect is not None or self._service is not None:
            return False
        return self._url is not None and self._host not in IGNORING_HOSTS

    async def _send_identified(self, request: Request, next: Next) -> Deltas:
        if self._may_identify:
            with suppress(TimeoutError):
                async with self._question(request.timeouts):
                    await self._identify(request)
            request = request.replace(capabilities=self.capabilities)
        try:
            async with aclosing(next(request)) as deltas:
                async for delta in deltas:
                    yield delta
        except (InvalidRequest, UnsupportedFeature) as error:
            depends = isinstance(error, UnsupportedFeature) or (type(error) is InvalidRequest and error.status)
            if depends and (kind := self._identified_dialect) is not None:
                advice = f"(The server says that it is {kind}. If it is another, pass dialect='openai'.)"
                error.args = (f"{error.message} {advice}",)
            raise

    async def _identify(self, request: Request) -> None:
        """Ask the server of which kind it is, if no other call has asked it in the meantime."""
        if not self._may_identify:
            return
        headers, query = [
            {name: with_hidden_repr(value) for name, value in request.parameters.get(option, {}).items()}
            for option in ("extra_headers", "extra_query")
        ]

        async def get(path: str) -> Any:
            call = ServiceCall(beside_api(self._url, path), {}, headers, query, method="GET")
            return await self._transport.call(call, lambda answer: answer)

        kind = await kind_of_server(get, request.timeouts)
        if not self._has_identified and kind in self.dialects:
            self._use_dialect(kind)
        self._has_identified = True

    def _use_dialect(self, kind: str) -> None:
        """Use the dialect of a server from now on."""
        self._declare_again(lambda: setattr(self, "_identified_dialect", kind))

    # --- the chat template --------------------------------------------------------------------------------------------

    async def _render(self, call: ServiceCall, body: Mapping[str, Any], request: Request) -> Any:
        """Return what llama.cpp's server renders from a body, in a request like the given one.

        Raises:
            ModelError: The server has not rendered it.
        """
        if self._cannot_render:
            raise UnsupportedFeature("this server does not render prompts")
        call = replace(call, path=beside_api(self._url, RENDER_PATH), body=body)
        try:
            return await within_limit(self._transport.call(call, lambda rendered: rendered), request.timeouts)
        except TimeoutError:
            self._cannot_render = True
            raise UnsupportedFeature("this server does not render prompts in time") from None
        except ModelError as error:
            self._cannot_render = error.status in _MISSING
            raise

    async def _probe_tools(self, call: ServiceCall, request: Request) -> None:
        """Ask the server, once, whether the model's chat template has tools.

        Raises:
            UnsupportedFeature: It has none. The request is then sent again, with the tools in its prompt.
        """
        with suppress(TimeoutError):
            async with self._question(request.timeouts):
                is_known = self._has_probed_tools or "tools" in _given_names(self._given_capabilities)
                if not is_known and not await template_has_tools(lambda body: self._render(call, body, request)):
                    self._set_observed(self.capabilities.replace(tools=False))
                self._has_probed_tools = True
        if not self.capabilities.tools:
            error = UnsupportedFeature(
                f"{self.model_id}: the chat template of this server (dialect={self._dialect_name!r}) has no tools",
                parameter="tools",
            )
            error.profile_updated = True
            raise error


def _given_names(capabilities: Capabilities | Mapping[str, Any] | None) -> Collection[str]:
    """Return the names of the capabilities that the caller has set."""
    if isinstance(capabilities, Capabilities):
        return capabilities.to_dict()
    return capabilities or ()
