"""A page decided before comes back only while everything on it may still be shown, as it was rendered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from features.customer import LATE_BLOB
from features.store import MemoryStore, feature_key
from features.views import CONSENTS, PROFILE
from serving.domain import EFFORTS
from serving.ladder import Ladder
from tests.shell import CONTEXT, SPACE, Shell, ids, run, running
from tests.worlds import DAY, NOW, item, tiny_bundle

RESTRICTED = {
    "consents": ["marketing"],
    "risk_class": 2,
    "auth_level": "password",
    "cooling": True,
    "repeat": "never",
}


def odd(name: str) -> bool:
    """Half the items of every kind are restricted."""
    return int(name[1:]) // 6 % 2 == 1


def restricted(**rule: Any) -> Any:
    return tiny_bundle(items=[item(n, **rule) if odd(f"i{n}") else item(n) for n in range(120)])


async def put_user(shell: Shell, **profile: Any) -> None:
    assert (await shell.put("/v1/users/u1", {"profile": profile})).status_code == 200


async def late_profile(shell: Shell) -> None:
    store = shell.stores.features
    assert isinstance(store, MemoryStore)
    store.blobs.set(feature_key(SPACE.version, PROFILE.name, "u1"), LATE_BLOB, 1e6)


async def changed(shell: Shell, name: str, **fields: Any) -> None:
    whole = item(int(name[1:]), **fields).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert (await shell.put(f"/v1/items/{name}", whole)).status_code == 200
    assert await shell.service.reloader.poll()


async def happened(shell: Shell, page: dict[str, Any], kind: str, name: str) -> None:
    index = ids(page).index(name)
    event = shell.event(kind, f"e-{kind}", page_token=page["page_token"], index=index)
    assert (await shell.post("/v1/events", {"events": [event]})).json()["accepted"] == 1


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("consents", "refused"),
        ("consents", "late"),
        ("risk_class", "lower risk"),
        ("auth_level", "not signed in"),
        ("cooling", "dismissed"),
        ("repeat", "bought"),
        ("ends", "over"),
    ],
)
def test_what_is_not_permitted_any_more_is_not_shown_again(rule: str, change: str) -> None:
    """The same request id within ten minutes; the customer, the time or the request permits less."""
    ends = {"ends": "2026-09-21T14:13:30Z"}  # ten seconds after NOW
    bundle = restricted(**(ends if rule == "ends" else {rule: RESTRICTED[rule]}))

    async def story() -> None:
        async with running(bundle) as shell:
            await shell.know("u1", consents=1 << CONSENTS.index("marketing"))
            first = await shell.page("u1", request_id="r1")
            shown = [name for name in ids(first) if odd(name)]
            gone, context = set(shown), dict(CONTEXT)
            match change:
                case "refused":
                    await put_user(shell, consents=[])
                case "late":
                    await late_profile(shell)
                case "lower risk":
                    await put_user(shell, risk_level=1)
                case "not signed in":
                    context["auth_level"] = "device"
                case "dismissed":
                    await happened(shell, first, "dismissed", shown[0])
                    gone = {shown[0]}
                case "bought":
                    await happened(shell, first, "converted", shown[0])
                    gone = {shown[0]}
                case "over":
                    shell.clock.now += 60
            assert shown
            second = await shell.page("u1", request_id="r1", context=context)
            assert second["decision_id"] == "r1" and not gone & set(ids(second))
            assert len(ids(second)) == len(ids(first)), "the slots are full"
            assert ids(await shell.page("u1", request_id="r1", context=context)) == ids(second)

    run(story)


@pytest.mark.parametrize(
    "fields",
    [
        {"sold_out": True},
        {"risk_class": 5},
        {"ends": "2026-01-01T00:00:00Z"},
        {"title": {"zh": "改了", "en": "Changed"}},
        {"creatives": [{"id": "c1", "title": "草稿", "state": "draft"}]},
        {"creatives": [{"id": "c1", "title": "新素材"}]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_an_item_changed_since_is_not_shown_as_it_was(fields: dict[str, Any]) -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1")
            first = await shell.page("u1", request_id="r1")
            victim = first["slots"][0]["items"][0]
            await changed(shell, victim["item_id"], **fields)
            second = await shell.page("u1", request_id="r1")
            assert victim["creative"] not in [one["creative"] for s in second["slots"] for one in s["items"]]
            assert (await shell.page("u1", request_id="r1")) == second

    run(story)


@pytest.mark.parametrize("state", ["withdrawn", "rewritten", "expired", "untouched"])
def test_a_creative_changed_since_is_not_shown_again(state: str) -> None:
    made = [item(n, creatives=[{"id": f"c{n}", "title": f"素材{n}"}]) for n in range(120)]

    async def story() -> None:
        async with running(tiny_bundle(items=made)) as shell:
            await shell.know("u1")
            first = await shell.page("u1", request_id="r1")
            victim = first["slots"][0]["items"][0]
            body = {"item_id": victim["item_id"], "title": victim["creative"]["title"]}
            body |= {
                "withdrawn": {"state": "withdrawn"},
                "rewritten": {"disclosure": "有风险"},
                "expired": {"until": shell.clock.rfc3339(30)},
                "untouched": {},
            }[state]
            put = await shell.put(f"/v1/creatives/{victim['creative']['id']}", body)
            assert put.status_code == 200 and await shell.service.reloader.poll()
            shell.clock.now += 60
            second = await shell.page("u1", request_id="r1")
            shown = [one["creative"] for slot in second["slots"] for one in slot["items"]]
            assert (victim["creative"] in shown) is (state == "untouched")
            assert (second == first) is (state == "untouched")

    run(story)


def test_a_personal_page_does_not_outlive_the_permission_to_be_personal() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1", star_level=5)
            plain = await shell.page("u1", options={"profiling": False})
            event = shell.event("acted", "e1", user_id="u1", action="purchased", item_id=ids(plain)[0])
            personal = await shell.page("u1", request_id="r1", events=[event])
            assert ids(personal) != ids(plain)
            await put_user(shell, profiling=False)
            assert ids(await shell.page("u1", request_id="r1")) == ids(plain)

    run(story)


def test_the_cached_rung_does_not_bring_a_personal_page_back() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1", star_level=5)
            await shell.page("u1")
            recommender = shell.service.recommender
            recommender._ladder = Slow()
            await put_user(shell, profiling=False)
            page = await shell.page("u1", options={"explain": True})
            assert page["effort"] == "popular"

    run(story)


class Slow(Ladder):
    """Too busy for anything above the cached rung."""

    def choose(self, left_s: float, load: float, *, cached: bool, waiting: int = 1) -> Any:
        return EFFORTS[2] if cached else EFFORTS[3]


def test_overlapping_requests_of_one_id_that_ask_for_different_things() -> None:
    """Not the first one's page under another surface, nor with what only the first one may see."""

    async def story() -> None:
        async with running(restricted(auth_level="password")) as shell:
            await shell.know("u1")
            same = {"user_id": "u1", "request_id": "r1", "context": CONTEXT}
            asked = [
                ("/v1/recommend", same),
                ("/v1/recommend/banner", same),
                ("/v1/recommend", same | {"context": {**CONTEXT, "auth_level": "none"}}),
                ("/v1/recommend", same),
            ]
            answers = await asyncio.gather(*(shell.post(path, body) for path, body in asked))
            assert [answer.status_code for answer in answers] == [200, 409, 200, 200]
            assert answers[1].json()["code"] == "request_id_reused"
            assert answers[0].content == answers[3].content
            assert any(map(odd, ids(answers[0].json())))
            assert not any(map(odd, ids(answers[2].json())))

    run(story)


