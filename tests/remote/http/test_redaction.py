"""No error, log, traceback, pickle or model shows a key, whatever fails and whatever a service quotes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import pickle
import socket
import threading
import time
from typing import Any

import pytest

from modelport import OpenAIServerModel
from modelport.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    StreamInterrupted,
)
from modelport.remote.http.redaction import redact, secrets_in
from tests.remote.http.models import KEY, LIMITS, MODELS_BY_KEY_PATH, TRANSPORTS, ask_and_close, model_for
from tests.remote.secret_leaks import text_of_error
from tests.servers.faults import Fault, FaultServer, sse

pytestmark = [pytest.mark.server, pytest.mark.timeout(60)]


def options_for(leak: str) -> dict[str, Any]:
    """Return the options of a call: a time limit where the server is silent."""
    return {"first_token_timeout": 0.5} if leak == "silence" else {}


def shown(error: BaseException) -> str:
    return text_of_error(error, __file__)


@pytest.mark.parametrize("body", ['{"error": {"message": "bad key %s"}}', '{"choices": "bad key %s"}'])
def test_escaped_key_in_error_is_redacted(server: FaultServer, transport: str, body: str) -> None:
    """PHP escapes a slash in JSON, and Go escapes a plus."""
    key = "sk-abc/def+0123456789"
    escaped = key.replace("/", "\\/").replace("+", "\\u002b")
    status = 401 if "error" in body else 200
    server.script(then=Fault.status(status, body=(body % escaped).encode()))
    with model_for(server.base_url, transport, api_key=key) as model, pytest.raises(ModelError) as caught:
        model.generate("hello")
    assert key not in str(caught.value) and "def+0123" not in str(caught.value)


QUOTE = f"Incorrect API key provided: {KEY}. You sent 'Bearer {KEY}'."


LEAKS: dict[str, Fault | None] = {
    "401": Fault.status(401, message=QUOTE),
    "400 in plain text": Fault.status(400, body=QUOTE.encode()),
    "429": Fault.status(429, message=QUOTE, headers={"Retry-After": "0"}),
    "500": Fault.status(500, message=QUOTE),
    "a detail": Fault.status(422, body=json.dumps({"detail": [{"msg": QUOTE}]}).encode()),
    "a redirect": Fault.status(307, headers={"Location": "http://elsewhere.example/"}),
    "an error in a 200": Fault.error_frame(message=QUOTE),
    "an error in another format": Fault(
        content=json.dumps({"message": QUOTE}).encode(), replaced_events={3: sse({"message": QUOTE})}, last_event=3
    ),
    "an event of type error": Fault(
        content=b"{}", replaced_events={3: b"event: error\n" + sse({"message": QUOTE})}, last_event=3
    ),
    "not JSON": Fault(content=QUOTE.encode(), replaced_events={3: sse(QUOTE)}),
    "not a chat completion": Fault(
        content=json.dumps({"choices": QUOTE, "error": None}).encode(), replaced_events={3: sse({"error": QUOTE})}
    ),
    "choices of text": Fault(
        content=json.dumps({"choices": QUOTE}).encode(), replaced_events={3: sse({"choices": QUOTE})}
    ),
    "choices in another format": Fault(
        content=json.dumps({"choices": [{"message": {"content": 5, "said": QUOTE}}]}).encode(),
        replaced_events={3: sse({"choices": [{"delta": {"content": 5, "said": QUOTE}}]})},
    ),
    "text alone": Fault(content=json.dumps(QUOTE).encode(), replaced_events={3: sse(json.dumps(QUOTE))}, last_event=3),
    "a reset": Fault.cut("reset"),
    "truncated": Fault.cut("close"),
    "a reset before headers": Fault.reset(),
    "silence": Fault.silence(2.0),  # A synchronous client of the caller waits for its end.
    "connection refused": None,
}


@pytest.mark.parametrize("key_path", ["azure", "azure-sdk", "azure-sdk v1"])
def test_token_that_arrives_at_timeout_is_not_shown(server: FaultServer, key_path: str) -> None:
    """The event loop is busy while the provider's thread ends and the time runs out, and sees both in one turn."""

    def slow_token() -> str:
        time.sleep(0.05)
        return KEY

    async def main() -> None:
        with MODELS_BY_KEY_PATH[key_path](server.base_url) as model:
            model.azure_ad_token_provider = slow_token  # type: ignore[attr-defined]
            asyncio.get_running_loop().call_later(0.02, time.sleep, 0.3)
            await model.agenerate("hello", first_token_timeout=0.1)

    for _ in range(3):
        with pytest.raises(DeadlineExceeded) as caught:
            asyncio.run(main())
        assert KEY not in shown(caught.value)


