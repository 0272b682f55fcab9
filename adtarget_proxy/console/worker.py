"""``adtarget-proxy worker``: sends what an outbox holds, in the foreground."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType

import click

from adtarget_proxy.console.desk import Plain, names_of
from adtarget_proxy.delivery import Delivery
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.outbox import Counts, Outbox
from adtarget_proxy.settings import Settings

HELP = """Send what the outbox holds to AdTarget, until SIGTERM or Ctrl-C.

For apps that run with ADTARGET_DELIVER=worker, for servers without threads, and for catching up after a stop. Settings come from the
environment, the same as the app's: ADTARGET_API_KEY, ADTARGET_OUTBOX, or a file in ADTARGET_CONFIG. Any number of workers may share an
outbox, on one machine over SQLite, on many over Redis; together they keep to the account's rate. On each machine whose web processes
run with ADTARGET_DELIVER=worker those move their journals into the outbox themselves.

\b
Examples:
  adtarget-proxy worker
  adtarget-proxy worker --until-empty           once, from a cron job
  ADTARGET_OUTBOX=redis://queue:6379/0 adtarget-proxy worker
"""

LOOK_EVERY = 0.2  # seconds


@click.command(cls=Plain, help=HELP, short_help="Send what an outbox holds, in the foreground.")
@click.option("--outbox", "url", metavar="URL", help="Instead of ADTARGET_OUTBOX.")
@click.option("--until-empty", is_flag=True, help="End when nothing waits any more.")
@click.option("--deadline", default=2.0, show_default=True, type=click.FloatRange(0, 60), help="Seconds to end in.")
@click.option("--report", default=60.0, show_default=True, type=click.FloatRange(1), help="Seconds between reports.")
@click.option("--quiet", is_flag=True, help="Warnings and errors only.")
def worker(url: str | None, until_empty: bool, deadline: float, report: float, quiet: bool) -> None:
    _speak(quiet=quiet)
    over = {} if url is None else {"outbox": url}
    settings = Settings(deliver="thread", **over)  # type: ignore[arg-type]  # deliver=worker is for those that leave it to us
    if settings.mode == "off":
        raise click.ClickException('mode is "off": nothing is to be sent')
    outbox = Outbox.open(settings.outbox)
    if outbox.place.path is None:
        raise click.ClickException("memory:// lives inside its own process; a worker needs a durable ADTARGET_OUTBOX")
    stop = _stopping()
    delivery = Delivery(settings, outbox)
    shift = _Shift(settings, outbox, report=report)
    try:
        shift.begin()
        delivery.start()
        while not stop.wait(LOOK_EVERY):
            shift.look()
            if until_empty and not delivery.flush(LOOK_EVERY):
                break
    finally:
        delivery.close(deadline)
        shift.end()
        outbox.close()


def _speak(*, quiet: bool) -> None:
    """Our own log on standard error; httpx's, which names URLs, is not joined to it."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("adtarget_proxy")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def _stopping() -> threading.Event:
    """Set by SIGTERM and Ctrl-C; the second one of them ends the process at once."""
    stop = threading.Event()

    def heard(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, heard)
    return stop


class _Shift:
    """What the worker says of its work."""

    def __init__(self, settings: Settings, outbox: Outbox, *, report: float) -> None:
        self._names = names_of(settings)
        self._accounts = [account.id for account in settings.accounts]
        self._outbox = outbox
        self._every = report
        self._log = logging.getLogger("adtarget_proxy.worker")
        self._sent_before = 0
        self._last: Counts | None = None
        self._next = time.monotonic() + report

    def begin(self) -> None:
        """Take over what dead processes left, and say what there is. Raises OutboxError."""
        Pump(self._outbox).machine(time.time())
        counts = self._counts()
        self._sent_before, self._last = counts.sent, counts
        sites = ", ".join(sorted(self._names.values())) or "a dry run"
        self._log.info(
            "worker of %s for %s: %d events wait", self._outbox.place, sites, counts.waiting + counts.claimed
        )
        strange = self._outbox.store.counts(self._outbox.store.accounts() - set(self._accounts)).waiting
        if strange and self._accounts:
            self._log.warning(
                "%d events belong to accounts that are not in these settings and stay; see adtarget-proxy outbox status",
                strange,
            )

    def look(self) -> None:
        """Report, where it is time and something has changed. Raises OutboxError."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        counts = self._counts()
        if counts != self._last:
            self._last = counts
            self._log.info("%s", self._told(counts))

    def end(self) -> None:
        """The last words. Raises OutboxError."""
        self._log.info("worker ends: %s", self._told(self._counts()))

    def _told(self, counts: Counts) -> str:
        waiting = counts.waiting + counts.claimed
        return f"{counts.sent - self._sent_before} sent, {waiting} wait, {counts.dead} dead letters"

    def _counts(self) -> Counts:
        return self._outbox.store.counts(self._accounts or None)
