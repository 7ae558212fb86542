"""An S3 server on this machine (moto's, in its own process), behind a proxy that fails when a test asks for it."""

import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SECONDS_TO_START = 60.0
PAGE = 5  # objects per listing, so that a few are several pages

Fault = Callable[[str, str], "tuple[int, str] | str | None"]
"""From the method and the path of a request to what happens to it: a status and a code of S3's instead of an answer;
``"cut"``: no answer; ``"torn"``: half of the request or of the answer arrives; ``None``: nothing."""


@dataclass
class ObjectServer:
    """The server as its users see it: through the proxy.

    Attributes:
        requests: method and path of each, such as ``("GET", "/bucket/a/b")``, since the last ``clear``.
        fault: what happens to the next requests.
    """

    port: int
    requests: list[tuple[str, str]] = field(default_factory=list)
    fault: Fault | None = None

    def count(self, method: str, part: str = "") -> int:
        return sum(method == one and part in path for one, path in self.requests)

    def fail(self, times: int, what: "tuple[int, str] | str", method: str = "", part: str = "") -> None:
        """Let the next ``times`` requests fail that have this method and this part in their path."""
        left = iter(range(times))

        def fault(one: str, path: str) -> "tuple[int, str] | str | None":
            return what if method in one and part in path and next(left, None) is not None else None

        self.fault = fault


@contextmanager
def serve_objects() -> Iterator[ObjectServer]:
    """Start server and proxy on free ports of the loopback address, and end both."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        inner = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(inner)]
    environment = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(inner)
        with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as proxy:
            server = ObjectServer(proxy.server_address[1])
            proxy.RequestHandlerClass = _handler(server, inner)
            Thread(target=proxy.serve_forever, daemon=True).start()
            yield server
            proxy.shutdown()
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=SECONDS_TO_START).close()
            return
        except OSError:
            assert time.monotonic() < end, "the S3 server did not start"
            time.sleep(0.05)


def _handler(server: ObjectServer, inner: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.requests.append((self.command, self.path))
            fault = server.fault(self.command, self.path) if server.fault else None
            if fault == "torn" and body:
                head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
                with socket.create_connection(("127.0.0.1", inner)) as cut:
                    cut.sendall(f"{self.command} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body[: len(body) // 2])
            if fault == "cut" or (fault == "torn" and body):
                self.close_connection = True
                return
            if isinstance(fault, tuple):
                status, code = fault
                error = f"<Error><Code>{code}</Code><Message>made by a test</Message></Error>".encode()
                self.answer(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(error)))], error)
                return
            connection = http.client.HTTPConnection("127.0.0.1", inner, timeout=SECONDS_TO_START)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            content = response.read()
            headers = [
                item for item in response.getheaders() if item[0].lower() not in ("connection", "date", "server")
            ]
            if fault == "torn":
                content, self.close_connection = content[: len(content) // 2], True
            self.answer(response.status, headers, content)
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
