"""Reads LiteLLM's responses and streams as the service sent them.

LiteLLM makes up a finish reason for a stream that was interrupted, and token counts where the service sent none. The
chunks that LiteLLM emits are therefore stripped of both; finish reason and usage are read at the end from the service's
own chunks, which LiteLLM's stream object keeps in `chunks`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from modelport.errors import MalformedResponse
from modelport.remote.litellm.isolation import ClientIsolation


class ResponseStream:
    """A stream of LiteLLM's, without the finish reason and the counts that LiteLLM makes up.

    Args:
        stream: A `CustomStreamWrapper` of LiteLLM's.
        isolation: The clients for services that LiteLLM calls with the first chunk, or when the Router falls back.
    """

    def __init__(self, stream: Any, isolation: ClientIsolation) -> None:
        self._stream = self._source = stream
        self._isolation = isolation
        self._follow_fallbacks(stream)

    def _follow_fallbacks(self, stream: Any) -> None:
        """Makes the stream of another deployment the source of the ending when the Router falls back to it."""
        adopt = getattr(stream, "adopt_fallback_response_headers", None)
        if adopt is None:
            return

        def adopt_and_follow(response: Any, *rest: Any) -> Any:
            self._source = response
            self._follow_fallbacks(response)
            return adopt(response, *rest)

        stream.adopt_fallback_response_headers = adopt_and_follow

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks, without finish reason and usage.

        Yields:
            Each chunk as a dict in OpenAI's format.
        """
        chunks = aiter(self._stream)
        while (chunk := await self._isolation.run(anext(chunks, None))) is not None:
            data = response_dict(chunk)
            data.pop("usage", None)
            for choice in data.get("choices") or ():
                choice["finish_reason"] = None
            yield data

    def ending(self) -> dict[str, Any]:
        """A last chunk, with the finish reason and the usage that the service sent, if it sent any."""
        result: dict[str, Any] = {"choices": []}
        for chunk in self._source.chunks:
            data = response_dict(chunk)
            if usage := data.get("usage"):
                result["usage"] = usage
            if choices := [choice for choice in data.get("choices") or () if choice.get("finish_reason")]:
                result |= {**data, "choices": [{"finish_reason": choices[0]["finish_reason"], "delta": {}}]}
        return result

    def has_only_ending(self) -> bool:
        """Whether nothing came before the ending, which is what LiteLLM makes of a body that is not a stream."""
        return len(self._source.chunks) < 2

    async def close(self) -> None:
        """Closes the stream's connection."""
        try:
            await self._stream.aclose()
        except Exception:
            pass  # The connection is not used again, so a failure to close it does not matter.


def response_dict(response: Any) -> dict[str, Any]:
    """A response or a chunk of LiteLLM's as a dict, without token counts that are all zero, which LiteLLM made up.

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
