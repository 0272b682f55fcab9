"""What a sandbox can be told when it is made: its keys, its limits, and its reading of what AdTarget left undocumented."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

API_KEY = "atk_live_sandbox1_secret"
ACCOUNT_KEY = "atk_live_account1_secret"
REVOKED_KEY = "atk_live_revoked1_secret"
PAUSED_KEY = "atk_live_paused01_secret"
WEBSITE_ID = "atid_sandbox"
KNOWN_LEAD = 1234567890


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The switches of a sandbox. Rates are requests a minute, 0 lifts the limit.

    Raises ``ValueError`` naming the option where a value cannot work.
    """

    api_key: str = API_KEY
    account_keys: Collection[str] = (ACCOUNT_KEY,)
    revoked_keys: Collection[str] = (REVOKED_KEY,)
    paused_keys: Collection[str] = (PAUSED_KEY,)
    website_id: str = WEBSITE_ID
    domain: str | None = None
    """The site's host name, for the two checks below."""
    check_referer: bool = False
    check_origin: bool = False
    rate: float = 300.0
    burst: int = 50
    tracker_rate: float = 0.0
    """The limit of the keyless surface: AdTarget documents none."""
    channels: Collection[str] = ()
    """The channels that exist; none listed: every channel does."""
    default_channel: str = "-1001234567890"
    leads: Collection[int] = (KNOWN_LEAD,)
    """Telegram users that joined before the sandbox started."""
    invite_as: str = "json"
    invite_field: str = "inviteLink"
    """The name the link goes by in the JSON answer; one dot puts it one level down."""
    fbp_miss: str = "false"
    """``update-fbp`` for an unknown visitor: ``false`` answers ``{"success": false}``, ``404`` an error."""
    replay_errors: bool = False
    """Whether refusals and failures are kept for idempotent replay too, not the 2xx answers alone."""
    keep: int = 10_000
    """How many requests, visitors and leads are kept; the oldest go first."""
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.invite_as not in ("json", "redirect"):
            raise ValueError(f"invite_as is 'json' or 'redirect', not {self.invite_as!r}")
        if self.fbp_miss not in ("false", "404"):
            raise ValueError(f"fbp_miss is 'false' or '404', not {self.fbp_miss!r}")
        for name in ("account_keys", "revoked_keys", "paused_keys", "channels", "leads"):
            if isinstance(getattr(self, name), str) or not isinstance(getattr(self, name), Collection):
                raise ValueError(f"{name} is a list, even of one")
        if self.rate < 0 or self.burst < 0 or self.tracker_rate < 0:
            raise ValueError("rate, burst and tracker_rate are 0 (no limit) or more")
        if self.keep < 1:
            raise ValueError("keep is 1 or more")
        if self.invite_field.count(".") > 1 or not all(self.invite_field.split(".")):
            raise ValueError(f"invite_field is a name, or two with a dot between them, not {self.invite_field!r}")
        if (self.check_referer or self.check_origin) and not self.domain:
            raise ValueError("check_referer and check_origin need domain, the site's host name")