@pytest.mark.parametrize("way", ["sync", "streamed", "async"])
@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("key_path", MODELS_BY_KEY_PATH)
def test_failure_does_not_show_key(
    server: FaultServer, key_path: str, name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fault = LEAKS[name]
    if fault is None:
        server.stop_listening()
    else:
        server.script(then=fault)
    with MODELS_BY_KEY_PATH[key_path](server.base_url) as model:
        with pytest.raises(ModelError) as caught:
            ask_and_close(model, way, **options_for(name))
        assert KEY not in shown(caught.value)
        if isinstance(caught.value, StreamInterrupted):
            assert KEY not in repr(caught.value.partial)
        assert KEY not in repr([model, model._transport, vars(model._transport)])
        assert KEY not in pickle.dumps(caught.value).decode("latin-1")
    assert KEY not in caplog.text
    assert KEY not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("name", [name for name, fault in LEAKS.items() if fault is not None])
def test_traceback_does_not_show_key_of_query(server: FaultServer, transport: str, name: str) -> None:
    server.script(then=LEAKS[name])
    settings = {"default_query": {"code": "my-subscription"}, **LIMITS}
    with model_for(server.base_url, transport, **settings) as model, pytest.raises(ModelError) as caught:
        model.generate("hello", **options_for(name))
    assert "my-subscription" not in shown(caught.value)


KEY_WITH_SLASH = "sk-abc/def+ghi=0123456789"


@pytest.mark.parametrize(
    "body",
    [
        rb'{"error": {"message": "bad key sk-abc\/def+ghi=0123456789"}}',
        rb'{"error": {"message": "bad key sk-abc/def\u002Bghi\u003d0123456789"}}',
        rb'{"error": {"message": "it said {\"bad key\": \"sk-abc\\/def\\u002bghi=0123456789\"}"}}',
        rb'{"error": "bad key sk-abc\/def+ghi\u003d0123456789", and broken',
        rb"bad key sk-abc%2Fdef%2bghi%3D0123456789",
        rb"bad key sk-abc%252Fdef%252bghi%253D0123456789",
        rb"<html><title>bad key sk-abc&#x2F;def&#43;ghi&#x3d;0123456789</title>",
        rb"bad key sk-abc\x2fdef\053ghi\u{3D}0123456789",
        rb'{"error": {"message": "bad key sk-abc\/def+ghi=012345678',
        rb"bad key sk-abc/def+ghi\u003d012345678\u00",
    ],
)
@pytest.mark.parametrize("status", [401, 200])
def test_key_in_any_escape_is_redacted(server: FaultServer, transport: str, body: bytes, status: int) -> None:
    server.script(then=Fault.status(status, body=body))
    with model_for(server.base_url, transport, api_key=KEY_WITH_SLASH) as model, pytest.raises(ModelError) as caught:
        model.generate("hello")
    assert "012345678" not in shown(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"default_headers": {"X-Subscription": "my-subscription"}},
        {"default_headers": {"Cookie": "a=1; s=my-subscription"}},
        {"default_headers": {"Proxy-Authorization": "Basic " + base64.b64encode(b"me:my-subscription").decode()}},
        {"default_query": {"code": "my-subscription"}},
        {"extra_headers": {"X-Subscription": "my-subscription"}},
        {"extra_query": {"code": "my-subscription"}},
    ],
    ids=str,
)
def test_headers_and_query_of_caller_are_redacted(
    server: FaultServer, transport: str, settings: dict[str, Any]
) -> None:
    server.script(then=Fault.status(403, message="my-subscription is spent."))
    with model_for(server.base_url, transport, **settings) as model, pytest.raises(ModelError, match="is spent") as e:
        model.generate("hello")
    assert "my-subscription" not in str(e.value)


def test_word_of_header_that_holds_no_key_is_not_redacted(server: FaultServer) -> None:
    server.script([Fault.status(400, message="The playground is closed.")])
    with (
        model_for(server.base_url, default_headers={"X-Title": "My playground"}) as model,
        pytest.raises(InvalidRequest, match="The playground is closed"),
    ):
        model.generate("hello")


def test_response_that_is_not_http_shows_no_key(transport: str) -> None:
    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                request = client.recv(65536)
                client.sendall(b"220 mail.example ESMTP\r\n" + request + b"\r\n\r\n")
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with model_for(url, transport) as model, pytest.raises(ModelError) as caught:
            model.generate("hello")
        listener.shutdown(socket.SHUT_RDWR)
    assert KEY not in shown(caught.value)
    assert type(caught.value) in (MalformedResponse, ConnectionFailed)


