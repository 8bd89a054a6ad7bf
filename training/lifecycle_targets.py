"""What lifecycle models foretell: of whom, and what comes of them within a horizon.

    prospect           holds no product yet                      buys a first one        (潜客)
    new_churn          joined lately, and was here lately        does not come back      (新客流失)
    swing              was here in both of the last spans        comes half as often     (摇摆客)
    dormant_return     was not here for a span                   comes back              (沉睡唤醒)
    benefit_response   was here lately                           clicks or takes a benefit
    buys_<family>      everybody                                 buys of the product family
    next_function      a customer and a function not used lately the customer begins to use it

A span is the horizon's length. A target is asked at a moment: who is concerned, by what was known then, and
what happened in the horizon after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from features.transforms import DAY
from training.lifecycle_past import BENEFIT, FUNCTION, Mask, Past

NEW_DAYS: Final = 180.0  # since joining
PREFIX: Final = "lifecycle_"  # of a score's name in the customers' table


@dataclass(frozen=True, slots=True)
class Target:
    """`asked(known, past, at, span)`: (concerned, label), both (customers,): `known` is the past as known at
    the moment `at`, `past` all of it; `span` seconds.
    """

    name: str
    about: str
    asked: Callable[[Past, Past, float, float], tuple[Mask, Mask]]


def targets_of(past: Past) -> list[Target]:
    """All that these data can be asked; a family each for those that are sold."""
    fixed = [
        Target("prospect", "a first product, of who has none", _prospect),
        Target("new_churn", "a new customer does not come back", _new_churn),
        Target("swing", "comes half as often", _swing),
        Target("dormant_return", "comes back after a silence", _dormant_return),
        Target("benefit_response", "clicks or takes a benefit", _benefit_response),
    ]
    return [*fixed, *(_buys(past, place) for place in range(len(past.families)))]


def _any(past: Past, which: Mask) -> Mask:
    found: Mask = past.count(which) > 0
    return found


def _seen(past: Past, since: float, until: float) -> Mask:
    return _any(past, past.between(since, until))


def _prospect(known: Past, past: Past, at: float, span: float) -> tuple[Mask, Mask]:
    held = _any(known, known.bought & (known.family >= 0))
    return ~held, _any(past, past.between(at, at + span) & past.bought & (past.family >= 0))


def _new_churn(known: Past, past: Past, at: float, span: float) -> tuple[Mask, Mask]:
    tenure = past.profiles.records["tenure_days"] - (past.now - at) / DAY
    young = (tenure >= 0) & (tenure <= NEW_DAYS)
    return young & _seen(known, at - span, at), ~_seen(past, at, at + span)


def _swing(known: Past, past: Past, at: float, span: float) -> tuple[Mask, Mask]:
    before, lately = known.days_active(at - 2 * span, at - span), known.days_active(at - span, at)
    after = past.days_active(at, at + span)
    return (before > 0) & (lately >= 2), after <= 0.5 * lately


def _dormant_return(known: Past, past: Past, at: float, span: float) -> tuple[Mask, Mask]:
    ever = _seen(known, -np.inf, at)
    return ever & ~_seen(known, at - span, at), _seen(past, at, at + span)


def _benefit_response(known: Past, past: Past, at: float, span: float) -> tuple[Mask, Mask]:
    answers = (past.kind == BENEFIT) & (past.bought | (past.what == WHAT["clicked"]))
    return _seen(known, at - span, at), _any(past, past.between(at, at + span) & answers)


def _buys(past: Past, place: int) -> Target:
    family = past.families[place]

    def asked(known: Past, past: Past, at: float, span: float) -> tuple[Mask, Mask]:
        bought = past.bought & (past.family == place)
        return np.ones(len(known), np.bool_), _any(past, past.between(at, at + span) & bought)

    return Target(f"buys_{family}", f"buys of {family}", asked)


def functions_used(past: Past, since: float, until: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(customer, item row) pairs, each once and in order: who used which function."""
    used = past.between(since, until) & (past.kind == FUNCTION)
    used &= (past.what == WHAT["clicked"]) | (past.what == WHAT["acted"]) | past.bought
    width = len(past.items)
    cell = np.unique(past.user[used] * width + past.item[used])
    return cell // width, cell % width
