"""The server's own time for one page's caps, over a full log of contacts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from features.embedded import EmbeddedValkey
from features.events import WHAT
from features.ledger import CapCheck, Reserving, Wish
from features.live_store import CONTACT_LAST
from features.redis_address import parse_address
from features.redis_ledger import RedisLedger
from features.redis_live import RedisLiveStore
from features.redis_plain import opened
from features.redis_resp import RespLink
from features.redis_store import Fetcher
from features.views import CONTACT

NOTE = "server time of 5 capped places, 2 caps each, over a full log of contacts; least of 8 rounds"


def reserve_us(home: Path) -> float:
    """µs of one `reserve`, of the server alone (`INFO commandstats`)."""
    return asyncio.run(_cost(home))


async def _cost(home: Path) -> float:
    rng = np.random.default_rng(1)
    day = CapCheck(WHAT["displayed"], 9, 86_400, 0.0, "campaign", (), 0, "customer")
    rounds: list[float] = []
    with EmbeddedValkey(home / "cost") as server, opened(server.url) as told:
        link = RespLink(parse_address(server.url))
        ledger, live = RedisLedger(link), RedisLiveStore(Fetcher(link))
        epoch = await ledger.open_epoch(known=False)
        met = np.zeros(CONTACT_LAST, CONTACT)
        met["item"], met["event"] = rng.integers(1, 1 << 62, len(met)), rng.integers(0, 1 << 32, len(met))
        met["campaign"], met["slot"] = rng.integers(0, 60, len(met)) * 7919, rng.integers(1, 7, len(met))
        met["at"], met["what"], met["channel"] = int(await ledger.now()) - 60, WHAT["displayed"], 1
        for number in range(60):
            await live.append(f"u:{number}", contact=met.tobytes())
        for turn in range(8):
            told.config_resetstat()
            for number in range(60):
                places = tuple(
                    (Wish(int(rng.integers(1, 1 << 62)), int(k) * 7919, 0, int(k % 6 + 1), 0, 0, 1, (0, 1)),)
                    for k in rng.integers(1, 60, 5)
                )
                week = day._replace(most=20, window_s=7 * 86_400)
                asked = Reserving(f"d{turn}", turn, 600.0, places, (day, week), epoch)
                await ledger.reserve(f"u:{number}", asked)
            stats: Any = told.info("commandstats")
            rounds.append(float(stats["cmdstat_evalsha"]["usec_per_call"]))
        await link.close()
    return min(rounds)
