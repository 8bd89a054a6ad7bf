"""Store URLs: read once, clearly refused, and without secrets in any text."""

from __future__ import annotations

import traceback

import pytest

from features.redis_address import Address, BadStoreUrl, as_user, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address()),
        ("redis://store", Address("store")),
        ("redis://store:7000/3", Address("store", 7000, db=3)),
        ("redis://store?db=2", Address("store", db=2)),
        ("redis://:p%40ss@store", Address("store", password="p@ss")),
        ("redis://me:secret@store:1/0", Address("store", 1, username="me", password="secret")),
        ("unix:///run/a%20b/v.sock?db=4", Address(path="/run/a b/v.sock", db=4)),
        ("unix://:secret@/run/v.sock", Address(path="/run/v.sock", password="secret")),
        ("unix:///run/v.sock?password=secret", Address(path="/run/v.sock", password="secret")),
        ("rediss://store", Address("store", tls=())),
        ("rediss://store?ssl_cert_reqs=none", Address("store", tls=(("ssl_cert_reqs", "none"),))),
    ],
)
def test_a_url_is_an_address(url, address):
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "store:6379",
        "http://store",
        "redis://store:port",
        "redis://store/zero",
        "unix://",
        "redis://store:99999",
        "redis://store/1/2",
        "redis://store?db=two",
        "redis://store?socket_timeout=60",  # what the service would not heed
        "redis://store?port=7",
        "redis://store?ssl_cert_reqs=none",
        "unix:///run/v.sock?ssl_ca_certs=x",
        "rediss://store?ssl_ciphers=weak",
    ],
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(BadStoreUrl):
        parse_address(url)


def test_secrets_stay_out_of_texts():
    address = parse_address("redis://me:hidden@store:7000/1")
    assert "hidden" not in repr(address) + address.name
    for url in (
        "redis://me:hidden@store:port",
        "redis://:hidden/here@store",
        "redis://:hidden@store?word=hidden",
    ):
        with pytest.raises(BadStoreUrl) as caught:
            parse_address(url)
        assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_the_greeting_logs_in_and_selects():
    assert parse_address("redis://store").greeting == ()
    assert parse_address("redis://:pw@store/2").greeting == ((b"AUTH", b"pw"), (b"SELECT", b"2"))
    assert parse_address("redis://me:pw@store").greeting == ((b"AUTH", b"me", b"pw"),)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("redis://fenliu:pw@h:6380/2", "redis://keeper:p%40s%2Fs@h:6380/2"),
        ("rediss://h?ssl_ca_certs=/ca", "rediss://keeper:p%40s%2Fs@h?ssl_ca_certs=/ca"),
        ("unix://fenliu:pw@/run/v.sock?db=1", "unix://keeper:p%40s%2Fs@/run/v.sock?db=1"),
    ],
)
def test_another_user_of_the_same_store(url: str, same: str) -> None:
    assert as_user(url, "keeper", "p@s/s") == same
    assert parse_address(same).username == "keeper" and parse_address(same).password == "p@s/s"
