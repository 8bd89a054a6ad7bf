"""Ghost placements through `decide()`: pages of a bank with campaigns, and what customers buy after them.

Who is shown a campaign and who would have been is told by the pages themselves. What follows is drawn many
times over the same pages, with another true effect each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.decide import decide
from serving.experiment import Experiments
from serving.live import Live, build_live
from training.bench.decide_world import live_of, queries
from training.bench.tally import Tally
from training.experiment.statistics import Moments, adjusted

SHARE: Final = 0.05
DAYS: Final = 14.0
LEAST: Final = 40  # ghosts of a campaign that is estimated
Z: Final = 1.959964
Ints = NDArray[np.int8]


def lifts_of_pages(
    tally: Tally, campaigns: int, customers: int, rounds: int, seed: int, tick: Callable[[int, int], None]
) -> None:
    """Coverage of true lifts; bars on it, and on nobody being shown what they are held out from."""
    live = _held_out(live_of(400, campaigns, 6, seed))
    met, held = _met(live, customers, seed, tick)
    shown, ghosts = met == 1, met == 2
    tally.put("pages", customers, "", f"decided with {campaigns} campaigns, {SHARE:.0%} held out of each")
    tally.put("pages_shown_held", int((shown & held).sum()), "", "shown to who is held out", ("<=", 0))
    tally.put("pages_ghost_free", int((ghosts & ~held).sum()), "", "ghosts of who is not", ("<=", 0))
    some = np.flatnonzero(ghosts.sum(axis=0) >= LEAST)
    tally.put("pages_ghosts", float(ghosts[:, some].sum(axis=0).mean()), "", f"of {len(some)} campaigns each")
    rng, covered, asked = np.random.default_rng([seed, 8]), 0, 0
    for _ in range(rounds):
        rate = rng.gamma(0.8, 0.25, customers)  # purchases a day
        before = rng.poisson(rate * DAYS).astype(np.float64)
        effect = rng.uniform(0.0, 0.4, len(some))
        for number, of in enumerate(some.tolist()):
            more = 1 + effect[number] * shown[:, of]
            later = rng.poisson(rate * DAYS * more).astype(np.float64)
            one, other = (Moments.of([later[who[:, of]], before[who[:, of]]]) for who in (ghosts, shown))
            low, high = adjusted(one, other).absolute.interval(Z)
            covered += low <= effect[number] * DAYS * 0.8 * 0.25 <= high
            asked += 1
    note = f"95 % intervals of {asked:,} lifts that hold the true one"
    tally.put("pages_cover", covered / asked if asked else float("nan"), "", note, (">=", 0.93))


def _held_out(live: Live) -> Live:
    plan = live.plan.plan.model_copy(update={"experiments": Experiments(ghosts=SHARE)})
    return build_live(live.bundle, (), plan, prices=live.prices)


def _met(
    live: Live, customers: int, seed: int, tick: Callable[[int, int], None]
) -> tuple[Ints, NDArray[np.bool_]]:
    """(customers, campaigns) 0 nothing, 1 shown, 2 would have been; and who is held out."""
    n = len(live.plan.campaigns.ids)
    met, held = np.zeros((customers, n), np.int8), np.zeros((customers, n), np.bool_)
    for at, query in enumerate(queries(live, customers, 8, seed)):
        page = decide(query, live)
        held[at] = live.ghosts.held(query.customer.unit or query.subject)
        met[at, [place.campaign for place in page.placements if place.campaign >= 0]] = 1
        met[at, [one.campaign for one in page.ghosts]] = 2
        tick(at + 1, customers)
    return met, held
