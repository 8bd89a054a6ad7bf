"""The page token: what it holds, what it costs, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from features.ids import key32
from features.token import EXPLORING, PINNED, PLACES, PageToken, TokenError, TokenSigner

OLD, NEW = ("k1", b"o" * 32), ("k2", b"n" * 32)
SIZES = (5, 10, 8, 1, 4, 12)


def page(signer: TokenSigner, **changes) -> str:
    n = sum(SIZES)
    rng = np.random.default_rng(7)
    said = {
        "decision_id": "d" * 64,
        "subject": "u:" + "x" * 64,
        "decided_at": 1_760_000_000.123,
        "valid_until": 1_760_000_600.123,
        "channel": 1,
        "slots": [key32(f"home.{i}") for i in range(len(SIZES))],
        "place_slot": np.repeat(np.arange(len(SIZES), dtype=np.uint8), SIZES),
        "items": rng.integers(1, 2**64 - 1, n, dtype=np.uint64),
        "campaigns": rng.integers(1, 2**32 - 1, n, dtype=np.uint32),
        "creatives": rng.integers(1, 2**32 - 1, n, dtype=np.uint32),
        "flags": np.where(np.arange(n) % 3 == 0, EXPLORING | PINNED, 0),
    }
    return signer.sign(**said | changes)


def test_a_full_page_fits_the_budget_and_comes_back():
    signer = TokenSigner([NEW])
    text = page(signer)
    assert len(text) <= 1_200
    token = signer.verify(text)
    rng = np.random.default_rng(7)
    assert (token.decision_id, token.subject, token.channel) == ("d" * 64, "u:" + "x" * 64, 1)
    assert (token.decided_at, token.valid_until) == (1_760_000_000.123, 1_760_000_600.123)
    assert len(token) == len(token.places) == 40
    table = token.table
    assert table.dtype == PLACES and table["index"].tolist() == list(range(40))
    assert (table["item"] == rng.integers(1, 2**64 - 1, 40, dtype=np.uint64)).all()
    assert (table["campaign"] == rng.integers(1, 2**32 - 1, 40, dtype=np.uint32)).all()
    assert (table["slot"] == np.repeat(token.slots, SIZES)).all()
    assert table["position"].tolist() == [k for size in SIZES for k in range(size)]
    place = token.places[6]
    assert place.flags == EXPLORING | PINNED and place.slot == key32("home.1")
    assert place.item == int(table["item"][6]) and place.creative == int(table["creative"][6])


def test_a_page_without_campaigns_is_shorter():
    signer, none = TokenSigner([NEW]), np.zeros(40, np.uint32)
    text = page(signer, campaigns=none, creatives=none, flags=none)
    assert len(text) < len(page(signer)) - 400
    assert not signer.verify(text).table["campaign"].any()


def test_places_that_jump_between_slots():
    signer = TokenSigner([NEW])
    four = np.arange(4)
    text = page(
        signer, slots=[7, 9], place_slot=[1, 0, 1, 0], items=four, campaigns=four, creatives=four, flags=four
    )
    token = signer.verify(text)
    assert token.table["slot"].tolist() == [9, 7, 9, 7]
    assert token.table["position"].tolist() == [0, 0, 1, 1]


def test_an_empty_page():
    signer = TokenSigner([NEW])
    token = signer.verify(
        page(signer, slots=[3], place_slot=[], items=[], campaigns=[], creatives=[], flags=[])
    )
    assert len(token) == 0 and token.places == () and token.slots.tolist() == [3]


def test_two_keys_at_a_time():
    before, during, after = TokenSigner([OLD]), TokenSigner([NEW, OLD]), TokenSigner([NEW])
    assert isinstance(during.verify(page(before)), PageToken)
    assert isinstance(after.verify(page(during)), PageToken)
    with pytest.raises(TokenError) as caught:
        after.verify(page(before))
    assert caught.value.code == "token_unknown_key"


def test_the_same_key_id_with_another_secret_is_a_forgery():
    with pytest.raises(TokenError) as caught:
        TokenSigner([("k2", b"x" * 32)]).verify(page(TokenSigner([NEW])))
    assert caught.value.code == "token_forged"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "====",
        "not base64!",
        "漢字",
        "\ud800",
        "AQ",
        "AAAA" * 20_000,
        "+" * 40,
        "A" * 39 + "=",
        None,
        5,
        b"AAAA",
    ],
)
def test_what_is_no_token_is_malformed(text):
    with pytest.raises(TokenError) as caught:
        TokenSigner([NEW]).verify(text)
    assert caught.value.code == "token_malformed"


def test_another_spelling_of_the_same_bytes_is_refused():
    signer = TokenSigner([NEW])
    text = page(signer)
    for other in (text + "=", text + "\n", " " + text, text.replace("-", "+"), text.replace("_", "/")):
        if other != text:
            with pytest.raises(TokenError):
                signer.verify(other)


@pytest.mark.parametrize(
    "keys",
    [[], [OLD, NEW, ("k3", b"z" * 32)], [("", b"x" * 32)], [("longer-than-8", b"x" * 32)], [("k", b"short")],
     [("k", b"x" * 65)], [OLD, OLD], [("é", b"x" * 32)]],
)  # fmt: skip
def test_bad_keys_are_refused(keys):
    with pytest.raises(ValueError):
        TokenSigner(keys)


@pytest.mark.parametrize(
    "changes",
    [
        {"place_slot": np.full(40, 6)},
        {"items": np.zeros(39, np.uint64)},
        {"slots": list(range(256))},
        {"decided_at": -1.0},
        {"valid_until": 1_700_000_000.0},
        {"valid_until": 1_760_000_000.0 + 60 * 86_400},
        {"subject": "u:" + "x" * 65},
        {"decision_id": "字" * 22},
    ],
)
def test_a_page_that_does_not_fit_is_not_signed(changes):
    with pytest.raises(ValueError):
        page(TokenSigner([NEW]), **changes)


def test_verifying_again_gives_the_same_answer():
    signer = TokenSigner([NEW])
    one, two = page(signer), page(signer, decision_id="other")
    assert signer.verify(one) is signer.verify(one)
    assert [signer.verify(text).decision_id for text in (two, one, two)] == ["other", "d" * 64, "other"]


def test_device_and_org_come_back_and_a_token_of_the_first_version_is_read_still() -> None:
    import binascii
    from hashlib import blake2b

    signer = TokenSigner([("k1", b"s" * 32)])
    text = signer.sign("d1", "u:u1", 1.0, 2.0, 1, [7], [0], [9], [3], [0], [0], device="v:d9", org=77)
    token = signer.verify(text)
    assert (token.device, token.org, len(token)) == ("v:d9", 77, 1)
    blob = binascii.a2b_base64(
        text.encode().translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(text) % 4)
    )
    body = blob[:-16]
    rest = bytes((1,)) + body[1:].replace(b"\x04v:d9" + (77).to_bytes(4, "little"), b"", 1)
    mac = blake2b(rest, digest_size=16, key=b"s" * 32, person=b"fenliu.page.v1").digest()
    old = binascii.b2a_base64(rest + mac, newline=False).rstrip(b"=").translate(bytes.maketrans(b"+/", b"-_"))
    first = signer.verify(old.decode())
    assert (first.device, first.org, first.subject, first.decided_at) == ("", 0, "u:u1", 1.0)
