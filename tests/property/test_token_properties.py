"""Whatever the page, the token gives it back; whatever the text, nothing but TokenError comes out."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.token import TokenError, TokenSigner

SIGNER = TokenSigner([("k1", b"s" * 32), ("k0", b"t" * 32)])
U32 = st.integers(0, 2**32 - 1)
IDS = st.text(min_size=1, max_size=16)


@st.composite
def pages(draw):
    slots = draw(st.lists(U32, min_size=1, max_size=6))
    row = st.tuples(st.integers(0, len(slots) - 1), st.integers(0, 2**64 - 1), U32, U32, st.integers(0, 255))
    rows = draw(st.lists(row, max_size=40))
    if draw(st.booleans()):
        rows.sort()
    start = draw(st.integers(0, 2**42))
    return (
        draw(IDS), "u:" + draw(IDS), start / 1000, (start + draw(st.integers(0, 10**9))) / 1000,
        draw(st.integers(0, 255)), slots, *([row[k] for row in rows] for k in range(5)),
    )  # fmt: skip


@given(pages())
def test_round_trip(page):
    decision_id, subject, decided_at, valid_until, channel, slots, of, items, campaigns, creatives, flags = (
        page
    )
    token = SIGNER.verify(SIGNER.sign(*page))
    assert (token.decision_id, token.subject, token.channel) == (decision_id, subject, channel)
    assert (token.decided_at, token.valid_until) == (decided_at, valid_until)
    assert [tuple(place) for place in token.places] == list(
        zip([slots[slot] for slot in of], items, campaigns, creatives, flags, strict=True)
    )
    assert token.table["position"].tolist() == [of[:i].count(slot) for i, slot in enumerate(of)]


@given(pages(), st.data())
def test_any_flipped_byte_is_refused(page, data):
    text = SIGNER.sign(*page)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(max_codepoint=255).filter(lambda sign: sign != text[at]))
    with pytest.raises(TokenError):
        SIGNER.verify(text[:at] + other + text[at + 1 :])


@given(pages(), st.data())
def test_any_flipped_byte_inside_is_refused(page, data):
    text = SIGNER.sign(*page)
    blob = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TokenError):
        SIGNER.verify(base64.urlsafe_b64encode(bytes(blob)).rstrip(b"=").decode())


@given(pages(), st.data())
def test_a_cut_token_is_refused(page, data):
    text = SIGNER.sign(*page)
    with pytest.raises(TokenError):
        SIGNER.verify(text[: data.draw(st.integers(0, len(text) - 1))])


@given(
    st.one_of(st.text(), st.binary(max_size=300).map(lambda blob: base64.urlsafe_b64encode(blob).decode()))
)
def test_random_text_is_refused(text):
    with pytest.raises(TokenError):
        SIGNER.verify(text)


@given(st.binary(max_size=200))
def test_random_bytes_behind_a_true_mac_never_crash(rest):
    """Were a secret to leak, garbage would still be refused and not crash a replica."""
    mac = SIGNER._mac.copy()
    body = SIGNER._head + rest
    mac.update(body)
    text = base64.urlsafe_b64encode(body + mac.digest()).rstrip(b"=").decode()
    try:
        token = SIGNER.verify(text)
    except TokenError:
        return
    assert len(token.table) == len(token)
