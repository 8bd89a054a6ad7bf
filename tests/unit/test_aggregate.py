"""Aggregated features against a plain loop over events, and at their edges."""

import numpy as np
import pytest

from features.aggregate import EVENT_COLUMNS, USER_DTYPE, fill, item_stats, user_features
from features.events import WHAT, action_code
from features.ids import KINDS, Vocabulary
from features.transforms import DAY, EventWeights
from features.views import AGGREGATED_FIELDS, PROFILE

AS_OF = 1_700_000_000.0
ITEMS = Vocabulary([f"i{n}" for n in range(12)])
TYPES = dict(zip(EVENT_COLUMNS, ("i4", "u8", "u1", "u1", "u2", "f8"), strict=True))


def events(*rows):
    """Rows of (user, item, what, days before the watermark[, action])."""
    columns = {name: np.zeros(len(rows), dtype) for name, dtype in TYPES.items()}
    for i, (user, item, what, ago, *action) in enumerate(rows):
        columns["user_index"][i] = user
        columns["item_key"][i] = ITEMS.keys[item] if item is not None else 0
        columns["kind"][i] = item % len(KINDS) if item is not None else 255
        columns["what"][i], columns["at"][i] = WHAT[what], AS_OF - ago * DAY
        columns["action"][i] = action_code(action[0]) if action else 0
    return columns


def random_events(n, customers, seed=4):
    rng = np.random.default_rng(seed)
    keys = np.append(ITEMS.keys, np.array([0, 77], np.uint64))
    chosen = rng.integers(0, len(keys), n)
    return {
        "user_index": rng.integers(-1, customers + 1, n).astype(np.int32),
        "item_key": keys[chosen],
        "kind": np.where(chosen < len(ITEMS), chosen % len(KINDS), 255).astype(np.uint8),
        "what": rng.integers(1, 9, n).astype(np.uint8),
        "action": rng.integers(0, 11, n).astype(np.uint16),
        "at": AS_OF + rng.uniform(-120, 5, n) * DAY,
    }


