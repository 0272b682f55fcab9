"""An HTTP server that does what a test tells it to: answers late, cut short, too long, or not at all. Plain sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """What is written for one request. ``drip``: seconds between two bytes after the first ``prompt`` ones, which go at
    once; ``close``: hang up afterwards.
    """

    data: bytes
    close: bool = False
    drip: float = 0.0
    prompt: int = 0


SLAM = Reply(b"", close=True)  # reads the request, hangs up without a byte


def answer(status: int, body: bytes | Any = b"", *, drip: float = 0.0, close: bool = False, **headers: str) -> Reply:
    """A well-formed answer; a body that is no bytes goes as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Reply("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content, close=close, drip=drip)


@dataclass
class Seen:
    """A request as it came in; header names in lower case, every line of them kept."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} was sent twice"
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class HostileServer:
    """Answers the requests it gets with ``replies``, one after the other; the last one again and again."""

    replies: list[Reply] = field(default_factory=lambda: [answer(200, {})])

    def __enter__(self) -> Self:
        self.seen: list[Seen] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        # A listener that is only closed keeps its accepting thread, and so its port, alive.
        for each in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(peer)
            threading.Thread(target=self._serve, args=(peer, len(self._open)), daemon=True).start()

    def _serve(self, peer: socket.socket, number: int) -> None:
        try:
            with peer, peer.makefile("rb") as stream:
                while (seen := _read(stream, number)) is not None:
                    with self._lock:
                        self.seen.append(seen)
                        reply = self.replies[min(self._next, len(self.replies) - 1)]
                        self._next += 1
                    self._write(peer, reply)
                    if reply.close:
                        peer.shutdown(socket.SHUT_RDWR)
                        return
        except OSError:
            pass

    def _write(self, peer: socket.socket, reply: Reply) -> None:
        if not reply.drip:
            peer.sendall(reply.data)
            return
        peer.sendall(reply.data[: reply.prompt])
        for byte in reply.data[reply.prompt :]:
            if self._stop.wait(reply.drip):
                return
            peer.sendall(bytes([byte]))


def _read(stream: Any, number: int) -> Seen | None:
    start = stream.readline()
    if not start:
        return None
    method, target, _ = start.decode("latin-1").split(" ", 2)
    headers = []
    while (line := stream.readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = line.partition(":")
        headers.append((name.lower(), value.strip()))
    length = int(dict(headers).get("content-length", "0"))
    return Seen(method, target, headers, stream.read(length), number)
