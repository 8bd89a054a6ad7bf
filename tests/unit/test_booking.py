from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from features.ids import KIND_CODE, LAYOUTS, key64
from features.views import ITEM_STATS
from serving.causes import Cause
from serving.ghosts import Ghosts
from serving.pace_plan import Prior, territory_of
from serving.plan import Stock, check_plan, compile_plan
from serving.priors import Priors
from serving.worth import Worth
from training.booking import check
from training.booking_fill import _bounded, _counted, _filled, _runs
from training.booking_limits import cap_limit
from training.booking_most import LEAN, Doubt
from training.booking_pages import Joined, Spread, Stocked
from training.booking_plan import Work, decided
from training.booking_priced import corrected, evaluated, no_prices
from training.booking_quick import _fill, quick_sums
from training.booking_record import Forecasts, document
from training.booking_time import forecast_of, span_of, spread_of
from training.sample_columns import Sample, Shape, bits_of, no_logs

START = 1_793_577_600.0  # 2026-11-02T00:00Z, a Monday
DAY = 86_400.0
ITEMS = 12
RATE = 0.8
WORK = Work(few=400, some=64, checked=400, steps=40, most_steps=40)
SURE = Doubt("part", 0.0, 1.0)


def campaign(name, number, **fields):
    plain = {
        "id": name, "items": [f"i{number}"], "slots": ["home.banner"], "tier": "guaranteed",
        "flight": {"from": "2026-11-02", "until": "2026-11-04", "tz": "UTC"},
    }  # fmt: skip
    made = plain | fields
    return made if "goals" in made else made | {"tier": "standard"}


def goal(least, unit="displayed"):
    return [{"unit": unit, "at_least": float(least)}]


def stocked(*campaigns, slots=(("home.banner", 1),), **plan):
    """`ITEMS` activities that anybody may be shown, in slots of one place seen in 4 of 5 pages."""
    declared = [
        {"name": name, "layout": "banner", "size": size, "kinds": ["activity"], "diminish": 1.0,
         "display_rates": [RATE * 0.5**k for k in range(size)]}
        for name, size in slots
    ]  # fmt: skip
    body = {
        "name": "tiny", "surfaces": {"home": [name for name, _ in slots]}, "slots": declared,
        "orgs": [{"id": "head", "tz": "UTC"}, {"id": "bj", "parent": "head"}],
        "audiences": {"some": {"member": "some"}}, "campaigns": list(campaigns),
    }  # fmt: skip
    made = check_plan(body | plan)
    keys = np.array([key64(f"i{n}") for n in range(ITEMS)], np.uint64)
    kinds = np.full(ITEMS, KIND_CODE["activity"], np.uint8)
    stock = Stock(
        {f"i{n}": n for n in range(ITEMS)}.get, kinds, np.full(ITEMS, (1 << len(LAYOUTS)) - 1, np.uint8),
        np.zeros(ITEMS, np.uint32), np.arange(ITEMS, dtype=np.int32), lists={"some": 40_000},
    )  # fmt: skip
    compiled = compile_plan(made, stock, strict=False)
    worth = Worth.of(made.values, ITEM_STATS.blank(ITEMS), kinds, keys)
    return Stocked(compiled, worth, keys, np.zeros(ITEMS, np.uint32), kinds, lambda row: f"i{row}")