def test_an_old_patch_permits_nothing_while_the_profile_is_late() -> None:
    """The bank's batch said risk level 1 after somebody had put 5; the batch is late."""

    async def story() -> None:
        async with running(restricted(risk_class=5)) as shell:
            shell.clock.now = NOW - 2 * DAY
            await put_user(shell, risk_level=5, blocked=False)
            shell.clock.now = NOW
            await shell.know("u1", risk_level=1)
            assert not any(map(odd, ids(await shell.page("u1"))))
            await late_profile(shell)
            page = await shell.page("u1")
            assert "profile" in page["degraded"] and not any(map(odd, ids(page)))
            await put_user(shell, risk_level=5, blocked=False)
            assert any(map(odd, ids(await shell.page("u1")))), "newer than any batch there is"

    run(story)


@pytest.mark.parametrize("rule", ["cooling", "repeat", "consents", "risk_class", "auth_level"])
def test_similar_items_need_nothing_to_be_known(rule: str) -> None:
    async def story() -> None:
        async with running(restricted(**{rule: RESTRICTED[rule]})) as shell:
            for number in range(0, 120, 7):
                told = (await shell.get(f"/v1/items/i{number}/similar?k=10&channel=app")).json()
                assert not [one for one in told["items"] if odd(one["item_id"])]

    run(story)
