"""The signed state cookie: bound to its visitor, forged by nobody, never too big."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtarget_proxy.tracking.cookies import render
from adtarget_proxy.tracking.state import MAX_SIZE, TOUCH_MAX_AGE, Glance, State, StateSigner, derived_key, glance

ME, OTHER = "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "6f2504e0-4f89-41d3-9a0c-0305e82c3302"
FBP = "fb.1.1690000000000.1234567890"
KEY, OLD_KEY = "a-key-of-sixteen", "an-older-key-of-sixteen"
TOUCH = {"landing_page": "https://shop.example/?a=1&b=2!x", "utm_source": "fb", "utm_term": "тест", "gclid": "G1"}
STATE = State(ME, FBP, issued=1_700_000_000, touched=1_690_000_000, touch=TOUCH)
SIGNER = StateSigner([KEY])


@pytest.mark.parametrize("state", [STATE, State(ME), State(ME, FBP), State(ME, None, 1, 2, {"ttclid": "a.b!c=d&e"})])
def test_what_is_dumped_is_loaded(state: State) -> None:
    cookie = SIGNER.dump(state)
    assert SIGNER.load(cookie, ME) == state
    render("adtarget_state", cookie, 60, None, secure=True)  # cookie-safe: does not raise


COOKIE = SIGNER.dump(STATE)


@pytest.mark.parametrize(
    "cookie",
    [
        None,
        "",
        ME,
        COOKIE[:-1],
        COOKIE[:-2] + ("AA" if not COOKIE.endswith("AA") else "BB"),
        COOKIE.replace(FBP, FBP[:-1] + "9"),
        COOKIE.replace("!1700000000!", "!1700000001!"),  # another time of issue
        COOKIE.replace("!bGh0", "!bGh1"),  # another landing page
        COOKIE + "x",
        COOKIE.rpartition(".")[0],
        StateSigner(["another-key-of-16"]).dump(STATE),
        COOKIE + "\xff",
        f"{ME}!!!!.sig",
    ],
)
def test_a_forged_or_broken_state_is_an_absent_one(cookie: str | None) -> None:
    assert SIGNER.load(cookie, ME) is None


def test_another_visitors_state_is_an_absent_one() -> None:
    assert SIGNER.load(COOKIE, OTHER) is None
    assert SIGNER.load(COOKIE, None) is None
    assert glance(COOKIE, OTHER) is None


def test_keys_rotate() -> None:
    rotated = StateSigner([KEY, OLD_KEY])
    assert rotated.load(StateSigner([OLD_KEY]).dump(STATE), ME) == STATE
    assert StateSigner([KEY]).load(rotated.dump(STATE), ME) == STATE
    assert StateSigner([OLD_KEY]).load(rotated.dump(STATE), ME) is None


@pytest.mark.parametrize(
    ("landing", "value"),
    [
        ("https://shop.example/" + "x" * 5000, "v"),
        ("https://shop.example/" + "ж" * 3000, "v"),
        ("https://shop.example/", "ж" * 500),
        ("x" * 9000, "%" * 500),
    ],
)
def test_the_state_never_exceeds_its_size(landing: str, value: str) -> None:
    touch = {
        "landing_page": landing,
        **dict.fromkeys(("utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term"), value),
    }
    cookie = SIGNER.dump(State(ME, FBP, 1_700_000_000, 1_700_000_000, touch))
    assert len(cookie) <= MAX_SIZE
    loaded = SIGNER.load(cookie, ME)
    assert loaded is not None
    assert loaded.fbp == FBP


def test_the_landing_page_is_trimmed_first() -> None:
    loaded = SIGNER.load(
        SIGNER.dump(State(ME, FBP, touch={"landing_page": "https://a.example/" + "x" * 5000, "gclid": "G1"})), ME
    )
    assert loaded is not None
    assert loaded.touch["gclid"] == "G1"
    assert loaded.touch["landing_page"].startswith("https://a.example/xxx")


@pytest.mark.parametrize(("age", "touch"), [(0, TOUCH), (TOUCH_MAX_AGE, TOUCH), (TOUCH_MAX_AGE + 1, {})])
def test_a_touch_over_ninety_days_old_is_forgotten(age: int, touch: dict[str, str]) -> None:
    assert STATE.fresh_touch(STATE.touched + age) == touch


def test_a_glance_claims_what_the_state_holds() -> None:
    assert glance(COOKIE, ME) == Glance(FBP, 1_700_000_000)
    assert glance(SIGNER.dump(State(ME, None, 5)), ME) == Glance(None, 5)
    odd = f"{FBP}!x.AQIAAQEC"  # a separator may stand in a payload
    assert glance(SIGNER.dump(State(ME, odd, 5)), ME) == Glance(odd, 5)


@pytest.mark.parametrize("issued", ["\xb2" * 10, "17000\xb900000", "1_700_0000", "+170000000", " 170000000"])
def test_what_is_no_time_is_no_state(issued: str) -> None:
    """Latin-1 has digits of its own, which ``int`` refuses."""
    assert glance(f"{ME}!{issued}!1!!{FBP}.sig", ME) is None


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=80))
def test_no_bytes_make_reading_raise(tail: str) -> None:
    for cookie in (tail, ME + tail, f"{ME}!1700000000!{tail}"):
        assert SIGNER.load(cookie, ME) is None
        glance(cookie, ME)


def test_a_derived_key_is_stable_and_gives_nothing_away() -> None:
    assert derived_key("secret") == derived_key("secret") != derived_key("secret2")
    assert "secret" not in derived_key("secret")
