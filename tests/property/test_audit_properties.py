"""No byte of the audit log changes unseen: every position of a small chain, and any change of order."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.audit import Audit, AuditError, Entry, Head, digest, parse_record
from tests.governed import Ticking

COUNT = 4


@cache
def chain() -> tuple[bytes, ...]:
    """The lines of a small log."""
    with tempfile.TemporaryDirectory() as folder:
        audit = Audit(folder, Ticking())
        for number in range(COUNT):
            audit.write(Entry("甲", "noted", f"o{number}", "why", {"n": number, "x": 0.5, "s": ["a", None]}))
        return tuple(one.line() + b"\n" for one in audit.records)


def first_broken(lines: list[bytes]) -> int | None:
    """The first line that does not follow those before it."""
    at = Head()
    for number, line in enumerate(lines, 1):
        try:
            at = parse_record(line, at).head
        except AuditError:
            return number
    return None


def test_as_written_it_holds():
    assert first_broken(list(chain())) is None


def test_every_byte_of_every_line_counts():
    for number, line in enumerate(chain()):
        for at in range(len(line)):
            for flip in (1, 0x20, 0x80):
                lines = list(chain())
                lines[number] = line[:at] + bytes([line[at] ^ flip]) + line[at + 1 :]
                assert first_broken(lines) == number + 1, (number, at, flip)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_edit_of_a_line_is_found(data: st.DataObject):
    number = data.draw(st.integers(0, COUNT - 1))
    line = chain()[number]
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(len(line), start + 8)))
    edited = line[:start] + data.draw(st.binary(max_size=8)) + line[end:]
    lines = list(chain())
    lines[number] = edited
    assert first_broken(lines) == (None if edited == line else number + 1)


@given(st.lists(st.integers(0, COUNT - 1), max_size=2 * COUNT))
def test_any_other_choice_or_order_of_lines_is_found(order: list[int]):
    lines = [chain()[index] for index in order]
    kept = next((at for at, index in enumerate(order) if index != at), len(order))
    assert first_broken(lines) == (None if kept == len(order) else kept + 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, COUNT - 1), st.data())
def test_verify_reads_what_lies_there(number: int, data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        audit = Audit(folder, Ticking())
        for line in range(COUNT):
            audit.write(Entry("甲", "noted", f"o{line}"))
        path = sorted(Path(folder, "governance", "audit").rglob("*.json"))[number]
        raw = path.read_bytes()
        at = data.draw(st.integers(0, len(raw) - 1))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :])
        found = Audit(folder, Ticking()).verify()
        assert not found.ok and found.broken == number + 1


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_a_digest_does_not_depend_on_the_order_of_fields(value: object):
    def turned(one: object) -> object:
        if isinstance(one, dict):
            return {key: turned(one[key]) for key in reversed(list(one))}
        return [turned(entry) for entry in one] if isinstance(one, list) else one

    try:
        expected = digest(value)
    except UnicodeEncodeError:  # half a surrogate is no text
        return
    assert digest(turned(value)) == expected
