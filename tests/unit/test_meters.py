"""What events count for: meters of campaigns and of shares, and quotas."""

from __future__ import annotations

import asyncio
from zoneinfo import ZoneInfo

import numpy as np

from features.events import Event
from features.ids import key32
from features.ledger import Pool, Shown, bucket_of, member
from features.memory_ledger import MemoryLedger
from features.meters import Booked, MemoryMeters, ShareMeter, share_meter, tally
from features.rebuild import rebuild
from features.store import MemoryBlobs
from features.token import PLACES

NOW = 1_800_000_000.0
UTC, SHANGHAI = ZoneInfo("UTC"), ZoneInfo("Asia/Shanghai")
C1, C2, BANNER, HEAD, BRANCH = (key32(name) for name in ("c1", "c2", "home.banner", "head", "bj"))


def event(
    kind="displayed", campaigns=(C1, C2, 0), *, at=NOW, late=False, org=BRANCH, amount=None, currency=None
):
    places = np.zeros(len(campaigns), PLACES)
    places["item"], places["campaign"] = range(1, len(campaigns) + 1), campaigns
    places["slot"] = BANNER
    return Event(
        event_id=f"{kind}{at}", type=kind, occurred_at=at + 3, received_at=at + 9, decided_at=at - 5, at=at,
        subject="u:1", user_id="1", visitor_id=None, decision_id="d1", places=places, action=None, item_key=0,
        item_id=None, amount=amount, currency=currency, channel=1, late=late, session_id=None, org=org,
    )  # fmt: skip


BOOKED = {
    C1: Booked("c1", frozenset(("displayed", "cny")), (("c1/q", "flight", UTC), ("c1/d", "day", SHANGHAI)))
}
SHARES = {
    BANNER: (
        ShareMeter("banner", frozenset(), 0, SHANGHAI),
        ShareMeter("banner/bj", frozenset((BRANCH,)), 0, UTC),
        ShareMeter("banner/head", frozenset((HEAD,)), 0, UTC),
        ShareMeter("banner/c2", frozenset(), C2, UTC),
    )
}


def test_displays_count_for_campaign_quotas_and_shares():
    counts, shown = tally([event()], BOOKED, SHARES)
    one = member("u:1", "d1", 1)
    assert [(c.meter, c.unit, c.amount) for c in counts if c.member == one] == [
        ("c1", "displayed", 1.0),
        ("banner@20270115", "displayed", 1.0),
        ("banner/bj@20270115", "displayed", 1.0),
    ]
    assert {c.meter for c in counts if c.member != one} == {
        "banner@20270115", "banner/bj@20270115", "banner/c2@20270115",
    }  # fmt: skip
    at = bucket_of(NOW - 5)
    assert shown == [Shown("c1/q", at, (one,), False), Shown("c1/d@20270115", at, (one,), False)]
    assert share_meter(SHARES[BANNER][0], NOW + 9 * 3600) == "banner@20270116"


def test_answers_count_in_their_own_units_only():
    assert tally([event("clicked", (C1,))], BOOKED, SHARES).counts == []
    (paid,) = tally([event("converted", (C1,), amount=30.0)], BOOKED, SHARES).counts
    assert (paid.unit, paid.amount, paid.hour) == ("cny", 30.0, int(NOW // 3600))
    assert tally([event("converted", (C1,), amount=30.0, currency="USD")], BOOKED, {}).counts == []
    assert tally([event("dismissed", (C1,))], BOOKED, SHARES) == ([], [])


def test_a_rebuild_confirms_without_leases_and_opens_an_epoch():
    async def whole():
        ledger, meters = MemoryLedger(MemoryBlobs(lambda: NOW)), MemoryMeters(lambda: NOW)
        again = [event(), event(), event("clicked"), event(at=NOW - 90_000, late=True)]
        again[3].places["item"] += 10
        told = await rebuild(ledger, meters, again, BOOKED, SHARES)
        return told, ledger.epoch, await ledger.pools(["c1/q"]), await meters.read(["c1"], days=2)

    told, epoch, pools, found = asyncio.run(whole())
    assert told > 0 and epoch > 0
    assert pools == {"c1/q": Pool(1, 1, 0)}
    assert found["c1"]["displayed"].total == 2 and sum(found["c1"]["displayed"].hours.values()) == 2
