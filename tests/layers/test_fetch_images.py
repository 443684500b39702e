"""Images by URL: fetched if the backend needs bytes, within limits, and never from private addresses by default."""

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
from modelport.layers.adapt import fetch_images
from modelport.layers.adapt.fetch_images import fetch_image, is_public
from tests.remote.matrix_runner import BOTO, CLAUDE, KEY
from tests.servers.bedrock import BedrockServer

_made = io.BytesIO()
Pillow.new("RGB", (3, 3), "red").save(_made, "PNG")
PNG = _made.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        path, _, query = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", unquote(query, "latin-1"))  # Latin-1 keeps the bytes of the URL.
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
                self.server.disconnected.set()  # type: ignore[attr-defined]
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
    server.paths, server.disconnected = [], threading.Event()  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(url: str, **more: Any) -> Any:
    return asyncio.run(fetch_image(url, **{"allow_private": True, **more}))


@pytest.mark.parametrize("path", ["/cat.png?signature=1", "/to?/cat.png", "/to?/to?/cat.png"])
def test_fetch_image_follows_redirects(site: Any, path: str) -> None:
    image = fetch(site.url + path)
    assert (image.data, image.media_type, image.url) == (PNG, "image/png", None)


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/page", InvalidRequest, "did not return a PNG"),
        ("/missing", InvalidRequest, "HTTP 404"),
        ("/to?file:///etc/passwd", InvalidRequest, "http or https"),
        ("/to?ftp://127.0.0.1/a", InvalidRequest, "http or https"),
        ("/to?/to?/to?/to?/to?/cat.png", InvalidRequest, "redirects more"),
    ],
)
def test_fetch_image_refuses_a_response_that_is_not_an_image(
    site: Any, path: str, kind: type[ModelError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        fetch(site.url + path)


def test_fetch_image_limits_size_and_time(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_images, "MAX_BYTES", 2**20)
    with pytest.raises(InvalidRequest, match="larger than 1 MiB"):
        fetch(site.url + "/endless")
    assert site.disconnected.wait(5.0)  # The client has not read the response to its end.
    with pytest.raises(ConnectionFailed, match=r"within 0\.2 s"):
        fetch(site.url + "/slow", timeout=0.2)


PRIVATE = [
    "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://0.0.0.0:{port}/", "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/", "http://2130706433:{port}/", "http://0x7f.1:{port}/", "http://127.1:{port}/",
    "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.0.1/",
    "http://100.64.0.1/", "http://[fd00::1]/", "http://[fe80::1]/", "http://224.0.0.1/", "http://255.255.255.255/",
    "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://user:password@example.com/",
    # yarl translates these to addresses, by IDNA. `urlsplit` reads them as names.
    "http://１２７.０.０.１:{port}/", "http://127。0。0。1:{port}/", "http://①②⑦.⓪.⓪.①:{port}/", "http://[::127.0.0.1]:{port}/",
    "http://0177.0.0.1:{port}/", "http://127.0.0.01:{port}/", "http://0:{port}/", "http://[fe80::1%25lo]:{port}/",
    "http://127.0.0.1:{port}\\@8.8.8.8/", "http://8.8.8.8\\@127.0.0.1:{port}/",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_fetch_image_refuses_private_addresses(site: Any, url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fetch(url.format(port=site.server_port), allow_private=False)
    assert site.paths == [] and "password" not in str(caught.value).replace("a password", "")


def test_is_public_looks_into_contained_addresses() -> None:
    for text in ("8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "2002:808:808::"):
        assert is_public(ipaddress.ip_address(text)), text
    for text in (
        "::127.0.0.1", "fec0::1", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "3fff::1", "5f00::1", "100:0:0:1::1",
        "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1:1:1:1:80ff:fffe", "2001:db8::1", "2001:10::1",
        "fe80::1%lo", "ff02::1", "192.0.0.8", "192.88.99.1", "4000::1", "100.64.0.1", "198.18.0.1", "224.0.0.1",
    ):  # fmt: skip
        assert not is_public(ipaddress.ip_address(text)), text


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make 127.0.0.1 count as public. 127.0.0.2 stays private."""
    original = is_public
    monkeypatch.setattr(fetch_images, "is_public", lambda a: a == ipaddress.ip_address("127.0.0.1") or original(a))


def test_fetch_image_refuses_a_redirect_to_a_private_address(site: Any, public_loopback: None) -> None:
    assert fetch(site.url + "/cat.png", allow_private=False).data == PNG
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.2"):
        fetch(f"{site.url}/to?http://127.0.0.2:{site.server_port}/cat.png", allow_private=False)
    assert site.paths == ["/cat.png", f"/to?http://127.0.0.2:{site.server_port}/cat.png"]


def test_fetch_image_checks_the_host_of_a_redirect_as_it_is_connected_to(site: Any, public_loopback: None) -> None:
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.2 is not a public"):
        fetch(f"{site.url}/to?http://127。0。0。2:{site.server_port}/cat.png", allow_private=False)
    assert len(site.paths) == 1


def test_request_to_a_private_address_is_refused_though_its_url_was_accepted(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the second check; the first is disabled here."""
    monkeypatch.setattr(fetch_images, "_check_url", lambda url, location, allow_private: url)
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.1 is not a public"):
        fetch(site.url + "/cat.png", allow_private=False)
    assert site.paths == [] and fetch(site.url + "/cat.png").data == PNG


@pytest.mark.parametrize("url", [
    "http://a..b/x", f"http://{'a' * 70}.com/x", "http://../x", "http://[bad/x", "http://h:port/x", "http://xn--/x",
    "http://\ud800/x", "https:///x", "http:x", "//h/x",
])  # fmt: skip
def test_fetch_image_refuses_an_invalid_url(site: Any, url: str) -> None:
    for given in (url, f"{site.url}/to?{url}") if url.isascii() and "//" in url and url != "//h/x" else (url,):
        with pytest.raises((InvalidRequest, ConnectionFailed)) as caught:
            fetch(given)
        assert isinstance(caught.value, InvalidRequest) or "xn--" in url  # Some versions of yarl accept it.


@pytest.mark.parametrize(
    "path", ["/cat.png", "/missing", "/page", "/to?http://[bad", "/slow", "/to?http://127.0.0.1:1/"]
)
def test_traceback_with_locals_does_not_show_the_signature(site: Any, path: str) -> None:
    url = f"{site.url}{path}{'&' if '?' in path else '?'}sig=S1GNATURE"
    with pytest.raises(ModelError) as caught:
        fetch(url, allow_private=path != "/cat.png", timeout=0.3)
    error: BaseException | None = caught.value
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename == fetch_images.__file__ or "aiohttp" in frame.f_code.co_filename:
                assert "S1GNATURE" not in repr(frame.f_locals), frame
        error = error.__cause__ or error.__context__
    assert "S1GNATURE" not in str(caught.value)


def test_fetch_image_connects_to_the_address_that_was_checked(
    site: Any, public_loopback: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is looked up once, because a name server may return another address the second time."""
    lookups: list[str] = []

    def lookup(host: str, port: int, *rest: Any) -> Any:
        lookups.append(host)
        address = "127.0.0.1" if len(lookups) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert fetch(f"http://rebinding.example:{site.server_port}/cat.png", allow_private=False).data == PNG
    with pytest.raises(InvalidRequest, match=r"rebinding\.example is not a public"):
        fetch(f"http://rebinding.example:{site.server_port}/cat.png", allow_private=False)
    assert (len(lookups), len(site.paths)) == (2, 1)


class ImageModel(Model):
    declared_capabilities = Capabilities(inputs=frozenset({"text", "image"}))

    async def deltas(self, request: Any) -> Any:
        from modelport import ChatMessageStreamDelta

        parts = [part for message in request.messages for part in message.content]
        text = ",".join(f"{part.media_type}:{len(part.data)}:{part.detail}" for part in parts if part.kind == "image")
        yield ChatMessageStreamDelta(text, finish_reason="stop")


def conversation(url: str) -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image, image]}]


@pytest.mark.parametrize("method", ["generate", "generate_stream", "agenerate"])
def test_backend_without_image_urls_receives_bytes(site: Any, method: str) -> None:
    model, messages = ImageModel(allow_private_urls=True), conversation(site.url + "/cat.png")
    if method == "generate":
        message: ChatMessage = model.generate(messages)
    elif method == "agenerate":
        message = asyncio.run(model.agenerate(messages))
    else:
        stream = model.generate_stream(messages)
        list(stream)
        message = stream.message
    assert message.text == f"image/png:{len(PNG)}:low,image/png:{len(PNG)}:low"
    assert site.paths == ["/cat.png"]  # Each URL is fetched once.
    assert messages == conversation(site.url + "/cat.png")


def test_model_refuses_private_addresses_by_default_without_showing_the_url(site: Any) -> None:
    with pytest.raises(InvalidRequest, match="allow_private_urls=True") as caught:
        ImageModel().generate(conversation(site.url + "/cat.png?signature=SECRET"))
    assert site.paths == [] and "SECRET" not in str(caught.value) and "['content'][1]" in str(caught.value)
    assert caught.value.__context__ is None


def test_timeout_of_a_call_includes_its_images(site: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": ""}}
    content = [{**image, "image_url": {"url": f"{site.url}/late?{i}"}} for i in range(5)]
    with pytest.raises(DeadlineExceeded, match=r"timeout=1 s ran out before messages\[0\]\['content'\]\[2\]") as caught:
        ImageModel(allow_private_urls=True, timeout=1.0).generate([{"role": "user", "content": content}])
    assert len(site.paths) == 3 and not caught.value.retryable
    assert caught.value.__context__ is None and "?2" not in str(caught.value)
    model = ImageModel(allow_private_urls=True, timeout=None)
    assert model.generate([{"role": "user", "content": content[:2]}]).text.count("image/png") == 2


def test_cancelled_call_stops_the_fetch(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_images, "MAX_BYTES", 2**40)  # So the fetch never ends because of the limit.

    async def call_and_cancel() -> None:
        model = ImageModel(allow_private_urls=True)
        task = asyncio.create_task(model.agenerate(conversation(site.url + "/endless")))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(call_and_cancel())
    assert site.disconnected.wait(5.0)


def test_bedrock_receives_bytes(site: Any) -> None:
    settings: dict[str, Any] = {**BOTO, "allow_private_urls": True}
    with (
        BedrockServer(api_key=KEY) as server,
        AmazonBedrockServerModel(CLAUDE, api_base=server.url, **settings) as model,
    ):
        model.generate(conversation(site.url + "/cat.png"))
        blocks = server.accepted[-1]["messages"][0]["content"]
        assert [block["image"]["source"]["bytes"] for block in blocks if "image" in block] == [PNG, PNG]
