"""Reads the bodies of responses that boto3 receives, within the limits of `modelport.remote.http.bodies`.

boto3 reads a body to its end, whatever its size, and loses the status of an error response whose body is truncated,
broken or stalled. `BoundedSession` stands between the client and its HTTP session. It asks the session for responses
whose bodies have not been read, and reads them itself:

- A successful response is read up to 16 MiB, and its JSON may have only so many values.
- The body of an error response is read as far as it arrives, up to 64 KiB and for two seconds.
- The events of a stream are passed on one by one. An event may have 16 MiB, like those of other services.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

from modelport.errors import MalformedResponse
from modelport.remote.bedrock.interruption import current_call
from modelport.remote.http import bodies

#: The bytes at the beginning of an event that announce its length.
_PRELUDE_SIZE = 12


class BoundedSession:
    """An HTTP session of botocore whose responses have bodies of bounded size. All else is that of the session.

    Args:
        session: The session of a client.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def send(self, request: Any) -> Any:
        """Send a request, and return its response. Only the body of a stream has not been read."""
        is_stream, request.stream_output = request.stream_output, True
        response, call = self._session.send(request), current_call.get()
        request.stream_output = is_stream
        raw = response.raw
        if call is not None and not call.has_socket:  # The caller's own client does not attach its socket.
            call.attach(getattr(getattr(raw, "_connection", None), "sock", None))
        if response.status_code >= 300:
            if call is not None:
                call.limit_reads(bodies.ERROR_BODY_TIMEOUT)
            response.raw = _Body(_read_error_body(raw, response.headers))
        elif is_stream:
            response.raw = _EventBody(raw)
        else:
            response.raw = _Body(_read_body(raw, request, response.headers))
        return response


def _read_body(raw: Any, request: Any, headers: Any) -> bytes:
    """Return the body of a successful response.

    Raises:
        MalformedResponse: The body is too large.
        botocore.exceptions.HTTPClientError: The body did not arrive. The class is that which botocore would raise,
            because a client's own retries depend on it.
    """
    import botocore.exceptions as boto
    import urllib3.exceptions as http

    body, decoder = io.BytesIO(), bodies.BodyDecoder(headers)
    try:
        for chunk in raw.stream():
            for piece in decoder.decode(chunk):
                body.write(piece)
    except MalformedResponse:
        raw.close()
        raise
    except http.ReadTimeoutError as error:
        raise boto.ReadTimeoutError(endpoint_url=request.url, error=error) from error
    except http.ProtocolError as error:
        raise boto.ConnectionClosedError(error=error, request=request, endpoint_url=request.url) from error
    except Exception as error:
        raise boto.HTTPClientError(error=error) from error
    bodies.check_json_size(body.getvalue())
    return body.getvalue()


def _read_error_body(raw: Any, headers: Any) -> bytes:
    """Return as much of the body of an error response as arrives in time."""
    body, decoder = io.BytesIO(), bodies.BodyDecoder(headers)
    deadline = time.monotonic() + bodies.ERROR_BODY_TIMEOUT
    try:
        for chunk in raw.stream(1):  # If a larger read fails, the bytes that it has received are lost.
            for piece in decoder.decode(chunk):
                body.write(piece)
            if body.tell() >= bodies.MAX_ERROR_BODY_SIZE or time.monotonic() > deadline:
                break
    except Exception:
        pass  # The status and the bytes that have arrived are used, whatever broke the body.
    if body.tell() >= bodies.MAX_ERROR_BODY_SIZE or not getattr(raw, "closed", False):
        raw.close()
    return body.getvalue()[: bodies.MAX_ERROR_BODY_SIZE]


class _Body:
    """A body that has been read, as botocore reads bodies."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._body

    def close(self) -> None:
        """Do nothing: the connection has been released."""


class _EventBody:
    """The body of a stream of events, as botocore reads it. The pieces are those that botocore can parse at once."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """Yield the prelude of each event, and then the rest of the event.

        Raises:
            MalformedResponse: An event, or the stream, is too large.
        """
        received, size = bytearray(), 0
        needed = _PRELUDE_SIZE
        is_prelude = True
        for chunk in self._raw.stream():
            received += chunk
            size += len(chunk)
            if size > bodies.MAX_STREAM_SIZE:
                raise MalformedResponse(f"The service's stream is larger than {bodies.MAX_STREAM_SIZE >> 20} MiB.")
            while len(received) >= needed:
                part = bytes(received[:needed])
                del received[:needed]
                if not is_prelude:
                    bodies.check_json_size(part)
                yield part  # If the prelude is damaged, botocore raises now, and does not wait for the event's end.
                is_prelude = not is_prelude
                needed = _PRELUDE_SIZE if is_prelude else _length_after_prelude(part)
        if received:
            yield bytes(received)


def _length_after_prelude(prelude: bytes) -> int:
    length = int.from_bytes(prelude[:4])
    if length > bodies.MAX_RESPONSE_SIZE:
        raise MalformedResponse(
            f"An event of the service's stream is larger than {bodies.MAX_RESPONSE_SIZE >> 20} MiB."
        )
    return max(0, length - _PRELUDE_SIZE)
