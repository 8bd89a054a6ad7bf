"""The page token: what a page showed, signed, so that an event about it needs no look-up.

One token a decision, one MAC. Inside base64url without padding, little-endian: version u1, key id, decision
id, subject, device (each a length byte and UTF-8), the customer's org u4, decided_at u6 ms, validity u4 ms,
channel u1, packing u1, slots u1 and their key32s, places u2, the columns of the places, a keyed BLAKE2b MAC
of 16 bytes. The columns are slot u1 (an index into the slots), item u8, campaign u4, creative u4, flags u1:
18 bytes a place. `packing` says which are short: a page that goes slot by slot stores its slots as counts,
and a column of zeros (no campaign, say) is left out. Subject and device are in clear: they are the client's
own ids. Version 1 had neither device nor org; its tokens are read still.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.ids import MAX_ID_BYTES

VERSION: Final = 2
_FIRST: Final = 1
MAC_BYTES: Final = 16
MAX_CHARS: Final = 32_768
MAX_PLACES: Final = 1_000
MIN_SECRET_BYTES: Final = 16

EXPLORING: Final = 1
PINNED: Final = 2
FALLBACK: Final = 4

_MAX_SUBJECT_BYTES = MAX_ID_BYTES + 2  # "u:" or "v:" before the id
_PERSON = b"fenliu.page.v1"
_SLOTS_AS_COUNTS, _NO_CAMPAIGNS, _NO_CREATIVES, _NO_FLAGS = 1, 2, 4, 8
_ORG = struct.Struct("<I")
_TIMES = struct.Struct("<IHIBBB")  # decided_at ms low and high, validity ms, channel, packing, slots
_COUNT = struct.Struct("<H")
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_+/", b"+/!!")  # the standard alphabet is not ours: "!" is refused

PLACES: Final = np.dtype(
    [
        ("item", "<u8"),
        ("slot", "<u4"),
        ("campaign", "<u4"),
        ("creative", "<u4"),
        ("index", "<i2"),
        ("position", "u1"),
        ("flags", "u1"),
    ]
)
"""A place as events carry it, 24 bytes: `index` counts over the page, `position` within its slot."""


class TokenError(ValueError):
    """`code`: token_malformed, token_forged (the MAC does not fit) or token_unknown_key."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Place(NamedTuple):
    """One placement: key32 of slot, campaign and creative, key64 of the item, the flags above."""

    slot: int
    item: int
    campaign: int
    creative: int
    flags: int


@dataclass(frozen=True)
class PageToken:
    """A verified token. Times are POSIX seconds, to the millisecond; columns are decoded when asked for."""

    decision_id: str
    subject: str
    decided_at: float
    valid_until: float
    channel: int
    slots: NDArray[np.uint32]
    count: int
    packing: int
    body: bytes
    device: str = ""  # the visitor's subject beside a user's, "" where none was told
    org: int = 0  # key32 of the customer's org when the page was decided, 0 not known

    def __len__(self) -> int:
        return self.count

    @cached_property
    def table(self) -> NDArray[np.void]:
        """All places, of dtype PLACES, by index."""
        rest, n = self.body, self.count
        if self.packing & _SLOTS_AS_COUNTS:
            at = len(self.slots)
            of = b"".join([_BYTES[slot] * count for slot, count in enumerate(rest[:at])])
            within = b"".join([_RANGE[:count] for count in rest[:at]])
        else:
            of, at = rest[:n], n
            within = bytes([min(of.count(slot, 0, i), 255) for i, slot in enumerate(of)])
        table = np.zeros(n, PLACES)
        table["slot"] = self.slots[np.frombuffer(of, np.uint8)]
        table["position"] = np.frombuffer(within, np.uint8)
        table["index"] = _INDEX[:n]
        for name, absent, size, dtype in _COLUMNS:
            if not self.packing & absent:
                table[name] = np.frombuffer(rest, dtype, n, at)
                at += size * n
        return table

    @cached_property
    def places(self) -> tuple[Place, ...]:
        columns = (self.table[name].tolist() for name in Place._fields)
        return tuple(Place(*row) for row in zip(*columns, strict=True))


