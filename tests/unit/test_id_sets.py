"""Sets of ids, beside Python's own sets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from training.id_sets import NOBODY, among, both, column_of, either, id_set, ids_of, minus

texts = st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=5))


def made(names):
    return np.array([one.encode() for one in names], np.bytes_) if names else NOBODY


def plain(ids):
    return ids.tolist()


@settings(deadline=None)
@given(texts, texts)
def test_the_algebra_is_pythons(left, right):
    a, b = id_set(made(left)), id_set(made(right))
    here, there = {one.encode() for one in left}, {one.encode() for one in right}
    assert plain(a) == sorted(here)
    assert plain(both(a, b)) == sorted(here & there)
    assert plain(minus(a, b)) == sorted(here - there)
    assert plain(either(a, b)) == sorted(here | there)
    assert among(a, b).tolist() == [one in there for one in sorted(here)]


@settings(deadline=None)
@given(texts)
def test_a_column_keeps_order_and_leaves_out_what_is_blank(names):
    with_gaps = [name if number % 3 else None for number, name in enumerate(names)]
    wanted = [one.strip().encode() for one in with_gaps if one is not None and one.strip()]
    column = pa.chunked_array([pa.array(with_gaps[:2], pa.string()), pa.array(with_gaps[2:], pa.string())])
    assert plain(ids_of(column)) == wanted
    if wanted:
        assert plain(ids_of(column_of(made([one.decode() for one in wanted])))) == wanted
    assert plain(ids_of(pa.array(with_gaps, pa.string()).slice(1))) == [
        one.strip().encode() for one in with_gaps[1:] if one is not None and one.strip()
    ]
