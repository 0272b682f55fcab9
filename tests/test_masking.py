"""What an operator sees without --reveal."""

from __future__ import annotations

import pytest

from adtarget_proxy.console.masking import masked, masked_id, masked_words


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("event_type", "Purchase", "Purchase"),
        ("value", 97.0, 97.0),
        ("utm_source", "fb", "fb"),
        ("channel_id", "-1001234567890", "-1001234567890"),
        ("client_ip", "203.0.113.9", "…"),
        ("user_agent", "Mozilla/5.0", "…"),
        ("fbp", "fb.1.1700000000000.123456789", "…"),
        ("telegram_user_id", 1234567890, "…"),
        ("pii", {"email": "a@shop.example"}, "…"),
        ("a_field_of_tomorrow", "anything", "…"),
        ("country", None, None),
        ("temp_id", "0b9c1e7a-1111-4222-8333-444455556666", "0b9c1e7a…"),
        ("href", "https://shop.example/a/b?email=a@shop.example#x", "https://shop.example/a/b?…"),
        ("href", "https://me:secret@shop.example/", "https://shop.example/"),
        ("referrer", "https://[broken", "…"),
    ],
)
def test_a_field_is_shown_only_where_it_says_nothing_about_a_person(name: str, value: object, shown: object) -> None:
    assert masked({name: value}) == {name: shown}


def test_a_short_id_is_shown_whole() -> None:
    assert [masked_id("12345678"), masked_id("123456789")] == ["12345678", "12345678…"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("400 INVALID_PAYLOAD: value is required", "400 INVALID_PAYLOAD: value is required"),
        ("email a@shop.example is refused", "email … is refused"),
        ("lead 1234567890 is unknown", "lead … is unknown"),
        ("address 203.0.113.9 or 2001:db8::1", "address … or …"),
        ("call +49 170 1234567", "call +…"),
    ],
)
def test_an_answers_words_lose_what_looks_personal(words: str, shown: str) -> None:
    assert masked_words(words) == shown
