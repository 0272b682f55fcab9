"""The way out: proxies and CA bundles as the environment names them, over real ones, and what is said where they cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from delivery_world import until
from relays import authority, forward_proxy, hashed, tls_before
from serving import free_port, serving

from adtarget_proxy.sandbox.server import Sandbox

pytestmark = pytest.mark.server


@dataclass
class World:
    """AdTarget behind TLS of a CA that nobody knows, and a forward proxy."""

    box: Sandbox
    tls: int
    proxy: int
    targets: list[str]
    names: dict[str, str]  # what a row may write in braces

    def environment(self, given: dict[str, str], outbox: Path, scheme: str) -> dict[str, str]:
        url = f"https://localhost:{self.tls}/api/v1" if scheme == "https" else self.box.api_url
        return {
            "ADTARGET_API_KEY": self.box.api_key,
            "ADTARGET_API_URL": url,
            "ADTARGET_OUTBOX": f"sqlite:///{outbox}",
            **{name: value.format(**self.names) for name, value in given.items()},
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ca")
    ca, certificate, key = authority(folder)
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox(rate=0))
        tls = stack.enter_context(tls_before(box.port, certificate, key))
        proxy = stack.enter_context(forward_proxy())
        names = {
            "ca": str(ca),
            "directory": str(hashed(ca, folder / "hashed")),
            "proxy": f"http://127.0.0.1:{proxy.port}",
            "dead": f"http://user:secret@127.0.0.1:{free_port()}",
            "none": str(folder / "none.pem"),
        }
        yield World(box, tls.port, proxy.port, proxy.targets, names)


@pytest.fixture(autouse=True)
def _no_way_out_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("scheme", "given", "asked"),
    [
        ("https", {"SSL_CERT_FILE": "{ca}"}, None),
        ("https", {"SSL_CERT_DIR": "{directory}"}, None),
        ("https", {"SSL_CERT_FILE": "{ca}", "HTTPS_PROXY": "{proxy}"}, "CONNECT localhost:{tls}"),
        ("https", {"SSL_CERT_FILE": "{ca}", "ALL_PROXY": "{proxy}"}, "CONNECT localhost:{tls}"),
        ("https", {"SSL_CERT_FILE": "{ca}", "HTTPS_PROXY": "{dead}", "NO_PROXY": "localhost"}, None),
        ("https", {"SSL_CERT_FILE": "{ca}", "HTTP_PROXY": "{dead}"}, None),
        ("http", {"HTTP_PROXY": "{proxy}"}, "POST http://127.0.0.1:{plain}/api/v1/"),
    ],
    ids=["CA file", "CA directory", "proxy", "proxy for all", "no proxy here", "of another scheme", "plain"],
)
def test_events_go_out_as_the_environment_says(
    world: World, tmp_path: Path, scheme: str, given: dict[str, str], asked: str | None
) -> None:
    world.box.reset()
    world.targets.clear()
    with serving("uvicorn", world.environment(given, tmp_path / "o", scheme), tmp_path) as server:
        assert server.get("/").status == 200
        until(lambda: world.box.events("visit"))
    if asked is None:
        assert world.targets == []
    else:
        assert world.targets[0].startswith(asked.format(tls=world.tls, plain=world.box.port))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "certificate is not trusted: SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": "{none}"}, "SSL_CERT_FILE names no CA bundle that can be read (FileNotFoundError)"),
        ({"SSL_CERT_FILE": "{ca}", "HTTPS_PROXY": "foo://user:secret@proxy:1"}, "HTTPS_PROXY is no URL of a proxy"),
        ({"SSL_CERT_FILE": "{ca}", "ALL_PROXY": "http://user:secret@proxy:port"}, "ALL_PROXY is no URL of a proxy"),
        ({"SSL_CERT_FILE": "{ca}", "HTTPS_PROXY": "{dead}"}, "at the proxy that the environment names"),
    ],
    ids=["unknown CA", "no CA file", "no proxy scheme", "no proxy port", "dead proxy"],
)
def test_a_way_out_that_does_not_work_is_said_once_and_keeps_the_events(
    world: World, tmp_path: Path, given: dict[str, str], words: str
) -> None:
    world.box.reset()
    with serving("uvicorn", world.environment(given, tmp_path / "o", "https"), tmp_path) as server:
        for _ in range(5):
            assert server.get("/").status == 200
        until(lambda: words in server.log.read_text(), timeout=20)
        said = [line for line in server.log.read_text().splitlines() if not line.startswith("INFO:")]
    assert len(said) == 1
    assert "secret" not in server.log.read_text()
    assert world.box.events("visit") == []
    with serving("uvicorn", world.environment({"SSL_CERT_FILE": "{ca}"}, tmp_path / "o", "https"), tmp_path):
        until(lambda: len(world.box.events("visit")) == 5, timeout=60)
