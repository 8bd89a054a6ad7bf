"""What the service is running by: a bundle, overlay, plan and kills, replaced together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.ids import LAYOUTS, key32
from serving.arm_bundles import LoadBundle, bundle_of_arm, unknown
from serving.arm_plans import AS_PLANNED, Tuning, combined
from serving.audience_facts import lookups_of
from serving.bandit import NOTHING_LEARNED, Learned
from serving.bundle import Bundle
from serving.creative_choices import CreativeChoices
from serving.domain import Decision, Drops, Effort, Rows
from serving.experiment_compiling import compile_experiments
from serving.experiments import NO_EXPERIMENTS, CompiledExperiments
from serving.filters import rules_of
from serving.ghosts import NO_GHOSTS, Ghosts
from serving.items import Entry, Items, content_digest, items_in_effect
from serving.kills import Kills, Switch
from serving.market import Stalls
from serving.newcomers import Newcomers
from serving.page_seating import ASK, NOTHING
from serving.page_slots import Shape
from serving.pipeline import Pipeline
from serving.plan import CompiledPlan, Plan, PlanError, Stock, compile_plan
from serving.prices import NO_PRICES, PriceColumns, Prices
from serving.running import OfferTable
from serving.seats import Behind
from serving.surfaces import pipelines
from serving.texts import Texts
from serving.worth import Worth, price_table

# What lotteries look at of an item, side by side: one line of the processor's cache. `picks`: by layout.
LOTTERY_ITEM: Final = np.dtype(
    [
        ("members", np.uint64),
        ("unsure", np.float32),  # serving.newcomers
        ("kind", np.uint8),
        ("picks", np.int16, (len(LAYOUTS),)),
    ],
    align=True,
)


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """A consistent view. A request takes it once and uses nothing newer until it has answered."""

    bundle: Bundle
    plan: CompiledPlan
    items: Items
    kills: Kills
    overlay_seq: int
    rules: Drops  # (n rows,) which rules each row is subject to; 0 = open to everybody
    ranked: Rows  # all rows, most popular first
    keys: NDArray[np.uint64]  # (n rows,)
    categories: NDArray[np.uint32]
    category_of: list[int]  # the same, and the kind's code, for loops: a list answers one row fastest
    kind_of: list[int]
    named_creatives: list[frozenset[int] | None]  # per offer of the table the only creatives it may use
    naming: NDArray[np.uint8]  # the same: whether it names any
    pipelines: Mapping[Effort, Pipeline]
    offers: OfferTable
    stalls: Stalls
    price: PriceColumns  # `prices` by the plan's campaigns
    price_table: NDArray[np.float32]  # (campaigns, 3) the same for arithmetic
    orgs: Mapping[int, str]  # key32 -> id of the plan's orgs
    newcomers: Newcomers
    prices: Prices = NO_PRICES
    learned: Learned = NOTHING_LEARNED
    features_version: str | None = None
    materialised: frozenset[str] = frozenset()
    watermark: float = inf  # POSIX seconds: no profile of the key space holds anything newer
    changes: tuple[Entry, ...] = ()  # the overlay in force
    lists: Mapping[str, int] = field(default_factory=dict)  # numbers by name
    content: str = ""  # digest of both, by which a record names them
    thrown: tuple[tuple[str, str], ...] = ()  # the kills as control says them: scope and id
    problems: tuple[str, ...] = ()  # of the overlay and of the plan over it; nothing unsafe
    experiments: CompiledExperiments = NO_EXPERIMENTS
    ghosts: Ghosts = NO_GHOSTS
    variants: Mapping[frozenset[int], Live] = field(default_factory=dict)  # by numbers of arms with changes
    rebased: Mapping[str, frozenset[int]] = field(default_factory=dict)  # other bundles: a variant over each
    # Memos, the same on every replica: creatives by language; and the slots of pages as columns.
    _tables: dict[bool, NDArray[np.int16]] = field(default_factory=dict, repr=False)
    _lottery_items: dict[bool, NDArray[np.void]] = field(default_factory=dict, repr=False)
    _bare: set[bool] = field(default_factory=set, repr=False)
    # By `learned`: creatives at a place, and arms of adaptive experiments by group, cell and names.
    choices: CreativeChoices = field(default_factory=CreativeChoices, repr=False)
    chances: dict[tuple[int, int, tuple[str, ...]], tuple[float, ...]] = field(
        default_factory=dict, repr=False
    )
    lottery_slots: dict[object, NDArray[np.float64] | None] = field(default_factory=dict, repr=False)
    shapes: dict[tuple[object, ...], Shape] = field(default_factory=dict, repr=False)
    behind: dict[tuple[object, ...], Behind] = field(default_factory=dict, repr=False)  # of one second

    def priced(self, prices: Prices) -> Live:
        """The same view by other prices; nothing is built anew."""
        price = prices.columns(self.plan.campaigns)
        variants = {arms: one.priced(prices) for arms, one in self.variants.items()}
        return replace(self, prices=prices, price=price, price_table=_table(price), variants=variants)

    def taught(self, learned: Learned) -> Live:
        """The same view by another version of the bandit; nothing is built anew."""
        variants = {arms: one.taught(learned) for arms, one in self.variants.items()}
        fresh = learned.fresh if learned.bundle == self.bundle.version else {}
        newcomers = self.newcomers.told(fresh, self.items.rows_of_keys)
        items = {english: held.copy() for english, held in self._lottery_items.items()}
        for held in items.values():
            held["unsure"] = newcomers.unsure
        return replace(
            self,
            learned=learned,
            newcomers=newcomers,
            variants=variants,
            _lottery_items=items,
            choices=CreativeChoices(),
            chances={},
        )

    def under(self, arms: Iterable[int]) -> Live:
        """The same view as arms of experiments have it, by their numbers; −1 changes nothing."""
        changed = [arm for arm in arms if arm >= 0]
        return self.variants[frozenset(changed)] if changed else self

    def of(self, decision: Decision) -> Live:
        """A view over the bundle that a decision of this one was made from: whose rows its places are."""
        return self.over(decision.bundle)

    def over(self, bundle: str) -> Live:
        """A view over a bundle that an arm is served from; this one where no arm is."""
        arms = self.rebased.get(bundle)
        return self if arms is None else self.variants[arms]

    @property
    def others(self) -> Iterator[Live]:
        """A view over each bundle that arms are served from beside this one's."""
        return (self.variants[arms] for arms in self.rebased.values())

    @property
    def texts(self) -> Texts:
        return self.items.texts

    @property
    def table(self) -> NDArray[np.void]:
        return self.items.table

    def row(self, item_id: str) -> int | None:
        """The row of an item, of the bundle or put since; None when there is none."""
        return self.items.row(item_id)

    def creative(self, row: int, layout: int, english: bool, now: float) -> int | None:
        """What is rendered of a row in a layout code: `ItemText.pick`, remembered where it is timeless."""
        picks = self.pick_table(english)
        found = int(picks[layout, row])
        if found == ASK:
            text = self.items.texts[row]
            picked = text.pick(layout, "en" if english else "zh-CN", now, self.kills.creatives)
            if not text.timeless:
                return picked
            found = picks[layout, row] = NOTHING if picked is None else picked
            if picked is None:
                self._bare.add(english)
        return None if found == NOTHING else found

    def bare(self, english: bool) -> bool:
        """Whether there are rows of which it is known that nothing can ever be rendered in some layout."""
        return english in self._bare

    def creative_among(
        self, row: int, layout: int, english: bool, now: float, allowed: frozenset[int]
    ) -> int | None:
        """The first of these creatives that may be shown now, in the language where there is one."""
        creatives = self.items.texts[row].creatives
        shown = [
            index
            for index, one in enumerate(creatives)
            if one.key in allowed and one.key not in self.kills.creatives and one.shows(layout, now)
        ]
        wanted = "en" if english else "zh"
        spoken = [index for index in shown if creatives[index].locale.startswith(wanted)]
        return next(iter(spoken or shown), None)

    def lottery_items(self, english: bool) -> NDArray[np.void]:
        """(rows,) LOTTERY_ITEM; `picks`: what exploration remembers of `creative`, ASK where it is to ask."""
        held = self._lottery_items.get(english)
        if held is None:
            held = self._lottery_items[english] = np.empty(len(self), LOTTERY_ITEM)
            held["members"], held["kind"], held["picks"] = self.plan.members, self.kind_of, ASK
            held["unsure"] = self.newcomers.unsure
        return held

    def pick_table(self, english: bool) -> NDArray[np.int16]:
        """(layouts, rows) what `creative` remembers; ASK where it is to be asked."""
        held = self._tables.get(english)
        if held is None:
            held = self._tables[english] = np.full((len(LAYOUTS), len(self)), ASK, np.int16)
        return held

    def picks(self, layout: int, english: bool) -> NDArray[np.int16]:
        """The same of one layout."""
        of_layout: NDArray[np.int16] = self.pick_table(english)[layout]
        return of_layout

    def __len__(self) -> int:
        return len(self.items)


