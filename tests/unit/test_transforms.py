"""Request-time features: for one customer and for many, the same numbers."""

import numpy as np
import pytest

from features.events import ACTIONS, WHAT, action_code
from features.ids import Vocabulary, key32
from features.schema import Field
from features.transforms import (
    CODED,
    DAY,
    EDGES,
    EventWeights,
    attribute_token,
    fatigue,
    histories,
    history,
    tokens,
    tokens_many,
)
from features.views import CONTACT, PROFILE, RECENT

NOW = 1_700_000_000.0
ITEMS = Vocabulary([f"i{n}" for n in range(20)])
ACTED = WHAT["acted"]


def recent(*entries):
    """Entries of (item, what, action, days ago)."""
    log = np.zeros(len(entries), RECENT)
    for row, (item, what, action, ago) in zip(log, entries, strict=True):
        row["item"] = ITEMS.keys[item] if item is not None else 0
        row["what"], row["action"], row["at"] = (
            WHAT[what],
            action_code(action) if action else 0,
            NOW - ago * DAY,
        )
    return log


def contact(*entries):
    """Entries of (item, what, days ago)."""
    log = np.zeros(len(entries), CONTACT)
    for row, (item, what, ago) in zip(log, entries, strict=True):
        row["item"], row["what"], row["at"] = ITEMS.keys[item], WHAT[what], NOW - ago * DAY
    return log


def profiles(n, seed=5):
    rng = np.random.default_rng(seed)
    records = np.frombuffer(rng.bytes(n * PROFILE.dtype.itemsize), PROFILE.dtype).copy()
    for field in PROFILE.fields:
        if field.packed.kind == "f":
            records[field.name] = rng.lognormal(7, 4, (n, *field.shape))
    records["attributes"][rng.random((n, 16)) < 0.7] = 0
    records["tags"][rng.random(n) < 0.3] = 0
    return records, rng.integers(0, PROFILE.all_known, n, dtype=np.uint64, endpoint=True)


class TestTokens:
    def test_each_fact_has_its_token(self):
        record = PROFILE.blank(1)[0]
        record["gender"], record["segment"], record["assets"], record["tags"][1] = 2, 300, 60_000, 1
        record["attributes"][:2] = attribute_token("job", "nurse"), attribute_token("plan", "x")
        known = PROFILE.mask(["gender", "segment", "assets", "tags", "attributes", "age"])
        wanted = ["gender=2", "segment=300", "assets=3", "job=nurse", "plan=x", "tag=8"]
        assert tokens(record, known).tolist() == [key32(text) for text in wanted]

    def test_nothing_known_gives_none(self):
        records, _ = profiles(1)
        assert tokens(records[0], 0).tolist() == []

    def test_a_permission_field_never_gives_a_token(self):
        records, _ = profiles(1)
        named = PROFILE.mask([*CODED, *EDGES, "attributes", "tags"])
        assert named & ~PROFILE.purpose_mask("profiling") == 0
        assert tokens(records[0], PROFILE.all_known & ~named).tolist() == []

    @pytest.mark.parametrize("name", EDGES)
    def test_a_bucket_begins_at_its_edge(self, name):
        def bucket(value):
            record = PROFILE.blank(1)[0]
            record[name] = value
            return tokens(record, PROFILE.bit(name)).tolist()

        edges = EDGES[name]
        for code, edge in enumerate(edges):
            below = np.nextafter(np.float32(edge), np.float32(0))
            assert bucket(below) == [key32(f"{name}={code}")]
            assert bucket(edge) == [key32(f"{name}={code + 1}")]
        assert bucket(0) == [key32(f"{name}=0")]

    @pytest.mark.parametrize("n", [0, 1, 700])
    def test_many_are_as_one_by_one(self, n):
        records, known = profiles(n)
        indptr, flat = tokens_many(records, known)
        assert (len(indptr), indptr[0], indptr[-1]) == (n + 1, 0, len(flat))
        for i in range(n):
            assert flat[indptr[i] : indptr[i + 1]].tolist() == tokens(records[i], int(known[i])).tolist()

    def test_many_in_chunks_are_as_in_one(self, monkeypatch):
        records, known = profiles(50)
        whole = tokens_many(records, known)
        monkeypatch.setattr("features.transforms._CHUNK", 7)
        for one, other in zip(whole, tokens_many(records, known), strict=True):
            assert np.array_equal(one, other)

    def test_coded_fields_are_declared_as_codes(self):
        assert all(PROFILE.field(name) == Field(name, PROFILE.field(name).dtype) for name in CODED)
        assert all(PROFILE.field(name).packed.kind == "u" for name in CODED)


