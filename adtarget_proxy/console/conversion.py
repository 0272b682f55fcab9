"""``adtarget-proxy conversion``: a purchase or a lead, reported from a shell or a cron job."""

from __future__ import annotations

import json
import logging
import secrets
import time
from typing import Any, TextIO

import click

from adtarget_proxy.console.desk import CONVERSIONS, Plain, names_of
from adtarget_proxy.console.masking import masked_words
from adtarget_proxy.delivery import Delivery
from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.errors import OutboxError
from adtarget_proxy.outbox import DeadLetter, Outbox
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.conversions import EVENT_TYPES, conversion_of
from adtarget_proxy.tracking.events import Conversion

_END = 0.5  # seconds that ending may take

HELP = """Report a conversion to AdTarget, through the outbox.

Once the command has ended with 0 the conversion is kept on disk, and it is sent once under its idempotency key however often the
command is called with the same one: take the order's number. It is sent at once where AdTarget answers; else by the app, a worker, or
the next call. Settings come from the environment, the same as the app's. Personal data (pii, addresses) belongs into --json, where no
list of processes shows it.

\b
Examples:
  adtarget-proxy conversion --telegram-user-id 1234567890 --event-type Purchase \\
      --value 97 --currency USD --channel-id=-1001234567890 --idempotency-key order_12345
  adtarget-proxy conversion --telegram-user-id 1234567890 --event-type Lead --idempotency-key lead_77
  echo '{"telegram_user_id": 1234567890, "event_type": "Subscribe", "pii": {"email": "a@shop.example"}}' |
      adtarget-proxy conversion --json - --idempotency-key sub_9
"""


@click.command(cls=Plain, help=HELP, short_help="Report a purchase or a lead from a shell or a cron job.")
@click.option("--telegram-user-id", type=int, help="The lead's Telegram user id.")
@click.option("--event-type", type=click.Choice(EVENT_TYPES))
@click.option("--custom-event-name", help="For the type Custom.")
@click.option("--value", type=float, help="Needed for a Purchase.")
@click.option("--currency", help="ISO 4217, such as USD.")
@click.option("--channel-id", help="The Telegram channel; needed for a lead that AdTarget does not know.")
@click.option("--content-name")
@click.option("--external-user-id", help="Your own id of the person.")
@click.option("--event-time", type=int, help="Unix milliseconds; now, if not given.")
@click.option("--event-source-url")
@click.option(
    "--json",
    "file",
    type=click.File(encoding="utf-8"),
    help="A JSON object with more fields; - reads it from standard input.",
)
@click.option("--idempotency-key", "key", help="Yours, 128 characters at most, such as the order's number.")
@click.option("--site", help="Which one, where the settings have several.")
@click.option("--outbox", "url", metavar="URL", help="Instead of ADTARGET_OUTBOX.")
@click.option(
    "--wait",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0, 300),
    help="Seconds for sending; 0 only keeps it.",
)
def conversion(
    file: TextIO | None, key: str | None, site: str | None, url: str | None, wait: float, **given: Any
) -> None:
    logging.getLogger("adtarget_proxy").addHandler(logging.StreamHandler())
    over = {} if url is None else {"outbox": url}
    settings = Settings(**over)  # type: ignore[arg-type]
    event = _event(
        settings, {**_fields(file), **{name: value for name, value in given.items() if value is not None}}, key, site
    )
    if settings.mode == "off":
        raise click.ClickException('mode is "off": nothing is kept or sent')
    outbox = Outbox.open(settings.outbox)
    try:
        outcome = _through(settings, outbox, event, wait=wait)
    finally:
        outbox.close()
    if outbox.lost:
        raise click.ClickException(f"it could not be kept: {', '.join(outbox.lost)}")
    click.echo(outcome)


def _fields(file: TextIO | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        fields = json.load(file)
    except ValueError as error:
        raise click.UsageError(f"--json: no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise click.UsageError("--json: must be an object with the conversion's fields in snake case")
    return fields


def _event(settings: Settings, fields: dict[str, Any], key: str | None, site: str | None) -> Conversion:
    if key is not None and not 0 < len(key) <= 128:
        raise click.UsageError("--idempotency-key: 1 to 128 characters")
    try:
        return conversion_of(
            fields,
            account=_account(settings, site),
            key=key or secrets.token_hex(16),
            visitor=None,
            now=time.time(),
            borrowed={},
            ip=settings.ip,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _account(settings: Settings, wanted: str | None) -> str:
    """The account that takes conversions. Raises UsageError where there is none, or several and none is named."""
    names = names_of(settings)
    keyed = {
        account.id: names[account.id].removesuffix(CONVERSIONS) for account in settings.accounts if account.api_key
    }
    found = [account for account, name in keyed.items() if wanted is None or name == wanted]
    if not keyed:
        raise click.UsageError("conversions need an API key: set ADTARGET_API_KEY (atk_live_…)")
    if len(found) != 1:
        raise click.UsageError(f"name one of these sites with --site: {', '.join(sorted(keyed.values()))}")
    return found[0]


def _through(settings: Settings, outbox: Outbox, event: Conversion, *, wait: float) -> str:
    """Keep it, send it if that can be done in time; what became of it in words.

    Raises OutboxError where there can be no journal, ClickException where AdTarget refuses it.
    """
    if outbox.journal is not None:
        outbox.journal.open()
    outbox.append(event)
    try:
        Pump(outbox).own(time.time())
        if settings.deliver == "thread" and wait > 0:
            delivery = Delivery(settings, outbox)
            delivery.flush(wait)
            delivery.close(_END)
        entry = outbox.store.find(event.id)
    except OutboxError as error:
        return f"Kept in the journal under the key {event.key}; the outbox takes it later ({error})."
    if entry is None:
        return f"Sent under the key {event.key}."
    if isinstance(entry, DeadLetter):
        raise click.ClickException(
            f"AdTarget did not take it: {masked_words(entry.answer)} (adtarget-proxy outbox show {event.id})"
        )
    if outbox.place.path is None:
        raise click.ClickException("it was not sent, and memory:// keeps nothing; set a durable ADTARGET_OUTBOX")
    return f"Kept under the key {event.key}; it waits to be sent (adtarget-proxy outbox show {event.id})."