def build_live(
    bundle: Bundle,
    overlay: Sequence[Entry],
    plan: Plan,
    kills: Iterable[Switch] = (),
    *,
    overlay_seq: int | None = None,
    features_version: str | None = None,
    materialised: Iterable[str] = (),
    watermark: float = inf,
    prices: Prices = NO_PRICES,
    lists: Mapping[str, int] | None = None,
    strict: bool = True,
    tuning: Tuning = AS_PLANNED,
    bundles: LoadBundle = unknown,
    items: Items | None = None,
) -> Live:
    """Build a view aside; nothing is touched when it fails. Milliseconds for 3,000 items.

    `overlay` holds every entry since the bundle, in any order; `lists`: numbers of uploaded lists by name;
    `bundles` loads what arms are served from; `items`: those of bundle and overlay, where they are made.
    Raises PlanError when the plan does not fit the bundle's items; when only the overlay or a kill makes it
    short (or `strict` is False, for a preview), it stands and `problems` says so. An arm whose bundle cannot
    be loaded is never served from another one: that raises whatever `strict` says.
    """
    kills = tuple(kills)
    stopped = Kills.of(kills)
    items = items_in_effect(bundle, overlay) if items is None else items
    stock = _stock(items, stopped, lists)
    compiled = compile_plan(plan, stock, strict=False)
    if strict and compiled.problems:
        compile_for(plan, bundle, lists)
    table = items.table
    campaigns = compiled.campaigns
    offers = OfferTable.of(campaigns)
    named = [campaigns.offer_creatives[offer] for offer in offers.offer.tolist()]
    categories = _dense(table["category"])
    worth = Worth.of(
        compiled.values,
        bundle.stats,
        stock.kinds,
        np.ascontiguousarray(table["key"]),
        costs=table["cost"],
        uplift=bundle.uplift,
        tops=stock.tops,
    )
    offered, price = worth.bound(campaigns), prices.columns(campaigns)
    killed = np.array([name in stopped.campaigns for name in campaigns.ids], np.bool_)
    live = Live(
        bundle=bundle,
        plan=compiled,
        items=items,
        kills=stopped,
        overlay_seq=overlay_seq if overlay_seq is not None else max((e.seq for e in overlay), default=0),
        rules=stock.rules,
        ranked=stock.ranked,
        keys=np.ascontiguousarray(table["key"]),
        categories=np.ascontiguousarray(table["category"]),
        category_of=table["category"].tolist(),
        kind_of=stock.kinds.tolist(),
        named_creatives=named,
        naming=np.array([of is not None for of in named], np.uint8),
        pipelines=pipelines(
            *(items, compiled, stock.rules, stock.ranked, offers, offered, killed, tuning, worth.measured)
        ),
        offers=offers,
        stalls=Stalls(
            *(campaigns, offers, worth, offered, compiled.slots.values()), table, compiled.members, categories
        ),
        price=price,
        price_table=_table(price),
        orgs={key32(name): name for name in compiled.orgs.lineages},
        newcomers=Newcomers.of(bundle.stats["clicks"], len(table)),
        prices=prices,
        features_version=features_version,
        materialised=frozenset(materialised),
        watermark=watermark,
        changes=tuple(overlay),
        lists=dict(lists or {}),
        content=content_digest(overlay, lists or {}),
        thrown=tuple((one.scope, one.id) for one in kills),
        problems=(*items.problems, *(str(problem) for problem in compiled.problems)),
        ghosts=Ghosts.of(plan, campaigns.ids),
    )
    if plan.experiments is None or not plan.experiments.layers:
        return live
    experiments = compile_experiments(
        plan,
        {slot.name: slot.bit for slot in compiled.slots.values()},
        lookups_of(items.rows_of_keys, table),
        lists=lists,
        tags=stock.tags,
    )
    variants = _variants(live, experiments, overlay, kills, lists=lists, strict=strict, bundles=bundles)
    told = {
        problem if one.bundle is bundle else f"bundle {one.bundle.version}: {problem}"
        for one in variants.values()
        for problem in one.problems
    } - set(live.problems)
    problems = (*live.problems, *(f"experiments: {problem}" for problem in sorted(told)))
    rebased = {one.bundle.version: arms for arms, one in variants.items() if one.bundle is not bundle}
    return replace(live, experiments=experiments, variants=variants, rebased=rebased, problems=problems)


