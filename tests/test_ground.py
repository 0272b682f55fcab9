"""The look at start: what an outbox stands on, and the one line that says what is lost when."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import require, serving

from adtarget_proxy.outbox.ground import Ground, advice, is_first, kind_of, look
from adtarget_proxy.outbox.place import Place

MOUNTS = r"""22 27 0:20 / /proc rw,nosuid shared:11 - proc proc rw
27 1 0:45 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l,upperdir=/u
31 27 8:1 /data /var/lib/shop rw,relatime shared:2 - ext4 /dev/sda1 rw
32 31 0:50 / /var/lib/shop/cache rw - tmpfs tmpfs rw,size=64m
33 27 0:51 / /mnt/two\040words rw - nfs4 files:/export rw,vers=4.2
34 27 8:2 / /srv rw - xfs /dev/sdb rw
35 34 0:52 / /srv rw shared:9 unbindable - ramfs ramfs rw
"""
SQLITE = "sqlite:////data/outbox.sqlite3"
REDIS = "redis://:secret@queue:6379/0?journal=/data/redis"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", "overlay"),
        ("/", "overlay"),
        ("/var/lib/shop", "ext4"),
        ("/var/lib/shop/deep/er", "ext4"),
        ("/var/lib/shopping", "overlay"),
        ("/var/lib/shop/cache/x", "tmpfs"),
        ("/mnt/two words/x", "nfs4"),
        ("/srv/x", "ramfs"),
    ],
    ids=[
        "below the root",
        "the root",
        "a mount",
        "below it",
        "a like name",
        "a mount in a mount",
        "escaped",
        "over another",
    ],
)
def test_the_deepest_and_last_mount_decides(path: str, kind: str) -> None:
    assert kind_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("text", ["", "garbage\n\n1 2 3 - ext4", "27 1 0:45 / /elsewhere rw - ext4 x rw"])
def test_where_nothing_is_known_nothing_is_said(text: str) -> None:
    assert kind_of(Path("/data"), text) == ""
    assert advice(Place.parse(SQLITE), Ground(kind_of(Path("/data"), text))) is None


@pytest.mark.parametrize(
    ("url", "ground", "words"),
    [
        (SQLITE, Ground("ext4"), None),
        (SQLITE, Ground("overlay"), ("lost with the container", "mount a volume", "ADTARGET_OUTBOX")),
        (SQLITE, Ground("tmpfs"), ("in memory (tmpfs)", "machine or container stops", "ADTARGET_OUTBOX")),
        (SQLITE, Ground("nfs4"), ("network file system (nfs4)", "local disk", "redis://")),
        (SQLITE, Ground("fuse.sshfs"), ("network file system",)),
        (SQLITE, Ground("ext4", writable=False), ("cannot be written", "ADTARGET_OUTBOX=sqlite:////abs/path")),
        (SQLITE, Ground("overlay", "AWS Lambda"), ("on AWS Lambda", "redis://", "worker")),
        ("memory://", Ground(), None),
        ("memory://", Ground("", "Cloud Run"), ("on Cloud Run", "redis://")),
        (REDIS, Ground("ext4"), None),
        (REDIS, Ground("overlay"), ("the journal of redis://queue:6379/0 at /data/redis", "?journal=/abs/path")),
        (REDIS, Ground("ext4", writable=False), ("cannot be written", "?journal=/abs/path")),
        (REDIS, Ground("ext4", "Vercel"), ("on Vercel", "flush()")),
    ],
)
def test_one_line_says_what_is_lost_when_and_what_to_set(
    url: str, ground: Ground, words: tuple[str, ...] | None
) -> None:
    said = advice(Place.parse(url), ground)
    assert (said is None) == (words is None)
    assert all(word in (said or "") for word in words or ())
    assert "secret" not in (said or "")
    assert "\n" not in (said or "")


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({}, ""),
        ({"AWS_LAMBDA_FUNCTION_NAME": "shop"}, "AWS Lambda"),
        ({"VERCEL": "1", "AWS_LAMBDA_FUNCTION_NAME": ""}, "Vercel"),
        ({"K_SERVICE": "shop"}, "Cloud Run"),
        ({"FUNCTION_TARGET": "shop"}, "Cloud Functions"),
        ({"FUNCTIONS_WORKER_RUNTIME": "python"}, "Azure Functions"),
    ],
)
def test_a_serverless_platform_is_known_by_its_variables(tmp_path: Path, variables: dict[str, str], host: str) -> None:
    assert look(Place.parse(f"sqlite:///{tmp_path}/o"), variables).host == host
    assert look(Place.parse("memory://"), variables).host == host


def a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "o"


@pytest.mark.parametrize(
    ("place", "writable"),
    [(lambda folder: folder / "o", True), (lambda folder: folder / "to" / "be" / "made" / "o", True), (a_file, False)],
    ids=["there", "to be made", "below a file"],
)
def test_whether_it_can_be_written_is_asked_of_what_is_there(
    tmp_path: Path, place: Callable[[Path], Path], writable: bool
) -> None:
    assert look(Place.parse(f"sqlite:///{place(tmp_path)}"), {}).writable is writable


def test_a_link_is_followed_to_its_file_system(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / {tmp_path.resolve()}/real rw - tmpfs x rw\n")
    assert look(Place.parse(f"sqlite:///{tmp_path}/link/o"), {}, mounts).kind == "tmpfs"
    assert look(Place.parse(f"sqlite:///{tmp_path}/link/o"), {}, tmp_path / "none").kind == ""


ASK = """
import sys
from pathlib import Path
from adtarget_proxy.outbox.ground import is_first

print(is_first(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@contextmanager
def asking(directory: Path) -> Iterator[str | None]:
    """What a process of its own is told, which lives as long as the block."""
    command = [sys.executable, "-c", ASK, str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


@pytest.mark.server
def test_of_all_that_live_at_once_one_is_the_first(tmp_path: Path) -> None:
    with asking(tmp_path / "j") as one, asking(tmp_path / "j") as two, asking(tmp_path / "other") as three:
        assert (one, two, three) == ("True", "False", "True")
    with asking(tmp_path / "j") as again:
        assert again == "True"


def test_a_process_asks_once(tmp_path: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    assert [is_first(tmp_path / "j") for _ in range(3)] == [True, False, False]
    assert len(list(Path("/dev/fd").iterdir())) == before + 1


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in a real tmpfs: one of our own where we may mount, else what Linux has at /dev/shm."""
    if (
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, check=False).returncode
        == 0
    ):
        yield tmp_path
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
        return
    shared = Path("/dev/shm")
    require(shared.is_dir() and os.access(shared, os.W_OK), "no tmpfs here")
    folder = shared / f"adtarget-{os.getpid()}"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.server
def test_the_workers_of_a_server_say_it_once_between_them(
    memory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    environment = {
        "ADTARGET_API_KEY": "atk_live_x",
        "ADTARGET_API_URL": "http://127.0.0.1:9",
        "ADTARGET_OUTBOX": f"sqlite:///{memory / 'outbox.sqlite3'}",
    }
    with serving("gunicorn", environment, folder, workers=3) as server:
        journal = memory / "outbox.sqlite3.journal"
        for _ in range(2000):
            assert server.get("/").status == 200
            if len(list(journal.glob("*.journal"))) == 3:
                break
        else:
            pytest.fail("the workers did not all get a request")
    assert server.log.read_text().count("is in memory (tmpfs)") == 1
