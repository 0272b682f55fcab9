"""How long a click on the join button takes: AdTarget well, repeating, hanging and unreachable, beside a bare redirect.

Real uvicorn, real sandbox, one process each. Prints medians, 99th percentiles, and each median as a ratio of the bare redirect's.
Run: python benchmarks/invite.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from serving import NAVIGATION, serving

from adtarget_proxy.sandbox.server import Sandbox

FALLBACK = "https://t.me/fallback_channel"
CLICKS = 200


def timed(port: int, headers: dict[str, str], path: str = "/c/vip") -> tuple[float, str | None]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    started = time.perf_counter()
    connection.request("GET", path, headers={**NAVIGATION, **headers})
    response = connection.getresponse()
    response.read()
    elapsed = time.perf_counter() - started
    connection.close()
    return elapsed * 1000, response.getheader("Location")


def row(name: str, times: list[float], bare: float) -> None:
    p99 = quantiles(times, n=100)[98]
    print(f"{name:58} {median(times):9.2f} {p99:9.2f} {max(times):9.2f} {median(times) / bare:9.1f}")


def main() -> None:
    with Sandbox(rate=0) as sandbox, tempfile.TemporaryDirectory() as folder:
        environment = {
            "ADTARGET_API_KEY": sandbox.api_key,
            "ADTARGET_API_URL": sandbox.api_url,
            "ADTARGET_OUTBOX": f"sqlite:///{folder}/outbox.sqlite3",
            "ADTARGET_INVITES": '{"vip": "-1001234567890"}',
            "ADTARGET_FALLBACK_URL": FALLBACK,
            "ADTARGET_RATE": "100000",
            "ADTARGET_BURST": "10000",
        }
        with serving("uvicorn", environment, Path(folder)) as server:
            print(f"{'milliseconds':58} {'median':>9} {'p99':>9} {'max':>9} {'x bare':>9}")
            bare = [timed(server.port, {"User-Agent": "curl/8"}, "/moved")[0] for _ in range(CLICKS)]
            base = median(bare)
            row("a redirect of the app's own, untracked", bare, base)
            fresh = [timed(server.port, {}) for _ in range(CLICKS)]
            assert all(link and link.startswith("https://t.me/+") for _, link in fresh), fresh[:3]
            row("a first click: visit, invite, redirect", [ms for ms, _ in fresh], base)
            page = server.get("/")
            jar = {"Cookie": page.jar}
            timed(server.port, jar)
            row("the same visitor's second tap", [timed(server.port, jar)[0] for _ in range(CLICKS)], base)
            sandbox.faults(hang=True)
            first = [timed(server.port, {}) for _ in range(3)]
            row("AdTarget hangs: the first three clicks (budget 1500)", [ms for ms, _ in first], base)
            known = [timed(server.port, {}) for _ in range(CLICKS)]
            assert {link for _, link in known} == {FALLBACK}
            row("AdTarget hangs: every click after them", [ms for ms, _ in known], base)
            sandbox.heal()
            sandbox.close_port()
            refused = [timed(server.port, {}) for _ in range(CLICKS)]
            assert {link for _, link in refused} <= {FALLBACK}, refused[:3]
            row("AdTarget refuses connections", [ms for ms, _ in refused], base)


if __name__ == "__main__":
    main()