def sample_of(
    n=400, part=0.25, slots=(("home.banner", 1),), p=0.1, bookable=ITEMS, customers=None, spread=0.0
):
    """n pages over two days; a `part` of them of customers in the list `some`."""
    at = START + (np.arange(n) + 0.5) * (2 * DAY / n)
    subject = np.arange(n, dtype=np.uint64) % np.uint64(customers or n)
    log_at, log, logged = no_logs(n)
    each = p * (1.0 + spread * np.linspace(-1, 1, n)[np.random.default_rng(0).permutation(n)])
    chance = np.repeat(each.astype(np.float32)[:, None], bookable, axis=1)
    listed = np.flatnonzero(np.arange(n) % round(1 / part) == 0)
    from training.sample_strata import earlier

    return Sample(
        bundle="b", made_at=START, since=START, until=START + 2 * DAY, population=float(n),
        shapes=(Shape("home", slots, whole=True),),
        items=np.array([key64(f"i{i}") for i in range(ITEMS)], np.uint64),
        bookable=np.arange(bookable, dtype=np.int32), at=at, subject=subject, unit=np.zeros(n, np.uint64),
        org=np.zeros(n, np.uint32), owner=np.zeros(n, np.uint32), shape=np.zeros(n, np.int32),
        weight=np.ones(n, np.float32),
        earlier=earlier(subject, at), segment=np.zeros(n, np.uint16), taste=np.zeros((n, 0), np.float32),
        option_at=np.arange(n + 1, dtype=np.int64), option=np.full(n, ITEMS - 1, np.int32),
        option_p=np.full(n, p, np.float32), p=chance, permitted=bits_of(chance > 0),
        known=np.zeros(n, np.uint64), listed=np.ones(n, np.bool_), profiling=np.ones(n, np.bool_),
        log_at=log_at, log=log, logged=logged, fields={}, memberships={40_000: listed},
    )  # fmt: skip


def booked(after, sample, before=None, doubt=SURE, **options):
    spread = Spread(sample.at, sample.weight.astype(np.float64))
    span = (sample.since, sample.until)
    return check(after, sample, spread, span, before=before, work=WORK, doubt=doubt, **options)


def one_of(booking, name):
    return next(goal for goal in booking.goals if goal.campaign == name)


def test_alone_a_campaign_may_have_the_best_place_of_every_page_of_its_audience():
    sample = sample_of()
    found = booked(stocked(campaign("new", 1, audience="some", goals=goal(60))), sample)
    mine = one_of(found, "new")
    assert mine.fits and found.fits and mine.expected == 60 and mine.cause is None
    assert mine.most == pytest.approx(100 * RATE, rel=0.01)


def test_beside_another_guarantee_it_may_have_what_that_one_leaves():
    sample = sample_of()
    old = campaign("old", 1, goals=goal(200))
    new = campaign("new", 2, goals=goal(100))
    found = booked(stocked(old, new), sample, before=stocked(old))
    assert one_of(found, "new").fits
    assert one_of(found, "new").most == pytest.approx(400 * RATE - 200, rel=0.03)


def test_what_cannot_be_delivered_says_so_and_why_and_what_would_help():
    sample = sample_of()
    old = campaign("old", 1, goals=goal(200))
    narrow = campaign("new", 2, audience="some", goals=goal(150))
    found = booked(stocked(old, narrow), sample, before=stocked(old))
    mine = one_of(found, "new")
    assert not found.fits and not mine.fits and mine.cause is Cause.AUDIENCE_TOO_NARROW
    assert mine.expected == pytest.approx(mine.most) and mine.most == pytest.approx(100 * RATE, rel=0.02)
    helps = {one.how: one for one in found.relax}
    assert helps["everybody as audience"].most == pytest.approx(400 * RATE - 200, rel=0.05)
    assert helps["ask for 80"].fits or any(how.startswith("ask for") for how in helps)


def test_a_dear_market_is_another_cause_than_a_narrow_audience():
    sample = sample_of()
    old = campaign("old", 1, goals=goal(250))
    found = booked(stocked(old, campaign("new", 2, goals=goal(150))), sample, before=stocked(old))
    mine = one_of(found, "new")
    assert not mine.fits and mine.cause in (Cause.AT_CEILING, Cause.OUT_PRICED)
    assert mine.most == pytest.approx(400 * RATE - 250, rel=0.06)


def test_a_slot_on_no_page_is_named_as_the_cause():
    plan = {"surfaces": {"home": ["home.banner"], "other": ["other.banner"]}}
    new = campaign("new", 2, slots=["other.banner"], goals=goal(10))
    after = stocked(new, slots=(("home.banner", 1), ("other.banner", 1)), **plan)
    found = booked(after, sample_of())
    assert one_of(found, "new").cause is Cause.SLOT_OFF and one_of(found, "new").expected == 0


def test_clicks_are_counted_at_their_probability():
    new = campaign("new", 1, goals=goal(5, "clicked"), penalty=40.0)
    found = booked(stocked(new), sample_of(p=0.1))
    assert one_of(found, "new").most == pytest.approx(400 * RATE * 0.1, rel=0.01)


