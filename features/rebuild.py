"""The campaigns' side of the ledger from events, when the live store was lost: quotas, meters, an epoch.

The customers' side (logs of contacts) is filled from the lake by `training.backfill`, where a subject has
none. Until the end there is no epoch, so nothing capped is shown meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from features.events import Event
from features.ledger import Ledger
from features.meters import Booked, Meters, ShareMeter, tally
from features.redis_plain import opened

BATCH: Final = 500


def clear(url: str) -> int:
    """Delete the epoch first, then every count of the campaigns' side. Returns how many keys there were."""
    gone = 0
    with opened(url) as store:
        gone += int(store.delete(b"lg:epoch"))
        keys = iter(store.scan_iter(match=b"lg:*", count=BATCH))
        while some := list(islice(keys, BATCH)):
            gone += int(store.delete(*some))
    return gone


async def rebuild(
    ledger: Ledger,
    meters: Meters,
    events: Iterable[Event],
    booked: Mapping[int, Booked],
    shares: Mapping[int, Sequence[ShareMeter]],
) -> int:
    """Count `events` of the lake and the log, in any order, repeats allowed within the hour; open an epoch.

    Events that arrive meanwhile are counted as ever. Returns how many counts there were. Raises
    StoreUnavailable: begin again with `clear` then.
    """
    told, left = 0, iter(events)
    while some := list(islice(left, BATCH)):
        counts, shown = tally(some, booked, shares)
        await meters.count(counts)
        await ledger.confirm(shown, rebuilding=True)
        told += len(counts) + sum(len(one.members) for one in shown)
    await ledger.renew_epoch()
    return told