def _variants(
    live: Live,
    experiments: CompiledExperiments,
    overlay: Sequence[Entry],
    kills: tuple[Switch, ...],
    *,
    lists: Mapping[str, int] | None,
    strict: bool,
    bundles: LoadBundle,
) -> dict[frozenset[int], Live]:
    """The view under every set of arms that a unit can be in. Raises PlanError as `build_live` does.

    Views over one bundle share its items: rows and texts are the same in all of them.
    """
    number = {name: at for at, name in enumerate(experiments.arms)}
    made: dict[frozenset[int], Live] = {}
    loaded, items = {live.bundle.version: live.bundle}, {live.bundle.version: live.items}
    short = bool(live.plan.problems)
    for names, plan, tuning in combined(live.plan.plan):
        if not all(name in number for name in names):
            continue  # of an experiment that is paused
        bundle = live.bundle
        if (version := tuning.bundle) is not None:
            if version not in loaded:
                loaded[version] = bundle_of_arm(live.plan.plan, version, live.bundle, bundles)
            bundle = loaded[version]
        own = bundle is not live.bundle
        try:
            view = made[frozenset(number[name] for name in names)] = build_live(
                bundle,
                overlay,
                plan,
                kills,
                overlay_seq=live.overlay_seq,
                features_version=live.features_version,
                materialised=live.materialised,
                watermark=live.watermark,
                prices=live.prices,
                lists=lists,
                strict=strict and (own or not short),  # what is short already is said of the plan itself
                tuning=tuning,
                items=items.get(bundle.version),
            )
        except PlanError as error:
            over = f", bundle {bundle.version}" if own else ""
            raise error.within(f"experiments ({', '.join(names)}{over})") from None
        items.setdefault(bundle.version, view.items)
    return made


