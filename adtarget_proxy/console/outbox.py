"""``adtarget-proxy outbox``: what waits, what was refused, and what to do about it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from adtarget_proxy.console.desk import NOBODY, Desk, PlainGroup, opened
from adtarget_proxy.console.hand import adopt, erase
from adtarget_proxy.console.records import STATES, Choice, record, state
from adtarget_proxy.console.status import status_of
from adtarget_proxy.outbox import DeadLetter, DeadReason
from adtarget_proxy.tracking.events import KINDS

HELP = """Look after the outbox: what waits for AdTarget, and what it refused.

The outbox is the one that the app has: from ADTARGET_OUTBOX or ADTARGET_CONFIG, or named with --outbox. No key is needed. Personal
data is masked unless --reveal is given.

\b
Examples:
  adtarget-proxy outbox status                          how many wait, are dead, were sent
  adtarget-proxy outbox list --state dead               what AdTarget refused, and why
  adtarget-proxy outbox show 3f2a… --reveal             one event, whole
  adtarget-proxy outbox replay --reason refused         again, after the cause was mended
  adtarget-proxy outbox export --kind conversion        JSON lines, one an event
  adtarget-proxy outbox erase --visitor 0b9c…           a visitor who wants to be forgotten
  adtarget-proxy outbox adopt --from 5d41402abc4b2a76   events of a key that was replaced
