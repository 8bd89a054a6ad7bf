"""Imported scores: packed records, the file and its gate, and the source that proposes from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.customer import Blobs, decode_customer
from features.external import ENTRY, MODELS, needs_of, pack, permitted, replaced, unpack
from features.ids import key32, key64, keys64
from features.views import CONSENTS
from serving.decide import decide
from serving.external import OF_A_MODEL
from serving.surfaces import BIT
from tests.worlds import NOW, customer, profile_blob, query, tiny_live
from training.lake import Lake
from training.scores import Imported, Scores, ScoresError, read_scores

ITEMS = keys64([f"i{n}" for n in range(40)])


def entries(model: str, *rows: tuple[str, float, float]) -> np.ndarray:
    found = np.zeros(len(rows), ENTRY)
    for place, (item, score, expires) in enumerate(rows):
        found[place] = (key64(item), key32(model), score, expires)
    return found


def file(folder: Path, text: str) -> Path:
    path = folder / "scores.csv"
    path.write_text(text)
    return path


def test_a_model_replaces_its_own_entries_only() -> None:
    one = replaced(None, "a", entries("a", ("i1", 0.5, NOW)))
    both = replaced(one, "b", entries("b", ("i2", 0.9, NOW)))
    again = replaced(both, "a", entries("a", ("i3", 0.1, NOW)))
    assert unpack(again)["item"].tolist() == [key64("i2"), key64("i3")]
    assert replaced(replaced(again, "a", entries("a")), "b", entries("b")) is None
    full = None
    for n in range(MODELS):
        full = replaced(full, f"m{n}", entries(f"m{n}", ("i1", 1.0, NOW)))
    with pytest.raises(ValueError, match="already"):
        replaced(full, "one-more", entries("one-more", ("i1", 1.0, NOW)))


@pytest.mark.parametrize("blob", [None, b"", b"\0late", b"XS02" + bytes(20), b"XS01" + bytes(7)])
def test_what_cannot_be_read_is_nothing(blob: bytes | None) -> None:
    assert not len(unpack(blob))


def test_no_profiling_means_no_scores() -> None:
    held = Blobs(*[None] * 5, external=pack(entries("a", ("i1", 1.0, NOW))))
    assert len(decode_customer(held, now=NOW).external) == 1
    assert not len(decode_customer(held, now=NOW, profiling=False).external)
    assert not len(decode_customer(Blobs(*held[:5]), now=NOW).external)  # as logged before there were scores


def test_a_file_is_packed_best_first_and_what_is_odd_is_said(tmp_path: Path) -> None:
    lines = ["user_id,item_id,score,expires"]
    lines += [f"u1,i{n},{n / 100},{NOW + 10}" for n in range(40)]
    lines += ["u2,i1,0.5,2200-01-01T00:00:00Z", "u2,i1,0.7,", f"u2,i2,0.1,{NOW - 1}", "u2,none,0.1,9e9"]
    found = read_scores(file(tmp_path, "\n".join(lines)), "m", ITEMS, now=NOW)
    assert found.users == ("u1", "u2")
    assert np.all(np.diff(found.of(0)["score"]) < 0)
    assert found.of(1)["score"].tolist() == [0.5]
    said = " ".join(found.notes)
    assert "have expired" in said and "not in the catalogue" in said


@pytest.mark.parametrize(
    ("text", "model", "said"),
    [
        ("user_id,item_id,score\nu1,x1,1\nu1,x2,1\n", "m", "does not know"),
        ("user_id,item_id,score,expires\nu1,i1,1,5\n", "m", "no row is left"),
        ("user_id,item_id,score\nu1,i1,1\n", "My Model", "--model"),
    ],
)
def test_what_cannot_be_imported_says_what_to_do(tmp_path: Path, text: str, model: str, said: str) -> None:
    with pytest.raises(ScoresError, match=said):
        read_scores(file(tmp_path, text), model, ITEMS, now=NOW)


def imported(users: int, mean: float) -> Imported:
    rows = entries("m", *((f"i{n}", mean + n / 10, NOW + 1e6) for n in range(users)))
    return Imported(tuple(f"u{n}" for n in range(users)), np.arange(users + 1), rows, ())


def test_versions_are_gated_and_taken_back(tmp_path: Path) -> None:
    scores = Scores(Lake(tmp_path / "lake"), None)
    scores.put("m", imported(20, 0.5), at=NOW)
    with pytest.raises(ScoresError, match="customers"):
        scores.put("m", imported(5, 0.5), at=NOW)
    with pytest.raises(ScoresError, match="deviations"):
        scores.put("m", imported(20, 50.0), at=NOW)
    scores.put("m", imported(20, 50.0), at=NOW, force=True)
    assert scores.index("m")["live"] == 2
    assert scores.rollback("m") == 1
    assert np.array_equal(scores.read("m", 1).entries, imported(20, 0.5).entries)
    assert scores.models() == ["m"]
    scores.remove("m")
    with pytest.raises(ScoresError, match="no live"):
        scores.remove("m")


def test_the_source_proposes_the_best_of_each_model_until_they_expire() -> None:
    live, bit = tiny_live(), 1 << BIT["external"]
    rows = [(f"i{n}", float(n), NOW + 60) for n in range(30)]
    other = (("i2", 1e9, NOW + 60), ("i3", 2.0, NOW - 1), ("gone", 5.0, NOW + 60))
    held = np.concatenate([entries("a", *rows), entries("b", *other)])
    who = replace(customer(), external=held)
    decision = decide(replace(query(live, who), explain=True), live)
    assert decision.explained is not None
    named = {
        live.texts[row].id
        for row, origin in zip(
            decision.explained.rows.tolist(), decision.explained.origin.tolist(), strict=True
        )
        if origin & bit
    }
    assert named == {f"i{n}" for n in range(30 - OF_A_MODEL, 30)} | {"i2"}
    assert not any(p.origin & bit for p in decide(query(live), live).placements)
    broken = held.copy()
    broken["score"] = np.nan
    same = [
        decide(query(live, one), live).rows.tolist() for one in (customer(), replace(who, external=broken))
    ]
    assert same[0] == same[1]


def test_a_shuffled_list_costs_a_page_next_to_nothing() -> None:
    live, rng = tiny_live(), np.random.default_rng(4)
    worth = np.zeros(2)
    for n in range(12):
        who = customer(star_level=1 + n % 7)
        items = rng.permutation(40)[:20]
        rows = [(f"i{item}", float(place), NOW + 60) for place, item in enumerate(items)]
        pages = [who, replace(who, external=entries("shuffled", *rows))]
        worth += [sum(p.score for p in decide(query(live, one), live).placements) for one in pages]
    assert worth[1] > 0.99 * worth[0]


def scored(blob: bytes | None, **profile: int) -> list[int]:
    held = Blobs(profile_blob(**profile), *[None] * 4, external=blob)
    return [int(one) for one in decode_customer(held, now=NOW).external["item"]]


def test_a_model_under_a_consent_is_used_only_where_that_was_given() -> None:
    """Third parties' scores, beside the bank's own in one record."""
    third = 1 << CONSENTS.index("third_party")
    own = replaced(None, "own", entries("own", ("i1", 0.5, NOW)))
    both = replaced(own, "theirs", entries("theirs", ("i2", 0.9, NOW)), third)
    assert own is not None and own[:4] == b"XS01" and both is not None and both[:4] == b"XS02"
    assert unpack(both)["item"].tolist() == [key64("i1"), key64("i2")]
    assert needs_of(both) == {key32("theirs"): third} and needs_of(own) == {}
    assert scored(both, consents=third) == [key64("i1"), key64("i2")]
    assert scored(both, consents=7 & ~third) == scored(both) == [key64("i1")]
    bare = Blobs(*[None] * 5, external=both)  # of whom nothing is known, no consent is
    assert decode_customer(bare, now=NOW).external["item"].tolist() == [key64("i1")]
    again = replaced(both, "theirs", entries("theirs", ("i3", 0.1, NOW)))  # imported anew, under none
    assert again is not None and again[:4] == b"XS01" and scored(again) == [key64("i1"), key64("i3")]
    assert replaced(both, "theirs", entries("theirs")) == own
    for cut in range(4, len(both)):
        assert len(permitted(both[:cut], 0)) <= 2  # never raises
    assert not len(unpack(b"XS02")) and not len(unpack(b"XS02\xff"))


def test_the_consents_of_a_version_come_back_with_it(tmp_path: Path) -> None:
    scores = Scores(Lake(tmp_path), None)
    made = Imported(("u1",), np.array([0, 1]), entries("m", ("i1", 0.5, NOW)), ())
    swapped: list[tuple[str, ...]] = []
    with pytest.MonkeyPatch.context() as seen:
        seen.setattr(Scores, "_swap", lambda *given: swapped.append(tuple(given[4])))
        assert scores.put("m", made, at=NOW, consents=("third_party",))["consents"] == ["third_party"]
        scores.put("m", made, at=NOW)
        scores.rollback("m")
        scores.remove("m")
    assert swapped == [("third_party",), (), ("third_party",), ()]
