"""What the outbox costs on one core, each figure beside a floor or a peer of the same run.

    python benchmarks/outbox.py                     all of it on SQLite: about two minutes
    python benchmarks/outbox.py --journal           an append, alone and while pump and lanes run
    python benchmarks/outbox.py --pump              from the journal into the store
    python benchmarks/outbox.py --backlog [--redis] claim, pump and promote with 1,000 and with 1,000,000 waiting

``--waiting`` is the large backlog, ``--returning`` its worst case; ``persist-queue`` is a peer where it is installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from backlog import backlog
from bare import BareTable
from visits import visit

from adtarget_proxy.delivery import Delivery
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.events import Event

FLOOR = "an os.write of its bytes"
ROUND = 5_000  # events of each kind in turn
UNDER_LOAD = 20_000  # appends measured while pump and lanes run
CROWD = 4  # appends more for each of them, unmeasured
PAUSE = 0.0005  # seconds between two such rounds
_spawn = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for section in ("journal", "pump", "backlog"):
        parser.add_argument(f"--{section}", action="store_true")
    parser.add_argument("--redis", action="store_true", help="the backlog in Redis in place of SQLite")
    parser.add_argument(
        "--returning", action="store_true", help="visitors whose ids are of any age, in place of new ones"
    )
    parser.add_argument("--waiting", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    if chosen.returning:
        os.environ["OUTBOX_VISITORS"] = "returning"  # for the processes started below
    every = not (chosen.journal or chosen.pump or chosen.backlog)
    core = max(os.sched_getaffinity(0))
    with sandbox() as credentials, tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, {core})  # the sandbox keeps the others
        if chosen.journal or every:
            journal(Path(folder), chosen.rounds)
            under_load(Path(folder), credentials)
        if chosen.pump or every:
            pump(Path(folder), chosen.rounds)
        if chosen.backlog or every:
            backlog(Path(folder), chosen.waiting, chosen.rounds, in_redis=chosen.redis)


@contextmanager
def sandbox() -> Iterator[Mapping[str, str]]:
    """AdTarget in a process of its own, without a limit; what the settings need to know of it."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_serve, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def _serve(pipe: Connection) -> None:
    with Sandbox(rate=0) as box:
        pipe.send({"api_key": box.api_key, "api_url": box.api_url})
        pipe.recv()


def costs(work: Callable[[Any], object], items: list[Any]) -> list[float]:
    """Seconds of each call."""
    found = []
    for item in items:
        started = perf_counter()
        work(item)
        found.append(perf_counter() - started)
    return found


# -- the journal -----------------------------------------------------------------------------------------------------------------


def journal(folder: Path, rounds: int) -> None:
    """Appends beside bare writes of as many bytes, and beside a queue library that writes each item to a file."""
    print("an append, nothing else running")
    outbox = Outbox.open(f"sqlite:///{folder / 'append.sqlite3'}")
    fd = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    kinds: dict[str, Callable[[Event], object]] = {
        FLOOR: lambda line: os.write(fd, line),
        "append": outbox.append,
    }
    with suppress(ImportError):
        from persistqueue import SQLiteAckQueue

        peer = SQLiteAckQueue(str(folder / "peer"), multithreading=True)
        kinds["persist-queue, SQLite"] = lambda event: peer.put(event.encode())
    spent: dict[str, list[float]] = {name: [] for name in kinds}
    numbers = count()
    for _ in range(rounds):
        events = [visit(next(numbers)) for _ in range(ROUND)]
        lines = [b"%08x %b\n" % (0, event.encode().encode()) for event in events]
        spent[FLOOR] += costs(kinds[FLOOR], lines)
        spent["append"] += costs(outbox.append, events)
        if "persist-queue, SQLite" in kinds:
            spent["persist-queue, SQLite"] += costs(kinds["persist-queue, SQLite"], events[: ROUND // 50])
    told(spent)
    outbox.close()
    os.close(fd)


def under_load(folder: Path, sandbox: Mapping[str, str]) -> None:
    """Appends at a page's pace while this process pumps and sends as fast as it can, on the same core.

    More events come than one core can send: neither the pump nor the lanes ever rest.
    """
    print("an append, the pump and the lanes at work")
    settings = Settings(outbox=f"sqlite:///{folder / 'load.sqlite3'}", rate=1_000_000, burst=1_000_000, **sandbox)
    outbox = Outbox.open(settings.outbox)
    delivery = Delivery(settings, outbox)
    account = settings.accounts[0].id
    events = [visit(number, account=account) for number in range(UNDER_LOAD * (1 + CROWD))]
    lines = [b"%08x %b\n" % (0, event.encode().encode()) for event in events[:UNDER_LOAD]]
    fd = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    spent: dict[str, list[float]] = {FLOOR: [], "append": []}
    delivery.start()
    began = time.monotonic()
    for number, line in enumerate(lines):
        for which in (0, 1):  # now the one first after the pause, now the other
            if number % 2 == which:
                spent[FLOOR] += costs(lambda line: os.write(fd, line), [line])
            else:
                spent["append"] += costs(outbox.append, [events.pop()])
        for _ in range(CROWD):
            outbox.append(events.pop())
        delivery.wake()
        time.sleep(PAUSE)
    took = time.monotonic() - began
    counts = outbox.store.counts()
    told(spent)
    moved = counts.sent + counts.waiting + counts.claimed
    print(f"  meanwhile {counts.sent / took:,.0f} events/s sent, {moved / took:,.0f} pumped")
    delivery.close(0.5)
    outbox.close()
    os.close(fd)


def told(spent: dict[str, list[float]]) -> None:
    floor = sum(spent[FLOOR]) / len(spent[FLOOR])
    print(f"  {'':26} {'events/s':>10} {'median µs':>10} {'p99.9 ms':>9} {'most ms':>8} {'x floor':>8}")
    for name, each in spent.items():
        ordered, mean = sorted(each), sum(each) / len(each)
        tail = ordered[int(len(ordered) * 0.999)] * 1e3
        print(
            f"  {name:26} {1 / mean:10,.0f} {median(ordered) * 1e6:10.1f} {tail:9.3f} {ordered[-1] * 1e3:8.2f} {mean / floor:8.2f}"
        )


# -- the pump --------------------------------------------------------------------------------------------------------------------


def pump(folder: Path, rounds: int) -> None:
    """The pump beside the least that keeps events in order and unique: a bare table with the same two keys."""
    print("the pump into SQLite")
    outbox = Outbox.open(f"sqlite:///{folder / 'pump.sqlite3'}")
    bare = BareTable(folder / "bare.sqlite3")
    numbers = count()
    spent: dict[str, list[float]] = {"a bare indexed table": [], "the pump": []}
    for _ in range(rounds):
        events = [visit(next(numbers)) for _ in range(ROUND)]
        started = perf_counter()
        bare.put(events)
        spent["a bare indexed table"].append((perf_counter() - started) / ROUND)
        for event in events:
            outbox.append(event)
        started = perf_counter()
        moved = Pump(outbox).own(0.0)
        spent["the pump"].append((perf_counter() - started) / ROUND)
        assert moved == ROUND
    floor = median(spent["a bare indexed table"])
    for name, each in spent.items():
        print(f"  {name:26} {1 / median(each):10,.0f} events/s {median(each) / floor:8.2f} x floor")
    outbox.close()
    bare.close()


if __name__ == "__main__":
    main()
