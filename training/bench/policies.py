"""Ways to set prices: the product's controller, and those it is compared with, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from serving.curves import Floats
from serving.pacing import Goals, GoalsSeen, PacingSettings, Quotas, QuotasSeen, begin, update
from training.bench.flight14 import Policy
from training.bench.offline14 import Offline
from training.bench.rivals14 import Greedy, Hourly, Mirror, Percentile, Pid, Throttle
from training.bench.traffic14 import Market
from training.dual import CLICKED

DEFAULT: Final = PacingSettings()


class Ours:
    """`serving.pacing`, started from the offline dual."""

    passing: Floats | None = None

    def __init__(self, market: Market, offline: Offline, settings: PacingSettings = DEFAULT) -> None:
        programme = offline.programme
        self.settings = settings
        self.goals = Goals(
            market.campaigns.pacing[programme.goal_campaign],
            programme.penalty,
            offline.dual.goals,
            offline.answer,
            programme.goal_unit == CLICKED,
        )
        self.quotas = Quotas(programme.ceiling, offline.dual.quotas, offline.quota_answer)
        self.state = begin(self.goals, self.quotas)

    def prices(self, _minute: int, seen: GoalsSeen, spent: QuotasSeen) -> tuple[Floats, Floats]:
        self.state, paced = update(self.state, self.goals, self.quotas, seen, spent, self.settings)
        return paced.goals, paced.quotas


MAKERS: Final[dict[str, Callable[..., Policy]]] = {
    "ours": Ours,
    "greedy": Greedy,
    "hourly": Hourly,
    "pid": Pid,
    "mirror": Mirror,
    "throttle": Throttle,
    "percentile": Percentile,
}
RIVALS: Final = tuple(MAKERS)[1:]
NAMED: Final = RIVALS[:4]  # those that the bench is asked for


def policy(name: str, market: Market, offline: Offline, **settings: Any) -> Policy:
    """Raises ValueError for a name that is none of `MAKERS`. `settings`: its gains, by name."""
    if name not in MAKERS:
        raise ValueError(f"no policy is called {name!r}: name some of {', '.join(MAKERS)}")
    return MAKERS[name](market, offline, **settings)
