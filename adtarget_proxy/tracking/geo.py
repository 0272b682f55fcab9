"""Where a visitor is: country, region, city, from the edge in front or from a function of the user's.

An edge's headers are believed like its address: only where ``Origin.edge`` says that the edge itself handed the request on, and only those
of the preset in ``trusted_proxies``. Nothing here costs a page: a function that raises is no place, and said once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from adtarget_proxy.tracking.address import Origin
from adtarget_proxy.tracking.facts import Facts, Geo, bytes_of
from adtarget_proxy.tracking.presets import Place, Preset, preset_of

PlaceReader = Callable[[Facts, Origin], Mapping[str, str]]
_NOWHERE: Mapping[str, str] = {}
_MAX_NAME = 100  # characters of a region's or a city's name
_COUNTRY = re.compile("[A-Z]{2}")
# ISO 3166-1 leaves these to users: Cloudflare's "no country known", and what others write for it. T1 (Tor) is no code at all.
_NO_COUNTRY = frozenset({"XX", "ZZ"})


def place_reader(geo: Any, trusted: int | Sequence[str], fault: Callable[[str], object]) -> PlaceReader:
    """The function from a request to its place, as the API's fields, for one ``geo`` setting.

    ``fault`` is told of a function that raises or returns no Geo, while the exception is being handled.
    """
    if callable(geo):
        return _by_function(geo, fault)
    preset = None if geo == "none" or isinstance(trusted, int) else preset_of(trusted)
    return _by_edge(preset) if preset is not None and preset.place else _nowhere


def _nowhere(facts: Facts, origin: Origin) -> Mapping[str, str]:  # noqa: ARG001
    return _NOWHERE


def _by_function(locate: Callable[[str], Geo | None], fault: Callable[[str], object]) -> PlaceReader:
    def read(facts: Facts, origin: Origin) -> Mapping[str, str]:  # noqa: ARG001
        if origin.address is None or not origin.address.public:
            return _NOWHERE
        try:
            found = locate(origin.address.text)
            if found is None:
                return _NOWHERE
            if not isinstance(found, Geo):
                raise TypeError("geo: must return a Geo or None")
            return _fields({"country": found.country, "region": found.region, "city": found.city})
        except Exception:
            fault("geo")
            return _NOWHERE

    return read


def _by_edge(preset: Preset) -> PlaceReader:
    def read(facts: Facts, origin: Origin) -> Mapping[str, str]:
        if not origin.edge:
            return _NOWHERE
        told: dict[Place, str | None] = {
            name: _text(facts.header(header), quoted=preset.is_quoted) for name, header in preset.place.items()
        }
        country = (told["country"] or "").strip().upper()
        if not _COUNTRY.fullmatch(country) or country in _NO_COUNTRY:
            country = ""  # a region or a city of nowhere says nothing either
            told = {}
        return _fields({**told, "country": country})

    return read


def _text(value: str | None, *, quoted: bool) -> str | None:
    """A header's value as text: UTF-8, percent-encoded or as it is. None where it is neither."""
    if value is None:
        return None
    try:
        return (unquote_to_bytes(value) if quoted else bytes_of(value)).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _fields(place: Mapping[Place, str | None]) -> dict[str, str]:
    """What is known of a place. Raises TypeError for a name that is no text."""
    found: dict[str, str] = {}
    for name, value in place.items():
        if value is None:
            continue
        if not isinstance(value, str):
            raise TypeError(f"geo: {name} must be a string or None")
        text = " ".join("".join(char if char.isprintable() else " " for char in value).split())[:_MAX_NAME]
        if text:
            found[name] = text
    return found
