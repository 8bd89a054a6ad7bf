"""The controller of prices: from goals and quotas, what was delivered and what traffic is left, to prices.

Every goal and quota has a shadow price per expected unit. It starts from the dual of an offline plan and
follows the deviation from the target curve by a proportional and an integral part, in the flight's own
clock: the part of its eligible traffic that has passed. Gains are divided by how strongly delivery answers
the price (`answer` = d ln delivery / d price, measured on the sample): one setting fits all campaigns. The
proportional part looks `horizon` ahead, and less the nearer the end: a receding horizon. With x the
deviation, dx/dt = −answer·(price − right price): gains of 1/(h·answer) and, integral, 1/(4h²·answer) are
critically damped whatever h. Pure functions over NumPy columns; no clock, no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.curves import Floats, asap_by, target

CAUSES: Final = ("on_track", "ahead", "behind", "infeasible_at_ceiling", "met", "waiting", "ended")
ON_TRACK, AHEAD, BEHIND, AT_CEILING, MET, WAITING, ENDED = range(7)
LEAST_ANSWER: Final = 1e-3  # of 1/price
MOST_ANSWER: Final = 1e4


@dataclass(frozen=True, slots=True)
class PacingSettings:
    """Parts are of a flight's eligible traffic."""

    horizon: float = (
        0.03  # a deviation is worked off within this part; all at once answer less than one alone
    )
    horizon_late: float = 0.08  # of what is counted late: clicks are few, and their chance is not a deviation
    least_horizon: float = 0.004  # in the end game; longer than what is in flight takes to be known
    end_share: float = 0.5  # the horizon is at most this share of what is left
    done_by: float = 0.996  # the curve is through by then: the rest tops up
    aim: float = 1.0005  # of a goal in displays or shares: a miss costs more than one too many
    aim_late: float = 1.003  # of a goal in clicks or conversions: the last ones are known after the end
    reach: float = 2.0  # the rate is corrected by at most this factor at a time
    integral: float = 0.25  # 1/4: critically damped
    settled: float = 0.02  # a deviation below this is on track
    known: float = 200.0  # expected units after which actual / expected counts half
    ratio_least: float = 0.25
    ratio_most: float = 4.0


class Goals(NamedTuple):
    """What does not change while a plan runs. G goals."""

    pacing: NDArray[np.uint8]  # curves.EVEN ...
    ceiling: Floats  # CNY per unit: the tier's penalty
    start: Floats  # CNY per unit: the offline dual's price
    answer: Floats  # d ln(delivery) / d(price), 1/CNY, > 0; NaN: not known
    counted_late: NDArray[
        np.bool_
    ]  # clicks, conversions, CNY: steered by what is expected of what was displayed


class Quotas(NamedTuple):
    """What does not change while a plan runs. Q quotas."""

    ceiling: Floats  # CNY per unit: no price is above this
    start: Floats
    answer: Floats  # −d ln(spent) / d(price), > 0; NaN: not known


class GoalsSeen(NamedTuple):
    """What is known of the G goals now. A share: wanted = share × the slot's displays of the day."""

    wanted: Floats  # units by the end
    delivered: Floats  # confirmed displays; of what is counted late: expected units of what was displayed
    in_flight: Floats  # expected units of what is decided and neither displayed nor lapsed
    actual: Floats  # of what is counted late: units that came, of displays old enough
    matured: Floats  # and the units that were expected of just those displays
    passed: Floats  # eligible traffic of the flight until now (any unit; see curves.Timeline)
    whole: Floats  # and until its end
    eligible: Floats  # expected units if the campaign were shown wherever it may be; NaN not known


class QuotasSeen(NamedTuple):
    at_most: Floats
    spent: Floats
    in_flight: Floats
    passed: Floats
    whole: Floats


class State(NamedTuple):
    """What the controller remembers; `level` is the integral part, `part` where the flight was."""

    level: Floats  # (G,)
    part: Floats
    quota_level: Floats  # (Q,)
    quota_part: Floats


