"""The step `ranker`: learnt from the pages that the service logged, kept where it beats the blend.

    displays before the validation window     counts: places, items, ties, hours
    displays of the validation window         the forests, calibrated across its days
    displays of the test window               the verdict, beside the blend on the same displays

What serves is fitted once more, on both windows, with the counts of all days, and with it how far to believe
the bank's own models. Where pages were logged in
the test window only, it is cut in two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.ranking import FEATURES, INTEREST, clock_of
from features.ranking_kernel import INTEREST_DAYS, UNKNOWN
from features.transforms import DAY
from features.views import PROFILE, SCHEMAS
from serving.arm_bundles import only
from serving.blend import Blend
from serving.bundle import Bundle
from serving.live import Live, build_live
from serving.plan import Plan, default_plan
from serving.ranker import POSITIONS, Answer, Ranker
from serving.ranking import Signals
from training.config import RankerGrid
from training.delayed import HORIZON_S, chances
from training.lake import Lake
from training.learn import Fitted, Prepared
from training.publish import neighbours_of
from training.ranker_facts import (
    TIES_S,
    Counts,
    Rates,
    codes_of,
    facts_of,
    fit_hours,
    fit_rates,
    fit_ties,
    snapshots,
)
from training.ranker_fit import (
    RankerVerdict,
    Rows,
    Setting,
    blank,
    calibrated,
    expected,
    fit_answer,
    fit_calibrated,
    fit_foretold,
    log_loss,
    place_table,
    placed_together,
    raw_of,
)
from training.ranker_gate import EARLIER, check, levelled
from training.ranker_lake import Displays, displays_of, rows_of
from training.ranker_rows import UNSCALED, rescaled, scale_of
from training.trust import Heard, fit_trust, heard_together

FEWEST_PAGES: Final = 100
_MODEL, _POPULARITY, _TIRED, _ITEM, _INTEREST, _HOUR = (
    FEATURES.index(name) for name in ("model", "popularity", "tired", "item_clicks", "interest", "area_hour")
)


@dataclass(frozen=True, eq=False)
class Learning:
    """All that the step looks at. `chosen`: the model that serves; `blend` what the ranker must beat."""

    lake: Lake
    prepared: Prepared
    fitted: Fitted
    chosen: str
    blend: Blend
    stats: NDArray[np.void]
    plan: Plan | None
    setting: RankerGrid

    def learn(self, notice: Callable[[str], None]) -> RankerVerdict:
        """The ranker, or why there is none."""
        parts, config = self.prepared.split, self.prepared.config
        rng = np.random.default_rng(config.seed)
        logged = self.lake.served(since=parts.now_valid, columns=["at"]).num_rows
        if logged < FEWEST_PAGES:
            return _none(
                f"{logged:,} logged pages since the validation window began: {FEWEST_PAGES:,} needed"
            )
        live = self._live("train")
        slots = tuple(sorted({slot.name for slot in live.plan.slots.values()}))
        end = float(np.nextafter(self.prepared.dataset.now, np.inf))
        displays, numbers = displays_of(self.lake, self.prepared.dataset, slots, end, config.outcomes.rules())
        if len(displays.page) < self.setting.fewest_displays:
            return _none(f"{len(displays.page):,} displays: {self.setting.fewest_displays:,} are needed")
        early = self._stretch(live, slots, displays, numbers, parts.now_valid, parts.now_test, rng)
        late = self._stretch(self._live("test"), slots, displays, numbers, parts.now_test, end, rng)
        if late is None:
            return _none("no logged page of the test window could be decided again")
        if early is None:  # the service has not run for so long yet
            early, late = late.halves()
        fewest = int(min(early.rows.clicked.sum(), late.rows.clicked.sum()))
        if fewest < self.setting.fewest_clicks:
            return _none(f"{fewest:,} clicks in one of the windows: {self.setting.fewest_clicks:,} needed")
        grid = self.setting
        setting = Setting(
            seed=config.seed, trees=grid.trees, leaves=grid.leaves,
            monotone=dict(grid.monotone),
        )  # fmt: skip
        with threadpool_limits(1):  # the same bits on any number of cores
            start = blank(place_table(early.rates, len(slots)), buys=False)
            fitted = fit_calibrated(early.rows, early.rows.clicked.astype(np.float64), start, setting)
            report, checked = self._judged(fitted, early, late), check(fitted, late.rows, slots)
            report["calibration"] = checked.to_json()
            notice(_said(report))
            if checked.note:
                notice(checked.note)
            if report["log_loss"] >= report["blend_log_loss"]:
                return _none("the blend foretells the held-out displays as well", report)
            if checked.refused:
                return _none(checked.note, report)
            whole = placed_together([early.rows, late.rows])
            label = whole.clicked.astype(np.float64)
            start = blank(place_table(late.rates, len(slots)), buys=False)
            click, p = fit_foretold(whole, label, start, setting)
            if checked.levelled:
                new = whole.at > np.quantile(late.rows.at, EARLIER)
                click = levelled(click, p[new], label[new], whole.slot[new])
            later = late.heard._replace(display=late.heard.display + early.rows.size)
            trusted = fit_trust(p, whole.clicked, whole.slot, heard_together([early.heard, later]))
            report["external"] = trusted.to_json()
            convert = self._convert(whole, late.rates, len(slots), end, setting)
        signals, _ = self._signals(self._live("final"), displays, len(slots), end)
        neutral = np.median(whole.matrix, axis=1).astype(np.float32)
        made = Ranker(signals.facts, slots, click, convert, neutral, late.scale, trusted.trust)
        return RankerVerdict(made, report)

    def _convert(self, rows: Rows, rates: Rates, slots: int, now: float, setting: Setting) -> Answer:
        """P(converted within the horizon | displayed), of all displays although the newest are still open."""
        start = blank(place_table(rates, slots), buys=True)
        chance = chances(rows, now, start, setting)
        if not chance.any():
            return start
        return fit_answer(rows, chance, start, setting)

    def _judged(self, fitted: Answer, early: _Stretch, late: _Stretch) -> dict[str, Any]:
        label = late.rows.clicked.astype(np.float64)
        p = expected(fitted, late.rows)
        return {
            "displays": len(label),
            "clicks": int(label.sum()),
            "log_loss": log_loss(p, label),
            "blend_log_loss": log_loss(self._blended(early, late), label),
            "constant_log_loss": log_loss(np.full(len(label), early.rows.clicked.mean()), label),
            "expected_over_clicks": float(p.sum() / max(label.sum(), 1.0)),
            "horizon_days": HORIZON_S / DAY,
        }

    def _blended(self, early: _Stretch, late: _Stretch) -> NDArray[np.float64]:
        """The blend's probabilities of the late displays, given places and levels too: a fair rival."""
        start = blank(place_table(early.rates, len(early.rates.place) // POSITIONS), buys=False)

        def spoken(part: _Stretch) -> Rows:
            """With the blend's log-odds in the place of what the ranker counts."""
            matrix = part.rows.matrix.copy()
            model = matrix[_MODEL] * np.float32(part.scale[1]) + np.float32(part.scale[0])
            model[matrix[_MODEL] == UNKNOWN] = np.nan
            kinds = part.rows.kind.astype(np.uint8)
            logit = self.blend.logit(kinds, model, matrix[_POPULARITY], matrix[_TIRED])
            matrix[_ITEM], matrix[_INTEREST], matrix[_HOUR] = logit - logit.mean(), 0.0, 0.0
            return part.rows._replace(matrix=matrix)

        past = spoken(early)
        label = past.clicked.astype(np.float64)
        tuned = calibrated(start, past, raw_of(start, past), label)
        return expected(tuned, spoken(late))

    def _live(self, phase: str) -> Live:
        dataset = self.prepared.dataset
        weights = self.prepared.config.weights.event_weights(
            self.fitted.params[self.chosen]["half_life_days"]
        )
        bundle = Bundle(
            version="draft",
            manifest={"event_weights": asdict(weights), "trained_until": dataset.now},
            items=dataset.items,
            compiled=dataset.compiled,
            stats=self.stats,
            model=self.fitted.model(phase, self.chosen),
            popular=self.fitted.popular(phase).popular,
            neighbours=neighbours_of(self.prepared),
            blend=self.blend,
            schemas=SCHEMAS,
        )
        plan = self.plan or default_plan(bundle.kind_counts())
        return build_live(bundle, (), plan, strict=False, bundles=only(bundle))

    def _stretch(
        self,
        live: Live,
        slots: tuple[str, ...],
        displays: Displays,
        numbers: dict[tuple[str, str], int],
        since: float,
        until: float,
        rng: np.random.Generator,
    ) -> _Stretch | None:
        signals, rates = self._signals(live, displays, len(slots), since)
        found = rows_of(self.lake, live, signals, displays, numbers, since, until, self.setting.pages, rng)
        if found is None:
            return None
        rows, heard = found
        scale = scale_of(rows.matrix)
        rescaled(rows.matrix, scale)
        return _Stretch(rows, rates, scale, heard)

    def _signals(self, live: Live, displays: Displays, slots: int, cut: float) -> tuple[Signals, Rates]:
        """Counts of what was displayed before the cut."""
        table = self.prepared.dataset.compiled.table
        codes = codes_of(table)
        past = displays.take(displays.at < cut)
        counts = Counts(past.place, past.item, past.clicked, past.converted < cut)
        rates = fit_rates(counts, slots * POSITIONS, codes[:, 0], codes[:, 2])
        due = rates.place[past.place] * rates.item[past.item]
        when = snapshots(max(cut - TIES_S, float(past.at[0]) if len(past.at) else cut - 1.0), cut)
        late = np.flatnonzero((past.at >= when[0]) & (past.subject >= 0))
        moment = np.searchsorted(when, past.at[late], side="right") - 1
        ties = fit_ties(
            np.concatenate([self._shares(codes[:, 0], one) for one in when.tolist()]),
            past.subject[late] + moment * self.prepared.dataset.n_users, past.item[late], past.clicked[late],
            due[late], codes[:, 0],
        )  # fmt: skip
        hours = fit_hours(
            codes[past.item, 1],
            clock_of(past.at, self._zones(past.subject)),
            past.clicked,
            due,
            int(codes[:, 1].max()) + 1,
        )
        return Signals(facts_of(table, rates, ties, hours), live.bundle.popular, UNSCALED), rates

    def _zones(self, subject: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """The time zone of each customer, b"" where it is not known."""
        served = self.prepared.dataset.served
        known = (served.known & np.uint64(PROFILE.bit("tz"))) != 0
        zones = np.append(np.where(known, served.records["tz"], b""), b"")
        found: NDArray[np.bytes_] = zones[subject]
        return found

    def _shares(self, category: NDArray[np.int32], cut: float) -> NDArray[np.float64]:
        """(customers, categories) of decayed interest before the cut, as the features have it."""
        events, people = self.prepared.dataset.interactions, self.prepared.dataset.n_users
        gain = INTEREST.of(events.what, events.action)
        held = (events.at < cut) & (gain > 0)
        width = int(category.max(initial=0)) + 1
        weight = gain[held] * np.exp2(-(cut - events.at[held]) / (INTEREST_DAYS * DAY))
        cell = events.user[held].astype(np.int64) * width + category[events.item[held]]
        share = np.bincount(cell, weight, people * width).reshape(people, width)
        found: NDArray[np.float64] = share / (share.sum(axis=1, keepdims=True) + 1)
        return found


class _Stretch(NamedTuple):
    """Logged displays of a window, the counts from before it, and the scale of its model's scores."""

    rows: Rows
    rates: Rates
    scale: tuple[float, float]
    heard: Heard

    def halves(self) -> tuple[_Stretch, _Stretch]:
        """Before and after the moment by which EARLIER of the displays had been decided."""
        before = self.rows.at <= np.quantile(self.rows.at, EARLIER)
        early, late = (
            self._replace(rows=self.rows.take(some), heard=self.heard.take(some))
            for some in (before, ~before)
        )
        return early, late


def _none(why: str, report: dict[str, Any] | None = None) -> RankerVerdict:
    return RankerVerdict(None, (report or {}) | {"why_not": why})


def _said(report: dict[str, Any]) -> str:
    return (
        f"{report['displays']:,} held-out displays: log loss {report['log_loss']:.5f}, the blend's"
        f" {report['blend_log_loss']:.5f}, a constant's {report['constant_log_loss']:.5f};"
        f" expected clicks over real ones {report['expected_over_clicks']:.3f}"
    )
