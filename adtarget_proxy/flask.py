"""Flask: ``AdTargetFlask(app)``, or ``init_app`` in an application factory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from flask import Flask, request
from werkzeug.local import LocalProxy

from adtarget_proxy.request import Tracking
from adtarget_proxy.settings import Settings
from adtarget_proxy.wsgi import AdTargetMiddleware

_NAME = "adtarget"
_PREFIX = "ADTARGET_"


def _current() -> Tracking:
    found = request.environ.get(_NAME)
    if not isinstance(found, Tracking):
        raise RuntimeError("no AdTarget in this request: wrap the app with AdTargetFlask(app)")
    return found


tracking = cast(Tracking, LocalProxy(_current))
"""The Tracking of the current request; ``adtarget`` in templates. Raises RuntimeError outside a request of a wrapped app."""


class AdTargetFlask:
    """Wraps a Flask app's ``wsgi_app``. Holds no app, so one extension serves several.

    Settings are ``settings``, else ``app.config["ADTARGET"]`` (Settings, or a mapping whose keys may be upper-case) with
    ``ADTARGET_*`` keys added, else the environment.
    """

    def __init__(self, app: Flask | None = None, settings: Settings | None = None) -> None:
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wrap ``app``; a second time does nothing. Raises SettingsError."""
        if _NAME in app.extensions:
            return
        middleware = AdTargetMiddleware(app.wsgi_app, self._settings or _settings(app))
        app.extensions[_NAME] = middleware
        app.wsgi_app = middleware  # type: ignore[method-assign]
        app.context_processor(lambda: {_NAME: tracking})


def _settings(app: Flask) -> Settings:
    given = app.config.get("ADTARGET")
    if isinstance(given, Settings):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise TypeError('app.config["ADTARGET"] must be a Settings or a mapping of settings')
    return Settings.from_mapping(given or {}, **app.config.get_namespace(_PREFIX))
