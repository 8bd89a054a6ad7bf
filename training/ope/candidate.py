"""The policy in question: a plan and a bundle, over what was in force when each logged page was made.

A page is decided again with the prices, item changes, lists, kills and the bandit's version of its own time,
as its record names them: so the plan in force, put to its own log, is itself.
"""

from __future__ import annotations

from collections.abc import Callable

from serving.arm_bundles import LoadBundle
from serving.bundle import Bundle
from serving.live import Live
from serving.plan import Plan
from training.lake import Lake
from training.lives import Lives
from training.logged import Logged
from training.replay import Record

Views = Callable[[Record], Live]


def candidate(lake: Lake, bundles: LoadBundle, plan: Plan, bundle: Bundle) -> Views:
    """What decides a record's page under these; raises ReplayError where what the record names is lost.

    `bundles` loads what arms of the plan are served from.
    """
    lives = Lives(Logged(lake), bundles, days=True)
    return lambda record: lives.of(record, plan=plan, bundle=bundle)
