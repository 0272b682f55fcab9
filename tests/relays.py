"""What may stand between us and AdTarget: a forward proxy (RFC 9110, 9.3.6 and 7.2) and TLS with a CA of its own."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from serving import require

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass
class Relay:
    """Listens on ``port``; ``targets`` are the first lines of what a proxy was asked for."""

    port: int = 0
    targets: list[str] = field(default_factory=list)


@contextmanager
def forward_proxy() -> Iterator[Relay]:
    """CONNECT for https, absolute URLs for http."""
    relay = Relay()

    async def serve(reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        method, target, version = line.decode().split(" ")
        relay.targets.append(f"{method} {target}")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            there = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            authority, _, path = target.removeprefix("http://").partition("/")
            host, _, port = authority.rpartition(":")
            there = await asyncio.open_connection(host, int(port))
            there[1].write(f"{method} /{path} {version}\r\n".encode() + rest)
        await _both_ways((reader, writer), there)

    with _listening(serve, None) as relay.port:
        yield relay


@contextmanager
def tls_before(port: int, certificate: Path, key: Path) -> Iterator[Relay]:
    """TLS in front of a plain port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: Reader, writer: Writer) -> None:
        await _both_ways((reader, writer), await asyncio.open_connection("127.0.0.1", port))

    with _listening(serve, context) as bound:
        yield Relay(bound)


def authority(folder: Path) -> tuple[Path, Path, Path]:
    """A CA made for this test, and what it certifies for localhost: CA, certificate, key."""
    program = shutil.which("openssl")
    require(program is not None, "openssl is not installed")
    ca, ca_key, certificate, key = (folder / name for name in ("ca.pem", "ca.key", "localhost.pem", "localhost.key"))
    new = [str(program), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=Test CA", "-addext", "keyUsage=critical,keyCertSign"]
    named = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=CA:FALSE",
    ]
    signed = ["-CA", str(ca), "-CAkey", str(ca_key)]
    for more in (
        [*subject, "-keyout", str(ca_key), "-out", str(ca)],
        [*named, *signed, "-keyout", str(key), "-out", str(certificate)],
    ):
        subprocess.run([*new, *more], check=True, capture_output=True)
    return ca, certificate, key


def hashed(ca: Path, folder: Path) -> Path:
    """A directory of certificates as OpenSSL looks them up."""
    folder.mkdir()
    done = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(ca)], check=True, capture_output=True, text=True
    )
    (folder / f"{done.stdout.strip()}.0").write_bytes(ca.read_bytes())
    return folder


async def _both_ways(here: tuple[Reader, Writer], there: tuple[Reader, Writer]) -> None:
    async def carry(reader: Reader, writer: Writer) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    await asyncio.gather(carry(here[0], there[1]), carry(there[0], here[1]))


@contextmanager
def _listening(serve: Callable[[Reader, Writer], Awaitable[None]], context: ssl.SSLContext | None) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def guarded(reader: Reader, writer: Writer) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)

    opening = asyncio.start_server(guarded, "127.0.0.1", 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(opening, loop).result(10)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
