"""Reads LiteLLM's responses and streams as the service sent them.

LiteLLM makes up a finish reason if a stream was interrupted, and token counts if the service sent none. Therefore
`ResponseStream` removes both from the chunks that LiteLLM yields. After the last chunk, it reads them from the
attribute `chunks` of LiteLLM's stream object, which holds what the service sent.

LiteLLM also leaves out the text of a refusal and chunks that have nothing but a signature, replaces finish reasons such
as `abort` by `stop`, and fails at others. Therefore `ResponseStream` reads refusals, finish reasons and the fields with
provider data from the chunks of the service, before LiteLLM does. This is possible for the
providers that LiteLLM calls through the openai package.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from modelport.errors import MalformedResponse
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.protocols.chat_completions.stream_quirks import usage_in
from modelport.remote.litellm.isolation import ClientIsolation
from modelport.schema.json_text import MAX_JSON_DEPTH, is_nested_too_deeply
from modelport.types.provider_data import MESSAGE_FIELDS

#: The fields of a message with reasoning and provider data, which LiteLLM drops, renames or moves.
_REASONING_FIELDS = ("reasoning", *MESSAGE_FIELDS)


class ResponseStream:
    """A stream of LiteLLM's, without the finish reason and the counts that LiteLLM makes up.

    Args:
        stream: A `CustomStreamWrapper` of LiteLLM's.
        isolation: The clients that LiteLLM uses while the stream is read. For some services, LiteLLM sends the request
            only when the first chunk is read. The Router may also fall back to another deployment during the stream.
    """

    def __init__(self, stream: Any, isolation: ClientIsolation) -> None:
        self._stream = stream
        #: The stream of the deployment that the Router called last. Its `chunks` hold the ending.
        self._last_stream = stream
        self._isolation = isolation
        #: The choice with which the service ended its response, as a dict; `None` until it arrives.
        self._last_choice: dict[str, Any] | None = None
        #: The text of a refusal that has arrived and was not yielded yet.
        self._refusal = ""
        #: The fields with reasoning and provider data that have arrived and were not yielded yet. `None` until the
        #: first chunk of the service has been observed.
        self._fields: list[dict[str, Any]] | None = None
        self._follow_fallbacks(stream)

    def _follow_fallbacks(self, stream: Any) -> None:
        """Set `_last_stream` to the stream of another deployment when the Router falls back to that deployment.

        The Router then calls `stream.adopt_fallback_response_headers` with the new stream. This method is replaced, so
        that it also sets `_last_stream`.
        """
        adopt = getattr(stream, "adopt_fallback_response_headers", None)
        if adopt is None:
            return

        def adopt_and_follow(response: Any, *rest: Any) -> Any:
            self._last_stream, self._last_choice = response, None
            self._follow_fallbacks(response)
            return adopt(response, *rest)

        stream.adopt_fallback_response_headers = adopt_and_follow

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks that LiteLLM yields, without finish reason and usage.

        Yields:
            Each chunk as a dict in OpenAI's format.
        """
        chunks = aiter(self._stream)
        while True:
            reading = self._isolation.run(anext(chunks, None), streams=True, on_chunk=self._observe)
            chunk = await reading
            if self._refusal:
                refusal, self._refusal = self._refusal, ""
                yield {"choices": [{"delta": {"refusal": refusal}}]}
            for fields in self._fields or ():
                yield {"choices": [{"delta": fields}]}
            observed = _REASONING_FIELDS if self._fields is not None else ()
            if self._fields:
                self._fields = []
            if chunk is None:
                return
            data = response_dict(chunk)
            data.pop("usage", None)
            for choice in data.get("choices") or ():
                choice["finish_reason"] = None
                if isinstance(delta := choice.get("delta"), dict):
                    for name in ("refusal", *observed):  # `_observe` has read them.
                        delta.pop(name, None)
            yield data

    def _observe(self, chunk: Any) -> None:
        """Read from a chunk of the service what LiteLLM leaves out of its own."""
        if self._fields is None:
            self._fields = []
        for choice in getattr(chunk, "choices", None) or ():
            if fields := _reasoning_fields_of(getattr(choice, "delta", None)):
                self._fields.append(fields)
            self._refusal += getattr(getattr(choice, "delta", None), "refusal", None) or ""
            if getattr(choice, "finish_reason", None) or getattr(choice, "error", None):
                self._last_choice = choice.model_dump()

    def raise_reported_error(self, reader: ChatResponseReader) -> None:
        """Raise the error for the choice with which the service ended its response, if that says that it failed."""
        if self._last_choice is not None:
            reader.read_chunk({"choices": [{**self._last_choice, "delta": {}}]})
            reader.finish()

    def ending(self) -> dict[str, Any]:
        """A last chunk with the finish reason and the usage, each only if the service sent it."""
        result: dict[str, Any] = {"choices": []}
        for chunk in self._last_stream.chunks:
            data = response_dict(chunk)
            if usage := usage_in(data):
                result["usage"] = usage
            if choices := [choice for choice in data.get("choices") or () if choice.get("finish_reason")]:
                result |= {**data, "choices": [{"finish_reason": choices[0]["finish_reason"], "delta": {}}]}
        if self._last_choice is not None:
            result["choices"] = [{**self._last_choice, "delta": {}}]
        return result

    def has_only_ending(self) -> bool:
        """Whether there was at most one chunk, the ending.

        LiteLLM makes up a stream with nothing but an ending if the body of the response is not an event stream.
        """
        return len(self._last_stream.chunks) < 2

    async def close(self) -> None:
        """Close the stream's connection."""
        try:
            await self._stream.aclose()
        except Exception:
            pass  # The connection is not used again, so a failure to close it does not matter.


def response_dict(response: Any) -> dict[str, Any]:
    """A response or a chunk of LiteLLM's as a dict.

    If all token counts are zero, LiteLLM made them up, and they are removed.

    Raises:
        MalformedResponse: LiteLLM returned something that is not a response, or is nested too deeply.
    """
    if not hasattr(response, "model_dump"):
        raise MalformedResponse(f"LiteLLM returned {type(response).__name__} instead of a response.")
    data: dict[str, Any] = response.model_dump()
    if is_nested_too_deeply(data):
        raise MalformedResponse(f"The service sent JSON that is nested more than {MAX_JSON_DEPTH} levels deep.")
    usage = data.get("usage") or {}
    if not usage.get("prompt_tokens") and not usage.get("completion_tokens"):
        data["usage"] = None
    for choice in data.get("choices") or ():
        _restore_fields(choice, ("error",))
        _restore_fields(choice.get("message"), ("refusal", *_REASONING_FIELDS))
    return data


def _reasoning_fields_of(delta: Any) -> dict[str, Any]:
    """The fields of a delta in `_REASONING_FIELDS`. The delta is an object of the openai package or of LiteLLM."""
    declared, others = getattr(delta, "__dict__", None) or {}, getattr(delta, "model_extra", None) or {}
    return {
        name: value
        for name in _REASONING_FIELDS
        if (value := declared.get(name) if name in declared else others.get(name)) is not None
    }


def _restore_fields(part: Any, names: tuple[str, ...]) -> None:
    """Put fields back to their places in a choice or a message. LiteLLM collects those that it does not know."""
    collected = part.get("provider_specific_fields") if isinstance(part, dict) else None
    for name in names:
        if isinstance(collected, dict) and name in collected:
            part.setdefault(name, collected[name])
