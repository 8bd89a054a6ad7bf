"""What a page says of itself at /metrics: its stages, its surface, and which fields of a profile it knew."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from features.customer import LATE_BLOB, Blobs, decode_customer
from features.views import CONSENTS, PROFILE
from serving.feature_counts import MOST_KINDS, FeatureCounts
from serving.observe import LATENCY_BUCKETS
from serving.stage_times import EVERY, STAGES, UNTIMED, StageTimes
from tests.shell import Shell, run, running
from tests.shell_looks import flushed
from tests.worlds import NOW, customer, profile_blob


def timed(shell: Shell) -> CollectorRegistry:
    """From here on every page of the shell is timed, and told here."""
    registry = CollectorRegistry()
    shell.service.metrics.stages = StageTimes(registry, LATENCY_BUCKETS, gap=lambda: 1)
    return registry


def counts(registry: CollectorRegistry) -> dict[str, float]:
    """Observations by stage, and by surface."""
    found = {}
    for name, label in (("fenliu_stage_seconds", "stage"), ("fenliu_page_seconds", "surface")):
        for family in registry.collect():
            if family.name == name:
                found |= {
                    one.labels[label]: one.value for one in family.samples if one.name == f"{name}_count"
                }
    return found


def test_each_stage_of_a_page_is_timed_and_the_page_by_its_surface() -> None:
    async def story() -> None:
        async with running() as shell:
            registry = timed(shell)
            await shell.know("u1")
            assert sum(counts(registry).values()) == 0
            await shell.page("u1")
            plain = counts(registry)
            assert {stage: plain[stage] for stage in STAGES} == {
                "events": 0, "store read": 1, "decode": 1, "decide": 1, "reserve": 1, "write": 1,
                "remember": 0,
            }  # fmt: skip
            assert plain["home"] == 1
            event = shell.event("acted", "e1", user_id="u1", action="viewed", item_id="i3")
            await shell.page("u1", request_id="r1", events=[event])
            assert {stage: counts(registry)[stage] for stage in STAGES} == {
                "events": 1, "store read": 2, "decode": 2, "decide": 2, "reserve": 2, "write": 2,
                "remember": 1,
            }  # fmt: skip
            await shell.page("u1", request_id="r1")  # the page from before: nothing is decided
            again = counts(registry)
            assert (again["store read"], again["decide"], again["home"]) == (3, 2, 3)
            await shell.page("u1", options={"dry_run": True})
            assert counts(registry) == again

    run(story)


def test_the_stages_take_up_the_whole_page_and_each_its_own_time() -> None:
    registry = CollectorRegistry()
    times = StageTimes(registry, LATENCY_BUCKETS, gap=lambda: 1)
    ticks = iter((10.0, 10.25, 11.25))
    marks = times.drawn(lambda: next(ticks))
    assert marks is not UNTIMED
    marks.ended("store read")
    marks.ended("decide")
    times.told(marks, "home", 1.25)
    said = registry.get_sample_value
    assert said("fenliu_stage_seconds_sum", {"stage": "store read"}) == 0.25
    assert said("fenliu_stage_seconds_sum", {"stage": "decide"}) == 1.0
    assert said("fenliu_page_seconds_sum", {"surface": "home"}) == 1.25


def test_one_page_in_so_many_is_timed_and_not_each_so_manieth() -> None:
    times = StageTimes(CollectorRegistry(), LATENCY_BUCKETS)
    drawn = [times.drawn(float) is not UNTIMED for _ in range(EVERY * 2000)]
    assert 1800 < sum(drawn) < 2200  # of 2,000; its deviation is 26
    at = [place for place, one in enumerate(drawn) if one]
    assert len({b - a for a, b in pairwise(at)}) > EVERY


def looked(shares: FeatureCounts) -> dict[str, tuple[float, float]]:
    """(pages that might use it, pages that knew it) by field."""
    one, other = ({s.labels["field"]: s.value for s in family.samples} for family in shares.collect())
    return {name: (count, other[name]) for name, count in one.items()}


def test_what_is_not_known_of_a_profile_moves_its_share() -> None:
    held = FeatureCounts()
    assert looked(held) == {}
    for known in (("age", "assets"), ("age",), ("age", "gender")):
        blob = profile_blob(known=known, age=40)
        held.add(decode_customer(Blobs(blob, None, None, None, None), now=NOW))
    found = looked(held)
    assert found["age"] == (3, 3) and found["assets"] == (3, 1) and found["payroll"] == (3, 0)
    assert found.keys() == set(PROFILE.names) - {"income"}  # nobody has given the consent to it


@pytest.mark.parametrize("patch", [None, LATE_BLOB])
@pytest.mark.parametrize("profile", [None, LATE_BLOB, b"another schema"])
def test_a_profile_that_was_not_read_tells_nothing_of_its_fields(
    profile: bytes | None, patch: bytes | None
) -> None:
    held = FeatureCounts()
    held.add(decode_customer(Blobs(profile, None, None, None, patch), now=NOW))
    assert looked(held) == {}
    held.add(decode_customer(Blobs(profile_blob(), None, None, None, patch), now=NOW))
    assert bool(looked(held)) == (patch is None)


def test_who_refused_profiling_does_not_look_like_a_lost_feature() -> None:
    held = FeatureCounts()
    held.add(customer(profiling=False))
    held.add(customer())
    found = looked(held)
    assert found["risk_level"] == (2, 2) and found["assets"] == (1, 1)


def test_who_did_not_consent_to_a_field_does_not_look_like_a_lost_feature() -> None:
    held, given = FeatureCounts(), 1 << CONSENTS.index("data_sharing")
    everything, lost = PROFILE.names, [name for name in PROFILE.names if name != "income"]
    for known, consents in ((everything, 0), (everything, given), (lost, given), (("income",), given)):
        blob = profile_blob(known=known, consents=consents, income=9_000)
        held.add(decode_customer(Blobs(blob, None, None, None, None), now=NOW))
    assert looked(held)["income"] == (2, 1) and looked(held)["age"] == (4, 3)


def test_however_many_kinds_of_profiles_there_are_they_are_summed() -> None:
    held, one = FeatureCounts(), customer()
    assert one.profile is not None
    for known in range(2 * MOST_KINDS):
        held.add(replace(one, profile=one.profile._replace(known=known)))
    assert len(held._kinds) <= MOST_KINDS
    first = PROFILE.names[0]
    assert looked(held)[first] == (2 * MOST_KINDS, MOST_KINDS)


def test_a_page_counts_the_fields_of_its_customer() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1")
            await shell.page("u1")
            await shell.page("u2")  # of whom nothing is known
            await flushed(shell)
            value = shell.service.metrics.registry.get_sample_value
            assert value("fenliu_feature_looked_total", {"field": "age"}) == 1
            assert value("fenliu_feature_known_total", {"field": "age"}) == 1

    run(story)
