"""Reads LiteLLM's responses and streams as the service sent them.

LiteLLM makes up a finish reason if a stream was interrupted, and token counts if the service sent none. Therefore
`ResponseStream` removes both from the chunks that LiteLLM yields. After the last chunk, it reads them from the
attribute `chunks` of LiteLLM's stream object, which holds what the service sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from modelport.errors import MalformedResponse
from modelport.protocols.chat_completions.stream_quirks import usage_in
from modelport.remote.litellm.isolation import ClientIsolation


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
            self._last_stream = response
            self._follow_fallbacks(response)
            return adopt(response, *rest)

        stream.adopt_fallback_response_headers = adopt_and_follow

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks that LiteLLM yields, without finish reason and usage.

        Yields:
            Each chunk as a dict in OpenAI's format.
        """
        chunks = aiter(self._stream)
        while (chunk := await self._isolation.run(anext(chunks, None), streams=True)) is not None:
            data = response_dict(chunk)
            data.pop("usage", None)
            for choice in data.get("choices") or ():
                choice["finish_reason"] = None
            yield data

    def ending(self) -> dict[str, Any]:
        """A last chunk with the finish reason and the usage, each only if the service sent it."""
        result: dict[str, Any] = {"choices": []}
        for chunk in self._last_stream.chunks:
            data = response_dict(chunk)
            if usage := usage_in(data):
                result["usage"] = usage
            if choices := [choice for choice in data.get("choices") or () if choice.get("finish_reason")]:
                result |= {**data, "choices": [{"finish_reason": choices[0]["finish_reason"], "delta": {}}]}
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
        MalformedResponse: LiteLLM returned something that is not a response.
    """
    if not hasattr(response, "model_dump"):
        raise MalformedResponse(f"LiteLLM returned {type(response).__name__} instead of a response.")
    data: dict[str, Any] = response.model_dump()
    usage = data.get("usage") or {}
    if not usage.get("prompt_tokens") and not usage.get("completion_tokens"):
        data["usage"] = None
    return data
