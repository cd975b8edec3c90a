"""A proxy before the S3 server that breaks chosen requests: refusals, silence, cut, short and changed bodies.

What it is not told to break passes unchanged, signatures and all.
"""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from s3_server import BUCKET, S3Server

from turbosparse.artifacts.endpoint import endpoint_environment

HOP_BY_HOP = ("connection", "expect", "keep-alive", "transfer-encoding", "date", "server")
ABORT_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER's value that makes closing a connection reset it."""
SECONDS_OF_SILENCE = 60.0


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One request on its way, and what a fault can do with it."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def relay(self) -> None:
        """Passes the request on, or hands it to the first fault that is meant for it."""
        fault = self.server.proxy.next_fault(self.command, self.path)
        if fault is not None:
            fault.does(self)
        else:
            self.give(self.ask())

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay

    def request_body(self) -> bytes:
        """Returns the whole body that the client sends."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def ask(self) -> Answer:
        """Returns the real server's answer."""
        body = self.request_body()
        connection = http.client.HTTPConnection(self.server.proxy.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def give(self, answer: Answer, num_body_bytes: int | None = None) -> None:
        """Sends the answer, or only the first bytes of its body."""
        self.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() not in (*HOP_BY_HOP, "content-length"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in answer.headers}.get("content-length")
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[:num_body_bytes])
        self.wfile.flush()

    def reset(self) -> None:
        """Ends the connection as a crashed machine does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_ON_CLOSE)
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        """Lets go of the connection, which a fault may have ended."""
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, *arguments) -> None:
        """Says nothing."""


Effect = Callable[[Exchange], None]


@dataclass
class Fault:
    """What happens to the next `times` requests of a kind; None: to all of them."""

    does: Effect
    method: str = ".*"
    path: str = ".*"
    """Searched for in path and query."""
    times: int | None = None

    def takes(self, method: str, path: str) -> bool:
        """Says whether a request is meant."""
        is_meant = re.fullmatch(self.method, method) and re.search(self.path, path)
        return bool(is_meant) and self.times != 0


@dataclass
class Proxy:
    """Faults in their order, and a log of what was asked for."""

    upstream: str
    """HOST:PORT."""
    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    num_broken: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def breaks(self, does: Effect, **which) -> None:
        """Adds a fault."""
        self.faults.append(Fault(does, **which))

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Notes a request and returns what is to happen to it."""
        with self._lock:
            self.requests.append(f"{method} {path}")
            fault = next((fault for fault in self.faults if fault.takes(method, path)), None)
            if fault is not None:
                self.num_broken += 1
                fault.times = None if fault.times is None else fault.times - 1
            return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy

    def handle_error(self, request, client_address) -> None:
        """Broken connections are what this is for."""


def refuses(status: int, code: str) -> Effect:
    """Returns an effect that answers with an S3 error."""

    def answer(exchange: Exchange) -> None:
        exchange.request_body()
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} by the test</Message></Error>"
        exchange.give(Answer(status, [("Content-Type", "application/xml")], body.encode()))

    return answer


def says_nothing(exchange: Exchange) -> None:
    """Takes the request and does not answer it."""
    exchange.request_body()
    exchange.server.proxy.ended.wait(SECONDS_OF_SILENCE)
    exchange.close()


def resets_upload(exchange: Exchange) -> None:
    """Resets the connection in the middle of the request's body; the server never hears of it."""
    exchange.rfile.read(int(exchange.headers.get("Content-Length", 0)) // 2)
    exchange.reset()


def loses_answer(exchange: Exchange) -> None:
    """The server does what is asked, and the connection is reset before it can say so."""
    exchange.ask()
    exchange.reset()


def resets_download(exchange: Exchange) -> None:
    """Resets the connection in the middle of the answer's body."""
    answer = exchange.ask()
    exchange.give(answer, len(answer.body) // 2)
    exchange.reset()


def truncates(exchange: Exchange) -> None:
    """Closes the connection before the announced body is complete."""
    answer = exchange.ask()
    exchange.give(answer, len(answer.body) // 2)
    exchange.close()


def shortens(exchange: Exchange) -> None:
    """Gives half of the body as if it were all: no client can tell but by a digest."""
    answer = exchange.ask()
    exchange.give(Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2]))


def flips_a_bit(exchange: Exchange) -> None:
    """Changes one bit in the middle of the body: no client can tell but by a digest."""
    answer = exchange.ask()
    body = bytearray(answer.body)
    body[len(body) // 2] ^= 1
    exchange.give(Answer(answer.status, answer.headers, bytes(body)))


def flips_an_uploaded_bit(exchange: Exchange) -> None:
    """Changes one bit of what the client sends."""
    body = bytearray(exchange.request_body())
    body[len(body) // 2] ^= 1
    exchange.request_body = lambda: bytes(body)  # type: ignore[method-assign]
    exchange.give(exchange.ask())


@pytest.fixture
def proxy(swift: S3Server, monkeypatch) -> Iterator[Proxy]:
    """A proxy that this process's environment leads to; everything passes until it is told otherwise."""
    from s3fs import S3FileSystem  # noqa: PLC0415 - a second, and most test sessions need none

    with _Server(("127.0.0.1", 0), Exchange) as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        server.proxy = Proxy(urlsplit(swift.endpoint).netloc, endpoint)
        for name, value in (swift.environment | endpoint_environment(endpoint)).items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # instances remember the environment they were made in
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.proxy
        finally:
            server.proxy.ended.set()
            server.shutdown()
            S3FileSystem.clear_instance_cache()


@pytest.fixture
def broken_s3(proxy: Proxy, request) -> str:
    """A URI of its own behind the proxy."""
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')}"
