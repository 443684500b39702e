"""Images by URL: fetched where the backend needs bytes, within limits, and never from where callers must not reach."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image as Pillow

from modelport import AmazonBedrockServerModel, Capabilities, ChatMessage, Model
from modelport.errors import ConnectionFailed, DeadlineExceeded, InvalidRequest, ModelError
from modelport.layers.adapt import fetch_images as fetching
from modelport.layers.adapt.fetch_images import fetch_image, is_public
from tests.remote.playing import BOTO, CLAUDE, KEY
from tests.servers.bedrock import BedrockServer

_made = io.BytesIO()
Pillow.new("RGB", (3, 3), "red").save(_made, "PNG")
PNG = _made.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        path, _, query = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", unquote(query, "latin-1"))  # the bytes as they are asked for
            self.end_headers()
        elif path == "/slow":
            time.sleep(1.0)
        elif path == "/missing":
            self.send_error(404)
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"\x89PNG\r\n\x1a\n" * 4096)
            except OSError:
                self.server.left.set()  # type: ignore[attr-defined]
        else:
            if path == "/late":
                time.sleep(0.4)
            body = b"<html>" if path == "/page" else PNG
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Any]:
    server = ThreadingHTTPServer(("0.0.0.0", 0), _Handler)
    server.seen, server.left = [], threading.Event()  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(url: str, **more: Any) -> Any:
    return asyncio.run(fetch_image(url, **{"allow_private": True, **more}))


@pytest.mark.parametrize("path", ["/cat.png?signature=1", "/to?/cat.png", "/to?/to?/cat.png"])
def test_an_image_is_fetched(site: Any, path: str) -> None:
    image = fetch(site.url + path)
    assert (image.data, image.media_type, image.url) == (PNG, "image/png", None)


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/page", InvalidRequest, "no PNG"),
        ("/missing", InvalidRequest, "HTTP 404"),
        ("/to?file:///etc/passwd", InvalidRequest, "http or https"),
        ("/to?ftp://127.0.0.1/a", InvalidRequest, "http or https"),
        ("/to?/to?/to?/to?/to?/cat.png", InvalidRequest, "redirects more"),
    ],
)
def test_what_is_no_image(site: Any, path: str, kind: type[ModelError], text: str) -> None:
    with pytest.raises(kind, match=text):
        fetch(site.url + path)


def test_limits(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 2**20)
    with pytest.raises(InvalidRequest, match="larger than 1 MiB"):
        fetch(site.url + "/endless")
    assert site.left.wait(5.0)  # it was not read to its end
    with pytest.raises(ConnectionFailed, match=r"within 0\.2 s"):
        fetch(site.url + "/slow", timeout=0.2)


PRIVATE = [
    "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://0.0.0.0:{port}/", "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/", "http://2130706433:{port}/", "http://0x7f.1:{port}/", "http://127.1:{port}/",
    "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.0.1/",
    "http://100.64.0.1/", "http://[fd00::1]/", "http://[fe80::1]/", "http://224.0.0.1/", "http://255.255.255.255/",
    "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://user:password@example.com/",
    # What yarl makes an address of, after IDNA; to `urlsplit` these are names.
    "http://１２７.０.０.１:{port}/", "http://127。0。0。1:{port}/", "http://①②⑦.⓪.⓪.①:{port}/", "http://[::127.0.0.1]:{port}/",
    "http://0177.0.0.1:{port}/", "http://127.0.0.01:{port}/", "http://0:{port}/", "http://[fe80::1%25lo]:{port}/",
    "http://127.0.0.1:{port}\\@8.8.8.8/", "http://8.8.8.8\\@127.0.0.1:{port}/",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_are_refused(site: Any, url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fetch(url.format(port=site.server_port), allow_private=False)
    assert site.seen == [] and "password" not in str(caught.value).replace("a password", "")


def test_what_is_public() -> None:
    for text in ("8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "2002:808:808::"):
        assert is_public(ipaddress.ip_address(text)), text
    for text in (
        "::127.0.0.1", "fec0::1", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "3fff::1", "5f00::1", "100:0:0:1::1",
        "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1:1:1:1:80ff:fffe", "2001:db8::1", "2001:10::1",
        "fe80::1%lo", "ff02::1", "192.0.0.8", "192.88.99.1", "4000::1", "100.64.0.1", "198.18.0.1", "224.0.0.1",
    ):  # fmt: skip
        assert not is_public(ipaddress.ip_address(text)), text


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for the internet; 127.0.0.2 stays private."""
    real = is_public
    monkeypatch.setattr(fetching, "is_public", lambda a: a == ipaddress.ip_address("127.0.0.1") or real(a))


def test_a_redirect_to_a_private_address_is_refused(site: Any, half: None) -> None:
    assert fetch(site.url + "/cat.png", allow_private=False).data == PNG
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.2"):
        fetch(f"{site.url}/to?http://127.0.0.2:{site.server_port}/cat.png", allow_private=False)
    assert site.seen == ["/cat.png", f"/to?http://127.0.0.2:{site.server_port}/cat.png"]


def test_a_redirect_is_read_as_it_is_connected_to(site: Any, half: None) -> None:
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.2 is no public"):
        fetch(f"{site.url}/to?http://127。0。0。2:{site.server_port}/cat.png", allow_private=False)
    assert len(site.seen) == 1