def test_an_own_quota_is_an_upper_bound_and_the_cause():
    new = campaign("new", 1, goals=goal(90), quotas=[{"id": "q", "at_most": 90}])
    found = booked(stocked(new), sample_of())
    assert one_of(found, "new").most == 90 and one_of(found, "new").fits


def test_caps_take_what_returning_customers_would_have_had():
    sample = sample_of(n=400, customers=100)  # four pages each within two days, two within one
    cap = {"event": "displayed", "most": 1, "window": "ever"}
    free = booked(stocked(campaign("new", 1, goals=goal(150))), sample)
    capped = booked(stocked(campaign("new", 1, goals=goal(150), caps=[cap])), sample)
    mine = one_of(capped, "new")
    assert mine.most == pytest.approx(one_of(free, "new").most / 4, rel=0.02)
    assert not mine.fits and mine.cause is Cause.CAPPED and one_of(free, "new").fits
    assert capped.capped[0].campaign == "new" and capped.capped[0].capped > 0
    assert any(one.how == "without its caps" and one.fits for one in capped.relax)


def test_the_interval_is_wider_where_there_are_fewer_pages_and_none_where_all_are_known():
    big = sample_of(n=1600)
    after = stocked(campaign("new", 1, audience="some", goals=goal(600)))

    def width(pages):
        some = replace(big.take(np.sort(pages)), population=1600.0)
        mine = one_of(booked(after, some, doubt=Doubt("part", 0.0, 1.0)), "new")
        return mine.most_high - mine.most_low

    rng = np.random.default_rng(2)
    few, more = (width(rng.permutation(1600)[:n]) for n in (100, 800))
    assert few > 2 * more > 0
    assert width(np.arange(1600)) == pytest.approx(0.0, abs=1e-6)
    sure, unsure = (one_of(booked(after, big, doubt=Doubt("past", error)), "new") for error in (0.0, 0.2))
    assert unsure.most_high - unsure.most_low > sure.most_high - sure.most_low


def test_what_only_its_own_reach_limits_is_counted_and_what_others_limit_is_leant():
    sample = sample_of()
    old = campaign("old", 1, goals=goal(100))
    free = one_of(booked(stocked(old, campaign("new", 2, audience="some", goals=goal(60))), sample), "new")
    assert free.most == pytest.approx(100 * RATE, rel=1e-6)
    full = one_of(booked(stocked(old, campaign("new", 2, goals=goal(60))), sample), "new")
    assert full.most == pytest.approx(LEAN * (400 * RATE - 100), rel=0.005)


def test_who_is_displaced_and_what_it_costs():
    sample = sample_of(spread=0.5)
    old = campaign("old", 1, values={"click": 5.0})
    found = booked(stocked(old, campaign("new", 2, goals=goal(200))), sample, before=stocked(old))
    lost = {one.campaign: one for one in found.displaced}["old"]
    assert lost.displays[0] == pytest.approx(400 * RATE, rel=0.01)
    assert lost.displays[1] == pytest.approx(120, rel=0.1)  # where it was worth least
    dearest = np.sort(sample.p[:, 0])[::-1]
    kept = RATE * dearest[: round(lost.displays[1] / RATE)].sum() * 5.0
    assert lost.value[1] == pytest.approx(kept, rel=0.02) and lost.cost > 0
    assert found.value[1] < found.value[0] and {line.org for line in found.orgs} == {"(no campaign)", "head"}
    seen = found.pages[0]
    assert any("[new]" in name for name in seen.after["home.banner"])


def test_who_asks_for_too_much_is_not_displaced_by_it():
    sample = sample_of()
    old, modest = campaign("old", 1, goals=goal(200)), campaign("new", 2, goals=goal(60))
    greedy = modest | {"goals": goal(4_000), "penalty": 5.0}
    found = booked(stocked(old, greedy), sample, before=stocked(old, modest))
    assert not found.fits and not one_of(found, "new").fits
    assert [one.campaign for one in found.displaced] == ["old"]


