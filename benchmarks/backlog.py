"""Claim, pump and promote at a small and at a large backlog: what each costs, and what the process holds in memory.

A process for each of the two stores, on the same core, one at work while the other waits for its turn: what the machine does
meanwhile falls on both. Each round adds as many events as it sends, so that a backlog keeps its size.
"""

from __future__ import annotations

import multiprocessing
import random
from contextlib import ExitStack
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time
from typing import Any

from bare import BATCH, BareTable
from redis_server import redis_server
from rich.progress import Progress
from visits import visit, visitor

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.outbox import Outbox

ACCOUNT = "b9b66761a0893ffc"
SMALL = 1_000
CLAIM = 32
PROMOTIONS = 40  # a round
NOW = 1e10
_spawn = multiprocessing.get_context("spawn")


def backlog(folder: Path, waiting: int, rounds: int, *, in_redis: bool) -> None:
    """Print what the operations cost at ``waiting`` events as a multiple of what they cost at a thousand."""
    with ExitStack() as stack:
        urls: dict[int, str] = {}
        for number in (SMALL, waiting):
            if in_redis:
                server = stack.enter_context(redis_server(folder / f"redis-{number}", "--appendonly", "no"))
                urls[number] = f"redis://127.0.0.1:{server.port}/0"
            else:
                urls[number] = f"sqlite:///{folder / f'{number}.sqlite3'}"
        fill(urls, folder)
        found = measured(urls, folder, rounds)
    engine = "Redis" if in_redis else "SQLite"
    print(f"{engine}, µs an event" + "".join(f"{number:>14,}" for number in urls) + "         ratio")
    small, large = (found[number] for number in urls)
    for name in small["costs"]:
        low, high = mean(small["costs"][name]) * 1e6, mean(large["costs"][name]) * 1e6
        print(f"  {name:22} {low:13.1f} {high:13.1f} {high / low:13.2f}")
    for name in ("resident at the start", "resident at the end"):
        print(
            f"  {name + ', MB':22} {small[name] / 1e6:13.1f} {large[name] / 1e6:13.1f} {large[name] / small[name]:13.2f}"
        )


def fill(urls: dict[int, str], folder: Path) -> None:
    """The usual way, through a journal, in a process of its own."""
    with Progress() as bar:
        for number, url in urls.items():
            task = bar.add_task(f"{number:,} events", total=number)
            ours, theirs = _spawn.Pipe()
            process = _spawn.Process(target=_fill, args=(theirs, url, folder / f"bare-{number}.sqlite3", number))
            process.start()
            theirs.close()
            rates: list[float] = []
            for moved, took in iter(ours.recv, None):
                rates.append(moved / took)
                bar.advance(task, moved)
            process.join()
            tenth = max(1, len(rates) // 10)
            first, last = median(rates[:tenth]), median(rates[-tenth:])
            bar.console.print(f"  pumped to {number:,}: {first:,.0f} events/s at first, {last:,.0f} at last")


def _fill(pipe: Connection, url: str, floor: Path, number: int) -> None:
    outbox, bare = Outbox.open(url), BareTable(floor)
    pump = Pump(outbox)
    for first in range(0, number, 10_000):
        events = [visit(each) for each in range(first, min(number, first + 10_000))]
        bare.put(events)
        for event in events:
            outbox.append(event)
        started = perf_counter()
        moved = pump.own(0.0)
        pipe.send((moved, perf_counter() - started))
    outbox.close()
    pipe.send(None)


def measured(urls: dict[int, str], folder: Path, rounds: int) -> dict[int, dict[str, Any]]:
    """What each store's process found, the two of them taking turns."""
    processes, pipes = [], {}
    for number, url in urls.items():
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=_rounds, args=(theirs, url, folder / f"bare-{number}.sqlite3", number))
        process.start()
        processes.append(process)
        pipes[number] = ours
    for _ in range(rounds):
        for pipe in pipes.values():
            pipe.send(True)
            pipe.recv()
    found = {}
    for number, pipe in pipes.items():
        pipe.send(False)
        found[number] = pipe.recv()
    for process in processes:
        process.join()
    return found


def _rounds(pipe: Connection, url: str, floor: Path, waiting: int) -> None:
    outbox, bare = Outbox.open(url), BareTable(floor)
    pump, numbers, dice = Pump(outbox), count(waiting), random.Random(1)
    costs: dict[str, list[float]] = {
        "a bare table": [],
        "a bare table, its CPU": [],
        "claim": [],
        "pump": [],
        "pump, its CPU": [],
        "promote": [],
        "settle": [],
    }
    resident = [_resident()]
    while pipe.recv():
        _round(outbox, bare, pump, numbers, dice, waiting, costs)
        resident.append(_resident())
        pipe.send(None)
    outbox.close()
    pipe.send({"costs": costs, "resident at the start": resident[0], "resident at the end": resident[-1]})


def _round(
    outbox: Outbox,
    bare: BareTable,
    pump: Pump,
    numbers: count[int],
    dice: random.Random,
    waiting: int,
    costs: dict[str, list[float]],
) -> None:
    store, owner = outbox.store, outbox.owner
    fresh = [next(numbers) for _ in range(BATCH)]
    events, total = [visit(number) for number in fresh], fresh[-1]
    for event in events:
        outbox.append(event)
    started, spent = perf_counter(), process_time()
    bare.put(events)
    costs["a bare table"].append((perf_counter() - started) / BATCH)
    costs["a bare table, its CPU"].append((process_time() - spent) / BATCH)
    started, spent = perf_counter(), process_time()
    moved = pump.own(NOW)
    costs["pump"].append((perf_counter() - started) / moved)
    costs["pump, its CPU"].append((process_time() - spent) / moved)
    sent: list[str] = []
    promoted = 0
    while promoted < PROMOTIONS:
        who = visitor(dice.randrange(max(0, total - waiting), total))
        started = perf_counter()
        claims = store.promote(ACCOUNT, who, owner=owner, now=NOW)
        took = perf_counter() - started
        if claims:
            costs["promote"].append(took)
            sent += [claim.event.id for claim in claims]
            promoted += 1
    while len(sent) < moved:
        started = perf_counter()
        claims = store.claim([ACCOUNT], owner=owner, now=NOW, limit=CLAIM)
        costs["claim"].append((perf_counter() - started) / len(claims))
        sent += [claim.event.id for claim in claims]
    for event_id in sent:
        started = perf_counter()
        store.settle(event_id, now=NOW)
        costs["settle"].append(perf_counter() - started)


def _resident() -> int:
    """Bytes of memory that this process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