def compile_for(plan: Plan, bundle: Bundle, lists: Mapping[str, int] | None = None) -> CompiledPlan:
    """What `fenliu plan check` runs: the plan over a bundle alone. Raises PlanError."""
    return compile_plan(plan, _stock(items_in_effect(bundle, ()), Kills(), lists))


def check_fit(plan: Plan, bundle: Bundle, bundles: LoadBundle = unknown) -> None:
    """The plan over its bundle, and every arm over its own, whatever lists there are. Raises PlanError."""
    build_live(bundle, (), plan, bundles=bundles)


def _dense(category: NDArray[np.uint32]) -> NDArray[np.int32]:
    known, dense = np.unique(category, return_inverse=True)
    return np.ascontiguousarray(dense if len(known) and known[0] == 0 else dense + 1, np.int32)


def _table(price: PriceColumns) -> NDArray[np.float32]:
    return price_table(price.display, price.click, price.convert)


def _stock(items: Items, kills: Kills, lists: Mapping[str, int] | None = None) -> Stock:
    table = items.table
    killed = [row for row in (items.row(name) for name in kills.items) if row is not None]
    return Stock(
        row=items.row,
        kinds=np.ascontiguousarray(table["kind"]),
        layouts=items.layouts,
        rules=rules_of(table, killed),
        ranked=_ranked(items),
        creatives=lambda row: items.texts[row].creatives,
        categories=np.ascontiguousarray(table["category"]),
        tops=np.ascontiguousarray(table["top_category"]),
        lists=lists,
    )


def _ranked(items: Items) -> Rows:
    """All rows by everybody's popularity; what nobody has touched, and what came since, by row."""
    n = len(items.bundle)
    share = np.zeros(len(items), np.float32)
    share[:n] = items.bundle.popular.share(0, np.arange(n, dtype=np.int32))
    return np.argsort(-np.nan_to_num(share), kind="stable").astype(np.int32)


def describe(live: Live) -> dict[str, Any]:
    """Versions and sizes, for health, metrics and logs."""
    return {
        "bundle": live.bundle.version,
        "plan": live.plan.version,
        "overlay_seq": live.overlay_seq,
        "features": live.features_version,
        "items": len(live),
        "problems": len(live.problems),
    }
