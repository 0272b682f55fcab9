"""A browser before a shell: it keeps cookies after RFC 6265, and its clock is the app's."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from cookie_jar import CookieJar
from shell_world import HTML, PAGE, Answer, Request, Shell, View, kept, quiet

from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.events import Event


class Browser:
    """One visitor of one wrapped app. ``thrown_away`` are the Set-Cookie lines that it refused."""

    def __init__(self, shell: Shell, settings: Settings | None = None, view: View = HTML) -> None:
        self.shell = shell
        self.jar = CookieJar(time.time())
        self.thrown_away: list[str] = []
        self._view = view
        self.wrap(settings or quiet())

    def wrap(self, settings: Settings) -> None:
        """From now on the app has these settings."""
        self.app: Any = self.shell.middleware(self.shell.app(self._view), settings)
        self.app.tracker.rules.clock = lambda: self.jar.now

    def close(self) -> None:
        self.app.close(0)

    def ask(self, host: str, request: Request = PAGE) -> Answer:
        """A request with the cookies of now; what the answer sets is not kept yet."""
        cookie = self.jar.header(host, request.path, secure=request.scheme == "https")
        return self.shell.ask(self.app, request.having(host=host, cookie=cookie))

    def keep(self, host: str, answer: Answer, request: Request = PAGE) -> None:
        """Keep what an answer sets."""
        for line in answer.all("set-cookie"):
            if not self.jar.keep(line, host, request.path, secure=request.scheme == "https"):
                self.thrown_away.append(line)

    def open(self, host: str, request: Request = PAGE, *, after: float = 60.0) -> Answer:
        """The next page, ``after`` seconds later."""
        self.jar.now += after
        answer = self.ask(host, request)
        self.keep(host, answer, request)
        return answer

    def values(self, name: str) -> list[str]:
        """What is stored under a name, wherever it lies."""
        return [cookie.value for cookie in self.jar.stored(name)]

    def told(self) -> list[Event]:
        """What AdTarget would be told, in order."""
        return kept(self.app.tracker)


AD = replace(PAGE, query="fbclid=IwAR0_aB-c9&utm_source=fb")
