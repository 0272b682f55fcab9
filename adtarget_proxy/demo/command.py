"""``adtarget-proxy demo``: the sandbox and a landing page behind the middleware, in one process."""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import uvicorn
from rich.console import Console
from rich.table import Table

from adtarget_proxy.asgi import AdTargetMiddleware
from adtarget_proxy.demo.site import SLUG, landing
from adtarget_proxy.demo.visitor import Journey, missing, travel
from adtarget_proxy.sandbox.server import Sandbox
from adtarget_proxy.settings import Settings

_WAIT = 10.0  # seconds
_FIELDS = (
    "href",
    "referrer",
    "tempId",
    "clientSessionId",
    "fbp",
    "fbc",
    "clientIp",
    "userAgent",
    "utmSource",
    "gclid",
    "channelId",
)


@click.command()
@click.option("--once", is_flag=True, help="Send one visitor through, show what AdTarget received, exit.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the landing page listens.")
@click.option("--port", default=8000, show_default=True, help="The landing page's port; 0 takes a free one.")
@click.option("--sandbox-port", default=8787, show_default=True, help="The sandbox's port; 0 takes a free one.")
@click.option("--keyless", is_flag=True, help="Use the tracker surface (a website id) instead of the API key.")
@click.option("--outbox", help="Keep events here, such as memory://. Default: a SQLite file that goes with the demo.")
def demo(once: bool, host: str, port: int, sandbox_port: int, keyless: bool, outbox: str | None) -> None:
    """The whole job on this machine: AdTarget's sandbox, and a landing page behind the middleware.

    \b
    adtarget-proxy demo          open the page, click, watch what AdTarget receives
    adtarget-proxy demo --once   one visitor, a table, and exit status 1 if anything is missing
    """
    console = Console()
    if once:
        port = sandbox_port = 0
    try:
        with tempfile.TemporaryDirectory(prefix="adtarget-demo-") as folder, Sandbox(port=sandbox_port) as sandbox:
            place = outbox or f"sqlite:///{Path(folder).resolve() / 'outbox.sqlite3'}"
            app = AdTargetMiddleware(landing, _settings(sandbox, place, keyless=keyless))
            with _served(app, host, port) as url:
                if once:
                    sys.exit(_once(console, url, sandbox, app))
                _stay(console, url, sandbox)
            app.close()
    except OSError as error:
        raise click.ClickException(
            f"{error}; choose other ports with --port and --sandbox-port, or 0 for free ones"
        ) from None


def _settings(sandbox: Sandbox, outbox: str, *, keyless: bool) -> Settings:
    return Settings(
        api_key=None if keyless else sandbox.api_key,
        website_id=sandbox.website_id if keyless else None,
        api_url=sandbox.api_url,
        tracker_url=sandbox.tracker_url,
        outbox=outbox,
        invites={SLUG: "-1001234567890"},
        fallback_url="https://t.me/harbour_light_demo",
        trusted_proxies=("127.0.0.0/8", "::1/128"),
        debug=True,
    )


@contextmanager
def _served(app: Any, host: str, port: int) -> Iterator[str]:
    """``app`` on a real uvicorn in a thread of its own."""
    listener = socket.create_server((host, port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", proxy_headers=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="landing", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)
        listener.close()


def _once(console: Console, url: str, sandbox: Sandbox, app: AdTargetMiddleware) -> int:
    journey = travel(url, SLUG)
    deadline = time.monotonic() + _WAIT
    while app.flush(0.5) and time.monotonic() < deadline:
        pass
    events = sandbox.events()
    console.print(_table(events))
    console.print(f"The join button led to [bold]{journey.link}[/bold]")
    faults = [*missing(journey, events), *_wrong_statuses(journey)]
    for fault in faults:
        console.print(f"[red]missing[/red]  {fault}")
    if not faults:
        console.print(
            "[green]Everything arrived[/green]: 2 visits, 1 invite click, one visitor, no script in the page."
        )
    app.close()
    return 1 if faults else 0


def _wrong_statuses(journey: Journey) -> Iterator[str]:
    for path, status in journey.statuses.items():
        wanted = 302 if path.startswith("/c/") else 200
        if status != wanted:
            yield f"{path} answered {status} instead of {wanted}"


def _table(events: list[dict[str, Any]]) -> Table:
    """A column an event, a row a field."""
    table = Table(title="What AdTarget received", show_lines=True)
    table.add_column("")
    for event in events:
        table.add_column(event["endpoint"], overflow="fold")
    for name in _FIELDS:
        table.add_row(name, *(str((event["body"] or event["query"]).get(name) or "") for event in events))
    table.add_row("Idempotency-Key", *(event["idempotency_key"] or "none: keyless" for event in events))
    return table


def _stay(console: Console, url: str, sandbox: Sandbox) -> None:
    console.print(f"[bold]Landing page[/bold]   {url}/?fbclid=IwAR0_aB-c9&utm_source=fb")
    console.print(f"[bold]Invite button[/bold]  {url}/c/{SLUG}")
    console.print(f"[bold]AdTarget[/bold]       {sandbox.url}/   (what arrived, live)")
    console.print("Ctrl-C ends it.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print()