class TestEventWeights:
    def test_weights_by_kind_of_event(self):
        what = np.array(
            [WHAT["displayed"], WHAT["clicked"], WHAT["dismissed"], WHAT["converted"], 77], np.uint8
        )
        assert EventWeights().of(what, np.zeros(5, np.uint16)).tolist() == [0, 1, -1, 4, 0]

    def test_weights_by_action(self):
        codes = np.array([action_code(action) for action in (*ACTIONS, "bookmarked")], np.uint16)
        what = np.full(len(codes), ACTED, np.uint8)
        weights = EventWeights(acted={"viewed": 0.25, "bookmarked": 3.0})
        wanted = [0.25 if action == "viewed" else 0 for action in ACTIONS] + [3.0]
        assert weights.of(what, codes).tolist() == wanted

    def test_an_action_code_counts_for_acted_only(self):
        code = np.array([action_code("purchased")], np.uint16)
        assert EventWeights().of(np.array([WHAT["clicked"]], np.uint8), code).tolist() == [1]

    def test_decay(self):
        at = NOW - np.array([0.0, 10, 20]) * DAY
        what, action = np.full(3, WHAT["clicked"], np.uint8), np.zeros(3, np.uint16)
        weights = EventWeights(half_life_days=10)
        assert weights.decayed(what, action, at, NOW) == pytest.approx([1, 0.5, 0.25])
        assert weights.decayed(what, action, at, NOW - 20 * DAY).tolist() == [1, 1, 1], "the future is now"

    @pytest.mark.parametrize(
        "bad",
        [
            {"half_life_days": 0},
            {"half_life_days": float("nan")},
            {"clicked": float("nan")},
            {"acted": {"x": float("inf")}},
        ],
    )
    def test_bad_weights_are_refused(self, bad):
        with pytest.raises(ValueError, match=r"finite|half_life"):
            EventWeights(**bad)


class TestHistory:
    def ask(self, log, weights=None):
        found = history(log, ITEMS.rows_of_keys, NOW, weights or EventWeights(half_life_days=30))
        assert (found.rows.dtype, found.weights.dtype) == (np.int32, np.float32)
        return dict(zip(found.rows.tolist(), found.weights.tolist(), strict=True))

    def test_nothing_done(self):
        assert self.ask(recent()) == {}

    def test_items_are_summed_and_the_most_recent_is_last(self):
        log = recent((3, "clicked", None, 60), (5, "converted", None, 30), (3, "clicked", None, 0))
        assert list(self.ask(log).items()) == [(5, 2.0), (3, 1.25)]

    def test_order_is_by_time_not_by_place_in_the_log(self):
        log = recent((3, "clicked", None, 0), (5, "clicked", None, 1))
        assert list(self.ask(log)) == [5, 3]

    def test_at_one_time_the_later_entry_is_last(self):
        assert list(self.ask(recent((5, "clicked", None, 0), (3, "clicked", None, 0)))) == [5, 3]
        assert list(self.ask(recent((3, "clicked", None, 0), (5, "clicked", None, 0)))) == [3, 5]

    def test_dismissing_takes_away(self):
        log = recent(
            (3, "clicked", None, 0),
            (3, "dismissed", None, 0),
            (4, "dismissed", None, 0),
            (5, "converted", None, 0),
        )
        assert self.ask(log) == {5: 4.0}
        assert self.ask(recent((3, "converted", None, 0), (3, "dismissed", None, 0))) == {3: 3.0}

    def test_unknown_items_and_weightless_actions_are_left_out(self):
        log = recent((3, "acted", "login", 0), (None, "clicked", None, 0), (4, "acted", "viewed", 0))
        assert self.ask(log) == {4: 0.5}
        assert self.ask(recent((None, "clicked", None, 0))) == {}
        assert self.ask(recent((3, "acted", "complained", 0))) == {}

    def test_many_customers_are_as_one_by_one(self):
        rng = np.random.default_rng(8)
        n, customers = 900, 40
        users = rng.integers(-1, customers, n).astype(np.int32)
        log = np.zeros(n, RECENT)
        log["item"] = rng.choice(np.append(ITEMS.keys, np.uint64(77)), n)
        log["what"], log["action"] = rng.integers(0, 9, n), rng.integers(0, 12, n)
        log["at"] = NOW - rng.integers(0, 90, n) * DAY / 3
        weights = EventWeights(half_life_days=7)
        rows = ITEMS.rows_of_keys(log["item"])
        many = histories(users, rows, log["what"], log["action"], log["at"], NOW, weights)
        assert (np.diff(many.users) >= 0).all()
        assert len(many.rows)
        for user in range(customers):
            alone = history(log[users == user], ITEMS.rows_of_keys, NOW, weights)
            mine = many.users == user
            assert many.rows[mine].tolist() == alone.rows.tolist()
            assert many.weights[mine].tobytes() == alone.weights.tobytes()

    def test_many_of_nothing(self):
        none = np.zeros(0)
        found = histories(*(none.astype(t) for t in ("i4", "i4", "u1", "u2", "f8")), NOW, EventWeights())
        assert len(found.users) == len(found.rows) == len(found.weights) == 0


