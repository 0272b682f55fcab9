"""``adtarget-proxy outbox erase | adopt``: what only the operator may do with the events of others."""

from __future__ import annotations

import time

import click

from adtarget_proxy.console.desk import Desk, opened
from adtarget_proxy.console.masking import masked_id
from adtarget_proxy.console.records import Choice
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox.erasure import erase_lines
from adtarget_proxy.tracking.events import Conversion


@click.command()
@click.option("--visitor", required=True, metavar="ID", help="What the visitor's cookie adtarget_temp_id holds.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def erase(url: str | None, visitor: str, yes: bool) -> None:
    """Forget a visitor: journals, waiting events, dead letters, links.

    What AdTarget has received is AdTarget's to delete. With an outbox on Redis, run it on every machine that has journals.
    """
    if not yes:
        click.confirm(f"Everything kept of visitor {masked_id(visitor)} is deleted for good. Go on?", abort=True)
    with opened(url) as desk:
        erased, lines = 0, 0
        for _ in range(2):  # what another process' pump had in hand the first time is in the store by the second
            Pump(desk.outbox).machine(time.time())
            lines += _erase_lines(desk, visitor)
            erased += desk.store.erase(visitor, now=time.time())
        aside = _set_aside(desk)
    click.echo(f"{erased} events erased, {lines} journal lines overwritten.")
    if aside:
        click.echo(f"Broken outbox files that were set aside may still hold data of the visitor: {', '.join(aside)}")


def _erase_lines(desk: Desk, visitor: str) -> int:
    try:
        return 0 if desk.outbox.segments is None else erase_lines(desk.outbox.segments, visitor)
    except OSError as error:
        raise OutboxError(f"the journals cannot be written: {error.strerror}") from None


def _set_aside(desk: Desk) -> list[str]:
    path = desk.outbox.place.path
    return [] if path is None else sorted(str(file) for file in path.parent.glob(f"{path.name}.broken-*"))


@click.command()
@click.option("--from", "source", required=True, metavar="ACCOUNT", help="As outbox status shows it.")
@click.option("--to", "target", metavar="ACCOUNT|SITE", help="Needed where the settings have several.")
@click.pass_obj
def adopt(url: str | None, source: str, target: str | None) -> None:
    """Give the events of one account to another: after a key was replaced, or the API's address changed.

    Events are tagged with the API and the credential that they were made for, and nobody sends another's. Only adopt what was made
    for the same site.
    """
    with opened(url) as desk:
        if source not in desk.store.accounts():
            raise click.UsageError(f"no events of account {source!r}; outbox status lists the accounts")
        home = _home(desk, source, target)
        keyed = {account.id for account in desk.settings.accounts if account.api_key}
        if home in desk.names and home not in keyed and _has_conversions(desk, source):
            raise click.UsageError(f"{home} is keyless and {source} has conversions, which need an API key")
        moved = 0
        while number := desk.store.adopt(source, home):
            moved += number
        left = desk.store.counts([source]).claimed
    click.echo(f"{moved} events of {source} are now {home}'s ({desk.name(home)}).")
    if left:
        click.echo(f"{left} are being sent right now and stay; adopt again if they come back.")


def _home(desk: Desk, source: str, target: str | None) -> str:
    homes = (set(desk.names) if target is None else desk.accounts(target)) - {source}
    if len(homes) != 1:
        what = "none" if not homes else "several: " + ", ".join(f"{home} ({desk.name(home)})" for home in sorted(homes))
        raise click.UsageError(f"the account to give them to: these settings have {what}; name one with --to")
    return next(iter(homes))


def _has_conversions(desk: Desk, account: str) -> bool:
    return next(Choice(kinds=[Conversion.kind], accounts=[account]).entries(desk), None) is not None
