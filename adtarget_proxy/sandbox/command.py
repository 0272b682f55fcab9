"""``adtarget-proxy sandbox``: AdTarget in the foreground, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from dataclasses import fields
from types import FrameType
from typing import Any

import click

from .faults import ENDPOINTS, Faults
from .options import API_KEY, PAUSED_KEY, REVOKED_KEY, WEBSITE_ID
from .server import Sandbox

FAULTS = frozenset(field.name for field in fields(Faults))
PORT = 8787
LOOK_EVERY = 0.2  # seconds
SHARE = click.FloatRange(0, 1)
SECONDS = click.FloatRange(min=0)

HELP = f"""AdTarget on your machine: an emulator of its API, both surfaces, with a page that shows what arrives, live.

\b
Examples:
  adtarget-proxy sandbox
  adtarget-proxy sandbox --rate 0                            no rate limit
  adtarget-proxy sandbox --latency 0.2 --error-rate 0.3      a bad day
  adtarget-proxy sandbox --hang --fault-endpoint invite      invites never answer
  adtarget-proxy sandbox --status 429 --retry-after 5        the limit is always reached
  adtarget-proxy sandbox --website-id atid_x --domain shop.example --check-referer

\b
Change the faults while it runs:
  curl -X POST   localhost:{PORT}/_sandbox/faults -d '{{"down": true}}'
  curl -X POST   localhost:{PORT}/_sandbox/faults -d '{{"endpoint": "invite", "latency": 3}}'
  curl -X DELETE localhost:{PORT}/_sandbox/faults

\b
Keys that are refused, to see what your app makes of it:
  {REVOKED_KEY}   401 REVOKED_KEY
  {PAUSED_KEY}    402 SUBSCRIPTION_INACTIVE
"""


@click.command(
    help=HELP,
    short_help="AdTarget on your machine, with all its bad days.",
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
)
@click.option("--host", default="127.0.0.1")
@click.option("--port", default=PORT, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option("--key", "api_key", default=API_KEY, help="The API key that works.")
@click.option("--account-key", "account_keys", multiple=True, help="A key of the whole account; repeatable.")
@click.option("--revoked-key", "revoked_keys", multiple=True, help="Answered with 401; repeatable.")
@click.option("--paused-key", "paused_keys", multiple=True, help="Answered with 402; repeatable.")
@click.option("--website-id", default=WEBSITE_ID, help="The website id that works on the keyless surface.")
@click.option("--domain", help="The site's host name, for the two checks.")
@click.option("--check-referer", is_flag=True, help="Keyless: the Referer must be a page of --domain.")
@click.option("--check-origin", is_flag=True, help="Keyless: the Origin must be one of --domain.")
@click.option(
    "--rate", default=300.0, type=click.FloatRange(min=0), help="Requests a minute and key; 0 lifts the limit."
)
@click.option("--burst", default=50, type=click.IntRange(min=0))
@click.option("--tracker-rate", default=0.0, type=click.FloatRange(min=0), help="The same for the keyless surface.")
@click.option("--channel", "channels", multiple=True, help="A channel that exists; none given: all do.")
@click.option("--lead", "leads", multiple=True, type=int, help="A Telegram user that has joined; repeatable.")
@click.option("--invite-as", default="json", type=click.Choice(["json", "redirect"]))
@click.option("--invite-field", default="inviteLink", help="The link's name in the JSON; a dot puts it one level down.")
@click.option("--fbp-miss", default="false", type=click.Choice(["false", "404"]), help="update-fbp without a visit.")
@click.option("--replay-errors", is_flag=True, help="An Idempotency-Key brings back refusals as well.")
@click.option("--keep", default=10_000, type=click.IntRange(min=1), help="How many requests are remembered.")
@click.option("--seed", type=int, help="Makes the random faults repeatable.")
@click.option("--latency", default=0.0, type=SECONDS, help="Seconds before each answer.")
@click.option("--jitter", default=0.0, type=SECONDS, help="Up to so many seconds more.")
@click.option("--error-rate", default=0.0, type=SHARE, help="The share of requests that fail.")
@click.option("--error-status", default=500, type=click.IntRange(400, 599))
@click.option("--drop-rate", default=0.0, type=SHARE, help="The share of connections that are cut.")
@click.option(
    "--drop-when", default="before", type=click.Choice(["before", "after", "either"]), help="It was recorded."
)
@click.option("--hang", is_flag=True, help="Never answer.")
@click.option("--down", is_flag=True, help="Cut every connection.")
@click.option("--html", is_flag=True, help="Answer with a web page, as a wall in front would.")
@click.option("--foreign-link", is_flag=True, help="Invite links lead to another host.")
@click.option("--status", type=click.IntRange(400, 599), help="Answer everything with this status.")
@click.option("--retry-after", type=click.IntRange(min=0), help="Seconds, sent with the failing answers.")
@click.option("--fault-endpoint", multiple=True, type=click.Choice(ENDPOINTS), help="Faults for this endpoint only.")
@click.option("--quiet", is_flag=True, help="Do not print a line for each request.")
def sandbox(host: str, port: int, fault_endpoint: tuple[str, ...], quiet: bool, **given: Any) -> None:
    faults = {name: value for name, value in given.items() if name in FAULTS}
    options = {name: value for name, value in given.items() if name not in FAULTS and value != ()}
    try:
        server = Sandbox(host, port, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"port {port} on {host}: {error.strerror}; try --port 0") from None
    with server:
        server.faults(endpoint=list(fault_endpoint) or "*", **faults)
        _introduce(server)
        _serve(server, quiet)


def _introduce(server: Sandbox) -> None:
    click.echo(f"AdTarget sandbox: what arrives is at {click.style(server.url + '/', bold=True)}\n")
    click.echo("For the app that is to send to it (with one of the two credentials):")
    for name, value in (
        ("ADTARGET_API_URL", server.api_url),
        ("ADTARGET_TRACKER_URL", server.tracker_url),
        ("ADTARGET_API_KEY", server.api_key),
        ("ADTARGET_WEBSITE_ID", server.website_id),
    ):
        click.echo(f"  export {name}={value}")
    click.echo("\nCtrl-C stops it.")


def _serve(server: Sandbox, quiet: bool) -> None:
    """Prints a line for each request until SIGINT or SIGTERM."""
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, stop)
    last = 0
    while not stopped.wait(LOOK_EVERY):
        for request in server.requests(after=last):
            last = request["number"]
            if not quiet:
                click.echo(_line(request))


def _line(request: dict[str, Any]) -> str:
    status = str(request["status"]) if request["delivered"] and request["status"] else "cut"
    colour = {"counted": "green", "read": "green", "replayed": "yellow", "refused": "yellow"}.get(
        request["outcome"], "red"
    )
    shown = click.style(f"{status:>4}", fg=colour)
    return f"{shown}  {request['endpoint']:<11} {request['surface']:<8} {request['outcome']}"
