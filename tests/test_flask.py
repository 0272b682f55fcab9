"""Flask: the extension, through Flask's own test client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("flask")

from flask import Flask, Response, redirect, render_template_string
from shell_world import CLICK, FALLBACK, HTML, KNOWN_PAGE, PAGE, VISITOR, Request, WsgiShell, kept, quiet, snapshot

from adtarget_proxy import InviteRoute, Settings
from adtarget_proxy.errors import SettingsError
from adtarget_proxy.flask import AdTargetFlask, tracking
from adtarget_proxy.sandbox.server import Sandbox

SHELL = WsgiShell()
Make = Callable[..., Flask]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a wrapped app; ends what it started with the test."""
    made: list[Flask] = []

    def app(settings: Settings | None = None, **config: Any) -> Flask:
        flask = Flask(__name__)
        flask.config.update(config, PROPAGATE_EXCEPTIONS=True)
        made.append(flask)
        AdTargetFlask(flask, settings)
        return flask

    yield app
    for flask in made:
        if "adtarget" in flask.extensions:
            flask.extensions["adtarget"].close(0)


def get(app: Flask, request: Any = PAGE) -> Any:
    return app.test_client(use_cookies=False).open(
        request.path,
        method=request.method,
        query_string=request.query,
        headers=dict(request.headers),
        base_url="https://shop.test",
        environ_overrides={"REMOTE_ADDR": request.peer},
    )


def names(response: Any) -> set[str]:
    return {line.partition("=")[0] for line in response.headers.getlist("Set-Cookie")}


def test_a_view_has_the_visitor_of_its_page_at_hand(make: Make) -> None:
    app, seen = make(quiet()), []

    @app.get("/")
    def page() -> str:
        seen.append(snapshot(tracking))
        return "<h1>Hello</h1>"

    response = get(app, KNOWN_PAGE)
    assert (response.text, seen[0]["visitor_id"], seen[0]["client_ip"]) == ("<h1>Hello</h1>", VISITOR, "203.0.113.7")
    assert names(response) == {"adtarget_session_id", "adtarget_state"}
    assert len(kept(app.extensions["adtarget"].tracker)) == 1


def test_a_template_has_it_too(make: Make) -> None:
    app = make(quiet())

    @app.get("/")
    def page() -> str:
        return render_template_string('<a href="{{ adtarget.invite_url("vip") }}">{{ adtarget.visitor_id }}</a>')

    assert get(app, KNOWN_PAGE).text == f'<a href="/c/vip">{VISITOR}</a>'


def test_a_stream_stays_one_and_counts(make: Make) -> None:
    app, made = make(quiet()), []

    def pieces() -> Iterator[str]:
        for piece in ("<h1>", "Hello", "</h1>"):
            made.append(piece)
            yield piece

    @app.get("/")
    def page() -> Response:
        return Response(pieces(), mimetype="text/html")

    response = get(app)
    assert names(response) >= {"adtarget_temp_id"}
    assert len(made) < 3
    assert response.text == "<h1>Hello</h1>"


def test_a_click_is_answered_and_a_redirect_view_of_the_apps_own_gets_the_link(
    make: Make, adtarget_sandbox: Sandbox
) -> None:
    app = make(quiet(api_key=adtarget_sandbox.api_key, api_url=adtarget_sandbox.api_url))

    @app.get("/join")
    def join() -> Any:
        return redirect(tracking.invite("vip"))

    for request in (CLICK, Request("/join")):
        response = get(app, request)
        assert response.status_code == 302
        assert response.location.startswith("https://t.me/+")
        assert names(response) >= {"adtarget_temp_id"}
    assert len(adtarget_sandbox.wait_for(2, "invite")) == 2


