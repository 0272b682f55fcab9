"""Meta-cookies, "Cookies": which Domain a cookie gets, and which hosts are one site."""

from __future__ import annotations

import importlib.util

import pytest

from adtarget_proxy.tracking.domains import cookie_domain, same_site, subdomain_index

HAS_LIST = importlib.util.find_spec("publicsuffixlist") is not None


@pytest.mark.parametrize(
    ("host", "explicit", "domain"),
    [
        ("www.example.com", "example.com", "example.com"),
        ("example.com", "example.com", "example.com"),
        ("notexample.com", "example.org", "notexample.com" if HAS_LIST else None),
        ("a.b.shop.example.com", None, "example.com" if HAS_LIST else None),
        ("www.example.co.uk", None, "example.co.uk" if HAS_LIST else None),
        ("app.herokuapp.com", "herokuapp.com", "app.herokuapp.com" if HAS_LIST else "herokuapp.com"),
        ("co.uk", None, None),
        ("herokuapp.com", None, None),
        ("localhost", None, None),
        ("127.0.0.1", None, None),
        ("2001:db8::1", None, None),
        ("", None, None),
    ],
)
def test_the_domain_is_the_users_else_the_registrable_one_else_none(
    host: str, explicit: str | None, domain: str | None
) -> None:
    assert cookie_domain(host, explicit) == domain


@pytest.mark.parametrize(
    ("host", "domain", "index"),
    [
        ("www.example.com", "example.com", 1),
        ("www.example.com", "www.example.com", 2),
        ("www.example.com", None, 2),  # host-only: the host is the domain
        ("www.example.co.uk", "example.co.uk", 2),
        ("localhost", None, 1),
        ("127.0.0.1", None, 1),
        ("2001:db8::1", None, 1),
    ],
)
def test_the_subdomain_index_counts_the_cookie_domains_labels(host: str, domain: str | None, index: int) -> None:
    assert subdomain_index(host, domain) == index


@pytest.mark.parametrize(
    ("host", "other", "explicit", "same"),
    [
        ("shop.example.com", "shop.example.com", None, True),
        ("shop.example.com", "www.example.com", "example.com", True),
        ("shop.example.com", "example.com", "example.com", True),
        ("shop.example.com", "notexample.com", "example.com", False),
        ("shop.example.com", "evil.test", None, False),
        ("shop.example.com", "www.example.com", None, HAS_LIST),
        ("a.co.uk", "b.co.uk", None, False),
    ],
)
def test_hosts_of_one_registrable_domain_are_one_site(host: str, other: str, explicit: str | None, same: bool) -> None:
    assert same_site(host, other, explicit) is same
