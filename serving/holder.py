"""What the service is running by right now: one `Live`, replaced whole by one assignment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from serving.bandit import NOTHING_LEARNED, Learned
from serving.errors import Problem
from serving.live import Live
from serving.prices import NO_PRICES, Prices

STALE_S: Final = 5.0
OLD_PRICES_S: Final = 10.0


class Holder:
    """A request takes `live` once and uses nothing newer until it has answered."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._live: Live | None = None
        self._polled: float | None = None
        self._prices, self._learned = NO_PRICES, NOTHING_LEARNED
        self._prices_at = monotonic()
        self.reason = "the service is starting"
        """Why there is nothing to run by, for /readyz."""

    @property
    def live(self) -> Live:
        """Raises Problem `not_ready` while nothing has been loaded."""
        if self._live is None:
            raise Problem("not_ready", self.reason)
        return self._live

    @property
    def current(self) -> Live | None:
        return self._live

    @property
    def prices(self) -> Prices:
        """The last good ones, whatever the plan; `live.prices` are the same by the plan's campaigns."""
        return self._prices

    def swap(self, live: Live) -> None:
        self._live = live.priced(self._prices).taught(self._learned)

    def take_prices(self, prices: Prices, now: float) -> None:
        """New prices under the running bundle and plan; nothing is built. `now`: POSIX seconds.

        Their age counts from here by this machine's clock, so that a pacer with another time is not old at
        once; only the first prices met may have been lying there since the pacer died.
        """
        first = self._prices is NO_PRICES
        waited = max(0.0, now - prices.made_at) if first else 0.0
        self._prices, self._prices_at = prices, self._monotonic() - waited
        if self._live is not None:
            self._live = self._live.priced(prices)

    def teach(self, learned: Learned) -> None:
        """A version of the bandit under the running bundle and plan; nothing is built."""
        self._learned = learned
        if self._live is not None:
            self._live = self._live.taught(learned)

    @property
    def prices_age_s(self) -> float:
        """Since the last prices were made; since the start when there have been none."""
        return self._monotonic() - self._prices_at

    @property
    def prices_stale(self) -> bool:
        """Whether pages should say `prices`: goals or quotas are to be paced and nobody is pacing."""
        return self.prices_age_s > OLD_PRICES_S and self._live is not None and has_promises(self._live)

    def polled(self) -> None:
        """Control has answered, and everything it said is in force or was refused."""
        self._polled = self._monotonic()

    @property
    def stale(self) -> bool:
        """Whether control has been silent for so long that pages should say so."""
        return self._polled is None or self._monotonic() - self._polled > STALE_S


def has_promises(live: Live) -> bool:
    """Whether the plan has goals or quotas, hence prices that somebody must keep up."""
    return bool(live.plan.campaigns.goals or live.plan.campaigns.quotas)
