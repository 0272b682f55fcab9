"""Every example runs as it stands, with nothing but the environment lines that the sandbox prints."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import NAVIGATION, Server, free_port

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server

EXAMPLES = Path(__file__).parent.parent / "examples"
COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "asgi_app": lambda port: ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "asgi_app:app", "--port", port],
    "fastapi_app": lambda port: ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_app:app", "--port", port],
    "wsgi_app": lambda port: [
        "-m",
        "gunicorn",
        "--threads",
        "4",
        "--chdir",
        str(EXAMPLES),
        "wsgi_app:app",
        "-b",
        f"127.0.0.1:{port}",
    ],
    "flask_app": lambda port: ["-m", "flask", "--app", str(EXAMPLES / "flask_app.py"), "run", "--port", port],
    "django_app": lambda port: [str(EXAMPLES / "django_app.py"), "runserver", "--noreload", port],
}


def test_every_example_has_its_command():
    assert {path.stem for path in EXAMPLES.glob("*_app.py")} == set(COMMANDS)


@pytest.mark.parametrize("example", COMMANDS)
def test_an_example_tracks_its_page_and_sends_its_visitor_on(example: str, tmp_path: Path):
    port = free_port()
    with Sandbox() as sandbox:
        environment = {
            "ADTARGET_API_KEY": sandbox.api_key,
            "ADTARGET_API_URL": sandbox.api_url,
            "ADTARGET_TRACKER_URL": sandbox.tracker_url,
            "XDG_STATE_HOME": str(tmp_path),
        }
        server = Server([sys.executable, *COMMANDS[example](str(port))], port, environment, tmp_path / "log")
        try:
            page = server.get("/?fbclid=IwAR0_aB-c9", NAVIGATION)
            assert page.status == 200, server.log.read_text()
            (join,) = re.findall(r'href="(.*?)"', page.body.decode())
            click = server.get(join, {"Cookie": page.jar})
            assert click.status == 302
            assert click.header("Location").startswith("https://t.me/+")
            events = sandbox.wait_for(2, timeout=15)
        finally:
            server.stop()
    assert [event["endpoint"] for event in events] == ["visit", "invite"]
    assert (tmp_path / "adtarget-proxy").is_dir(), "the default outbox"
