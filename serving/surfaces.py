"""THE composition: what each rung of effort runs, and what each layout makes of it. Read this first.

    rung      candidates                                       ranked by             campaigns
    full      every source                                     ranker, or blend      all that run
    light     all but the model's own search                   the bundle's blend    all that run
    cached    the customer's last page                         the order it had      mandatory ones
    popular   what is popular with everybody                   popularity            all that run
    fallback  none: the operators' picks, then open items                            mandatory ones

Every rung is filtered by every rule of `serving.filters.FILTERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from features.views import ITEM
from serving.arm_plans import AS_PLANNED, Tuning
from serving.audience_facts import lookups_of
from serving.domain import Effort, Mask, Rows
from serving.external import External
from serving.filters import FILTERS
from serving.hydrators import Affinity, Fatigue
from serving.interest import RecentInterest
from serving.items import Items
from serving.permission import Permission
from serving.persuasion import Persuasion
from serving.pipeline import Hydrator, Pipeline, Scorer, Source, Understanding
from serving.plan import CompiledPlan
from serving.ranking import Ranked
from serving.running import CampaignItems, OfferTable, Running
from serving.scorers import Blended, HeldLast
from serving.selectors import BestFirst
from serving.sources import (
    Cached,
    NearestToAnchor,
    NearestToCustomer,
    NearestToRecent,
    NearLocation,
    New,
    PopularInCity,
    PopularInSegment,
    PopularWithEverybody,
    Taste,
)
from serving.table_models import PopularModel
from serving.uplift import MeasuredRows
from serving.worth import OfferWorth

SOURCES: Final = (
    "nearest_to_customer",
    "nearest_to_anchor",
    "nearest_to_recent",
    "popular_in_segment",
    "popular_in_city",
    "near_location",
    "new",
    "cached",
    "popular_with_everybody",
    "operator",  # a slot's fallback list in the plan
    "backfill",  # the slot's popular items, when nothing else was left
    "campaign",  # an item of a campaign that runs for this page
    "external",  # a score of one of the bank's own models
)
"""A source's place here is its bit in a placement's origin."""

BIT: Final[Mapping[str, int]] = {name: bit for bit, name in enumerate(SOURCES)}
ALL: Final = (1 << len(SOURCES)) - 1


def _all_but(*names: str) -> int:
    return ALL & ~sum(1 << BIT[name] for name in names)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a layout is filled. Limits are preferences: they yield before a place stays empty."""

    selector: BestFirst
    per_category: int  # of one category path
    per_kind: float = 1.0  # share of the slot, where it takes several kinds
    reserved: tuple[int, ...] = ()  # sources whose best candidate gets the last place when none got one


RECIPES: Final[Mapping[str, Recipe]] = {
    "banner": Recipe(BestFirst(ALL), per_category=2, per_kind=0.6),
    "icon_grid": Recipe(BestFirst(_all_but("new")), per_category=4),
    "shelf": Recipe(BestFirst(ALL), per_category=3),
    "popup": Recipe(BestFirst(_all_but("new")), per_category=1),
    "feed": Recipe(BestFirst(ALL), per_category=3, per_kind=0.5, reserved=(BIT["near_location"], BIT["new"])),
    "push": Recipe(BestFirst(_all_but("new")), per_category=1),
    "search_hint": Recipe(BestFirst(ALL), per_category=2),
}


def pipelines(
    items: Items,
    plan: CompiledPlan,
    rules: NDArray[np.uint32],
    ranked: Rows,
    offers: OfferTable,
    worth: OfferWorth,
    stopped: Mask,
    tuning: Tuning = AS_PLANNED,
    measured: MeasuredRows | None = None,
) -> dict[Effort, Pipeline]:
    """The pipeline of each rung over the rows in effect; `ranked`: all rows, most popular first; `measured`:
    what the bundle knows of uplift.

    `stopped` (campaigns,): those that a kill switch holds.
    """
    bundle, campaigns = items.bundle, plan.campaigns
    shown = np.flatnonzero(plan.members != 0).astype(np.int32)  # rows that stand somewhere without a campaign
    known = shown[shown < len(bundle)]
    columns = {name: np.ascontiguousarray(items.table[name]) for name in ITEM.names}
    kinds, published = columns["kind"], columns["published_at"].copy()
    since = published[len(bundle) :]
    since[since == 0] = np.inf  # put since the bundle, without a date of its own
    by_kind = tuple(known[kinds[known] == kind] for kind in range(len(KINDS)))

    taste = Taste(bundle.model, bundle.weights, items.rows_of_keys, bundle.trained_until)
    sources: dict[str, Source] = {
        "nearest_to_customer": NearestToCustomer(bundle.model, by_kind),
        "nearest_to_anchor": NearestToAnchor(bundle.neighbours),
        "nearest_to_recent": NearestToRecent(bundle.neighbours),
        "popular_in_segment": PopularInSegment(bundle.popular),
        "popular_in_city": PopularInCity(bundle.popular),
        "near_location": NearLocation(ranked[plan.members[ranked] != 0], columns["location"]),
        "new": New(shown, kinds, published),
        "cached": Cached(len(items)),
        "popular_with_everybody": PopularWithEverybody(bundle.popular),
    }
    sources["external"] = External(items.rows_of_keys)
    blended = Blended(bundle.blend, bundle.popular, kinds)
    lookups = lookups_of(items.rows_of_keys, columns)
    paused = np.array([name in tuning.paused for name in campaigns.ids], np.bool_)
    running = Running(campaigns, plan.audiences, lookups, plan.lineages, plan.called, stopped, paused)
    sources["campaign"] = CampaignItems(campaigns, offers, blended, worth, mandatory=False)
    notices = CampaignItems(campaigns, offers, blended, worth, mandatory=True)
    hydrators: tuple[Hydrator, ...] = (Affinity(bundle.model), Fatigue(items.rows_of_keys))
    if tuning.ranker == "popularity":
        hydrators = hydrators[1:]
    scorers: tuple[Scorer, ...] = (blended,)
    if isinstance(bundle.model, PopularModel):  # it knows no history
        scorers = (*scorers, RecentInterest(bundle.neighbours))
    second: tuple[Scorer, ...] = ()
    if bundle.ranker is not None:
        second = (Ranked(bundle.ranker, bundle.popular, kinds),)
    held_last = HeldLast.of(columns["repeat"], columns["key"])
    last: tuple[Scorer, ...] = (held_last,) if held_last.again else ()
    permission = Permission(FILTERS, columns, rules)

    def rung(
        understanding: tuple[Understanding, ...],
        names: tuple[str, ...],
        hydrators: tuple[Hydrator, ...],
        scorers: tuple[Scorer, ...],
        campaigns: Source = sources["campaign"],
    ) -> Pipeline:
        asked = (name for name in names if name not in tuning.sources_off)
        chosen = (*((BIT[name], sources[name]) for name in asked), (BIT["campaign"], campaigns))
        return Pipeline(understanding, chosen, permission, hydrators, scorers)

    persuasion = () if measured is None else (Persuasion(measured),)
    personal: tuple[Understanding, ...] = (taste, *persuasion, running)
    return {
        "full": rung(personal, (*SOURCES[:7], "external"), hydrators, (*scorers, *second, *last)),
        "light": rung(personal, (*SOURCES[1:7], "external"), hydrators, (*scorers, *last)),
        "cached": rung((running,), ("cached",), (), (), notices),
        "popular": rung((running,), ("popular_with_everybody",), (), (*scorers, *last)),
        "fallback": rung((running,), (), (), (), notices),
    }