"""

_UNKNOWN = "sent without a definite answer"


@click.group(cls=PlainGroup, help=HELP, short_help="What waits, what was refused, and what to do about it.")
@click.option("--outbox", "url", metavar="URL", help="Instead of ADTARGET_OUTBOX: sqlite:////abs/path or redis://…")
@click.pass_context
def outbox(ctx: click.Context, url: str | None) -> None:
    ctx.obj = url


outbox.add_command(erase)
outbox.add_command(adopt)


def _choosing(states: Iterable[str] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that choose events; with ``states`` None those of dead letters alone."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = [
            click.option("--kind", "kinds", multiple=True, type=click.Choice(sorted(KINDS)), help="Repeatable."),
            click.option(
                "--reason",
                "reasons",
                multiple=True,
                type=click.Choice([reason.value for reason in DeadReason]),
                help="Dead letters that ended so; repeatable.",
            ),
            click.option("--site", help="A site's name or pattern, or how an account's id begins."),
        ]
        if states is not None:
            options.append(click.option("--state", "states", multiple=True, type=click.Choice(list(states))))
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _choice(desk: Desk, given: dict[str, Any]) -> Choice:
    site = given["site"]
    return Choice(
        given.get("states", ()),
        given["kinds"],
        [DeadReason(reason) for reason in given["reasons"]],
        None if site is None else desk.accounts(site),
    )


# -- looking -------------------------------------------------------------------------------------------------------------------


@outbox.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def status(url: str | None, as_json: bool) -> None:
    """How many events wait, are being sent, are dead and were sent, by account."""
    with opened(url) as desk:
        told = status_of(desk)
    if as_json:
        click.echo(json.dumps(told))
        return
    console = Console()
    console.print(f"Outbox [bold]{told['outbox']}[/bold]", soft_wrap=True)
    table = Table("site", "account", *(f"[right]{name}" for name in ("waiting", "claimed", "dead", "sent")))
    for row in told["accounts"]:
        table.add_row(row["site"], row["account"], *(str(row[name]) for name in ("waiting", "claimed", "dead", "sent")))
    console.print(table)
    console.print(f"In journals, on their way into the store: {told['journals']['bytes']:,} bytes")
    for cause, number in told["lost"].items():
        console.print(f"[red]given up[/red]  {number} ({cause})")
    if any(row["site"] == NOBODY and row["waiting"] for row in told["accounts"]):
        console.print(
            "Events of an account that is not in these settings wait until it is, or: outbox adopt --from ACCOUNT"
        )


@outbox.command(name="list")
@_choosing(STATES)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=0), help="0: all.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, with the fields.")
@click.option("--reveal", is_flag=True, help="With personal data.")
@click.pass_obj
def list_(url: str | None, /, limit: int, as_json: bool, reveal: bool, **given: Any) -> None:
    """Events by worth and age, then the dead letters from the oldest."""
    with opened(url) as desk:
        found = _choice(desk, given).entries(desk)
        records = (record(entry, desk, reveal=reveal) for entry in islice(found, limit or None))
        if as_json:
            for each in records:
                click.echo(json.dumps(each))
            return
        table = Table("id", "state", "kind", "site", "visitor", "made at", "tries", "why")
        for each in records:
            why = each.get("reason") or (f"not before {each['not_before']}" if each["not_before"] else "")
            words = f"{why}: {each['answer']}" if each.get("answer") else why
            row = (
                each["state"],
                each["kind"],
                each["site"],
                each["visitor"],
                each["made_at"],
                str(each["tries"]),
                words,
            )
            table.add_row(each["id"], *row)
        shown = table.row_count
        Console().print(table if shown else "Nothing.")
        if limit and shown == limit:
            click.echo(f"The first {limit}; --limit 0 shows all.")


@outbox.command()
@click.argument("event_id", metavar="ID")
@click.option("--reveal", is_flag=True, help="With personal data.")
@click.pass_obj
def show(url: str | None, event_id: str, reveal: bool) -> None:
    """One event, all that is known of it, as JSON."""
    with opened(url) as desk:
        entry = desk.store.find(event_id)
        if entry is None:
            raise click.ClickException(
                f"{event_id} does not wait and is no dead letter: it was sent, purged or never here"
            )
        click.echo(json.dumps(record(entry, desk, reveal=reveal), indent=2))


@outbox.command()
@_choosing(STATES)
@click.option("--output", type=click.File("w", lazy=True), default="-", help="A file instead of standard output.")
@click.option("--reveal", is_flag=True, help="With personal data.")
@click.pass_obj
def export(url: str | None, /, output: TextIO, reveal: bool, **given: Any) -> None:
    """JSON lines, one an event, all fields."""
    with opened(url) as desk:
        output.writelines(
            json.dumps(record(entry, desk, reveal=reveal)) + "\n" for entry in _choice(desk, given).entries(desk)
        )


# -- dead letters --------------------------------------------------------------------------------------------------------------


@outbox.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_choosing()
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--may-count-twice", is_flag=True, help=f"Those too that were {_UNKNOWN}.")
@click.pass_obj
def replay(url: str | None, /, ids: tuple[str, ...], everything: bool, may_count_twice: bool, **given: Any) -> None:
    """Send dead letters again, under their old idempotency keys.

    Those that were sent without a definite answer, and whose key AdTarget may have forgotten by now, stay where they are unless
    --may-count-twice says that counting one twice is better than not at all.
    """
    with opened(url) as desk:
        done = left = 0
        for letter in _letters(desk, ids, everything=everything, given=given, doing="Replaying"):
            if letter.reason is DeadReason.UNKNOWN and not may_count_twice:
                left += 1
            else:
                done += desk.store.replay(letter.event.id, now=time.time())
    click.echo(f"{done} wait again.")
    if left:
        click.echo(
            f"{left} were {_UNKNOWN} and stay: AdTarget may have counted them (--may-count-twice sends them all the same)."
        )


@outbox.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_choosing()
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge(url: str | None, /, ids: tuple[str, ...], everything: bool, yes: bool, **given: Any) -> None:
    """Delete dead letters for good."""
    with opened(url) as desk:
        letters = _letters(desk, ids, everything=everything, given=given, doing="Purging")
        if not yes:
            click.confirm("Dead letters that are purged cannot be replayed. Go on?", abort=True)
        done = sum(desk.store.purge(letter.event.id) for letter in letters)
    click.echo(f"{done} purged.")


def _letters(
    desk: Desk, ids: tuple[str, ...], *, everything: bool, given: dict[str, Any], doing: str
) -> Iterator[DeadLetter]:
    """The dead letters that are meant, with a progress bar for whoever watches. Raises UsageError where none is named."""
    if not ids and not everything and not any(given.values()):
        raise click.UsageError("name events by ID, choose them with --kind, --reason or --site, or take --all")
    if ids and (everything or any(given.values())):
        raise click.UsageError("either IDs, or a choice among all")
    return _named(desk, ids) if ids else _chosen(desk, _choice(desk, given), doing)


def _named(desk: Desk, ids: Iterable[str]) -> Iterator[DeadLetter]:
    for event_id in ids:
        entry = desk.store.find(event_id)
        if isinstance(entry, DeadLetter):
            yield entry
        else:
            click.echo(f"{event_id} is no dead letter" + ("" if entry is None else f": it is {state(entry)}"), err=True)


def _chosen(desk: Desk, choice: Choice, doing: str) -> Iterator[DeadLetter]:
    """One that dies again while we are at it is not met twice."""
    began = time.time()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=desk.store.counts(choice.accounts).dead)
        for letter in choice.letters(desk):
            if letter.died_at >= began:
                return
            yield letter
            progress.advance(task)
