"""The synthetic bank: who would have bought anyway."""

from __future__ import annotations

import numpy as np
import pytest

from features.ids import KIND_CODE
from tests.synthetic import close, world
from training.world import HOME
from training.world.needs import DAY, HORIZON, STRATA, Needs


class TestUplift:
    def pairs(self, kind: str, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(6)
        items = np.flatnonzero(world().catalogue.kind == KIND_CODE[kind])
        return rng.integers(0, 3_000, count), rng.choice(items, count)

    def test_strata(self) -> None:
        uplift = world().uplift(*self.pairs("benefit"))
        by = {name: uplift.stratum == row for row, name in enumerate(STRATA)}
        assert all(mask.any() for mask in by.values())
        assert (uplift.delta[by["persuadable"]] >= 0.05).all()
        sure = by["sure_thing"]
        assert (uplift.base[sure] >= 0.5).all() and np.abs(uplift.delta[sure]).mean() < 0.02
        assert np.abs(uplift.delta[uplift.base > 0.8][uplift.delta[uplift.base > 0.8] >= 0]).max() < 0.01
        assert (uplift.delta[by["put_off"]] < 0).all()
        assert np.abs(uplift.delta[by["lost_cause"]]).mean() < 0.05
        assert ((uplift.treated >= 0) & (uplift.treated <= 1)).all()

    def test_thrift_and_offer_matter(self) -> None:
        who, items = self.pairs("benefit")
        gain = world().uplift(who, items).delta
        thrifty = world().customers.thrift[who] > 0.6
        offer = world().catalogue.pull[items] > np.median(world().catalogue.pull[items])
        fine = gain >= 0
        assert gain[thrifty & fine].mean() > 1.5 * gain[~thrifty & fine].mean()
        assert gain[offer & fine].mean() > 1.2 * gain[~offer & fine].mean()

    def test_other_kinds_have_no_base(self) -> None:
        content = np.flatnonzero(world().catalogue.kind == KIND_CODE["content"])[:1]
        with pytest.raises(ValueError, match="family of needs"):
            world().uplift(np.array([0]), content)

    def test_both_arms_of_a_trial_show_the_true_uplift(self) -> None:
        """Randomised: the same customers, some of whom click a benefit; count purchases in the horizon."""
        who, items = np.arange(3_000), self.pairs("benefit", 3_000)[1]
        truth = world().uplift(who, items)
        family = world().catalogue.family[items]
        delta = np.where(
            truth.delta < 0, truth.delta / np.maximum(truth.base, 1e-12), truth.delta / (1 - truth.base)
        )
        at = np.full(3_000, world().start)
        hits = {True: 0, False: 0}
        runs = 40
        for run in range(runs):
            for treated in (True, False):
                rng = np.random.default_rng([run, treated])
                needs = Needs(rng, world().rates, world().start)
                bought = np.zeros(3_000, bool)
                if treated:
                    bought, _ = needs.answer(rng, who, family, delta.astype(np.float32), at)
                buyers, families, _ = needs.own_purchases(rng, who, at + HORIZON)
                # a purchase that was pulled into the placement is one, not two: look at the first only
                bought[buyers[families == family[buyers]]] = True
                hits[treated] += int(bought.sum())
        assert close(hits[True], np.tile(truth.treated, runs))
        assert close(hits[False], np.tile(truth.base, runs))

    def test_a_page_place_is_worth_its_clicks_uplift(self) -> None:
        who, items = self.pairs("benefit", 500)
        page = np.full((500, HOME.places), -1)
        page[:, HOME.columns(4).start] = items
        p = world().probabilities(who, page, world().start)
        place = HOME.columns(4).start
        truth = world().uplift(who, items)
        clicked = p.click[:, place] * truth.delta
        assert (np.abs(p.uplift[:, place]) >= np.abs(clicked) * 0.999 - 1e-6).all()
        assert p.uplift[:, place].sum() == pytest.approx(clicked.sum(), rel=0.6)
        assert (p.uplift <= p.click * p.convert + 0.05).all()

    def test_what_has_shown_itself_changes_the_chances(self) -> None:
        needs = Needs(np.random.default_rng(0), world().rates, world().start)
        who, family, none = np.arange(3_000), np.full(3_000, 8), np.zeros(3_000, np.float32)
        at = np.full(3_000, world().start)
        before, _ = needs.chances(who, family, none, at)
        bought, _ = needs.answer(np.random.default_rng(1), who, family, none, at)
        again, _ = needs.chances(who, family, none, at)
        assert close(bought.sum(), before)
        assert (again[~bought] == 0).all()  # no purchase of their own is to come within the horizon
        later, _ = needs.chances(who, family, none, at + 7 * DAY)
        assert (later[~bought] > 0).all() and (later[~bought] < before[~bought]).all()
