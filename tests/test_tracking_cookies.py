"""Meta-cookies, "Values", "A new click" and "Cookies"; correctness C3."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtarget_proxy.tracking.cookies import (
    choose_fbc,
    choose_fbp,
    click_id,
    creation_ms,
    mint_fbc,
    mint_fbp,
    payload_of,
    read_jar,
    render,
)

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
GOOD = "fb.1.1690000000000.1234567890"
UUID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (GOOD, 1_690_000_000_000),
        ("fb.2.1690000000000.IwAR0_aB-c9", 1_690_000_000_000),
        ("fb.1.1690000000.OLD", 1_690_000_000_000),
        (GOOD + ".Bg", 1_690_000_000_000),
        (GOOD + ".AQIAAQEC", 1_690_000_000_000),
        ("fb.1.1690000000000.a%3Db.AQIAAQEC", 1_690_000_000_000),
        ("fb.1.1690000000000." + "x" * 500, 1_690_000_000_000),
        ("fb.1.1483228800000.1", 1_483_228_800_000),
    ],
)
def test_a_value_of_four_or_five_parts_is_valid(value: str, made: int) -> None:
    assert creation_ms(value) == made


@pytest.mark.parametrize(
    "value",
    [
        "",
        "garbage",
        "fb.1.1690000000000",
        "fb.1.1690000000000.",
        "fb.1.1690000000000..AQIAAQEC",
        "a.b.c.d",
        "fb.1.yesterday.123",
        "fb.x.1690000000000.123",
        "FB.1.1690000000000.123",
        "fb.1.169000000000.123",
        "fb.1.16900000000000.123",
        "fb.1.1400000000000.123",
        GOOD + ".AQIAAQEC.AQIAAQEC",
        GOOD + ".abc",
        GOOD + ".!!!!!!!!",
        f'"{GOOD}"',
        GOOD + "\n",
        "fb.1.1690000000000.a b",
        "fb.1.1690000000000.ä",
        "fb.1.١٦٩٠٠٠٠٠٠٠.1",
        "fb.1.1690000000000." + "x" * 501,
    ],
)
def test_any_other_value_counts_as_absent(value: str) -> None:
    assert creation_ms(value) is None


@pytest.mark.parametrize(
    ("header", "fbp", "fbc", "temp_id", "session_id"),
    [
        (None, [], [], None, None),
        (f"_fbp={GOOD}", [GOOD], [], None, None),
        (f" a=1;_fbp = {GOOD} ;b", [GOOD], [], None, None),
        (f"_fbp={GOOD}; _fbc=fb.1.1690000000000.X", [GOOD], ["fb.1.1690000000000.X"], None, None),
        (f'prefs={{"a": "b;c"}}; _fbp={GOOD}', [GOOD], [], None, None),
        (f"broken=\xff\xfe\x00; _fbp={GOOD}", [GOOD], [], None, None),
        (f'_fbp="{GOOD}"', [], [], None, None),
        (f"_FBP={GOOD}", [], [], None, None),
        (f"_fbp={GOOD}\xa0; \x85_fbc=fb.1.1690000000000.X", [], [], None, None),
        (f"_fbp=\t {GOOD}\t ;\t_fbc =fb.1.1690000000000.X", [GOOD], ["fb.1.1690000000000.X"], None, None),
        (f"_fbp={GOOD}; _fbp={GOOD}2", [GOOD, GOOD + "2"], [], None, None),
        (f"adtarget_temp_id={UUID}; adtarget_session_id=abc-123", [], [], UUID, "abc-123"),
        (f"adtarget_temp_id={UUID}x; adtarget_session_id=a b", [], [], None, None),
        (f'adtarget_temp_id="{UUID}"; adtarget_session_id=', [], [], None, None),
        (f"adtarget_temp_id=no; adtarget_temp_id={UUID}", [], [], UUID, None),
    ],
)
def test_cookies_are_read_without_unquoting_and_a_bad_neighbour_hurts_nobody(
    header: str | None, fbp: list[str], fbc: list[str], temp_id: str | None, session_id: str | None
) -> None:
    jar = read_jar(header)
    assert (list(jar.fbp), list(jar.fbc), jar.temp_id, jar.session_id) == (fbp, fbc, temp_id, session_id)


OTHER = "3f2504e0-4f89-41d3-9a0c-0305e82c3302"


@pytest.mark.parametrize(
    ("states", "own"),
    [
        ([], None),
        ([f"{UUID}!1"], f"{UUID}!1"),
        ([f"{UUID}!1", f"{UUID}!2"], f"{UUID}!2"),
        ([f"{UUID}!1", f"{OTHER}!2"], f"{UUID}!1"),
        ([f"{OTHER}!1", "", f"{UUID}!2", "\xff"], f"{UUID}!2"),
        ([f"{OTHER}!1"], None),
    ],
)
def test_of_several_states_the_visitors_own_and_last_made_counts(states: list[str], own: str | None) -> None:
    header = "; ".join([f"adtarget_temp_id={UUID}", *(f"adtarget_state={state}" for state in states)])
    assert read_jar(header).state == own


OLD, NEW, FUTURE = "fb.1.1690000000000.1", "fb.1.1695000000000.2", f"fb.1.{NOW_MS + DAY_MS + 1}.3"


@pytest.mark.parametrize(
    ("values", "reported", "chosen"),
    [
        ([], None, None),
        ([OLD], None, OLD),
        ([OLD], OLD, OLD),
        ([FUTURE], None, None),
        ([NEW, OLD], None, OLD),
        ([NEW, OLD], OLD, NEW),
        ([OLD, NEW], NEW, OLD),
        ([NEW, OLD], "fb.1.1690000000000.9", OLD),
        ([OLD, FUTURE], None, OLD),
        ([OLD, FUTURE], OLD, OLD),
    ],
)
def test_of_two_fbp_the_one_not_reported_counts_else_the_oldest(
    values: list[str], reported: str | None, chosen: str | None
) -> None:
    assert choose_fbp({value: creation_ms(value) or 0 for value in values}, NOW_MS, reported) == chosen


@pytest.mark.parametrize(
    ("values", "chosen"), [([], None), ([OLD, NEW], NEW), ([NEW, OLD], NEW), ([OLD, FUTURE], OLD), ([FUTURE], None)]
)
def test_of_two_fbc_the_newest_counts(values: list[str], chosen: str | None) -> None:
    assert choose_fbc({value: creation_ms(value) or 0 for value in values}, NOW_MS) == chosen


def test_the_payload_is_the_fourth_part_not_what_follows_the_last_dot() -> None:
    assert payload_of("fb.1.1690000000000.IwAR0abc.AQIAAQEC") == "IwAR0abc"
    assert payload_of("fb.1.1690000000000.IwAR0abc") == "IwAR0abc"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", None),
        ("fbclid=IwAR0_aB-c9", "IwAR0_aB-c9"),
        ("utm_source=fb&fbclid=IwAR0abc&x=1", "IwAR0abc"),
        ("a=1&amp;fbclid=IwAR0abc", "IwAR0abc"),
        ("amp;fbclid=IwAR0abc", "IwAR0abc"),
        ("fbclid=IwAR0abc&amp;utm_source=fb", "IwAR0abc"),
        ("fbclid=%49wAR0abc", "IwAR0abc"),
        ("fbclid=IwAR%5F1", "IwAR_1"),
        ("fbclid=&fbclid=SECOND", "SECOND"),
        ("fbclid=FIRST&fbclid=SECOND", "FIRST"),
        ("fbclid=" + "x" * 500, "x" * 500),
        # ignored, never cut, re-cased or decoded twice
        ("fbclid=" + "x" * 501, None),
        ("fbclid=", None),
        ("fbclid", None),
        ("FBCLID=IwAR0abc", None),
        ("xfbclid=IwAR0abc", None),
        ("a=1;fbclid=IwAR0abc", None),
        ("a=1?fbclid=IwAR0abc", None),
        ("fbclid=IwAR0;abc", None),
        ("fbclid=a+b", None),
        ("fbclid=a.b.c", None),
        ("fbclid=a%2Cb", None),
        ("fbclid=a%00b", None),
        ("fbclid=a%0D%0ASet-Cookie:%20x=1", None),
        ("fbclid=%D1%84", None),
        ("fbclid=%2549wAR", None),
        ("fbclid=IwAR%", None),
        ("fbclid=IwAR0abc#top", None),
        ("fbclid=IwAR0abc%23top", None),
    ],
)
def test_a_click_id_is_taken_as_it_came_or_not_at_all(query: str, found: str | None) -> None:
    assert click_id(query) == found


@given(st.binary(min_size=8, max_size=8))
def test_a_minted_fbp_is_valid_and_its_payload_has_ten_digits(entropy: bytes) -> None:
    value = mint_fbp(2, NOW_MS, lambda _: entropy)
    assert creation_ms(value) == NOW_MS
    assert value.startswith(f"fb.2.{NOW_MS}.")
    assert 10**9 <= int(payload_of(value)) <= 2**31 - 1


def test_a_minted_fbc_holds_the_click_id() -> None:
    assert mint_fbc(1, NOW_MS, "IwAR0_aB-c9") == f"fb.1.{NOW_MS}.IwAR0_aB-c9"


@pytest.mark.parametrize(
    ("domain", "secure", "http_only", "text"),
    [
        (None, False, False, "a=b; Max-Age=60; Path=/; SameSite=Lax"),
        (None, True, False, "a=b; Max-Age=60; Path=/; Secure; SameSite=Lax"),
        ("example.com", True, True, "a=b; Domain=example.com; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax"),
    ],
)
def test_a_cookie_is_rendered_with_its_attributes(domain: str | None, secure: bool, http_only: bool, text: str) -> None:
    assert render("a", "b", 60, domain, secure=secure, http_only=http_only) == text


@given(st.text(max_size=20))
def test_a_rendered_cookie_holds_cookie_octets_or_is_refused(value: str) -> None:
    if re.fullmatch(r"[!#-+\--:<-\[\]-~]*", value):
        assert render("a", value, 60, None, secure=False).startswith(f"a={value};")
    else:
        with pytest.raises(ValueError, match="a cookie cannot"):
            render("a", value, 60, None, secure=False)