_COLUMNS = (
    ("item", 0, 8, np.dtype("<u8")),
    ("campaign", _NO_CAMPAIGNS, 4, np.dtype("<u4")),
    ("creative", _NO_CREATIVES, 4, np.dtype("<u4")),
    ("flags", _NO_FLAGS, 1, np.dtype("u1")),
)
_RANGE = bytes(range(256))
_BYTES = [bytes((code,)) for code in range(256)]
_INDEX = np.arange(MAX_PLACES, dtype=np.int16)


class TokenSigner:
    """Signs with the first key, verifies with all (at most two: the present secret and the one before)."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        """`keys`: (key id of 1 to 8 ASCII characters, secret of 16 to 64 bytes); else ValueError."""
        if not 1 <= len(keys) <= 2:
            raise ValueError(f"one or two token keys are needed, {len(keys)} given")
        self._macs = {
            _key_id(name): blake2b(digest_size=MAC_BYTES, key=_secret(name, secret), person=_PERSON)
            for name, secret in keys
        }
        if len(self._macs) != len(keys):
            raise ValueError(f"two token keys share the id {keys[0][0]!r}")
        first = _key_id(keys[0][0])
        self._mac = self._macs[first]
        self._head = bytes((VERSION, len(first))) + first
        self._last: tuple[str, PageToken] | None = None

    def sign(
        self,
        decision_id: str,
        subject: str,
        decided_at: float,
        valid_until: float,
        channel: int,
        slots: Sequence[int],
        place_slot: ArrayLike,
        items: ArrayLike,
        campaigns: ArrayLike,
        creatives: ArrayLike,
        flags: ArrayLike,
        *,
        device: str = "",
        org: int = 0,
    ) -> str:
        """The token of one page; the last five are parallel, one entry a place, in page order.

        `slots`: key32s, at most 255; `place_slot`: index into them, u1; `items` u8; `campaigns` and
        `creatives` u4; `flags` u1. Times in POSIX seconds, kept to the millisecond.
        ValueError when something does not fit.
        """
        columns = (
            np.asarray(items, "<u8").tobytes(),
            np.asarray(campaigns, "<u4").tobytes(),
            np.asarray(creatives, "<u4").tobytes(),
            np.asarray(flags, np.uint8).tobytes(),
        )
        of = np.asarray(place_slot, np.uint8).tobytes()
        times = decided_at, valid_until
        return self.sign_packed(
            decision_id, subject, times, channel, slots, of, columns, device=device, org=org
        )

    def sign_packed(
        self,
        decision_id: str,
        subject: str,
        times: tuple[float, float],
        channel: int,
        slots: Sequence[int],
        of: bytes,
        columns: tuple[bytes, bytes, bytes, bytes],
        *,
        device: str = "",
        org: int = 0,
    ) -> str:
        """As `sign`, from columns that are bytes already: `of` the place_slot, then items to flags.

        `times`: decided_at and valid_until.
        """
        n = len(of)
        if n > MAX_PLACES or len(slots) > 255 or tuple(map(len, columns)) != (8 * n, 4 * n, 4 * n, n):
            raise ValueError("a page has at most 255 slots and 1,000 places, its columns one entry a place")
        if of and max(of) >= len(slots):
            raise ValueError("a place names a slot that the page does not have")
        packing, parts = _pack(of, len(slots), columns)
        start = round(times[0] * 1000)
        validity = round(times[1] * 1000) - start
        if not (0 <= start < 1 << 48 and 0 <= validity < 1 << 32):
            raise ValueError("decided_at must lie after 1970 and valid_until at most 49 days after it")
        body = b"".join(
            (
                self._head,
                _short(decision_id, MAX_ID_BYTES, "decision id"),
                _short(subject, _MAX_SUBJECT_BYTES, "subject"),
                _short(device, _MAX_SUBJECT_BYTES, "device"),
                _ORG.pack(org),
                _TIMES.pack(start & 0xFFFFFFFF, start >> 32, validity, channel, packing, len(slots)),
                struct.pack(f"<{len(slots)}I", *slots),
                _COUNT.pack(n),
                *parts,
            )
        )
        mac = self._mac.copy()
        mac.update(body)
        return _armour(body + mac.digest())

    def verify(self, text: str) -> PageToken:
        """The token's contents. Raises TokenError, and nothing else, whatever the text."""
        if (last := self._last) is not None and last[0] == text:
            return last[1]  # the events of one page come together
        token = self._verify(text)
        self._last = (text, token)
        return token

    def _verify(self, text: str) -> PageToken:
        blob = _strip(text)
        body, given = blob[:-MAC_BYTES], blob[-MAC_BYTES:]
        try:
            if body[0] not in (_FIRST, VERSION):
                raise TokenError(
                    "token_malformed", f"the page token has version {body[0]}, known is {VERSION}"
                )
            at = 2 + body[1]
            if (known := self._macs.get(body[2:at])) is None:
                raise TokenError(
                    "token_unknown_key", "the page token was signed with a key that is not known here"
                )
            mac = known.copy()
            mac.update(body)
            if not compare_digest(mac.digest(), given):
                raise TokenError("token_forged", "the page token was changed after it was signed")
            return _read(body, at)
        except (IndexError, struct.error, UnicodeDecodeError):
            raise TokenError("token_malformed", "the page token is cut short") from None


