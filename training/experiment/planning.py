"""Before launch: how many units and days an experiment needs, or what it could find in the time there is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, sqrt
from typing import Final

import numpy as np
from scipy import stats

from training.experiment.sequential import ALPHA, Looks, critical

DAYS: Final = 60
USUAL: Final = 14  # planned days of an experiment that has no end
OF_LIFT: Final = 28  # of a campaign's lift, which is read as long as the campaign runs


@dataclass(frozen=True, slots=True)
class Need:
    """`units` in all arms together; `days` None: not within the time looked at."""

    units: int
    single_look: int  # the same for one look at a time fixed beforehand
    days: int | None
    effect: float  # absolute
    power: float


def planned_days(
    start: datetime | None, until: datetime | None, asked: int | None, usual: int = USUAL
) -> int:
    """The planned length in days: as asked, else the dates (UTC, as looks are) that it runs on until its end,
    else the usual one.

    It must not depend on the days seen: were each day the planned end anew, each would spend what is left of
    α, and looking daily would find something in 14 % of null experiments by day 90. After the planned end
    intervals are a mixture's, which hold for ever.
    """
    if asked:
        return asked
    if start is None or until is None:
        return usual
    last = until - timedelta(microseconds=1)
    return max(1, last.astimezone(UTC).toordinal() - start.astimezone(UTC).toordinal() + 1)


def units_needed(
    mean: float,
    deviation: float,
    relative: float,
    *,
    power: float = 0.8,
    alpha: float = ALPHA,
    arms: int = 2,
    reduction: float = 0.0,
    share: float = 0.5,
    looks: int = 14,
) -> Need:
    """Units to find a relative change of a mean. `deviation`: of a unit; `reduction`: of the variance by
    CUPED; `share`: of the units that the treatment gets, of it and the control; `looks`: how often one
    peeks.

    ValueError for what cannot be found.
    """
    effect = mean * relative
    if not (effect and deviation > 0 and 0 < power < 1 and 0 <= reduction < 1 and 0 < share < 1):
        raise ValueError(
            "a mean, a deviation and a change other than 0 are needed, power and share between 0 and 1"
        )
    spread = deviation**2 * (1 - reduction) * (1 / share + 1 / (1 - share))
    single = (stats.norm.isf(alpha / 2 / (arms - 1)) + stats.norm.isf(1 - power)) ** 2
    bound = final_bound(looks, alpha / (arms - 1))
    peeking = (bound + stats.norm.isf(1 - power)) ** 2
    scale = arms / 2
    return Need(
        ceil(peeking * spread / effect**2 * scale),
        ceil(single * spread / effect**2 * scale),
        None,
        effect,
        power,
    )


def days_needed(units: int, daily: float, returning: float) -> int | None:
    """Days until so many units were met: `daily` units a day, of which `returning` were there before."""
    fresh, met = daily, 0.0
    for day in range(1, DAYS + 1):
        met += fresh
        fresh = daily * (1 - returning)
        if met >= units:
            return day
    return None


def detectable(
    units: int, mean: float, deviation: float, *, power: float = 0.8, reduction: float = 0.0, looks: int = 14
) -> float:
    """The smallest relative change that so many units in two equal arms find with that power."""
    error = deviation * sqrt((1 - reduction) * 4 / units)
    return float((final_bound(looks, ALPHA) + stats.norm.isf(1 - power)) * error / abs(mean))


def final_bound(looks: int, alpha: float) -> float:
    """Standard errors at the last of evenly spaced looks."""
    parts = np.arange(1, looks + 1) / looks
    return float(critical(Looks(tuple(parts), tuple(parts), alpha))[-1])