class Paced(NamedTuple):
    goals: Floats  # (G,) λ, CNY per unit, within ± ceiling
    quotas: Floats  # (Q,) μ ≥ 0
    closed: NDArray[np.bool_]  # (Q,) spent: nothing more is placed
    causes: NDArray[np.uint8]  # (G,) index into CAUSES
    ratio: Floats  # (G,) actual per expected unit, as learned
    due: Floats  # (G,) units due by now
    progress: Floats  # (G,) units delivered, in flight included


def begin(goals: Goals, quotas: Quotas) -> State:
    """At the beginning, at the offline dual's prices; nothing that is not finite gets in."""
    level = np.clip(_finite(goals.start, 0.0), -goals.ceiling, goals.ceiling)
    paid = np.clip(_finite(quotas.start, 0.0), 0.0, quotas.ceiling)
    return State(level, np.zeros_like(level), paid, np.zeros_like(paid))


def update(
    state: State,
    goals: Goals,
    quotas: Quotas,
    seen: GoalsSeen,
    spent: QuotasSeen,
    settings: PacingSettings = PacingSettings(),
) -> tuple[State, Paced]:
    """One step: as often as wished, about once a second or a minute; how often does not change the gains."""
    level, part, paced = _goals(state, goals, seen, settings)
    paid, quota_part, prices, closed = _quotas(state, quotas, spent, settings)
    return State(level, part, paid, quota_part), paced._replace(quotas=prices, closed=closed)


def learned_ratio(seen: GoalsSeen, goals: Goals, settings: PacingSettings) -> Floats:
    """Actual per expected unit of what has matured, shrunk to 1; 1 where units are counted at once."""
    matured, actual = np.maximum(_finite(seen.matured, 0.0), 0.0), np.maximum(_finite(seen.actual, 0.0), 0.0)
    ratio = (actual + settings.known) / (matured + settings.known)
    return np.where(goals.counted_late, np.clip(ratio, settings.ratio_least, settings.ratio_most), 1.0)


def progress_of(seen: GoalsSeen, goals: Goals, settings: PacingSettings) -> tuple[Floats, Floats]:
    """(units delivered, ratio): what has matured counts as it came, the rest as expected times the ratio.

    Bounded by what was expected, so that an outcome feed that stands still cannot run a price to its ceiling.
    """
    ratio = learned_ratio(seen, goals, settings)
    delivered = np.maximum(_finite(seen.delivered, 0.0), 0.0)
    matured = np.minimum(np.maximum(_finite(seen.matured, 0.0), 0.0), delivered)
    known = np.maximum(_finite(seen.actual, 0.0), 0.0) + ratio * (delivered - matured)
    known = np.clip(known, settings.ratio_least * delivered, settings.ratio_most * delivered)
    return np.where(goals.counted_late, known, delivered), ratio


def _goals(
    state: State, goals: Goals, seen: GoalsSeen, settings: PacingSettings
) -> tuple[Floats, Floats, Paced]:
    delivered, ratio = progress_of(seen, goals, settings)
    in_flight = np.maximum(_finite(seen.in_flight, 0.0), 0.0) * ratio
    progress = delivered + in_flight
    aim = np.where(goals.counted_late, settings.aim_late, settings.aim)
    wanted = np.maximum(_finite(seen.wanted, 0.0), 1e-9) * aim
    part, left = _parts(seen.passed, seen.whole)
    by = asap_by(wanted, np.maximum(_finite(seen.eligible, 0.0), 0.0))
    horizon = _horizon(left, np.where(goals.counted_late, settings.horizon_late, settings.horizon), settings)
    due = target(part / settings.done_by, goals.pacing, by)
    # where the curve should stand one horizon on; past the end of the curve, a whole horizon's rate
    ahead = target((part + horizon) / settings.done_by, goals.pacing, by)
    rate = np.maximum((ahead - due) / horizon, 0.2)
    deviation = due - progress / wanted
    answer = _answer(goals.answer, goals.start, goals.ceiling)
    wish = np.clip(deviation / (horizon * rate), -settings.reach, settings.reach)
    moved = np.where(part >= state.part, np.minimum(part - state.part, horizon), 0.0)  # a new day begins anew
    level = state.level
    price = level + wish / answer
    # at its ceiling, or with the tag off, a price can do no more: what it waits for must not wind it up
    idle = ((price >= goals.ceiling) & (wish > 0)) | ((price <= 0.0) & (wish < 0))
    level = level + np.where(idle, 0.0, settings.integral * wish * moved / (horizon * answer))
    # far off, the start or the answer was wrong, or there is no traffic: double or halve per horizon
    far = np.where(idle | (np.abs(wish) < settings.reach), 0.0, np.sign(wish))
    level = level + far * np.maximum(level, 0.0) * moved / horizon
    lowest = np.maximum(-goals.ceiling, -1.0 / answer)  # a tag is off below 0: no need to dig deeper
    level = np.clip(level, lowest, goals.ceiling)
    price = np.clip(level + wish / answer, -goals.ceiling, goals.ceiling)
    running = (part > 0.0) & (left > 0.0)
    met = progress >= wanted
    price = np.where(met, -goals.ceiling, price)
    causes = _causes(price >= goals.ceiling, deviation, met, part, left, settings)
    level = np.where(running, level, state.level)
    none = np.zeros(0)
    paced = Paced(price, none, none.astype(np.bool_), causes, ratio, due * wanted, progress)
    return level, part, paced


