"""Which Telegram link a visitor may be sent to.

The rule is AdTarget's contract read tolerantly: ``https`` on Telegram's three hosts, or the ``tg:`` scheme, which is turned
into its https twin. A link with a control character, a space, a backslash, userinfo or anything outside ASCII is no link: it
is refused as it came, never cleaned.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

TELEGRAM_HOSTS = frozenset({"t.me", "telegram.me", "telegram.dog"})
_MAX_LENGTH = 2048
_PLAIN = re.compile(r"[!-\[\]-~]+")  # printable ASCII without the space and the backslash
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_HASH = re.compile(r"[A-Za-z0-9_-]{1,128}")


def invite_link(text: object) -> str | None:
    """The https link to send a visitor to, or None where ``text`` is not a link into Telegram."""
    if not isinstance(text, str) or len(text) > _MAX_LENGTH or not _PLAIN.fullmatch(text):
        return None
    if text[:3].lower() == "tg:":
        return _https_twin(text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme != "https" or "@" in parts.netloc or port not in (None, 443):
        return None
    return text if parts.hostname in TELEGRAM_HOSTS and parts.path.strip("/") else None


def fallback_link(text: str) -> str:
    """``text`` as the link of last resort: https on any host, by the user's word.

    Raises ValueError saying what to write instead.
    """
    if text[:3].lower() == "tg:":
        twin = _https_twin(text) if _PLAIN.fullmatch(text) else None
        if twin is None:
            raise ValueError("a tg: link must be tg://join?invite=HASH or tg://resolve?domain=NAME")
        return twin
    if not _PLAIN.fullmatch(text) or len(text) > _MAX_LENGTH:
        raise ValueError("must be a link in plain ASCII without spaces, such as https://t.me/your_channel")
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # raises on a port that is none
    except ValueError:
        raise ValueError("is no URL; write one such as https://t.me/your_channel") from None
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("must start with https://, such as https://t.me/your_channel")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password")
    return text


def _https_twin(text: str) -> str | None:
    """``tg://join?invite=H`` → ``https://t.me/+H``, ``tg://resolve?domain=N`` → ``https://t.me/N``; any other is no link."""
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query, strict_parsing=True)
    except ValueError:
        return None
    action = (parts.netloc or parts.path).strip("/").lower()
    values = query.get({"join": "invite", "resolve": "domain"}.get(action, ""), [])
    if len(values) != 1:
        return None
    if action == "join":
        return f"https://t.me/+{values[0]}" if _HASH.fullmatch(values[0]) else None
    return f"https://t.me/{values[0]}" if _NAME.fullmatch(values[0]) else None
