"""Who may call: API keys on the keyed surface, website ids and the page's own headers on the keyless one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from .answers import Refusal, invalid
from .options import Options

_KEY = re.compile(r"(atk_[a-z]+_[A-Za-z0-9]+_)[^\s\"'\\&]+")


class Keyring:
    """The keys and website ids of one sandbox."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._account = frozenset(options.account_keys)
        self._good = frozenset({options.api_key, *options.account_keys})
        self._revoked = frozenset(options.revoked_keys)
        self._paused = frozenset(options.paused_keys)
        self._secrets = sorted(self._good | self._revoked | self._paused, key=len, reverse=True)

    def admit(self, authorization: str) -> str:
        """The key a request came with; raises ``Refusal`` with 401 or 402."""
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise Refusal(401, "AUTH_REQUIRED", "Authorization: Bearer <api key> is missing")
        if key in self._revoked:
            raise Refusal(401, "REVOKED_KEY", "This API key was revoked")
        if key in self._paused:
            raise Refusal(402, "SUBSCRIPTION_INACTIVE", "The subscription of this account is not active")
        if key not in self._good:
            raise Refusal(401, "INVALID_KEY", "This API key is not known")
        return key

    def admit_site(self, website_id: object, headers: Mapping[str, str]) -> str:
        """The website id of a keyless request; raises ``Refusal`` where it is unknown or the page is another site's."""
        if not isinstance(website_id, str) or not website_id:
            raise invalid("websiteId is required")
        if website_id != self._options.website_id:
            raise invalid("websiteId is not known")
        # A key on the public surface is a leak: the emulator says so, so that it is found on the developer's machine.
        if "Authorization" in headers:
            raise invalid("Authorization does not belong on the keyless surface: never send a key there")
        for name, wanted in (("Referer", self._options.check_referer), ("Origin", self._options.check_origin)):
            if wanted and not self._of_site(headers.get(name, "")):
                raise Refusal(403, "ORIGIN_NOT_ALLOWED", f"{name} is not a page of the site's domain")
        return website_id

    def is_account(self, key: str) -> bool:
        return key in self._account

    def _of_site(self, url: str) -> bool:
        try:
            host = urlsplit(url).hostname or ""
        except ValueError:
            return False
        domain = (self._options.domain or "").lower()
        return host == domain or host.endswith("." + domain)

    def redact(self, text: str) -> str:
        """``text`` with every key cut down to its id prefix."""
        text = _KEY.sub(r"\1…", text)
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, "…")
        return text


def redact_authorization(value: str) -> str:
    """An ``Authorization`` header as it may be shown: its scheme and the key's id prefix."""
    scheme, _, key = value.partition(" ")
    found = _KEY.match(key.strip())
    return f"{scheme} {found[1]}…" if found else f"{scheme if key else ''} …".strip()
