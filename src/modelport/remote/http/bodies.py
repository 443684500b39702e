"""Reads the bodies of HTTP responses, within limits of size and time.

The rules:

- A body, or one event of a stream, may be at most 16 MiB after decompression. `responses.EventReader` enforces the
  limit for events. The limit is larger than any usual response, images and speech included. A stream may be at most
  1 GiB. Compressed bytes may decompress to nothing, so a body may be at most 16 MiB larger before decompression.
- JSON of more than 1 MiB may have at most 2^19 lists and objects, and 2^21 commas. A list without items takes 3 bytes
  of JSON and 64 bytes of memory, and parsers of JSON hold Python's global lock: a thread would not keep the event loop
  running (docs/decisions/067).
- modelport decompresses bodies itself, in pieces of 64 KiB. HTTP libraries decompress a chunk as a whole, and 64 KiB of
  gzip can hold 64 MiB. Between two pieces of one chunk, the event loop runs other tasks.
- Of an error response's body, at most 64 KiB are read, for at most 2 seconds. If the body is truncated or stalls, the
  part that arrived is used, and the HTTP status is still reported.
- A stream is read to the end of the HTTP response, which may come after the last event. Only then can its connection
  be used again. The wait for that end is at most 0.5 seconds, and errors during that wait are ignored, because all
  events have arrived.

Successful responses have no time limit here: the layer `retry` enforces the time limits of the caller.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping

from modelport.errors import MalformedResponse

#: The most bytes of a non-streaming response, or of one event of a stream, after decompression.
MAX_RESPONSE_SIZE = 2**24
#: The most bytes of a stream, after decompression.
MAX_STREAM_SIZE = 2**30
#: The most bytes of an error response's body that are read, and the most seconds for which they are read.
MAX_ERROR_BODY_SIZE, ERROR_BODY_TIMEOUT = 2**16, 2.0
#: The most seconds to wait for the end of the HTTP response after the last event of a stream.
DRAIN_TIMEOUT = 0.5
#: The header that asks for the compressions that `BodyDecoder` can read.
ACCEPT_ENCODING = "gzip, deflate"
#: The most bytes that are decompressed and passed on at a time.
_PIECE_SIZE = 2**16
#: JSON of at most this size is not examined before it is parsed.
_UNCHECKED_JSON_SIZE = 2**20
_MAX_CONTAINERS, _MAX_COMMAS = 2**19, 2**21


class BodyDecoder:
    """Decompresses one body in pieces of at most 64 KiB, within a limit of size. It does no I/O.

    Args:
        headers: The headers of the response.
        max_size: The most bytes of the body after decompression.
    """

    def __init__(self, headers: Mapping[str, str], max_size: int = MAX_RESPONSE_SIZE) -> None:
        self._encoding = (headers.get("Content-Encoding") or "identity").strip().lower()
        self._max_size, self._received, self._size = max_size, 0, 0
        #: The decompressor of zlib; `None` before the first bytes.
        self._inflater: zlib._Decompress | None = None

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the pieces that the next bytes of the body complete.

        Args:
            chunk: The next bytes, as they came over the network.

        Raises:
            MalformedResponse: The body is too large, or can't be decompressed.
        """
        self._received += len(chunk)
        if self._encoding == "identity":
            pieces = iter((chunk,)) if len(chunk) <= _PIECE_SIZE else _split(chunk)
        else:
            pieces = self._inflate(chunk)
        del chunk  # Otherwise a traceback with local variables would show an API key that the response repeats.
        for piece in pieces:
            self._size += len(piece)
            if self._size > self._max_size:
                del piece
                raise MalformedResponse(f"The service's response is larger than {self._max_size >> 20} MiB.")
            yield piece
        if self._received - self._size > MAX_RESPONSE_SIZE:
            raise MalformedResponse(
                f"The service's response is over {MAX_RESPONSE_SIZE >> 20} MiB larger than what it decompresses to."
            )

    def _inflate(self, chunk: bytes) -> Iterator[bytes]:
        if self._encoding not in ("gzip", "x-gzip", "deflate"):
            raise MalformedResponse(
                f"The service compressed its response with {self._encoding[:40]!r}, which modelport does not read; it "
                f"asks for {ACCEPT_ENCODING}."
            )
        try:
            while chunk:
                if self._inflater is None:
                    self._inflater = zlib.decompressobj(self._window_bits(chunk[0]))
                if piece := self._inflater.decompress(chunk, _PIECE_SIZE):
                    yield piece
                chunk = self._inflater.unconsumed_tail
                if self._inflater.eof:  # A body may consist of several compressed parts, one after the other.
                    chunk, self._inflater = self._inflater.unused_data, None
        except zlib.error as error:
            raise MalformedResponse(f"The service's response can't be decompressed ({error}).") from None

    def _window_bits(self, first_byte: int) -> int:
        """Return the argument by which zlib knows the format: gzip, zlib, or bare data, which some servers send."""
        if self._encoding != "deflate":
            return zlib.MAX_WBITS | 16
        return zlib.MAX_WBITS if first_byte & 15 == zlib.DEFLATED else -zlib.MAX_WBITS


