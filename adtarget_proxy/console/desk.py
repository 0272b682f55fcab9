"""What the commands share: an outbox and the settings it belongs to, opened, and faults said without a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from adtarget_proxy.errors import AdTargetError
from adtarget_proxy.outbox import Outbox, Store
from adtarget_proxy.settings import Account, Settings

NOBODY = "not in these settings"


class Plain(click.Command):
    """A command that says a fault of settings or outbox as it is, and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """See ``click.Command``."""
        with _said():
            return super().invoke(ctx)


class PlainGroup(click.Group):
    """The same for a group of commands."""

    def invoke(self, ctx: click.Context) -> Any:
        """See ``click.Group``."""
        with _said():
            return super().invoke(ctx)


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except AdTargetError as error:
        raise click.ClickException(str(error)) from None


@dataclass(frozen=True)
class Desk:
    """An outbox as an operator sees it. ``names``: account id → what the settings call it."""

    settings: Settings
    outbox: Outbox
    names: Mapping[str, str]

    @property
    def store(self) -> Store:
        """The outbox' store."""
        return self.outbox.store

    def name(self, account: str) -> str:
        """What the settings call an account."""
        return self.names.get(account, NOBODY)

    def accounts(self, wanted: str) -> frozenset[str]:
        """The accounts of a site's name, or the one whose id begins so. Raises UsageError."""
        known = self.store.accounts() | set(self.names)
        found = {account for account, name in self.names.items() if name.removesuffix(CONVERSIONS) == wanted}
        found |= {account for account in known if len(wanted) >= 4 and account.startswith(wanted)}
        if not found:
            there = sorted({name.removesuffix(CONVERSIONS) for name in self.names.values()} | known)
            raise click.UsageError(f"no site or account {wanted!r}; there are: {', '.join(there) or 'none'}")
        return frozenset(found)


CONVERSIONS = " (conversions)"


@contextmanager
def opened(url: str | None) -> Iterator[Desk]:
    """The desk of the outbox at ``url``, or of the environment's. Needs no credential. Raises ClickException, OutboxError."""
    over = {} if url is None else {"outbox": url}
    settings = Settings(mode="off", **over)  # type: ignore[arg-type]  # looking after events sends nothing
    outbox = Outbox.open(settings.outbox)
    if outbox.place.path is None:
        raise click.ClickException(
            "memory:// lives and dies inside its process, there is nothing to look at; "
            "name a durable outbox with --outbox or ADTARGET_OUTBOX"
        )
    if not outbox.place.is_there:
        raise click.ClickException(
            f"nothing was ever kept at {outbox.place}; if the app's outbox is elsewhere, name it with --outbox or ADTARGET_OUTBOX"
        )
    try:
        yield Desk(settings, outbox, names_of(settings))
    finally:
        outbox.close()


def names_of(settings: Settings) -> dict[str, str]:
    """Account id → the name of its site; an account that takes conversions only is marked."""
    names: dict[str, str] = {}
    for site in settings.all_sites:
        for account, mark in ((site.tracking_account, ""), (site.conversion_account, CONVERSIONS)):
            if account is not None:
                names.setdefault(account.id, (site.name or _host(account)) + mark)
    return names


def _host(account: Account) -> str:
    return (account.api_url if account.api_key else account.tracker_url).split("/")[2]
