"""The servers that a site may run on, as their manuals start them: for the tests of how a process starts, forks, reloads and ends."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from serving import TESTS, Server, free_port, require

VENV = Path(sys.executable).parent
SITE = Path(next(path for path in sys.path if path.endswith("site-packages")))
DEBIAN = shutil.which("uwsgi-core") or "/usr/bin/uwsgi-core"
DEBIAN_PYTHON = Path(f"/usr/lib/uwsgi/plugins/python{sys.version_info[0]}{sys.version_info[1]}_plugin.so")


@dataclass(frozen=True)
class Host:
    """How one is started; ``{port}`` and ``{folder}`` are filled in. ``needs`` is a module. ``hup``: SIGHUP makes new workers."""

    command: tuple[str, ...]
    needs: str
    hup: bool = False
    debian: bool = False  # uWSGI as Debian packs it, whose threads are off unless they are asked for
    threads: bool = True


def _gunicorn(*options: str, app: str = "landing:wsgi()") -> Host:
    command = (sys.executable, "-m", "gunicorn", app, "-b", "127.0.0.1:{port}", "-w", "2", *options)
    return Host(command, "gunicorn", hup="--preload" not in options)  # a preloaded app is not loaded again by SIGHUP


def _uvicorn(*options: str) -> tuple[str, ...]:
    return (
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "landing:asgi",
        "--no-proxy-headers",
        "--port",
        "{port}",
        *options,
    )


_UWSGI = (
    "--http-socket",
    "127.0.0.1:{port}",
    "--master",
    "--die-on-term",
    "--need-app",
    "--module",
    "landing_uwsgi:application",
)


def _uwsgi(*options: str, hup: bool = True) -> Host:
    return Host((str(VENV / "uwsgi"), *_UWSGI, "--processes", "2", *options), "pyuwsgi", hup=hup)


def _debian(*options: str, threads: bool = True) -> Host:
    command = (DEBIAN, "--plugin", "python3", *_UWSGI, "--processes", "2", *options)
    return Host(command, "", hup=True, debian=True, threads=threads)


HOSTS = {
    "gunicorn, threads": _gunicorn("--threads", "8"),
    "gunicorn, threads, preloaded": _gunicorn("--threads", "8", "--preload"),
    "gunicorn, sync": _gunicorn(),
    "gunicorn, gevent": _gunicorn("-k", "gevent"),
    "gunicorn, gevent, preloaded": _gunicorn("-k", "gevent", "--preload"),
    "uvicorn, workers": Host(_uvicorn("--workers", "2"), "uvicorn", hup=True),
    "uvicorn, reload": Host(_uvicorn("--reload", "--reload-dir", "{folder}"), "uvicorn"),
    "uWSGI": _uwsgi(),
    "uWSGI, threads": _uwsgi("--threads", "4"),
    "uWSGI, lazy apps": _uwsgi("--enable-threads", "--lazy-apps"),
    "uWSGI, fork hooks": _uwsgi("--enable-threads", "--py-call-osafterfork"),
    # No SIGHUP: pyuwsgi then executes the interpreter under the virtual environment, whose packages gevent may not get on with.
    "uWSGI, gevent": _uwsgi("--gevent", "20", "--gevent-monkey-patch", hup=False),
    "uWSGI of Debian, enable-threads": _debian("--enable-threads"),
    "uWSGI of Debian, without threads": _debian(threads=False),
}


@contextmanager
def hosted(name: str, environment: Mapping[str, str], folder: Path) -> Iterator[Server]:
    """The landing site on one of ``HOSTS``, its settings from ``environment``. Gone with the test, whatever it does."""
    host = HOSTS[name]
    if host.debian:
        require(Path(DEBIAN).exists() and DEBIAN_PYTHON.exists(), f"{DEBIAN_PYTHON} is not installed")
    else:
        require(find_spec(host.needs) is not None, f"{host.needs} is not installed")
    # Debian's uWSGI knows no virtual environment, and pyuwsgi forgets its own when SIGHUP makes it execute itself anew.
    environment = {**environment, "PYTHONPATH": f"{TESTS.parent}:{SITE}:{TESTS}"}
    if "gevent" in name:
        require(find_spec("gevent") is not None, "gevent is not installed")
    port = free_port()
    command = [part.format(port=port, folder=folder) for part in host.command]
    server = Server(command, port, environment, folder / "host.log")
    try:
        yield server
    finally:
        server.kill()
