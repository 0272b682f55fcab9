"""The life of a process that no web server looks after: scripts that fork, use multiprocessing or gevent, and end in every way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]

# ``visit`` is one page view; the line it writes is what the visitor has in hand.
SITE = """
import ctypes, multiprocessing, os, signal, sys, threading
from wsgiref.util import setup_testing_defaults
from adtarget_proxy.wsgi import AdTargetMiddleware

def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"<p>Hello"]

app = AdTargetMiddleware(page)

def visit(number=1):
    for _ in range(number):
        environ = {"HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64) Firefox/133.0", "HTTP_ACCEPT": "text/html"}
        setup_testing_defaults(environ)
        got = []
        app(environ, lambda status, headers: got.extend(headers))
        cookies = dict(value.split("=", 1) for name, value in got if name == "Set-Cookie")
        os.write(1, (cookies["adtarget_temp_id"].partition(";")[0] + "\\n").encode())

def fork(then, how=os.fork):
    pid = how()
    if pid == 0:
        visit(5)
        then()
    return pid

def wait(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0

def started(how):
    context = multiprocessing.get_context(how)
    children = [context.Process(target=visit, args=(5,)) for _ in range(3)]
    for child in children:
        child.start()
    visit(5)
    for child in children:
        child.join()
        assert child.exitcode == 0

untold = ctypes.PyDLL(None).fork  # as a server in C forks: none of Python's hooks is called

"""

SCRIPTS = {
    "it comes to its end": ("visit(10)", 10),
    "it exits": ("visit(10); sys.exit()", 10),
    "it is told to terminate": ("visit(10); os.kill(os.getpid(), signal.SIGTERM)", 10),
    "it ends without Python's exit": ("visit(10); os._exit(0)", 10),
    "forks after import": ("wait(fork(sys.exit), fork(sys.exit)); visit(5)", 15),
    "forks after the first request": ("visit(5); wait(fork(sys.exit), fork(lambda: os._exit(0))); visit(5)", 20),
    "a fork forks": ("visit(5); wait(fork(lambda: (wait(fork(sys.exit)), sys.exit())))", 15),
    "forks without Python's hooks": (
        "wait(*[fork(lambda: os._exit(0), untold) for _ in range(4)]); visit(5)",
        25,
    ),
    "multiprocessing, fork": ("started('fork')", 20),
    "multiprocessing, fork after the first request": ("visit(5); started('fork')", 25),
    "multiprocessing, forkserver": ("started('forkserver')", 20),
    "multiprocessing, spawn": ("started('spawn')", 20),
}

GREENLETS = """
    assert threading.active_count() == 1
    from gevent import monkey
    monkey.patch_all()  # after the app was imported and wrapped, as gunicorn's preload does it
    import gevent
    gevent.joinall([gevent.spawn(visit) for _ in range(20)], raise_error=True)

    def pumps():
        with app.tracker.outbox.turn:
            gevent.sleep(0.1)

    gevent.joinall([gevent.spawn(pumps), gevent.spawn(pumps), gevent.spawn(visit)], raise_error=True)
    assert app.flush(10) == 0
    app.close()
"""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rate=0) as running:
        yield running


def settings(sandbox: Sandbox, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "ADTARGET_API_KEY": sandbox.api_key,
        "ADTARGET_API_URL": sandbox.api_url,
        "ADTARGET_OUTBOX": f"sqlite:///{folder}/outbox.sqlite3",
        "ADTARGET_RATE": "100000",
        "ADTARGET_BURST": "1000",
    }


def served(script: str, sandbox: Sandbox, folder: Path) -> set[str]:
    """Run a process to its end; the visitors that it and its children had answered.

    A disk that takes longer than 50 ms for a line is the one excuse that the outbox has, and it says so: then once more, from the start.
    """
    path = folder / "script.py"
    path.write_text(SITE + f'if __name__ == "__main__":\n    {script.strip()}\n')
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, str(path)],
            env=settings(sandbox, folder),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, -15), done.stderr
        if "the journal's disk is slow" not in done.stderr:
            return set(done.stdout.split())
        workers_turn(sandbox, folder)
        sandbox.reset()
    pytest.fail("this machine's disk takes longer than 50 ms for a line, again and again")


def workers_turn(sandbox: Sandbox, folder: Path) -> None:
    """What a cron job does: send all that processes left behind."""
    command = [sys.executable, "-m", "adtarget_proxy.cli", "worker", "--until-empty"]
    subprocess.run(command, env=settings(sandbox, folder), timeout=60, check=True, capture_output=True)


def arrived(sandbox: Sandbox) -> Counter[str]:
    return Counter(event["fields"]["tempId"] for event in sandbox.events("visit"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_that_forks_or_ends_loses_nothing_and_doubles_nothing(
    name: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    script, number = SCRIPTS[name]
    visitors = served(script, sandbox, tmp_path)
    assert len(visitors) == number
    workers_turn(sandbox, tmp_path)
    assert arrived(sandbox) == dict.fromkeys(visitors, 1)


def test_greenlets_that_come_after_the_app_do_not_stop_each_other(sandbox: Sandbox, tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    visitors = served(GREENLETS, sandbox, tmp_path)
    assert len(visitors) == 21
    assert arrived(sandbox) == dict.fromkeys(visitors, 1)