def _pack(of: bytes, slots: int, columns: tuple[bytes, ...]) -> tuple[int, list[bytes]]:
    """The packing bits and the columns that are kept."""
    counts = [of.count(slot) for slot in range(slots)]
    in_order = b"".join([_BYTES[slot] * count for slot, count in enumerate(counts)]) == of
    if in_order and slots <= len(of) and max(counts, default=0) <= 255:
        packing, parts = _SLOTS_AS_COUNTS, [bytes(counts)]
    else:
        packing, parts = 0, [of]
    parts.append(columns[0])
    for column, (_, absent, *_) in zip(columns[1:], _COLUMNS[1:], strict=True):
        if column.strip(b"\0"):
            parts.append(column)
        else:
            packing |= absent
    return packing, parts


def _read(body: bytes, at: int) -> PageToken:
    decision_id, at = _text(body, at)
    subject, at = _text(body, at)
    device, org = "", 0
    if body[0] != _FIRST:
        device, at = _text(body, at)
        (org,) = _ORG.unpack_from(body, at)
        at += _ORG.size
    low, high, validity, channel, packing, slots = _TIMES.unpack_from(body, at)
    at += _TIMES.size
    table = body[at : at + 4 * slots]
    at += 4 * slots
    (n,) = _COUNT.unpack_from(body, at)
    start = low | high << 32
    rest = body[at + _COUNT.size :]
    size = (slots if packing & _SLOTS_AS_COUNTS else n) + sum(
        width * n for _, absent, width, _ in _COLUMNS if not packing & absent
    )
    if len(rest) != size:
        raise TokenError("token_malformed", "the page token's places do not fit its length")
    keys = np.frombuffer(table, "<u4")
    return PageToken(
        decision_id,
        subject,
        start / 1000,
        (start + validity) / 1000,
        channel,
        keys,
        n,
        packing,
        rest,
        device,
        org,
    )


def _armour(blob: bytes) -> str:
    return binascii.b2a_base64(blob, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def _strip(text: str) -> bytes:
    """The bytes inside the base64url. Each blob has one text: other spellings are refused."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_CHARS or not text.isascii():
        raise TokenError("token_malformed", "the page token is not base64url text")
    try:
        blob = binascii.a2b_base64(
            text.encode().translate(_FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True
        )
    except binascii.Error:
        raise TokenError("token_malformed", "the page token is not base64url text") from None
    if _armour(blob) != text:
        raise TokenError("token_malformed", "the page token is not canonical base64url")
    return blob


def _short(text: str, limit: int, what: str) -> bytes:
    blob = text.encode()
    if len(blob) > limit:
        raise ValueError(f"the {what} has {len(blob)} bytes, {limit} are allowed")
    return bytes((len(blob),)) + blob


def _text(body: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + body[at]
    if end > len(body):
        raise IndexError
    return body[at + 1 : end].decode(), end


def _key_id(name: str) -> bytes:
    if not 1 <= len(name) <= 8 or not name.isascii() or not name.isprintable():
        raise ValueError(f"a token key id has 1 to 8 printable ASCII characters, not {name!r}")
    return name.encode()


def _secret(name: str, secret: bytes) -> bytes:
    if not MIN_SECRET_BYTES <= len(secret) <= 64:
        raise ValueError(
            f"token key {name!r} must have 16 to 64 bytes (32 to 128 hex digits), it has {len(secret)}"
        )
    return secret
