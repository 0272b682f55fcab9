"""What an outbox stands on: a file system that forgets, a machine that does. Looked at once at start, so that nobody learns it from a loss.

``advice`` is pure; ``look`` collects its facts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adtarget_proxy.outbox.place import Place

try:
    import fcntl
except ImportError:  # Windows, where only memory:// is offered
    fcntl = None  # type: ignore[assignment]

MOUNTS = Path("/proc/self/mountinfo")  # Linux; elsewhere nothing is known
_LAYERS = frozenset({"overlay", "overlayfs", "aufs", "fuse.fuse-overlayfs"})
_MEMORY = frozenset({"tmpfs", "ramfs"})
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d|smbfs|9p|ceph|lustre|afs|gpfs|glusterfs|fuse\.(sshfs|glusterfs|ceph|s3fs|gcsfuse|rclone)"
)
# A variable that the platform sets in every process, as its documentation says; the more telling first.
_SERVERLESS = {
    "AWS_LAMBDA_FUNCTION_NAME": "AWS Lambda",
    "VERCEL": "Vercel",
    "K_SERVICE": "Cloud Run",
    "FUNCTION_TARGET": "Cloud Functions",
    "FUNCTIONS_WORKER_RUNTIME": "Azure Functions",
}

_asked: dict[Path, int] = {}


@dataclass(frozen=True, slots=True)
class Ground:
    """``kind`` is the file system's type or "" where it is not known; ``host`` the serverless platform or ""."""

    kind: str = ""
    host: str = ""
    writable: bool = True


def look(place: Place, environment: Mapping[str, str] = os.environ, mounts: Path = MOUNTS) -> Ground:
    """What is to be known of a place; for Redis, of its journal. Raises nothing: what cannot be read is not known."""
    host = next((name for variable, name in _SERVERLESS.items() if environment.get(variable)), "")
    if place.path is None:
        return Ground(host=host)
    directory = place.path.parent
    kind = ""
    with suppress(OSError):
        directory = directory.resolve()
        kind = kind_of(directory, mounts.read_text("utf-8", "surrogateescape"))
    return Ground(kind, host, _is_writable(directory))


def kind_of(path: Path, mounts: str) -> str:
    """The type of the file system that an absolute path without symbolic links is on; ``mounts`` as proc(5) has mountinfo.

    The deepest mount point wins, and of several on one point the last.
    """
    deepest, found = -1, ""
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        if (point == path or point in path.parents) and len(point.parts) >= deepest:
            deepest, found = len(point.parts), after.split(" ", 1)[0]
    return found


def advice(place: Place, ground: Ground) -> str | None:
    """What is lost when, and what to set; None where the ground is good. The first that holds: one line is read, three are not."""
    if ground.host:
        return _on_serverless(place, ground.host)
    if place.path is None:
        return None
    what = f"the journal of {place} at {place.path}" if place.engine == "redis" else f"the outbox {place}"
    if not ground.writable:
        return (
            f"{what} cannot be written by this user: events wait in memory, 10,000 at most, and are lost with the process; "
            f"{_elsewhere(place)}"
        )
    if ground.kind in _LAYERS:
        return f"{what} is in a container's own layer ({ground.kind}): what waits is lost with the container; {_mount(place)}"
    if ground.kind in _MEMORY:
        return f"{what} is in memory ({ground.kind}): what waits is lost when the machine or container stops; {_mount(place)}"
    if _NETWORK.fullmatch(ground.kind):
        return (
            f"{what} is on a network file system ({ground.kind}), whose locks and shared memory it cannot rely on: "
            f"events may be lost or the file broken; {_elsewhere(place)}, or redis:// for several machines"
        )
    return None


def is_first(directory: Path) -> bool:
    """Whether no living process asked before. Each that asks keeps a lock on the directory until it ends.

    So what is said at start is said once for all workers of a server. True where that cannot be known.
    """
    if fcntl is None:
        return True
    if directory in _asked:
        return False
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        first = False
    else:
        first = True
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    _asked[directory] = fd  # stays open: the lock lives with it, in forked children too
    return first


def _on_serverless(place: Place, host: str) -> str:
    if place.engine == "redis":
        return (
            f"on {host} nothing runs between two requests: what was not handed to {place} by then may be lost with the "
            "instance; call flush() before a request ends, and send with adtarget-proxy worker from a machine that stays"
        )
    return (
        f"on {host} the disk goes with the instance and nothing runs between two requests: what waits in {place} may be lost; "
        "set ADTARGET_OUTBOX=redis://… and send with adtarget-proxy worker from a machine that stays"
    )


def _elsewhere(place: Place) -> str:
    if place.engine == "redis":
        return "add ?journal=/abs/path on a local disk to ADTARGET_OUTBOX"
    return "set ADTARGET_OUTBOX=sqlite:////abs/path/outbox.sqlite3 on a local disk"


def _mount(place: Place) -> str:
    return f"mount a volume there, or {_elsewhere(place)}"


def _is_writable(directory: Path) -> bool:
    """Of what is to be made below it too: the nearest directory that is there decides."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)