def test_the_same_again_is_the_same():
    sample = sample_of()
    old, new = campaign("old", 1, goals=goal(200)), campaign("new", 2, goals=goal(140))
    one, two = (document(booked(stocked(old, new), sample, before=stocked(old))) for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    json.dumps(one, allow_nan=False)


def test_forecasts_are_kept_scored_once_and_tracked(tmp_path):
    found = booked(stocked(campaign("new", 1, goals=goal(60))), sample_of())
    forecasts = Forecasts(str(tmp_path))
    for _ in range(2):
        forecasts.keep(found, START)
    assert len(forecasts.names()) == 2 and forecasts.track().goals == 0
    assert forecasts.due(START) == []  # their time is not over
    assert forecasts.due(START + 3 * DAY) == forecasts.names()
    for name in forecasts.names():
        assert forecasts.score(name, {"new/displayed": 57.0}, START + 3 * DAY)
        assert not forecasts.score(name, {"new/displayed": 1.0}, START + 3 * DAY)
    assert forecasts.due(START + 3 * DAY) == []
    track = forecasts.track()
    assert track.goals == 2 and track.error == pytest.approx(0.05) and not track.known
    assert Priors(str(tmp_path))(found.plan).keys() == {"new/displayed"}


def test_the_service_reads_priors_and_survives_what_is_not_one(tmp_path):
    priors = Priors(str(tmp_path))
    assert priors("0123456789ab") == {}
    priors.put("0123456789ab", {"c/displayed": Prior(0.25, 1.5), "c/q": Prior(0.0)})
    again = Priors(str(tmp_path))("0123456789ab")
    assert again["c/displayed"] == Prior(0.25, 1.5) and again["c/q"].price == 0.0
    assert np.isnan(again["c/q"].answer)
    path = tmp_path / "plans" / "0123456789ab.priors.json"
    for wrong in (
        "{",
        "[1]",
        '{"format": 1, "priors": [1]}',
        '{"format": 1, "priors": {"a": ["x", 1], "b": 2}}',
    ):
        path.write_text(wrong)
        assert Priors(str(tmp_path))("0123456789ab") == {}
    with pytest.raises(ValueError, match="12 hex digits"):
        priors.put("../x", {})


def test_prices_of_the_plan_are_the_pacers_beginning():
    old = campaign("old", 1, goals=goal(250))
    found = booked(
        stocked(old, values={"version": "v", "click": 10.0, "items": {"i1": {"click": 0.0}}}), sample_of()
    )
    prior = found.priors["old/displayed"]
    assert 0.5 < prior.price < 1.5 and prior.answer > 0  # it displaces what is worth 1 CNY per display


def test_pages_of_the_past_stand_for_the_hours_to_come():
    sample = sample_of(n=960)
    territory = territory_of(stocked(campaign("c", 1)).plan)
    forecast = forecast_of(sample, territory)
    span = span_of(stocked(campaign("c", 1)).plan.campaigns.calendars, START)
    assert span == (START, START + 7 * DAY)
    spread = spread_of(sample, territory, forecast, span)
    assert spread.weight.sum() == pytest.approx(forecast.views(START, 7 * 24).sum(), rel=1e-6)
    assert (spread.at >= span[0]).all() and (spread.at < span[1]).all()
    hour = (sample.at // 3600).astype(int) % 168
    assert ((spread.at // 3600).astype(int) % 168 == hour).all()


def test_caps_by_windows():
    from features.ledger import CapSpec

    assert cap_limit(CapSpec("a", "displayed", 3, calendar="day"), 0.5) == (0, 5.5)
    assert cap_limit(CapSpec("a", "displayed", 3, window_s=7 * 86_400), 1.0) == (1, 2.5)
    window, most = cap_limit(CapSpec("a", "displayed", 1, window_s=43_200), 1.0)
    assert (window, most) == (0, 1.5)
    assert cap_limit(CapSpec("a", "clicked", 1, calendar="ever"), 1.0)[1] == np.inf


def joined_of(*campaigns, **options):
    sample = sample_of(**options)
    return Joined(stocked(*campaigns, slots=options.get("slots", (("home.banner", 1),))), sample,
                  Spread(sample.at, sample.weight.astype(np.float64)))  # fmt: skip


def test_quick_pages_are_the_products_where_nothing_interacts():
    """And no place stays empty: which one does is chosen by the product's page alone."""
    slots = (("home.banner", 2), ("home.more", 1))
    joined = joined_of(
        campaign("a", 1, goals=goal(10)), campaign("b", 2, goals=goal(10)), campaign("c", 3, audience="some"),
        slots=slots, n=64,
    )  # fmt: skip
    parts = list(joined.parts())
    prices = no_prices(3)._replace(display=np.array([0.5, 0.2, 0.9]))
    quick, exact = (evaluated(parts, prices, exact=one) for one in (False, True))
    assert quick.units == pytest.approx(exact.units, rel=1e-5) and quick.worth == pytest.approx(exact.worth)
    fixed = corrected(quick, quick, exact)
    assert fixed.units == pytest.approx(exact.units, rel=1e-5)


def test_the_loops_are_what_they_say_without_the_compiler(monkeypatch):
    import training.booking_fill as fill
    import training.booking_quick as quick

    slots = (("home.banner", 2), ("home.more", 1))
    joined = joined_of(campaign("a", 1, goals=goal(10)), campaign("b", 2, audience="some"), slots=slots, n=24)
    (part,) = joined.parts()
    net = part.value + np.float32(0.3)
    sums = quick_sums(part.batch, net, part.p, part.used, part.weight, 2)
    funnel = joined.funnel()
    for module, names in ((fill, ("_runs", "_may", "_option", "_bounded", "_counted", "_filled")),
                          (quick, ("_room", "_option_room", "_use", "_fill"))):  # fmt: skip
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name).py_func)
    (plain,) = joined.parts()
    for name in ("row", "p", "offer", "value"):
        assert (getattr(plain, name) == getattr(part, name)).all(), name
    for one, other in zip(plain.batch.offers, part.batch.offers, strict=True):
        assert (one == other).all()
    again = quick_sums(plain.batch, net, plain.p, plain.used, plain.weight, 2)
    assert all(one == pytest.approx(other, rel=1e-6) for one, other in zip(sums, again, strict=True))
    assert all((one == other).all() for one, other in zip(funnel, joined.funnel(), strict=True))
    assert all(callable(one) for one in (_bounded, _counted, _filled, _runs, _fill))


def test_who_is_held_out_is_no_customer_of_a_campaign():
    """What is forecast is what the service can deliver: it never shows them the campaign."""
    sample = sample_of(2_000, customers=500)
    units = np.array([key64(f"u:{one}") for one in sample.subject.tolist()], np.uint64)
    sample = replace(sample, unit=units)
    plain, held = campaign("all", 1, goals=goal(60), ghost=0), campaign("held", 2, goals=goal(60), ghost=0.05)
    both = stocked(plain, held)
    joined = Joined(both, sample, Spread(sample.at, sample.weight.astype(np.float64)))
    out = Ghosts.of(both.plan.plan, joined.campaigns.ids)
    theirs = np.array([out.held_out_of(one)[1] for one in units.tolist()])
    assert 0.02 < theirs.mean() < 0.09
    assert joined.eligible(0).all() and (joined.eligible(1) == ~theirs).all()
    assert joined.funnel().running.tolist() == [2_000, float((~theirs).sum())]
    for part in joined.parts():
        page = np.repeat(part.pages, np.diff(part.batch.offer_at))
        shown = np.bincount(page[part.batch.offers.campaign == 1], minlength=2_000) > 0
        assert (shown == ~theirs).all() and (part.batch.offers.campaign == 0).sum() == 2_000
    for one, reached in (("all", 2_000), ("held", (~theirs).sum())):
        alone = booked(stocked(plain if one == "all" else held), sample)
        assert one_of(alone, one).most == pytest.approx(reached * RATE, rel=0.01)
    refused = replace(sample, unit=np.zeros(2_000, np.uint64))  # of whom profiling is off, say
    assert Joined(both, refused, Spread(sample.at, sample.weight.astype(np.float64))).eligible(1).all()


def test_a_plan_in_force_may_be_handed_in_decided():
    sample = sample_of()
    spread, span = Spread(sample.at, sample.weight.astype(np.float64)), (sample.since, sample.until)
    old, new = campaign("old", 1, goals=goal(200)), campaign("new", 2, goals=goal(100))
    known = decided(stocked(old), sample, spread, span, WORK)
    found = booked(stocked(old, new), sample, before=known)
    assert (
        one_of(found, "new").most
        == one_of(booked(stocked(old, new), sample, before=stocked(old)), "new").most
    )
