"""What the outbox costs: an append, the pump, and claim with settle at a small and at a large backlog."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.outbox import Outbox
from adtarget_proxy.tracking.events import PLAIN, Visit

ROUNDS = 2_000


def visit(i: int) -> Visit:
    fields = {
        "href": "https://shop.example/?" + "q" * 200,
        "user_agent": "m" * 110,
        "fbp": "fb.1.1700000000000.123456789",
    }
    return Visit(id=f"e{i}", key=f"e{i}", account="a", visitor=f"v{i}", at=float(i), worth=PLAIN, fields=fields)


def appends(outbox: Outbox, events: list[Visit]) -> None:
    costs = []
    for event in events:
        started = perf_counter()
        outbox.append(event)
        costs.append(perf_counter() - started)
    costs.sort()
    mean, tail = sum(costs) / len(costs), costs[int(len(costs) * 0.999)]
    print(
        f"append          mean {mean * 1e6:.1f} µs, median {costs[len(costs) // 2] * 1e6:.1f} µs, p99.9 {tail * 1e3:.3f} ms"
    )


def rounds(outbox: Outbox) -> float:
    """Seconds an event for claim (32 at a time) and settle."""
    started, done = perf_counter(), 0
    while done < ROUNDS:
        for claim in outbox.store.claim(["a"], owner=outbox.owner, now=1e9, limit=32):
            outbox.store.settle(claim.event.id, now=1e9)
            done += 1
    return (perf_counter() - started) / done


def main() -> None:
    cost = {}
    for backlog in (4_000, 100_000):
        with tempfile.TemporaryDirectory() as place:
            outbox = Outbox.open(f"sqlite:///{Path(place) / 'outbox.sqlite3'}")
            appends(outbox, [visit(i) for i in range(backlog)])
            started = perf_counter()
            moved = Pump(outbox).own(0.0)
            print(f"pump            {moved / (perf_counter() - started):,.0f} events/s ({moved:,})")
            cost[backlog] = rounds(outbox)
            print(f"claim + settle  {1 / cost[backlog]:,.0f} events/s at {backlog:,} waiting")
            outbox.close()
    print(f"ratio           {cost[100_000] / cost[4_000]:.2f}")


if __name__ == "__main__":
    main()