def _split(chunk: bytes) -> Iterator[bytes]:
    return (chunk[start : start + _PIECE_SIZE] for start in range(0, len(chunk), _PIECE_SIZE))


class Pieces:
    """Iterates over the decompressed pieces of a body. Between those of one chunk, the event loop runs other tasks.

    This is no asynchronous generator, which would have to be closed.

    Args:
        chunks: The bytes of the body as they come over the network.
        decoder: The decoder of the body, which raises `MalformedResponse`.
    """

    def __init__(self, chunks: AsyncIterable[bytes], decoder: BodyDecoder) -> None:
        self._chunks, self._decoder = aiter(chunks), decoder
        #: The other pieces of the chunk whose first piece was returned.
        self._rest: Iterator[bytes] = iter(())

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._rest:
            import asyncio

            await asyncio.sleep(0)
            return piece
        while True:
            self._rest = self._decoder.decode(await anext(self._chunks))
            for piece in self._rest:
                return piece


async def read_body(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the body of a successful response.

    Args:
        pieces: The body, whose decoder limits its size.
    """
    body = io.BytesIO()
    async for piece in pieces:
        body.write(piece)
        del piece  # Otherwise a traceback with local variables would show an API key that the response repeats.
    return body.getvalue()


async def read_error_body(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the body of an error response, as far as it arrives.

    Args:
        pieces: The body.
    """
    import asyncio

    # Unlike bytes, a `BytesIO` has a `repr` without its content. The body may repeat an API key, which a traceback with
    # local variables would show.
    body = io.BytesIO()
    try:
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            async for piece in pieces:
                body.write(piece)
                del piece
                if body.tell() >= MAX_ERROR_BODY_SIZE:
                    break
    except Exception:
        pass  # Whatever interrupted the body, the status can be reported.
    return body.getvalue()[:MAX_ERROR_BODY_SIZE]


async def drain(pieces: AsyncIterator[bytes]) -> None:
    """Read a response to its end after its last event, so that its connection can be used again.

    Args:
        pieces: The rest of the body.
    """
    import asyncio

    try:
        async with asyncio.timeout(DRAIN_TIMEOUT):
            async for _ in pieces:
                pass
    except Exception:
        pass  # All events have arrived.


def check_json_size(data: bytes) -> None:
    """Check that JSON can be parsed in little memory and time. This takes a few milliseconds for 16 MiB.

    Args:
        data: The JSON. Brackets and commas inside its strings are counted too.

    Raises:
        MalformedResponse: The JSON has too many values.
    """
    if (size := len(data)) > _UNCHECKED_JSON_SIZE:
        counts = data.count(b"[") + data.count(b"{"), data.count(b",")
        del data  # Otherwise a traceback with local variables would show an API key in it.
        check_json_counts(size, *counts)


def check_json_counts(size: int, containers: int, commas: int) -> None:
    """Check the numbers that `check_json_size` counts.

    Args:
        size: The number of bytes.
        containers: The number of lists and objects.
        commas: The number of commas.

    Raises:
        MalformedResponse: The JSON has too many values.
    """
    if size > _UNCHECKED_JSON_SIZE and (containers > _MAX_CONTAINERS or commas > _MAX_COMMAS):
        raise MalformedResponse(
            f"The service sent JSON with {containers} lists and objects and {commas} commas; at most {_MAX_CONTAINERS} "
            f"and {_MAX_COMMAS} are read."
        )
