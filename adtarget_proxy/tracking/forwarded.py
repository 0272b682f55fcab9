"""What proxies write down, as texts: the X-Forwarded family, and ``Forwarded`` as in RFC 7239 (C7). Whom to believe is not asked here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

MAX_HOPS = 32
# RFC 7239: token = token or quoted string; pairs by ";", elements by ","
_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z-]*))\s*')

Element = dict[str, str]


class View(NamedTuple):
    """A scheme and a host as one party saw them."""

    scheme: str | None
    host: str | None


# -- X-Forwarded-* ---------------------------------------------------------------------------------------------------------


def x_forwarded_chain(line: str) -> Iterator[str]:
    """The elements of X-Forwarded-For from the right."""
    return reversed(line.split(",")) if line else iter(())


def x_forwarded_view(proto: str | None, shown: str | None, passed: int) -> View:
    """What the outermost of ``passed`` proxies wrote into X-Forwarded-Proto and X-Forwarded-Host."""
    return View(_element(proto, passed), _element(shown, passed))


def _element(line: str | None, passed: int) -> str | None:
    """The element that the outermost trusted hop wrote: as far from the right as the walk went, at most the first."""
    if not line:
        return None
    elements = line.split(",")
    return elements[max(len(elements) - max(passed, 1), 0)].strip()


# -- Forwarded ---------------------------------------------------------------------------------------------------------------


def forwarded_chain(elements: Iterable[Element | None]) -> Iterator[str]:
    """The ``for`` of each element; empty where there is none."""
    return (element.get("for", "") if element is not None else "" for element in elements)


def forwarded_view(elements: Sequence[Element | None], passed: int) -> View:
    """What the outermost of ``passed`` proxies saw."""
    seen: Element = {}
    for element in elements[: max(passed, 1)]:
        if element is None:
            break
        seen = element
    return View(seen.get("proto"), seen.get("host"))


def forwarded_elements(line: str) -> Iterator[Element | None]:
    """The elements of ``Forwarded`` from the right, as name → value; None at the first malformed one, then no more."""
    for text in islice(reversed(_split_quoted(line, ",")), MAX_HOPS):
        element: Element = {}
        for part in _split_quoted(text, ";"):
            pair = _PAIR.fullmatch(part)
            if pair is None or pair[1].lower() in element:
                yield None
                return
            element[pair[1].lower()] = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3]
        yield element


def _split_quoted(text: str, separator: str) -> list[str]:
    """``text`` split where the separator is outside quotes. An unclosed quote swallows the rest, which then is malformed."""
    if not text:
        return []
    if '"' not in text:
        return text.split(separator)
    parts, start, quoted, escaped = [], 0, False, False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\" and quoted:
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == separator and not quoted:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return parts
