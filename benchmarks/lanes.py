"""What the lanes carry with the rate lifted, against the same threads calling httpx with nothing around it.

An API that answers at once, and one that takes 50 ms; both are a bare asyncio server on another core, which costs the lanes
nothing. Ours and the peer take turns in one run: what counts is the ratio, since machines are shared.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import httpx

from adtarget_proxy import Settings
from adtarget_proxy.delivery.lanes import SIZE
from adtarget_proxy.delivery.lifecycle import Delivery
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.tracking.events import PLAIN, Visit

ANSWER = b'{"visitId":"v1","sessionId":"s1","tempId":"t1","clientSessionId":"c1"}'
KEY = "atk_live_12345678_benchmark"
FIELDS = {
    "href": "https://shop.example/?" + "q" * 200,
    "temp_id": "7f3b2c1e-0000-4000-8000-000000000000",
    "client_session_id": "7f3b2c1e-0000-4000-8000-000000000001",
    "user_agent": "m" * 110,
    "client_ip": "203.0.113.9",
    "fbp": "fb.1.1700000000000.123456789",
}


class Answering(asyncio.Protocol):
    """A keep-alive HTTP/1.1 server that answers every request alike, ``delay`` seconds after it came."""

    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            _, _, length = head.partition(b"content-length: ")
            whole = end + 4 + int(length.partition(b"\r\n")[0] or 0)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            asyncio.get_running_loop().call_later(self._delay, self._transport.write, self.head + ANSWER)


def serve(listener: socket.socket, delay: float, core: int) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Answering(delay), sock=listener)
        await server.serve_forever()

    pin(core)
    asyncio.run(forever())


def pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def lanes(api_url: str, events: int, scheme: str) -> tuple[float, float]:
    """Seconds and CPU seconds an event, from the store to AdTarget's answer written down."""
    with tempfile.TemporaryDirectory() as place:
        url = "memory://" if scheme == "memory" else f"sqlite:///{Path(place) / 'outbox.sqlite3'}"
        settings = Settings(
            api_key=KEY,
            api_url=api_url,
            outbox=url,
            fallback_url="https://t.me/example",
            rate=1_000_000,
            burst=1_000_000,
        )
        account = settings.accounts[0].id
        outbox = Outbox.open(url)
        for i in range(events):
            name, now = f"e{i}", time.time()
            outbox.append(
                Visit(id=name, key=name, account=account, visitor=f"v{i}", at=now, worth=PLAIN, fields=FIELDS)
            )
        Pump(outbox).own(time.time())
        delivery = Delivery(settings, outbox)
        began, busy = time.perf_counter(), time.process_time()
        delivery.start()
        while outbox.store.counts([account]).sent < events:
            time.sleep(0.02)
        took = (time.perf_counter() - began) / events, (time.process_time() - busy) / events
        delivery.close()
        outbox.close()
        return took


def bare(api_url: str, events: int) -> tuple[float, float]:
    """The same for as many threads with one httpx client and nothing else: no store, no order, no pacing, no retry."""
    jobs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    body = httpx.Request("POST", api_url, json=FIELDS).content
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)

    def work() -> None:
        while (job := jobs.get()) is not None:
            client.post(f"{api_url}/events/visit", content=body, headers={**headers, "Idempotency-Key": f"e{job}"})

    with httpx.Client(limits=limits) as client:
        threads = [threading.Thread(target=work) for _ in range(SIZE)]
        for job in [*range(events), *[None] * SIZE]:
            jobs.put(job)
        began, busy = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - began) / events, (time.process_time() - busy) / events


def compare(name: str, delay: float, events: int, rounds: int, scheme: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    api_url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(listener, delay, 1), daemon=True)
    server.start()
    try:
        runs: list[Callable[[], tuple[float, float]]] = [
            lambda: lanes(api_url, events, scheme),
            lambda: bare(api_url, events),
        ]
        ours, peer = (
            tuple(map(median, zip(*costs, strict=True)))
            for costs in zip(*[[run() for run in runs] for _ in range(rounds)], strict=True)
        )
    finally:
        server.kill()
        server.join()
        listener.close()
    print(
        f"{name:16} lanes {1 / ours[0]:,.0f} events/s ({ours[1] * 1e6:.0f} µs CPU each), bare httpx {1 / peer[0]:,.0f}/s "
        f"({peer[1] * 1e6:.0f} µs); ratio of CPU {ours[1] / peer[1]:.2f}, of throughput {peer[0] / ours[0]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=4_000, help="events a round (default 4000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default 3)")
    parser.add_argument("--scheme", choices=["sqlite", "memory"], default="sqlite", help="the outbox (default sqlite)")
    options = parser.parse_args()
    pin(0)
    compare("instant API", 0.0, options.events, options.rounds, options.scheme)
    compare("API of 50 ms", 0.05, max(options.events // 4, 1), options.rounds, options.scheme)


if __name__ == "__main__":
    main()
