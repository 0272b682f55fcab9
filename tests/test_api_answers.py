"""Reading answers: tolerant of any JSON, strict about links, exact about Retry-After."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtarget_proxy.api.answer import Answer, result_of, retry_after
from adtarget_proxy.api.results import LINK_KEYS, ConversionResult, FbpResult, InviteResult, LeadResult, VisitResult
from adtarget_proxy.errors import ApiError

NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT
LINKS = st.sampled_from(
    ["https://t.me/+A", "https://telegram.dog/x", "https://evil.example/", "tg://join?invite=A", "x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | LINKS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(LINK_KEYS) | st.text(max_size=4), inner)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from([*LINK_KEYS, "visitId", "success", "sends", "coldLead", "telegramUserId", "data"])


@given(
    raw=st.dictionaries(NAMES, VALUES),
    location=st.none() | st.text(max_size=20) | LINKS,
    status=st.sampled_from([200, 302]),
)
def test_an_invite_never_raises_and_its_link_leads_into_telegram(raw: Any, location: str | None, status: int) -> None:
    headers = {} if location is None else {"location": location}
    link = result_of(Answer(status, headers, json.dumps(raw).encode()), InviteResult).link
    assert link is None or (
        urlsplit(link).scheme,
        urlsplit(link).hostname in {"t.me", "telegram.me", "telegram.dog"},
    ) == (
        "https",
        True,
    )


@given(st.dictionaries(NAMES, VALUES))
def test_no_result_raises_whatever_the_json_holds(raw: Any) -> None:
    for kind in (VisitResult, FbpResult, ConversionResult, LeadResult):
        assert result_of(Answer(200, {}, json.dumps(raw).encode()), kind).raw == raw


@given(status=st.integers(100, 599), body=st.none() | st.binary(max_size=80), wait=st.none() | st.text(max_size=30))
def test_any_answer_is_a_result_or_an_api_error(status: int, body: bytes | None, wait: str | None) -> None:
    headers = {} if wait is None else {"retry-after": wait}
    said: VisitResult | ApiError
    try:
        said = result_of(Answer(status, headers, body), VisitResult, now=NOW)
    except ApiError as error:
        said = error
    if isinstance(said, VisitResult):
        assert 200 <= status < 300
    else:
        assert said.status == status
        assert said.retry_after is None or 0 <= said.retry_after <= 3600


def test_link_keys_are_tried_in_their_order_and_the_top_level_first() -> None:
    for index, key in enumerate(LINK_KEYS):
        later = dict.fromkeys(LINK_KEYS[index + 1 :], "https://t.me/later")
        raw = {"data": dict.fromkeys(LINK_KEYS, "https://t.me/inner"), **later, key: "https://t.me/first"}
        assert result_of(Answer(200, {}, json.dumps(raw).encode()), InviteResult).link == "https://t.me/first"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("99999999", 3600.0),
        ("-5", None),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("Fri, 02 Jan 2026 00:00:00 GMT", 3600.0),
        ("Thu, 01 Jan 2026 00:01:00 -0000", 60.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_clamped(text: str | None, seconds: float | None) -> None:
    assert retry_after(text, now=NOW) == seconds
