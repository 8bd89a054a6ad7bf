from __future__ import annotations

from datetime import date, datetime, timedelta
from math import inf
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.calendar import Calendar, calendar_of, meet
from serving.campaign import WEEKDAYS, Flight
from serving.plan_error import PlanError

ZONES = (
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Beirut",
    "America/Havana",
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def calendar(listed=(), tz="Asia/Shanghai", **flight) -> Calendar:
    return calendar_of(Flight.model_validate(flight), tz, [date.fromisoformat(day) for day in listed])


def plainly_open(made: Calendar, now: float) -> bool:
    """The definition, read off the local clock."""
    local = datetime.fromtimestamp(now, ZoneInfo(made.tz))
    day = local.date().toordinal()
    listed = day in made.holidays
    wanted = {"any": True, "skip": not listed, "only": listed}[made.on_holidays]
    hour = any(since <= local.hour < until for since, until in made.hours)
    return made.start <= now < made.end and local.weekday() in made.weekdays and hour and wanted


@st.composite
def calendars(draw) -> Calendar:
    tz = draw(st.sampled_from(ZONES))
    first = date(2026, 1, 1) + timedelta(draw(st.integers(0, 330)))
    hours = draw(
        st.lists(
            st.tuples(st.integers(0, 23), st.integers(1, 24)).filter(lambda h: h[0] < h[1]),
            min_size=1,
            max_size=3,
        )
    )
    days = [first + timedelta(n) for n in draw(st.lists(st.integers(0, 90), max_size=6))]
    flight = Flight(
        from_=draw(st.none() | st.just(first)),
        until=draw(st.none() | st.integers(1, 120).map(lambda n: first + timedelta(n))),
        weekdays=draw(st.none() | st.lists(st.sampled_from(WEEKDAYS), min_size=1, unique=True).map(tuple)),
        hours=draw(st.none() | st.just(tuple(hours))),
        holidays="list",
        on_holidays=draw(st.sampled_from(["any", "skip", "only"] if days else ["any", "skip"])),
    )
    try:
        return calendar_of(flight, tz, days)
    except PlanError:
        return calendar_of(Flight(), tz)


INSTANTS = st.floats(at("2026-01-01T00:00:00Z"), at("2027-06-01T00:00:00Z"))


@settings(max_examples=300, deadline=None)
@given(calendars(), INSTANTS)
def test_open_is_what_the_local_clock_says(made, now):
    assert made.open_at(now) == plainly_open(made, now)


@settings(max_examples=150, deadline=None)
@given(calendars(), INSTANTS)
def test_nothing_changes_before_the_next_change(made, now):
    then = made.next_change(now)
    assert then > now
    if then == inf:
        probes = [now + 86_400 * n / 3 for n in range(400)]
    else:
        assert plainly_open(made, then) != plainly_open(made, now)
        probes = [now + (then - now) * n / 200 for n in range(200)]
    assert {plainly_open(made, probe) for probe in probes} == {plainly_open(made, now)}
    first = made.next_open(now)
    assert first == inf or (made.open_at(first) and not (first > now and made.open_at((first + now) / 2)))


@settings(max_examples=100, deadline=None)
@given(calendars(), st.integers(0, 500 * 48), st.integers(0, 200))
def test_seconds_open_are_counted_by_half_hours(made, since, steps):
    # Every change of these zones' clocks and every edge lies on a half hour.
    start = at("2026-01-01T00:00:00Z") + 1800 * since
    counted = sum(1800.0 for n in range(steps) if plainly_open(made, start + 1800 * n))
    assert made.seconds_open(start, start + 1800 * steps) == pytest.approx(counted)


def test_a_date_is_the_start_of_a_day_in_the_zone_and_until_is_exclusive():
    made = calendar(**{"from": "2026-11-01", "until": "2026-12-01"})
    assert made.start == at("2026-11-01T00:00:00+08:00") and made.end == at("2026-12-01T00:00:00+08:00")
    assert made.days_open() == 30 and made.seconds_open(-inf, inf) == 30 * 86_400
    assert not made.open_at(made.end) and made.open_at(made.end - 1)
    assert [made.next_change(t) for t in (0.0, made.start, made.end)] == [made.start, made.end, inf]


def test_a_repeated_hour_is_open_twice_and_a_skipped_one_never():
    night = calendar(tz="Europe/Berlin", hours=[[2, 3]])
    day = at("2026-10-25T00:00:00+02:00"), at("2026-10-26T00:00:00+01:00")
    assert day[1] - day[0] == 25 * 3600 and night.seconds_open(*day) == 7200
    assert night.seconds_open(at("2026-03-29T00:00:00+01:00"), at("2026-03-30T00:00:00+02:00")) == 0


def test_hours_and_weekdays_in_the_zone_of_the_flight():
    made = calendar(weekdays=["mon", "fri"], hours=[[14, 21], [9, 12]])
    assert made.open_at(at("2026-11-23T09:00:00+08:00")) and not made.open_at(at("2026-11-23T12:00:00+08:00"))
    assert not made.open_at(at("2026-11-24T10:00:00+08:00"))
    assert made.next_change(at("2026-11-23T20:59:59+08:00")) == at("2026-11-23T21:00:00+08:00")
    assert made.next_change(at("2026-11-23T21:00:00+08:00")) == at("2026-11-27T09:00:00+08:00")


def test_hours_that_adjoin_over_midnight_do_not_close():
    made = calendar(hours=[[22, 24], [0, 6]])
    assert made.next_change(at("2026-11-23T23:00:00+08:00")) == at("2026-11-24T06:00:00+08:00")


def test_holidays_are_skipped_or_the_only_days():
    days = ("2026-10-01", "2026-10-02")
    skipping = calendar(days, holidays="cn", on_holidays="skip")
    assert not skipping.open_at(at("2026-10-02T12:00:00+08:00"))
    assert skipping.next_change(at("2026-09-01T00:00:00+08:00")) == at("2026-10-01T00:00:00+08:00")
    assert skipping.next_change(at("2026-10-01T00:00:00+08:00")) == at("2026-10-03T00:00:00+08:00")
    assert skipping.next_change(at("2026-10-03T00:00:00+08:00")) == inf  # and it is soon known
    only = calendar(days, holidays="cn", on_holidays="only")
    assert only.days_open() == 2 and only.seconds_open(-inf, inf) == 2 * 86_400
    assert only.next_change(at("2026-10-02T00:00:00+08:00")) == at("2026-10-03T00:00:00+08:00")
    assert only.next_change(at("2026-10-03T00:00:00+08:00")) == inf


def test_endless_flights_have_endless_seconds():
    assert calendar().seconds_open(0, inf) == inf and calendar(hours=[[9, 10]]).seconds_open(0, inf) == inf
    assert calendar(hours=[[9, 10]]).next_change(inf) == inf == calendar().next_open(inf)
    assert calendar().seconds_open(10, 5) == 0 and calendar().days_open() == inf


@pytest.mark.parametrize(
    ("flight", "path", "problem"),
    [
        ({"from": "2026-11-02", "until": "2026-11-02"}, "flight.until", "not later"),
        ({"from": "2026-11-02", "until": "2046-11-02"}, "flight.until", "ten years"),
        ({"hours": []}, "flight.hours", "names no hour"),
        ({"hours": [[9, 12], [22, 6]]}, "flight.hours.1", "is empty"),
        ({"weekdays": []}, "flight.weekdays", "names no day"),
        ({"holidays": "cn", "on_holidays": "only"}, "flight.holidays", "is empty"),
        ({"on_holidays": "skip"}, "flight.holidays", "needs a list"),
        ({"from": "2026-11-02", "until": "2026-11-03", "weekdays": ["tue"]}, "flight", "never|ever meet"),
        (
            {"from": "2026-11-02T10:00:00+08:00", "until": "2026-11-02T11:00:00+08:00", "hours": [[11, 12]]},
            "flight",
            "ever meet",
        ),
    ],
)
def test_impossible_flights_are_refused(flight, path, problem):
    with pytest.raises(PlanError, match=problem) as caught:
        calendar(**flight)
    assert caught.value.path == path and caught.value.remedy


@pytest.mark.parametrize("until", ["2026-11-02T10:00:00", "tomorrow", 5, "2026-13-01"])
def test_a_time_needs_an_offset(until):
    with pytest.raises(ValueError, match="until"):
        Flight.model_validate({"until": until})


def test_flights_survive_their_json():
    text = Flight.model_validate(
        {"from": "2026-11-01", "until": "2026-12-01T00:00:00+08:00", "hours": [[9, 21]]}
    )
    assert Flight.model_validate_json(text.model_dump_json()) == text
    assert '"from":"2026-11-01"' in text.model_dump_json()


def test_two_calendars_meet_where_both_are_open():
    mondays, tuesdays = calendar(weekdays=["mon"]), calendar(weekdays=["tue"])
    assert not meet(mondays, tuesdays) and meet(mondays, mondays) and meet(calendar(), tuesdays)
    assert meet(mondays, calendar(tz="America/New_York", weekdays=["sun"]))
    early, late = calendar(until="2026-11-01"), calendar(**{"from": "2026-11-01"})
    assert not meet(early, late) and meet(early, calendar(hours=[[1, 2]]), at("2026-10-01T00:00:00Z"))


@settings(max_examples=60, deadline=None)
@given(calendars(), calendars())
def test_meeting_is_symmetric_and_true_when_an_instant_shows_it(one, other):
    assert meet(one, other) == meet(other, one)
    probes = [at("2026-01-01T00:00:00Z") + 1800 * n for n in range(0, 365 * 48, 7)]
    if any(plainly_open(one, now) and plainly_open(other, now) for now in probes):
        assert meet(one, other)


def test_a_zone_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="Mars/Olympus"):
        Calendar(tz="Mars/Olympus", hours=((9, 10),)).open_at(0.0)