def test_output_that_quotes_key_is_not_changed(server: FaultServer, transport: str) -> None:
    """Only texts that an error quotes are redacted."""
    server.script(then=Fault.ok(f"You sent me {KEY}.", piece=100))
    with model_for(server.base_url, transport) as model:
        assert model.generate("hello").content == f"You sent me {KEY}."
        assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == f"You sent me {KEY}."


@pytest.mark.parametrize("path", MODELS_BY_KEY_PATH)
@pytest.mark.parametrize("way", ["sync", "stream"])
def test_answer_is_not_searched_for_key(
    server: FaultServer, path: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search takes longer than the rest of a call."""
    searched: list[Any] = []
    monkeypatch.setattr("modelport.remote.http.redaction._redact", lambda value, secrets: searched.append(value))
    ask_and_close(MODELS_BY_KEY_PATH[path](server.base_url), way)
    assert searched == []


def test_model_does_not_show_key(server: FaultServer, transport: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    model = OpenAIServerModel("m", server.base_url, KEY, **TRANSPORTS[transport])
    with model:
        stream = model.generate_stream("hello")
        next(stream)
        assert KEY not in repr([model, stream, model.generate("hello"), vars(model)["api_key"]])
        stream.close()
        assert KEY not in pickle.dumps(model).decode("latin-1")
        assert KEY not in json.dumps(model.to_dict())
    assert KEY not in caplog.text


@pytest.mark.parametrize("end", ["\\u00", " & more", "%2", "…"])
def test_redaction_of_truncated_key_takes_linear_time(end: str) -> None:
    """The text contains an escape, and ends within the key: no pattern may try every combination of spellings."""
    secrets = secrets_in({"Authorization": "Bearer sk-" + "a1B2c3+/" * 20})
    text = f"100 % wrong key: {secrets[-1][:-1]}{end}"
    started = time.process_time()
    redact(text, secrets)
    assert time.process_time() - started < 1.0  # Backtracking over 160 characters would never end.


_LONG_KEY = "sk-proj-" + "abcdefghijklmnopqrstuvwxyz0123456789" * 3
_TOKEN = "eyJ0" + "aZbYcX09dWeVf-UgTh_SiRj" * 90


def _bodies_of_error(key: str) -> dict[str, Any]:
    """Return bodies of 64 KiB whose redaction once took seconds, or might take long."""
    begin, almost = key[:8], key[:-1]
    hexadecimal = "".join(f"%{ord(character):02x}" for character in almost)
    unicode = "".join(f"\\u{ord(character):04x}" for character in key)
    return {
        "percent signs": ["%"] * 16_000,
        "short keys": {str(i): "a" for i in range(5_000)},
        "beginnings": [f"{begin}%"] * 5_400,
        "one text of beginnings": begin * 8_192,
        "backslashes": "\\" * 65_536,
        "backslashes before beginnings": ("\\" * 9 + begin) * 3_800,
        "almost the key": f"{almost}\\" * (65_536 // len(key)),
        "almost the key in a URL": f"{hexadecimal}!" * (65_536 // (3 * len(key))),
        "the key in escapes": unicode * max(1, 65_536 // (6 * len(key))),
    }


@pytest.mark.parametrize("key", [_LONG_KEY, _TOKEN], ids=["key", "token"])
@pytest.mark.parametrize("name", _bodies_of_error(KEY))
def test_largest_error_body_is_redacted_quickly(key: str, name: str) -> None:
    """It is done on the event loop. The slowest of these takes 36 ms; the first once took 9 s."""
    secrets, body = secrets_in({"Authorization": f"Bearer {key}"}), _bodies_of_error(key)[name]
    started = time.thread_time()
    redacted = redact(body, secrets)
    assert time.thread_time() - started < 0.2
    assert key not in str(redacted)
    if name == "the key in escapes":
        assert set(redacted) == {"*"}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("abcd<\\1b-rest", r"abcd\x3C\134\x31b-rest"),
        ("abcdefgh{x}-rest", r"abcdefgh\x7bx}\x2drest"),
        ("abcdefgh}-rest", r"abcdefgh\x7d-rest"),
        ("abcdefgs}-rest", r"abcdefg\x73}-rest"),
        ("abcdefgh%25-rest", "abcdefgh%2525-rest"),
        ("abcdefgh&a-rest", "abcdefgh&amp;a-rest"),
        ("abcdefgh\\\\-rest", r"abcdefgh\\\\-rest"),
        ("abcabcabcabcd", r"abcabcabcabcabcabc\u0064"),
    ],
)
def test_key_of_characters_that_begin_escapes_is_redacted(key: str, text: str) -> None:
    """A text can be read in two ways, and only one of them is the key."""
    assert "rest" not in redact(text, [key]) and "***" in redact(text, [key])
