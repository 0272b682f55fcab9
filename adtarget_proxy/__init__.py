"""adtarget-proxy: AdTarget's visits, cookies and invite redirects from your server, with no script in the page."""

from typing import TYPE_CHECKING, Any

from adtarget_proxy.settings import InviteRoute, Settings, Site

if TYPE_CHECKING:
    from adtarget_proxy.api import AdTarget, AsyncAdTarget

__all__ = ["AdTarget", "AsyncAdTarget", "InviteRoute", "Settings", "Site"]


def __getattr__(name: str) -> Any:
    """The clients are imported when they are first asked for: a wrapped app has no need of httpx to start."""
    if name in ("AdTarget", "AsyncAdTarget"):
        from adtarget_proxy import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
