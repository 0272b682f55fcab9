"""A real Chromium, driven over its DevTools protocol: just enough to open a page, click, and look at cookies."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from serving import require
from websockets.sync.client import ClientConnection, connect

# what a closed network makes Chromium trip over, and its own housekeeping
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0"
)
EVERY_NAME_IS_HERE = "--host-resolver-rules=MAP * 127.0.0.1"
PERSON = "Mozilla/5.0 (X11; Linux x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection, another: Callable[[], Page]) -> None:
        self.another = another  # a further tab of the same browser
        self._socket = socket
        self._number = 0
        self.call("Network.enable")
        self.call("Page.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; events that come in between are passed over."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=20))
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return dict(message["result"])

    def open(self, url: str) -> None:
        """Navigate, and wait until the page is complete."""
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 20
        while self.run("document.readyState + location.href") != f"complete{url}":
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def cookies(self) -> dict[str, dict[str, Any]]:
        return {cookie["name"]: cookie for cookie in self.call("Network.getCookies")["cookies"]}

    def stored(self, name: str, url: str | None = None) -> list[dict[str, Any]]:
        """All cookies of a name that this page, or ``url``, would be sent."""
        where = {} if url is None else {"urls": [url]}
        return [cookie for cookie in self.call("Network.getCookies", **where)["cookies"] if cookie["name"] == name]


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A browser with an empty profile, and a tab in it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    require(program is not None, "Chromium is not installed")
    profile = folder / "profile"
    command = [str(program), *FLAGS.split(), EVERY_NAME_IS_HERE, f"--user-agent={PERSON}", f"--user-data-dir={profile}"]
    command.append("about:blank")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sockets = ExitStack()
    try:
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 30
        while not (port_file.exists() and port_file.read_text().count("\n") >= 1):
            assert time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.05)

        def tab() -> Page:
            connection = HTTPConnection("127.0.0.1", int(port_file.read_text().split()[0]), timeout=10)
            connection.request("PUT", "/json/new?about:blank")
            target = json.loads(connection.getresponse().read())
            connection.close()
            return Page(sockets.enter_context(connect(target["webSocketDebuggerUrl"], max_size=None)), tab)

        with sockets:
            yield tab()
    finally:
        process.terminate()
        process.wait(10)
