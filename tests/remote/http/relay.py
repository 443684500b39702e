"""A relay between a client and a server, which records what the server's own HTTP parser may hide."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest


class Relay:
    """Passes bytes on to a server and records them: as a plain relay, as a proxy (also CONNECT), or as the end of TLS.

    Args:
        upstream: The port of the server on this machine.
        tls: The context with which the relay accepts TLS connections.

    Attributes:
        heads: The heads of the requests as they arrived, CONNECT included.
        port: The port of the relay.
        url: The address of the relay.
    """

    def __init__(self, upstream: int, tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[str] = []
        self._upstream, self._tls = upstream, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connected in self._sockets:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            connected.close()

    def headers(self, number: int = 0) -> dict[str, list[str]]:
        """Return the values of every header of a request, by name in lower case."""
        result: dict[str, list[str]] = {}
        for line in self.heads[number].split("\r\n")[1:]:
            name, _, value = line.partition(":")
            result.setdefault(name.lower(), []).append(value.strip())
        return result

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._sockets.append(client)
        with contextlib.suppress(OSError):
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            data = b""
            while b"\r\n\r\n" not in data:
                if not (piece := client.recv(65536)):
                    return client.close()
                data += piece
            head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
            port = self._upstream
            if head.startswith("CONNECT"):
                self.heads.append(head)
                port = int(head.split()[1].rpartition(":")[2])
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                data = b""
            upstream = socket.create_connection(("127.0.0.1", port))
            self._sockets.append(upstream)
            threading.Thread(target=_pass_on, args=(upstream, client), daemon=True).start()
            if not head.startswith("CONNECT"):
                data = self._record(data)
            upstream.sendall(data)
            _pass_on(client, upstream, record=None if head.startswith("CONNECT") else self._record)

    def _record(self, data: bytes) -> bytes:
        head, _, _ = data.partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            self.heads.append(head.decode("latin-1"))
        return data


def _pass_on(source: socket.socket, target: socket.socket, record: Callable[[bytes], bytes] | None = None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(record(data) if record else data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate, alone in its folder, and also under the name of its hash.

    The key is in the file `server.key` of the folder above.
    """
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "server.pem"
    key = folder.parent / "server.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", path], check=True, capture_output=True)
    digest = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", path], check=True, capture_output=True)
    (folder / f"{digest.stdout.decode().strip()}.0").write_text(path.read_text())
    return path
