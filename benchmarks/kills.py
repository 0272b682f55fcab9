"""Whether a SIGKILL loses an event, doubles one or breaks the order: writers append, pumps pump, and both are killed at random moments.

A writer tells its parent of each event once its append has returned, as a response would leave then. What was told has to be in the
store, once, in its visitor's order. An event that was appended and not told yet may be there or not.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import selectors
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import click

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.tracking.events import PLAIN, Visit

ACCOUNT = "kills"
WRITERS, THREADS, PUMPS = 2, 2, 2
ABREAST, EACH = 8, 100  # a thread's visitors at a time, and how many events one of them has
BACKLOG = 50_000  # events that the writers may be ahead of the pumps: kills shall find both at work
WAIT, GO, END = 0, 1, 2
TOLD = struct.Struct("<II")  # thread and number of an event
SLOW = (2**32 - 1, 0)  # in their place: the disk is slow, events go to memory
PIPE = 1 << 16
processes = get_context("forkserver")


def visitor_of(number: int) -> int:
    return number // (ABREAST * EACH) * ABREAST + number % ABREAST


def numbers_of(visitor: int) -> Iterator[int]:
    """A visitor's events, in their order."""
    first = visitor // ABREAST * ABREAST * EACH + visitor % ABREAST
    return iter(range(first, first + ABREAST * EACH, ABREAST))


# -- the processes that are killed ---------------------------------------------------------------------------------------


def write(url: str, name: str, pipe: Connection, gate: Any) -> None:
    """Append until told to end, in several threads over one journal."""
    outbox = Outbox.open(url)
    logging.getLogger("adtarget_proxy.outbox").addHandler(_Disk(pipe))

    def append(thread: int) -> None:
        number = 0
        while gate.value != END:
            if gate.value == WAIT:
                time.sleep(0.001)
                continue
            outbox.append(event(f"{name}.{thread}", number))
            os.write(pipe.fileno(), TOLD.pack(thread, number))
            number += 1

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox.close()


class _Disk(logging.Handler):
    """Tells the parent that the disk did not answer and events go to memory: those a kill may lose."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        if "in memory" in record.getMessage():
            os.write(self._pipe.fileno(), TOLD.pack(*SLOW))


def event(line: str, number: int) -> Visit:
    name = f"{line}.{number}"
    fields = {
        "href": "https://shop.example/?" + "q" * 100,
        "user_agent": "m" * 110,
        "fbp": "fb.1.1700000000000.123456789",
    }
    visitor = f"{line}.{visitor_of(number)}"
    return Visit(id=name, key=name, account=ACCOUNT, visitor=visitor, at=time.time(), worth=PLAIN, fields=fields)


def pump(url: str, _: str, pipe: Connection, gate: Any) -> None:
    """Move what the machine's journals hold until told to end; tell of torn lines."""
    outbox = Outbox.open(url)
    at_work, torn = Pump(outbox), 0
    while gate.value != END:
        if not at_work.machine(time.time()):
            time.sleep(0.001)
        if outbox.lost.get("torn", 0) > torn:
            os.write(pipe.fileno(), TOLD.pack(0, outbox.lost["torn"] - torn))
            torn = outbox.lost["torn"]
    outbox.close()


# -- their parent ----------------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A writer or a pump, and what it said."""

    name: str
    process: ForkServerProcess
    pipe: Connection
    said: list[tuple[int, int]] = field(default_factory=list)
    had_slow_disk: bool = False

    def hear(self) -> int:
        """Read what there is; how many events it told of. The pipe's end is -1."""
        data = os.read(self.pipe.fileno(), PIPE)
        if not data:
            return -1
        events = list(TOLD.iter_unpack(data))
        if SLOW in events:
            self.had_slow_disk = True
            events = [told for told in events if told != SLOW]
        self.said += events
        return len(events)


class Field:
    """Writers and pumps at work, and who of them falls when."""

    def __init__(self, url: str, total: int, kills: int, chance: random.Random) -> None:
        self.outbox = Outbox.open(url)
        self.fallen: Counter[str] = Counter()
        self.told = 0
        self.writers: list[Child] = []  # all there ever were
        self.pumps: list[Child] = []
        self._url, self._total, self._chance = url, total, chance
        self._gate = processes.RawValue("i", GO)  # no lock that a killed process could hold
        self._living: dict[str, list[Child]] = {"writer": [], "pump": []}
        self._ears = selectors.DefaultSelector()
        victims = ["writer", "pump"] * kills
        chance.shuffle(victims)
        self._plan = sorted((chance.uniform(0.0, 0.98) * total, victim) for victim in victims)

    def fight(self, bar: Any) -> None:
        """Until all is told and everybody has fallen who was to."""
        for kind, number in (("writer", WRITERS), ("pump", PUMPS)):
            for _ in range(number):
                self._enlist(kind)
        while self.told < self._total:
            before = self.told
            self._listen()
            bar.update(min(self.told, self._total) - min(before, self._total))
            while self._plan and self.told >= self._plan[0][0]:
                self._kill(self._plan.pop(0)[1])
            ahead = self.told - self.outbox.store.counts([ACCOUNT]).waiting
            self._gate.value = GO if ahead < BACKLOG else WAIT
        self._gate.value = END
        for child in [*self._living["writer"], *self._living["pump"]]:
            self._bury(child)

    def _listen(self) -> None:
        for key, _ in self._ears.select(0.02):
            number = key.data.hear()
            if number < 0:
                raise RuntimeError(f"{key.data.name} ended by itself")
            if key.data in self.writers:
                self.told += number

    def _enlist(self, kind: str) -> None:
        roll = self.writers if kind == "writer" else self.pumps
        hearing, speaking = processes.Pipe(duplex=False)
        name = f"{kind}{len(roll)}"
        work = write if kind == "writer" else pump
        process = processes.Process(target=work, args=(self._url, name, speaking, self._gate), daemon=True)
        process.start()
        speaking.close()
        child = Child(name, process, hearing)
        roll.append(child)
        self._living[kind].append(child)
        self._ears.register(hearing, selectors.EVENT_READ, child)

    def _kill(self, kind: str) -> None:
        child = self._living[kind].pop(self._chance.randrange(len(self._living[kind])))
        child.process.kill()
        self._bury(child)
        self.fallen[kind] += 1
        self._enlist(kind)

    def _bury(self, child: Child) -> None:
        """Hear its last words."""
        while (number := child.hear()) >= 0:
            self.told += number if child in self.writers else 0
        self._ears.unregister(child.pipe)
        child.pipe.close()
        child.process.join()


