"""How much of an hour's views belongs to a flight that begins or ends within it."""

from __future__ import annotations

import pytest

from serving.calendar import Calendar
from serving.pace_plan import stretch
from serving.pace_seen import _split

HOUR = 3600.0
TEN = 1_790_000_000 // 3600 * HOUR + 10 * HOUR


@pytest.mark.parametrize(
    ("minute", "gone", "left"),
    [
        (20, 0.0, 20 / 60),  # not begun: none of the views that came, a third of the hour to come
        (40, 10 / 40, 10 / 60),  # ten of the forty minutes that came, ten of the hour to come
        (55, 20 / 55, 0.0),  # over
    ],
)
def test_a_flight_within_an_hour_has_the_views_of_its_own_minutes(minute, gone, left):
    flight = Calendar(tz="UTC", start=TEN + 30 * 60, end=TEN + 50 * 60)
    held = stretch(flight, False, TEN + minute * 60)
    past, ahead = _split(flight, held, 0, TEN + minute * 60)
    assert held.start == TEN / HOUR
    assert past[0] == pytest.approx(gone)
    assert ahead[0] == pytest.approx(left)


def test_a_flight_of_whole_hours_splits_the_running_one_by_the_clock():
    flight = Calendar(tz="UTC", start=TEN, end=TEN + 3 * HOUR)
    now = TEN + 1.25 * HOUR
    past, ahead = _split(flight, stretch(flight, False, now), 1, now)
    assert past[:3].tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert ahead[:3].tolist() == pytest.approx([0.0, 0.75, 1.0])
