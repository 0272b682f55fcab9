"""Settings: what a user writes, checked and resolved."""

from adtarget_proxy.settings.settings import DEFAULT_EXCLUDE, Settings
from adtarget_proxy.settings.sites import Account, InviteRoute, Site

__all__ = ["DEFAULT_EXCLUDE", "Account", "InviteRoute", "Settings", "Site"]