# -- the count -------------------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """What became of the events."""

    stored: int = 0
    missing: int = 0  # told and not in the store
    in_memory: int = 0  # of those: the last that a writer with a slow disk told of
    untold: int = 0
    disordered: int = 0  # visitors
    strange: int = 0  # in the store and never appended, or there twice

    def count(self, outbox: Outbox, writers: list[Child]) -> None:
        """Claim every visitor's queue whole, as a click does, which shows it in its order."""
        for child in writers:
            told: dict[int, set[int]] = {thread: set() for thread in range(THREADS)}
            for thread, number in child.said:
                told[thread].add(number)
            for thread, numbers in told.items():
                found = self._line(outbox, f"{child.name}.{thread}", max(numbers, default=-1) + 1)
                lost = numbers - found
                self.missing += len(lost)
                if child.had_slow_disk and min(lost, default=0) >= len(numbers) - len(lost):
                    self.in_memory += len(lost)
                self.untold += len(found - numbers)
                self.stored += len(found)
        counts = outbox.store.counts([ACCOUNT])
        self.strange += counts.waiting + abs(counts.claimed - self.stored)

    def _line(self, outbox: Outbox, line: str, end: int) -> set[int]:
        """What the store holds of one thread, up to the event behind the last it told of."""
        found: set[int] = set()
        for visitor in range(visitor_of(end) // ABREAST * ABREAST + ABREAST):
            claims = outbox.store.promote(ACCOUNT, f"{line}.{visitor}", owner=outbox.owner, now=time.time())
            numbers = [int(claim.event.id.rpartition(".")[2]) for claim in claims or ()]
            new = set(numbers) - found
            self.strange += len(numbers) - len(new)
            self.disordered += numbers != [number for number in numbers_of(visitor) if number in new]
            found |= new
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of writers, and as many of pumps (20)")
    parser.add_argument(
        "--outbox",
        help="sqlite:////abs/path or redis://…, with nothing in it, and to be emptied by you (SQLite in a folder that goes)",
    )
    parser.add_argument("--seed", type=int, default=None, help="for the moments and the victims")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.outbox or f"sqlite:///{folder}/outbox.sqlite3"
        if url.startswith("redis") and "journal=" not in url:
            url += f"{'&' if '?' in url else '?'}journal={folder}/outbox"
        sys.exit(run(url, options.events, options.kills, random.Random(options.seed)))


def run(url: str, total: int, kills: int, chance: random.Random) -> int:
    """One fight, its figures, and 1 where they are not what was promised."""
    field_ = Field(url, total, kills, chance)
    outbox = field_.outbox
    if outbox.store.accounts():
        sys.exit(f"{outbox.place} is not empty: this needs an outbox of its own")
    began = time.monotonic()
    label = "appending and pumping" if sys.stderr.isatty() else None
    with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
        field_.fight(bar)
    survivor = Pump(outbox)
    while survivor.machine(time.time()):
        pass
    took = time.monotonic() - began
    sums = Sums()
    sums.count(outbox, field_.writers)
    torn = sum(number for child in field_.pumps for _, number in child.said) + outbox.lost.get("torn", 0)
    fallen, slow = field_.fallen, f" ({sums.in_memory} in memory: the disk was slow)" if sums.missing else ""
    print(
        f"{outbox.place.engine}: {field_.told:,} events told of by {WRITERS} writers of {THREADS} threads, {PUMPS} pumps"
    )
    print(f"SIGKILLs            {fallen['writer']} of writers, {fallen['pump']} of pumps, in {took:.0f} s")
    print(f"in the store        {sums.stored:,}, of which {sums.untold} were appended and not told of yet")
    print(f"told of and missing {sums.missing}{slow}")
    print(f"twice, or strange   {sums.strange}")
    print(f"out of order        {sums.disordered} visitors")
    print(f"torn lines          {torn}")
    return 1 if sums.missing > sums.in_memory or sums.strange or sums.disordered else 0


if __name__ == "__main__":
    main()
