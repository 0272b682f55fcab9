"""The pytest plugin in its users' test runs: each a pytest process of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.server


def run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess("-q", *arguments)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> str:
    """The switch that loads our plugin and no other installed one."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return "-padtarget_proxy.sandbox.pytest"


def test_the_fixture_is_a_fresh_sandbox_for_each_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import httpx, pytest

        @pytest.mark.parametrize("time", ["first", "second"])
        def test_visit(adtarget_sandbox, time):
            assert adtarget_sandbox.events() == []
            answer = httpx.post(
                adtarget_sandbox.api_url + "/events/visit",
                json={"href": "https://shop.example/"},
                headers={"Authorization": "Bearer " + adtarget_sandbox.api_key},
            )
            assert answer.status_code == 200
            assert len(adtarget_sandbox.wait_for(1, "visit")) == 1
        """,
    )
    result.assert_outcomes(passed=2)


def test_the_marker_sets_options_and_the_nearest_wins(pytester: pytest.Pytester, alone: str) -> None:
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.adtarget_sandbox(website_id="atid_class", api_key="atk_live_class001_s")
        class TestShop:
            @pytest.mark.adtarget_sandbox(website_id="atid_test")
            def test_site(self, adtarget_sandbox):
                assert adtarget_sandbox.website_id == "atid_test"
                assert adtarget_sandbox.api_key == "atk_live_class001_s"
        """,
        "--strict-markers",
        alone,
    )
    result.assert_outcomes(passed=1)


def test_who_does_not_use_it_loads_nothing_of_it(pytester: pytest.Pytester, alone: str) -> None:
    result = run(
        pytester,
        """
        import sys

        def test_nothing():
            heavy = {"aiohttp", "httpx", "click", "adtarget_proxy.sandbox.server"}
            assert not heavy & set(sys.modules)
        """,
        alone,
    )
    result.assert_outcomes(passed=1)


def test_an_absent_server_extra_fails_the_test_with_the_line_to_run(pytester: pytest.Pytester, alone: str) -> None:
    result = run(
        pytester,
        """
        import sys

        sys.modules["aiohttp"] = None

        def test_visit(adtarget_sandbox):
            pass
        """,
        alone,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*adtarget_sandbox needs aiohttp: pip install 'adtarget-proxy?server?'*"])