def plain_user(columns, user):
    """The definition, event by event."""
    found = {"clicks_30d": 0, "displays_30d": 0, "conversions_90d": 0, "last_active": 0.0}
    days, kinds, weights = set(), np.zeros(len(KINDS)), EventWeights()
    for i in np.flatnonzero(columns["user_index"] == user):
        at, what = columns["at"][i], columns["what"][i]
        if at > AS_OF or what > 5:
            continue
        ago = (AS_OF - at) / DAY
        found["displays_30d"] += what == 1 and ago < 30
        found["clicks_30d"] += what == 2 and ago < 30
        found["conversions_90d"] += what == 4 and ago < 90
        found["last_active"] = max(found["last_active"], at)
        if ago < 30:
            days.add(at // DAY)
        gain = float(weights.of(columns["what"][i : i + 1], columns["action"][i : i + 1])[0]) * 0.5 ** (
            ago / 30
        )
        if gain > 0 and columns["kind"][i] < len(KINDS):
            kinds[columns["kind"][i]] += gain
    found["active_days_30d"] = len(days)
    return found, kinds / (kinds.sum() or 1)


def test_user_features_against_a_plain_loop():
    columns = random_events(3000, 25)
    found = user_features(columns, 25, as_of=AS_OF)
    assert found.dtype == USER_DTYPE
    for user in range(25):
        wanted, kinds = plain_user(columns, user)
        for name, value in wanted.items():
            assert found[name][user] == value, name
        assert found["kind_affinity"][user] == pytest.approx(kinds, abs=1e-6)


def test_item_stats_against_a_plain_loop():
    columns = random_events(3000, 25)
    found = item_stats(columns, ITEMS.keys, as_of=AS_OF, half_life_days=10)
    weights = EventWeights()
    for row, key in enumerate(ITEMS.keys):
        held = (columns["item_key"] == key) & (columns["at"] <= AS_OF) & (columns["what"] <= 5)
        what, at = columns["what"][held], columns["at"][held]
        positive = weights.of(what, columns["action"][held]) > 0
        for name, code in (("displays", 1), ("clicks", 2), ("conversions", 4), ("dismissals", 3)):
            assert found[name][row] == pytest.approx(
                np.sum(0.5 ** ((AS_OF - at[what == code]) / DAY / 10)), rel=1e-5
            )
        assert found["interactions"][row] == positive.sum()
        assert found["users"][row] == len(
            {u for u in columns["user_index"][held][positive].tolist() if u >= 0}
        )
        assert (found["first_seen"][row], found["last_seen"][row]) == (at.min(), at.max())


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_events_does_not_change_a_bit(seed):
    columns = random_events(4000, 20)
    order = np.random.default_rng(seed).permutation(4000)
    shuffled = {name: column[order] for name, column in columns.items()}
    one, other = (user_features(each, 20, as_of=AS_OF).tobytes() for each in (columns, shuffled))
    assert one == other
    one, other = (item_stats(each, ITEMS.keys, as_of=AS_OF).tobytes() for each in (columns, shuffled))
    assert one == other


def test_what_happened_after_the_watermark_does_not_count():
    early = events((0, 1, "clicked", 0), (0, 1, "displayed", 1))
    both = events(
        (0, 1, "clicked", 0), (0, 1, "displayed", 1), (0, 1, "clicked", -0.001), (0, 2, "converted", -9)
    )
    assert user_features(early, 1, as_of=AS_OF).tobytes() == user_features(both, 1, as_of=AS_OF).tobytes()
    assert (
        item_stats(early, ITEMS.keys, as_of=AS_OF).tobytes()
        == item_stats(both, ITEMS.keys, as_of=AS_OF).tobytes()
    )


def test_windows_end_where_they_say():
    columns = events(
        (0, 1, "clicked", 29.99), (0, 1, "clicked", 30), (0, 1, "converted", 89.99), (0, 1, "converted", 90)
    )
    found = user_features(columns, 1, as_of=AS_OF)[0]
    assert (found["clicks_30d"], found["conversions_90d"], found["active_days_30d"]) == (1, 1, 1)


def test_one_day_counts_once():
    columns = events(
        *((0, 1, "displayed", hours / 24 / 60) for hours in range(10)), (1, None, "acted", 3, "login")
    )
    assert user_features(columns, 2, as_of=AS_OF)["active_days_30d"].tolist() == [1, 1]


def test_served_linked_and_outcomes_are_not_behaviour():
    columns = events((0, 1, "served", 1), (0, 1, "linked", 1), (0, 1, "outcome", 1))
    assert user_features(columns, 1, as_of=AS_OF).tobytes() == np.zeros(1, USER_DTYPE).tobytes()
    assert item_stats(columns, ITEMS.keys, as_of=AS_OF)["last_seen"].max() == 0


@pytest.mark.parametrize("user", [-1, 5])
def test_events_of_nobody_here_count_for_items_only(user):
    columns = events((user, 1, "clicked", 0))
    assert user_features(columns, 5, as_of=AS_OF).tobytes() == np.zeros(5, USER_DTYPE).tobytes()
    stats = item_stats(columns, ITEMS.keys, as_of=AS_OF)
    assert (stats["clicks"][1], stats["interactions"][1], stats["users"][1]) == (1, 1, int(user >= 0))


def test_affinity_is_a_share_and_dislikes_are_none():
    columns = events(
        (0, 0, "clicked", 0), (0, 1, "clicked", 30), (0, 2, "dismissed", 0), (1, 2, "dismissed", 0)
    )
    found = user_features(columns, 2, as_of=AS_OF)["kind_affinity"]
    assert found[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0, 0, 0])
    assert found[1].tolist() == [0] * len(KINDS)


def test_no_events_and_no_customers():
    none = events()
    assert user_features(none, 3, as_of=AS_OF).tobytes() == np.zeros(3, USER_DTYPE).tobytes()
    assert len(user_features(events((0, 1, "clicked", 0)), 0, as_of=AS_OF)) == 0
    assert len(item_stats(events((0, 1, "clicked", 0)), ITEMS.keys[:0], as_of=AS_OF)) == 0


def test_ragged_columns_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        user_features(events((0, 1, "clicked", 0)) | {"at": np.zeros(2)}, 1, as_of=AS_OF)


def test_filling_profiles_marks_the_fields_known_and_leaves_the_others():
    records, known = PROFILE.blank(2), np.array([PROFILE.bit("age"), 0], np.uint64)
    records["age"] = 30, 0
    fill(records, known, user_features(events((1, 3, "clicked", 2)), 2, as_of=AS_OF))
    assert records["age"].tolist() == [30, 0]
    assert records["clicks_30d"].tolist() == [0, 1]
    assert known.tolist() == [PROFILE.mask(["age", *AGGREGATED_FIELDS]), PROFILE.mask(AGGREGATED_FIELDS)]