def _quotas(
    state: State, quotas: Quotas, seen: QuotasSeen, settings: PacingSettings
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """A quota costs only when it would be spent before the flight's end: else its price rests at 0."""
    used = np.maximum(_finite(seen.spent, 0.0), 0.0) + np.maximum(_finite(seen.in_flight, 0.0), 0.0)
    at_most = np.maximum(_finite(seen.at_most, 0.0), 1e-9)
    part, left = _parts(seen.passed, seen.whole)
    horizon = _horizon(left, settings.horizon, settings)
    answer = _answer(quotas.answer, quotas.start, quotas.ceiling)
    over = used / at_most - np.minimum(part, 1.0)
    wish = np.clip(over / horizon, -settings.reach, settings.reach)
    moved = np.where(part >= state.quota_part, np.minimum(part - state.quota_part, horizon), 0.0)
    level = state.quota_level + settings.integral * wish * moved / (horizon * answer)
    level = np.clip(level, 0.0, quotas.ceiling)
    prices = np.clip(level + wish / answer, 0.0, quotas.ceiling)
    return level, part, prices, used >= at_most


def _parts(passed: Floats, whole: Floats) -> tuple[Floats, Floats]:
    """The part of the flight's eligible traffic that has passed, and what is left; no traffic: all passed."""
    whole = np.maximum(_finite(whole, 0.0), 0.0)
    passed = np.maximum(_finite(passed, 0.0), 0.0)
    part = np.divide(np.minimum(passed, whole), whole, out=np.ones_like(whole), where=whole > 0)
    return part, 1.0 - part


def _horizon(left: Floats, most: Floats | float, settings: PacingSettings) -> Floats:
    return np.clip(left * settings.end_share, settings.least_horizon, most)


def _answer(answer: Floats, start: Floats, ceiling: Floats) -> Floats:
    """As measured; else prices are taken to matter on the scale of where they start, within the ceiling's."""
    scale = np.clip(_finite(start, 0.0), ceiling / 20.0, ceiling)
    known = np.isfinite(answer) & (answer > 0)
    return np.clip(np.where(known, answer, 4.0 / np.maximum(scale, 1e-6)), LEAST_ANSWER, MOST_ANSWER)


def _causes(
    at_ceiling: NDArray[np.bool_],
    deviation: Floats,
    met: NDArray[np.bool_],
    part: Floats,
    left: Floats,
    settings: PacingSettings,
) -> NDArray[np.uint8]:
    late = deviation > settings.settled
    causes = np.where(late, BEHIND, np.where(deviation < -settings.settled, AHEAD, ON_TRACK))
    causes = np.where(at_ceiling, AT_CEILING, causes)
    causes = np.where(part <= 0.0, WAITING, np.where(left <= 0.0, ENDED, causes))
    return np.where(met, MET, causes).astype(np.uint8)


def _finite(values: Floats, instead: float) -> Floats:
    return np.where(np.isfinite(values), values, instead)
