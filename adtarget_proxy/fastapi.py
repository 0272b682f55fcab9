"""FastAPI: the dependency ``Tracking``, for an app that the ASGI middleware wraps.

``def landing(tracking: Tracking)`` gives a view its visitor.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from adtarget_proxy import request


async def current(connection: HTTPConnection) -> request.Tracking:
    """The Tracking of a request. A coroutine, so that FastAPI calls it without a thread. Raises RuntimeError where there is none."""
    found = connection.scope.get("adtarget")
    if not isinstance(found, request.Tracking):
        raise RuntimeError(
            "no AdTarget in this request: app.add_middleware(adtarget_proxy.asgi.AdTargetMiddleware, settings=…); "
            "a websocket has none"
        )
    return found


Tracking = Annotated[request.Tracking, Depends(current)]
"""Annotate a view's argument with it."""