class TestFatigue:
    def ask(self, log, *items):
        return fatigue(log, ITEMS.keys[list(items)], NOW).tolist()

    def test_displays_are_counted_and_fade(self):
        log = contact((1, "displayed", 4), (2, "displayed", 2), (1, "displayed", 2), (1, "displayed", 0))
        assert self.ask(log, 1, 2, 3) == pytest.approx([1.75, 0.5, 0.0])

    def test_a_click_starts_anew(self):
        log = contact(
            (1, "displayed", 3),
            (1, "clicked", 2),
            (1, "displayed", 2),
            (2, "displayed", 2),
            (1, "displayed", 0),
        )
        assert self.ask(log, 1, 2) == pytest.approx([1.0, 0.5])

    def test_a_click_long_ago_changes_nothing(self):
        assert self.ask(contact((1, "clicked", 100), (1, "displayed", 0)), 1) == [1.0]

    def test_a_week_is_enough(self):
        assert self.ask(contact((1, "displayed", 8), (1, "displayed", 6)), 1) == pytest.approx([0.125])
        assert self.ask(contact((1, "displayed", 8)), 1) == [0.0]

    def test_other_events_do_not_count(self):
        assert self.ask(contact((1, "dismissed", 0), (1, "converted", 0), (1, "acted", 0)), 1) == [0.0]

    def test_no_log_and_no_keys(self):
        assert self.ask(contact(), 1, 2) == [0.0, 0.0]
        assert self.ask(contact((1, "displayed", 0))) == []

    def test_a_clock_ahead_of_ours_counts_as_now(self):
        assert self.ask(contact((1, "displayed", -0.01)), 1) == [1.0]

    def test_against_a_plain_loop(self):
        rng = np.random.default_rng(2)
        for _ in range(20):
            log = np.zeros(200, CONTACT)
            log["item"], log["what"] = rng.choice(ITEMS.keys[:9], 200), rng.choice([1, 1, 1, 2, 3], 200)
            log["at"] = np.sort(NOW - rng.integers(0, 10 * DAY, 200))
            counts = dict.fromkeys(ITEMS.keys.tolist(), 0.0)
            for entry in log:
                item, age = int(entry["item"]), NOW - float(entry["at"])
                if entry["what"] == 2:
                    counts[item] = 0.0
                elif entry["what"] == 1 and age < 7 * DAY:
                    counts[item] += 0.5 ** (age / (2 * DAY))
            assert fatigue(log, ITEMS.keys, NOW) == pytest.approx(list(counts.values()), abs=1e-6)
