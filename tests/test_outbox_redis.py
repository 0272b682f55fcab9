"""An outbox over Redis: its URL, its faults, and machines that share it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from delivery_world import until
from redis_server import empty, redis_server, redis_store

from adtarget_proxy.delivery.pump import Pump
from adtarget_proxy.errors import OutboxError, SettingsError
from adtarget_proxy.outbox import Flight, Outbox, Store
from adtarget_proxy.outbox.place import Place
from adtarget_proxy.settings import Settings
from adtarget_proxy.tracking.events import PLAIN, Visit

KEY = "atk_live_00000000_secret"


def visit(name: str) -> Visit:
    return Visit(id=name, key=name, account="a", visitor=name, at=1.0, worth=PLAIN)


# -- the URL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/0",
        "rediss://user:pw@queue.example:6380/2?ssl_cert_reqs=none",
        "redis://h?journal=/var/lib/x",
    ],
)
def test_a_redis_url_is_taken_as_it_is(url: str) -> None:
    assert Settings(api_key=KEY, outbox=url).outbox == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "must name a host"),
        ("redis://host/queue", "must name a host and at most a database's number"),
        ("redis://host:port/0", "is no URL"),
        ("redis://host/0?journal=relative", "absolute path for its journal"),
    ],
)
def test_a_redis_url_that_is_none_is_said(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings(api_key=KEY, outbox=url)


def test_without_the_client_the_setting_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adtarget_proxy.settings.checks.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'adtarget-proxy\[redis\]'"):
        Settings(api_key=KEY, outbox="redis://localhost")


def test_a_password_is_shown_nowhere() -> None:
    url = "redis://user:hunter2@127.0.0.1:1/0"
    place, outbox = Place.parse(url), Outbox.open(url)
    with pytest.raises(OutboxError) as error:
        outbox.store.counts()
    assert "hunter2" not in f"{place} {place!r} {error.value} {Settings(api_key=KEY, outbox=url)!r}"
    assert str(place) == "redis://127.0.0.1:1/0"


def test_the_journal_is_this_machines_in_the_state_directory_or_where_the_url_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = Place.parse("redis://:a@h/0").path, Place.parse("redis://:b@h/0").path
    assert one == other
    assert one is not None
    assert one.parent == tmp_path / "adtarget-proxy"
    assert Place.parse("redis://h/1").path != one
    assert Place.parse("redis://h/0?journal=/x/outbox").path == Path("/x/outbox")
    with pytest.raises(OutboxError, match="absolute"):
        Place.parse("redis://h/0?journal=x")


# -- a server --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
def url(server_url: str) -> str:
    empty(server_url)
    return server_url


def machine(url: str, folder: Path) -> Outbox:
    """An outbox as another machine has it: the same Redis, a journal of its own."""
    return Outbox.open(f"{url}?journal={folder / 'outbox'}")


@pytest.mark.server
def test_machines_share_events_claims_and_links(url: str, tmp_path: Path) -> None:
    one, other = machine(url, tmp_path / "one"), machine(url, tmp_path / "other")
    one.append(visit("a"))
    Pump(one).own(1.0)
    assert [claim.event.id for claim in other.store.claim(["a"], owner=other.owner, now=2.0, limit=5)] == ["a"]
    assert one.store.claim(["a"], owner=one.owner, now=2.0, limit=5) == []
    assert one.store.begin_invite("a", "v", "vip", owner=one.owner, now=2.0)[0] is Flight.LEAD
    assert other.store.begin_invite("a", "v", "vip", owner=other.owner, now=2.0)[0] is Flight.FOLLOW
    one.close()
    other.close()


@pytest.mark.server
def test_a_network_that_asked_without_cookies_is_forgotten_by_redis_itself(url: str, tmp_path: Path) -> None:
    one, other = machine(url, tmp_path / "one"), machine(url, tmp_path / "other")
    assert one.store.admit("a", "5ebe2294ecd0e0f0", now=2.0, limit=1)
    assert not other.store.admit("a", "5ebe2294ecd0e0f0", now=3.0, limit=1)
    with redis.Redis.from_url(url) as client:
        (key,) = client.keys("*5ebe2294ecd0e0f0*")
        assert 0 < client.pttl(key) <= 60_000
    one.close()
    other.close()


@pytest.mark.server
def test_a_living_machines_claims_are_left_alone_and_a_silent_ones_taken_over(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adtarget_proxy.outbox.redis.BEAT", 0.05)
    monkeypatch.setattr("adtarget_proxy.outbox.redis.SILENCE", 0.4)
    one, other = machine(url, tmp_path / "one"), machine(url, tmp_path / "other")
    one.append(visit("a"))
    Pump(one).own(1.0)
    owner = one.owner
    assert len(one.store.claim(["a"], owner=owner, now=2.0, limit=5)) == 1
    heard = time.monotonic() + 0.8  # twice the silence
    while time.monotonic() < heard:
        assert other.store.silent({owner}) == set()
        Pump(other).machine(3.0)
    assert other.store.owners() == {owner}
    one.store.close()  # as SIGKILL would: nothing is given back, and no sign of life comes any more
    until(lambda: other.store.silent({owner}))
    Pump(other).machine(4.0)
    assert [claim.event.id for claim in other.store.claim(["a"], owner=other.owner, now=5.0, limit=5)] == ["a"]
    other.close()


@pytest.mark.server
def test_nobody_is_called_dead_right_after_redis_was_down(tmp_path: Path) -> None:
    store = None
    with redis_server(tmp_path / "redis") as server:
        port = server.port
        store = redis_store(f"redis://127.0.0.1:{port}/0")
        assert store.silent({"nobody"}) == {"nobody"}
    with suppress(OutboxError):
        store.counts()
    with redis_server(tmp_path / "redis", port=port):
        assert store.silent({"nobody"}) == set()
    store.close()


@pytest.mark.server
def test_while_redis_is_down_events_wait_in_the_journal_and_are_handed_over_when_it_is_back(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server(tmp_path / "redis", *options) as server:
        port = server.port
        outbox = machine(f"redis://127.0.0.1:{port}/0", tmp_path)
        outbox.append(visit("before"))
        assert Pump(outbox).own(1.0) == 1
    outbox.append(visit("meanwhile"))
    with pytest.raises(OutboxError, match=f"127.0.0.1:{port}"):
        Pump(outbox).own(2.0)
    with redis_server(tmp_path / "redis", *options, port=port):
        outbox.append(visit("after"))
        assert Pump(outbox).own(3.0) == 2
        assert {each.event.id for each in outbox.store.waiting()} == {"before", "meanwhile", "after"}
        outbox.close()
    assert outbox.lost == {}


@pytest.mark.server
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--appendonly", "yes"], []),
        (["--appendonly", "no"], ["appendonly is off"]),
        (["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"], ["maxmemory-policy allkeys-lru"]),
    ],
)
def test_a_redis_that_may_forget_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: list[str], said: list[str]
) -> None:
    with redis_server(tmp_path / "redis", *options) as server, caplog.at_level(logging.WARNING):
        store = redis_store(f"redis://127.0.0.1:{server.port}/0")
        for _ in range(2):
            store.counts()
        store.close()
    assert len(caplog.messages) == len(said)
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))


def test_while_one_waits_for_a_redis_that_swallows_everything_others_do_not(tmp_path: Path) -> None:
    taken: list[socket.socket] = []
    silent = socket.create_server(("127.0.0.1", 0))
    port = int(silent.getsockname()[1])

    def take() -> None:
        with suppress(OSError):
            while True:
                taken.append(silent.accept()[0])

    threading.Thread(target=take, daemon=True).start()
    store = redis_store(f"redis://127.0.0.1:{port}/0")
    for _ in range(50):
        with pytest.raises(OutboxError):
            store.counts(["a"])
    assert len(taken) <= 2  # the first call, and one more where these took longer than a pause
    silent.shutdown(socket.SHUT_RDWR)
    silent.close()
    for each in taken:
        each.close()
    with redis_server(tmp_path / "redis", port=port):
        until(lambda: answers(store))
        store.close()


def answers(store: Store) -> bool:
    with suppress(OutboxError):
        store.counts(["a"])
        return True
    return False


class Wire:
    """A connection's way to Redis that can be cut once a request has gone through, before its answer comes back."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.swallows = False
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and self.swallows:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.server
def test_what_was_claimed_by_an_answer_that_never_came_is_given_back(url: str) -> None:
    wire = Wire(int(url.split(":")[2].split("/")[0]))
    store, other = redis_store(f"redis://127.0.0.1:{wire.port}/0"), redis_store(url)
    store.put([visit("a"), visit("b")], now=1.0)
    (held,) = store.claim(["a"], owner="me", now=2.0, limit=1)
    wire.swallows = True
    with pytest.raises(OutboxError):
        store.claim(["a"], owner="me", now=3.0, limit=1)
    assert other.counts().claimed == 2
    wire.swallows = False
    (again,) = store.claim(["a"], owner="me", now=4.0, limit=5)
    assert {held.event.id, again.event.id} == {"a", "b"}
    assert again.tries == 0
    store.close()
    other.close()
    wire.close()
