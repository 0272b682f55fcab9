"""The tests' own browser follows RFC 6265: its examples (3.1), and the rows of 5.1.3, 5.1.4, 5.3 and 5.4 that others get wrong."""

from __future__ import annotations

import pytest
from cookie_jar import CookieJar, default_path, domain_matches, path_matches

WEDNESDAY = 1_600_000_000.0  # before the Expires of the RFC's examples


@pytest.mark.parametrize(
    ("host", "domain", "matches"),
    [
        ("example.com", "example.com", True),
        ("www.example.com", "example.com", True),
        ("wwwexample.com", "example.com", False),
        ("example.com", "www.example.com", False),
        ("example.com.", "example.com", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.1", False),
        ("2001:db8::1", "2001:db8::1", True),
    ],
)
def test_domains_match_as_5_1_3_says(host: str, domain: str, matches: bool) -> None:
    assert domain_matches(host, domain) is matches


@pytest.mark.parametrize(
    ("path", "of_cookie", "matches"),
    [
        ("/", "/", True),
        ("/shop", "/", True),
        ("/shop", "/shop", True),
        ("/shop/a", "/shop", True),
        ("/shop/a", "/shop/", True),
        ("/shopping", "/shop", False),
        ("/", "/shop", False),
    ],
)
def test_paths_match_as_5_1_4_says(path: str, of_cookie: str, matches: bool) -> None:
    assert path_matches(path, of_cookie) is matches


@pytest.mark.parametrize(("path", "default"), [("/", "/"), ("/a", "/"), ("/a/b", "/a"), ("/a/b/", "/a/b"), ("", "/")])
def test_the_default_path_is_the_requests_directory(path: str, default: str) -> None:
    assert default_path(path) == default


def test_the_examples_of_the_rfc() -> None:
    jar = CookieJar(WEDNESDAY)
    jar.keep("SID=31d4d96e407aad42; Path=/; Domain=example.com", "example.com")
    assert jar.header("www.example.com") == "SID=31d4d96e407aad42"
    jar.keep("SID=31d4d96e407aad42; Path=/; Secure; HttpOnly", "www.example.com")
    jar.keep("lang=en-US; Path=/; Domain=example.com", "www.example.com")
    assert jar.header("www.example.com", secure=False) == "SID=31d4d96e407aad42; lang=en-US"
    jar.keep("lang=en-US; Expires=Wed, 09 Jun 2021 10:18:14 GMT; Path=/; Domain=example.com", "www.example.com")
    jar.keep("lang=; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Path=/; Domain=example.com", "www.example.com")
    assert jar.header("www.example.com") == "SID=31d4d96e407aad42; SID=31d4d96e407aad42"


@pytest.mark.parametrize(
    ("host", "line", "is_kept", "hosts"),
    [
        ("www.example.com", "a=1", True, {"www.example.com"}),
        ("www.example.com", "a=1; Domain=example.com", True, {"www.example.com", "example.com"}),
        ("www.example.com", "a=1; Domain=.EXAMPLE.com", True, {"www.example.com", "example.com"}),
        ("example.com", "a=1; Domain=www.example.com", False, set()),
        ("www.example.com", "a=1; Domain=com", False, set()),
        ("a.herokuapp.com", "a=1; Domain=herokuapp.com", False, set()),
        ("herokuapp.com", "a=1; Domain=herokuapp.com", True, {"herokuapp.com"}),
        ("a.herokuapp.com", "a=1; Domain=a.herokuapp.com", True, {"a.herokuapp.com"}),
        ("example.com.", "a=1; Domain=example.com", False, set()),
        ("example.com", "a=1; Domain=other.example", False, set()),
        ("example.com", "a=1; Domain=other.example; Domain=example.com", True, {"www.example.com", "example.com"}),
        ("example.com", "a=1; Max-Age=0", True, set()),
        ("example.com", "a=1; Max-Age=nonsense", True, {"example.com"}),
        ("example.com", "a", False, set()),
        ("example.com", "=1", False, set()),
    ],
)
def test_a_cookie_is_kept_or_thrown_away_as_5_3_says(host: str, line: str, is_kept: bool, hosts: set[str]) -> None:
    jar = CookieJar()
    everywhere = ("example.com", "www.example.com", "example.com.", "herokuapp.com", "a.herokuapp.com")
    assert jar.keep(line, host) is is_kept
    assert {name for name in everywhere if jar.header(name)} == hosts


def test_an_update_keeps_its_place_and_longer_paths_come_first() -> None:
    jar = CookieJar()
    for line in ("a=1; Path=/", "b=1; Path=/", "c=1; Path=/shop", "a=2; Path=/"):
        jar.keep(line, "example.com")
    assert jar.header("example.com", "/shop") == "c=1; a=2; b=1"
    assert jar.header("example.com", "/") == "a=2; b=1"


def test_a_cookie_ends_with_its_age_and_a_secure_one_stays_on_https() -> None:
    jar = CookieJar()
    assert not jar.keep("a=1; Secure", "example.com", secure=False)
    jar.keep("a=1; Secure; Max-Age=60", "example.com")
    assert (jar.header("example.com"), jar.header("example.com", secure=False)) == ("a=1", None)
    jar.now = 60.0
    assert jar.header("example.com") is None