def test_what_is_no_page_is_left_alone(make: Make) -> None:
    app = make(quiet())

    @app.get("/data")
    def data() -> dict[str, int]:
        return {"a": 1}

    for request, status in ((Request("/data"), 200), (Request("/nowhere"), 404)):
        response = get(app, request)
        assert (response.status_code, names(response)) == (status, set())
    assert kept(app.extensions["adtarget"].tracker) == []


GIVEN = {"api_key": "atk_live_flask000_s", "outbox": "memory://", "deliver": "worker"}
CONFIGS: dict[str, dict[str, Any]] = {
    "a Settings": {"ADTARGET": Settings(**GIVEN)},
    "a mapping": {"ADTARGET": GIVEN},
    "a mapping in capitals": {"ADTARGET": {name.upper(): value for name, value in GIVEN.items()}},
    "keys of their own": {f"ADTARGET_{name.upper()}": value for name, value in GIVEN.items()},
    "both": {"ADTARGET": {**GIVEN, "api_key": "atk_live_other000_s"}, "ADTARGET_API_KEY": GIVEN["api_key"]},
}


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_come_from_the_apps_config(make: Make, config: str) -> None:
    settings = make(**CONFIGS[config]).extensions["adtarget"].tracker.settings
    assert (settings.api_key, settings.outbox, settings.deliver) == tuple(GIVEN.values())


def test_settings_come_from_the_environment_where_the_config_says_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADTARGET_API_KEY", "atk_live_env00000_s")
    monkeypatch.setenv("ADTARGET_OUTBOX", "memory://")
    assert make().extensions["adtarget"].tracker.settings.api_key == "atk_live_env00000_s"


def test_routes_in_the_config_are_routes(make: Make) -> None:
    routes = {"vip": {"channel_id": "-1", "fallback_url": FALLBACK}}
    settings = make(ADTARGET={**GIVEN, "INVITES": routes}).extensions["adtarget"].tracker.settings
    assert settings.invites == {"vip": InviteRoute("-1", FALLBACK)}


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({}, SettingsError, "api_key: missing"),
        ({"ADTARGET": {**GIVEN, "COLOUR": 1}}, SettingsError, "colour: no such setting"),
        ({"ADTARGET_APIKEY": "atk_live_a_b"}, SettingsError, "did you mean api_key"),
        ({"ADTARGET": "atk_live_a_b"}, TypeError, "mapping"),
    ],
)
def test_wrong_settings_fail_where_the_app_is_made(
    make: Make, config: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make(**config)


def test_an_application_factory_may_wrap_later_several_apps_and_one_twice() -> None:
    extension, apps = AdTargetFlask(settings=quiet()), [Flask("one"), Flask("two")]
    try:
        for app in apps:
            extension.init_app(app)
        first = apps[0].extensions["adtarget"]
        extension.init_app(apps[0])
        assert apps[0].extensions["adtarget"] is apps[0].wsgi_app is first
        for app in apps:
            app.add_url_rule("/", view_func=lambda: "<h1>Hello</h1>")
            response = get(app)
            assert len(response.headers.getlist("Set-Cookie")) == len(names(response)) == 4
        assert apps[0].extensions["adtarget"] is not apps[1].extensions["adtarget"]
    finally:
        for app in apps:
            app.extensions["adtarget"].close(0)


def test_outside_of_a_wrapped_app_it_says_what_to_do() -> None:
    app = Flask(__name__)
    with app.test_request_context(), pytest.raises(RuntimeError, match=r"AdTargetFlask\(app\)"):
        tracking.invite_url("vip")


def test_layers_around_the_apps_own_wsgi_app_keep_their_order(make: Make) -> None:
    app = make(quiet())
    app.add_url_rule("/", view_func=lambda: "<h1>Hello</h1>")
    inner = app.wsgi_app
    app.wsgi_app = lambda environ, start: inner(environ, start)  # type: ignore[method-assign]
    answer = SHELL.ask(app, PAGE)
    assert answer.body == HTML.chunks[0]
    assert answer.cookies.keys() >= {"adtarget_temp_id"}