def test_nothing_is_sent_to_a_private_address_however_it_was_reached(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second guard, with the first one broken."""
    monkeypatch.setattr(fetching, "_checked", lambda url, place, allow_private: url)
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.1 is no public"):
        fetch(site.url + "/cat.png", allow_private=False)
    assert site.seen == [] and fetch(site.url + "/cat.png").data == PNG


@pytest.mark.parametrize("url", [
    "http://a..b/x", f"http://{'a' * 70}.com/x", "http://../x", "http://[bad/x", "http://h:port/x", "http://xn--/x",
    "http://\ud800/x", "https:///x", "http:x", "//h/x",
])  # fmt: skip
def test_a_url_that_is_none_is_an_invalid_request(site: Any, url: str) -> None:
    for given in (url, f"{site.url}/to?{url}") if url.isascii() and "//" in url and url != "//h/x" else (url,):
        with pytest.raises((InvalidRequest, ConnectionFailed)) as caught:
            fetch(given)
        assert isinstance(caught.value, InvalidRequest) or "xn--" in url  # which some versions of yarl take


@pytest.mark.parametrize(
    "path", ["/cat.png", "/missing", "/page", "/to?http://[bad", "/slow", "/to?http://127.0.0.1:1/"]
)
def test_no_signature_in_a_traceback_with_locals(site: Any, path: str) -> None:
    url = f"{site.url}{path}{'&' if '?' in path else '?'}sig=S1GNATURE"
    with pytest.raises(ModelError) as caught:
        fetch(url, allow_private=path != "/cat.png", timeout=0.3)
    error: BaseException | None = caught.value
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename == fetching.__file__ or "aiohttp" in frame.f_code.co_filename:
                assert "S1GNATURE" not in repr(frame.f_locals), frame
        error = error.__cause__ or error.__context__
    assert "S1GNATURE" not in str(caught.value)


def test_the_address_that_was_checked_is_connected_to(site: Any, half: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that gives another address the second time is asked once."""
    asked: list[str] = []

    def lookup(host: str, port: int, *rest: Any) -> Any:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert fetch(f"http://rebinding.example:{site.server_port}/cat.png", allow_private=False).data == PNG
    with pytest.raises(InvalidRequest, match=r"rebinding\.example is no public"):
        fetch(f"http://rebinding.example:{site.server_port}/cat.png", allow_private=False)
    assert (len(asked), len(site.seen)) == (2, 1)


class _Sees(Model):
    declared_capabilities = Capabilities(inputs=frozenset({"text", "image"}))

    async def deltas(self, request: Any) -> Any:
        from modelport import ChatMessageStreamDelta

        parts = [part for message in request.messages for part in message.content]
        text = ",".join(f"{part.media_type}:{len(part.data)}:{part.detail}" for part in parts if part.kind == "image")
        yield ChatMessageStreamDelta(text, finish_reason="stop")


def conversation(url: str) -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image, image]}]


@pytest.mark.parametrize("way", ["sync", "streamed", "async"])
def test_a_backend_that_needs_bytes_gets_them(site: Any, way: str) -> None:
    model, messages = _Sees(allow_private_urls=True), conversation(site.url + "/cat.png")
    if way == "sync":
        answer: ChatMessage = model.generate(messages)
    elif way == "async":
        answer = asyncio.run(model.agenerate(messages))
    else:
        stream = model.generate_stream(messages)
        list(stream)
        answer = stream.message
    assert answer.text == f"image/png:{len(PNG)}:low,image/png:{len(PNG)}:low"
    assert site.seen == ["/cat.png"]  # each URL once
    assert messages == conversation(site.url + "/cat.png")


def test_by_default_no_private_address_and_no_signature_shows(site: Any) -> None:
    with pytest.raises(InvalidRequest, match="allow_private_urls=True") as caught:
        _Sees().generate(conversation(site.url + "/cat.png?signature=SECRET"))
    assert site.seen == [] and "SECRET" not in str(caught.value) and "['content'][1]" in str(caught.value)
    assert caught.value.__context__ is None


def test_the_calls_time_is_that_of_its_images_too(site: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": ""}}
    content = [{**image, "image_url": {"url": f"{site.url}/late?{i}"}} for i in range(5)]
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"timeout=1 s ran out before messages\[0\]\['content'\]\[2\]") as caught:
        _Sees(allow_private_urls=True, timeout=1.0).generate([{"role": "user", "content": content}])
    assert time.monotonic() - begin < 1.8 and len(site.seen) == 3 and not caught.value.retryable
    assert caught.value.__context__ is None and "?2" not in str(caught.value)
    model = _Sees(allow_private_urls=True, timeout=None)
    assert model.generate([{"role": "user", "content": content[:2]}]).text.count("image/png") == 2


def test_one_who_leaves_stops_the_fetch(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 2**40)  # so that it is never the limit that ends it

    async def leave() -> None:
        model = _Sees(allow_private_urls=True)
        task = asyncio.create_task(model.agenerate(conversation(site.url + "/endless")))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert site.left.wait(5.0)


def test_bedrock_gets_the_bytes(site: Any) -> None:
    settings: dict[str, Any] = {**BOTO, "allow_private_urls": True}
    with (
        BedrockServer(api_key=KEY) as server,
        AmazonBedrockServerModel(CLAUDE, api_base=server.url, **settings) as model,
    ):
        model.generate(conversation(site.url + "/cat.png"))
        blocks = server.accepted[-1]["messages"][0]["content"]
        assert [block["image"]["source"]["bytes"] for block in blocks if "image" in block] == [PNG, PNG]
