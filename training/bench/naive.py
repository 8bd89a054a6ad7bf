"""What a user would write instead: a FastAPI ingress, implicit's `recommend`, one GET, a list of campaigns.

The same page of 6 slots and 40 places for the same requests, without permission, caps, prices, live history,
token or log: ALS factors in memory, the profile as JSON from Redis, campaigns filtered in Python.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson
import redis.asyncio
from fastapi import FastAPI
from implicit.als import AlternatingLeastSquares
from pydantic import BaseModel
from scipy import sparse

from features.ids import KINDS
from features.redis_plain import opened
from serving.plan_default import CANONICAL
from serving.registry import Registry
from serving.settings import Settings

PREFIX: Final = "/naive"
CUSTOMERS: Final = 100_000
CAMPAIGNS: Final = 200
WANTED: Final = 400  # items asked of the model, so that every slot has enough of its kinds


class Context(BaseModel):
    channel: str | None = None
    app_version: str | None = None
    city: str | None = None
    auth_level: str | None = None


class Ask(BaseModel):
    user_id: str
    context: Context = Context()


class Naive:
    """What a replica of it runs; the shape is that of serving.app.Pages."""

    def __init__(self, settings: Settings) -> None:
        from serving.bundle import load

        registry = Registry(settings.registry_url)
        bundle = load(registry.fetch(registry.live() or "", settings.home / "naive"), verify=False)
        rng = np.random.default_rng(7)
        self._ids = bundle.items.ids
        self._kinds = [KINDS[kind] for kind in bundle.compiled.table["kind"].tolist()]
        self._texts = [bundle.compiled.texts[row] for row in range(len(self._ids))]
        self._model = AlternatingLeastSquares(factors=64)
        self._model.item_factors = np.asarray(bundle.model.vectors, np.float32)  # type: ignore[attr-defined]
        self._model.user_factors = rng.normal(0, 0.3, (CUSTOMERS, 64)).astype(np.float32)
        self._met = _met(len(self._ids), rng)
        self._campaigns = [_campaign(number, self._ids, rng) for number in range(CAMPAIGNS)]
        self._url = settings.features_url or ""

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI()
        store = redis.asyncio.Redis.from_url(self._url)

        @app.post("/v1/recommend/homepage")
        async def homepage(ask: Ask) -> dict[str, Any]:
            raw = await store.get(f"naive:{ask.user_id}")
            profile = orjson.loads(raw) if raw else {}
            return self._page(ask, profile)

        return app

    def _page(self, ask: Ask, profile: dict[str, Any]) -> dict[str, Any]:
        user = int(ask.user_id[1:]) % CUSTOMERS
        rows, scores = self._model.recommend(user, self._met[user], N=WANTED, filter_already_liked_items=True)
        ranked = list(zip(rows.tolist(), scores.tolist(), strict=True))
        running = [one for one in self._campaigns if _suits(one, profile, ask.context)]
        shown: set[int] = set()
        slots = []
        for name, _, size, kinds in CANONICAL:
            mine = sorted((one for one in running if one["slot"] == name), key=lambda one: -one["priority"])
            items: list[dict[str, Any]] = []
            for campaign in mine[: max(1, size // 4)]:
                if campaign["row"] not in shown:
                    items.append(self._item(campaign["row"], 1.0, campaign["id"], len(items)))
                    shown.add(campaign["row"])
            for row, score in ranked:
                if len(items) >= size:
                    break
                if row not in shown and self._kinds[row] in kinds:
                    items.append(self._item(row, score, None, len(items)))
                    shown.add(row)
            slots.append({"slot": name, "items": items})
        return {"slots": slots}

    def _item(self, row: int, score: float, campaign: str | None, position: int) -> dict[str, Any]:
        text = self._texts[row]
        return {
            "item_id": text.id, "kind": text.kind, "position": position, "score": score,
            "campaign_id": campaign, "creative": {"id": None, "title": text.zh}, "action": text.action,
        }  # fmt: skip


def write_profiles(url: str, customers: int) -> None:
    """Profiles as such a service keeps them: a JSON document a customer."""
    with opened(url) as store:
        for at in range(0, customers, 5_000):
            pipe = store.pipeline(transaction=False)
            for number in range(at, min(at + 5_000, customers)):
                profile = {
                    "age": 18 + number % 60, "assets": 1_000.0 * (number % 900), "risk_level": 1 + number % 5,
                    "city": str(310_000 + number % 20), "star_level": 1 + number % 7, "org": "head",
                    "tags": [f"t{(number * step) % 80}" for step in range(1, 13)],
                }  # fmt: skip
                pipe.set(f"naive:c{number:07d}", orjson.dumps(profile))
            pipe.execute()


def _met(items: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """What each customer has met, 32 items each."""
    columns = rng.integers(0, items, CUSTOMERS * 32).astype(np.int32)
    starts = np.arange(0, CUSTOMERS * 32 + 1, 32, dtype=np.int32)
    return sparse.csr_matrix((np.ones(len(columns), np.float32), columns, starts), shape=(CUSTOMERS, items))


def _campaign(number: int, ids: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    return {
        "id": f"c{number}", "slot": CANONICAL[number % len(CANONICAL)][0], "row": int(rng.integers(len(ids))),
        "priority": float(rng.random()), "least_assets": float(rng.integers(0, 500)) * 1_000.0,
        "ages": (18, int(rng.integers(40, 90))),
        "tags": {f"t{tag}" for tag in rng.integers(0, 80, 12).tolist()},
        "channels": {"app", "h5"},
    }  # fmt: skip


def _suits(campaign: dict[str, Any], profile: dict[str, Any], context: Context) -> bool:
    return (
        context.channel in campaign["channels"]
        and profile.get("assets", 0.0) >= campaign["least_assets"]
        and campaign["ages"][0] <= profile.get("age", 0) <= campaign["ages"][1]
        and any(tag in campaign["tags"] for tag in profile.get("tags", ()))
    )
