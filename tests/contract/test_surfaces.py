"""Every named surface is the same decision over other slots: full, without repeats, by the contract's
shape.
"""

from __future__ import annotations

from typing import Any

import pytest

from serving.plan import Plan
from tests.shell import CONTEXT, Shell, ids, run, running
from tests.worlds import SLOTS, tiny_bundle, tiny_plan

WEALTH = [
    {"name": "wealth.banner", "layout": "banner", "size": 2, "kinds": ["activity", "content"]},
    {"name": "wealth.shelf", "layout": "shelf", "size": 5, "kinds": ["product"]},
    {"name": "wealth.grid", "layout": "icon_grid", "size": 3, "kinds": ["function"]},
]


def plan() -> Plan:
    slots = [*SLOTS, *WEALTH, {"name": "bare.popup", "layout": "popup", "size": 1, "kinds": ["benefit"]}]
    surfaces = {
        "home": [slot["name"] for slot in SLOTS],
        "wealth": [slot["name"] for slot in WEALTH],
        "bare": ["bare.popup"],
    }
    return tiny_plan(slots=slots, surfaces=surfaces)


HOME = {slot["name"]: slot["size"] for slot in SLOTS}
CASES: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("/v1/recommend", {}, HOME),
    ("/v1/recommend", {"surface": "home"}, HOME),
    ("/v1/recommend", {"surface": "wealth"}, {"wealth.banner": 2, "wealth.shelf": 5, "wealth.grid": 3}),
    (
        "/v1/recommend",
        {"slots": [{"slot": "home.shelf", "count": 2}, {"slot": "home.banner"}]},
        {"home.shelf": 2, "home.banner": 3},
    ),
    ("/v1/recommend/homepage", {}, HOME),
    ("/v1/recommend/homepage", {"surface": "home"}, HOME),
    ("/v1/recommend/banner", {}, {"home.banner": 3}),
    ("/v1/recommend/banner", {"surface": "wealth"}, {"wealth.banner": 2}),
    ("/v1/recommend/product", {}, {"home.shelf": 4, "home.benefits": 3, "home.feed": 6}),
    ("/v1/recommend/product", {"surface": "wealth"}, {"wealth.shelf": 5}),
]


@pytest.mark.parametrize("who", ["known", "visitor"])
@pytest.mark.parametrize(("path", "body", "places"), CASES)
def test_each_surface_is_full_and_in_shape(
    path: str, body: dict[str, Any], places: dict[str, int], who: str
) -> None:
    async def story() -> None:
        async with running(plan=plan()) as shell:
            await shell.know("u1", star_level=3)
            subject = {"user_id": "u1"} if who == "known" else {"visitor_id": "d1"}
            answer = await shell.post(path, {**subject, "context": CONTEXT, **body})
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "application/json"
            page = answer.json()
            assert {slot["slot"]: len(slot["items"]) for slot in page["slots"]} == places
            in_shape(page, shell)

    run(story)


def in_shape(page: dict[str, Any], shell: Shell) -> None:
    assert set(page) == {
        "decision_id", "page_token", "valid_until", "bundle", "plan", "arms", "degraded", "slots"
    }  # fmt: skip
    assert page["bundle"] == "b-tiny" and page["plan"] == plan().version and page["arms"] == {}
    shown = ids(page)
    assert len(set(shown)) == len(shown)
    assert [item["index"] for slot in page["slots"] for item in slot["items"]] == list(range(len(shown)))
    for slot in page["slots"]:
        assert [item["position"] for item in slot["items"]] == list(range(len(slot["items"])))
        for item in slot["items"]:
            assert set(item) == {
                "index", "item_id", "kind", "position", "score", "campaign_id", "creative", "action",
                "reason", "propensity",
            }  # fmt: skip
            assert set(item["creative"]) == {"id", "title", "text", "image", "disclosure"}
            assert item["propensity"] == 1.0 and item["reason"]["code"] and item["reason"]["text"]
    token = shell.service.signer.verify(page["page_token"])
    assert token.decision_id == page["decision_id"] and len(token) == len(shown)


def test_the_three_names_are_the_same_decision_as_naming_their_slots() -> None:
    async def story() -> None:
        async with running(plan=plan()) as shell:
            await shell.know("u1")
            named = await shell.page("u1", "/v1/recommend/product")
            chosen = [{"slot": slot["slot"]} for slot in named["slots"]]
            assert ids(await shell.page("u1", slots=chosen)) == ids(named)
            assert ids(await shell.page("u1", "/v1/recommend/homepage")) == ids(await shell.page("u1"))

    run(story)


def test_english_and_chinese() -> None:
    async def story() -> None:
        async with running(plan=plan()) as shell:
            zh = await shell.page("u1")
            en = await shell.page("u1", context={**CONTEXT, "locale": "en"})
            assert ids(zh) == ids(en)
            first_zh, first_en = zh["slots"][0]["items"][0], en["slots"][0]["items"][0]
            assert first_zh["creative"]["title"].startswith("物品")
            assert first_en["creative"]["title"].startswith("Item ")
            assert first_zh["reason"]["text"] != first_en["reason"]["text"]

    run(story)


def test_excluded_items_are_not_shown() -> None:
    async def story() -> None:
        async with running(plan=plan()) as shell:
            before = ids(await shell.page("u1", slots=[{"slot": "home.shelf"}]))
            after = ids(await shell.page("u1", slots=[{"slot": "home.shelf", "exclude": before[:2]}]))
            assert len(after) == len(before) and not set(before[:2]) & set(after)

    run(story)


def test_similar_items_may_be_shown_to_everybody() -> None:
    async def story() -> None:
        async with running(plan=plan()) as shell:
            answer = (await shell.get("/v1/items/i7/similar?k=5&locale=en")).json()
            assert answer["item_id"] == "i7" and len(answer["items"]) == 5
            assert all(item["item_id"] != "i7" for item in answer["items"])
            scores = [item["score"] for item in answer["items"]]
            assert scores == sorted(scores, reverse=True)
            assert answer["items"][0]["creative"]["title"].startswith("Item ")
            gone = answer["items"][0]["item_id"]
            assert (await shell.client.delete(f"/v1/items/{gone}")).status_code == 200
            await shell.service.reloader.poll()
            assert gone not in [
                i["item_id"] for i in (await shell.get("/v1/items/i7/similar")).json()["items"]
            ]
            assert (await shell.get(f"/v1/items/{gone}/similar")).json()["code"] == "unknown_item"

    run(story)


def test_a_bundle_without_banners_still_has_a_homepage() -> None:
    """The plan that fits a catalogue of one kind, when none is given."""

    async def story() -> None:
        from tests.worlds import item

        only = tiny_bundle(items=[item(number, "product") for number in range(30)])
        async with running(only, settings={"plan": None}) as shell:
            page = await shell.page("u1")
            assert [slot["slot"] for slot in page["slots"]] == ["home.shelf", "home.feed"]
            refused = await shell.post("/v1/recommend/banner", {"user_id": "u1"})
            assert refused.status_code == 422 and refused.json()["code"] == "no_such_layout"

    run(story)
