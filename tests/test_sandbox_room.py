"""The sandbox stands alone: it shares no code with the client, and its page and files travel with the package."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import pytest

from adtarget_proxy.sandbox import Sandbox

pytestmark = pytest.mark.server


def modules_after(statement: str) -> set[str]:
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    return set(json.loads(done.stdout))


def test_it_loads_nothing_of_the_client() -> None:
    loaded = modules_after("from adtarget_proxy.sandbox.command import sandbox")
    bare = modules_after("import adtarget_proxy")
    ours = {name for name in loaded - bare if name.startswith("adtarget_proxy.")}
    assert ours == {name for name in ours if name.startswith("adtarget_proxy.sandbox")}
    assert "httpx" not in loaded - bare


def test_the_package_alone_loads_no_server() -> None:
    assert "aiohttp" not in modules_after("import adtarget_proxy.sandbox")


@pytest.mark.parametrize("path", ["/", "/_sandbox", "/_sandbox/"])
def test_the_page_is_whole_in_one_answer(path: str) -> None:
    with Sandbox() as sandbox:
        page = httpx.get(sandbox.url + path)
        assert page.headers["Content-Type"].startswith("text/html")
        assert "<style>:root" in page.text
        assert "_sandbox/requests" in page.text
        assert not {"src=", "href=", "http://", "https://"} & set(page.text.split('"'))
        assert sandbox.api_key not in page.text


def test_two_sandboxes_know_nothing_of_each_other() -> None:
    with Sandbox() as one, Sandbox() as other:
        httpx.get(f"{one.tracker_url}/track/invite", params={"websiteId": one.website_id})
        assert (one.count("invite"), other.count()) == (1, 0)


def test_what_arrived_can_be_read_after_the_end() -> None:
    with Sandbox() as sandbox:
        httpx.get(f"{sandbox.tracker_url}/track/invite", params={"websiteId": sandbox.website_id})
    sandbox.stop()
    assert [event["endpoint"] for event in sandbox.events()] == ["invite"]


def test_a_taken_port_is_an_error_at_once() -> None:
    with Sandbox() as sandbox, pytest.raises(OSError, match="in use"):
        Sandbox(port=sandbox.port)
