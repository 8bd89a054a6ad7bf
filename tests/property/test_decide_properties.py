"""What holds of every page, whatever the catalogue, the customer and the request."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.customer import LATE_BLOB, Blobs, decode_customer
from features.events import WHAT
from features.ids import CHANNELS, KINDS, key32, key64
from features.views import CONSENTS
from serving.catalogue import AUTH_LEVELS, pack_version
from serving.control import Kill, OverlayEntry
from serving.decide import decide, page_of
from serving.domain import EFFORTS
from serving.live import build_live
from tests.worlds import (
    DAY,
    NOW,
    contact_entries,
    item,
    membership_blob,
    profile_blob,
    query,
    recent_entries,
    tiny_bundle,
    tiny_plan,
)

N = 90
CITIES = ("310000", "110000")

restrictions = st.fixed_dictionaries(
    {},
    optional={
        "risk_class": st.integers(0, 5),
        "min_age": st.sampled_from((0, 18, 60)),
        "max_age": st.sampled_from((0, 65)),
        "needs": st.just(["x3"]),
        "excludes": st.just(["x4"]),
        "repeat": st.sampled_from(("always", "after_maturity", "never")),
        "channels": st.sampled_from(((), ("app",), ("web", "h5"))),
        "min_app_version": st.sampled_from(("1", "99")),
        "regions": st.sampled_from(((), ("310000",))),
        "starts": st.sampled_from(("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")),
        "stock": st.sampled_from((0, 3)),
        "sold_out": st.booleans(),
        "auth_level": st.sampled_from(("none", "face")),
        "consents": st.sampled_from(((), ("marketing",))),
        "audience": st.sampled_from((0, 5, 6)),
        "cooling": st.booleans(),
        "creatives": st.sampled_from(
            (
                (),
                ({"id": "d", "title": "d", "state": "draft"},),
                ({"id": "b", "title": "b", "layouts": ["banner"]},),
                (
                    {"id": "f", "title": "f", "from": "2027-01-01T00:00:00Z"},
                    {"id": "g", "title": "g", "layouts": ["feed"]},
                ),
            )
        ),
    },
)
changes = st.dictionaries(st.integers(0, N - 1), restrictions, max_size=60)
log = st.lists(
    st.tuples(
        st.integers(0, N + 5).map(lambda n: f"i{n}"),
        st.sampled_from(("clicked", "dismissed", "converted", "displayed")),
        st.floats(0, 40 * DAY),
    ),
    max_size=12,
)


@st.composite
def blobs(draw):
    profile = profile_blob(
        age=draw(st.sampled_from((0, 17, 40, 70))),
        risk_level=draw(st.integers(0, 5)),
        consents=draw(st.integers(0, 7)),
        blocked=draw(st.sampled_from((0, 0, 0, 1, 4, 32))),
        holdings=[key64(name) for name in draw(st.sets(st.sampled_from(("x3", "x4", "i9")))) or ()],
        city=draw(st.sampled_from((0, key32("310000"), key32("110000")))),
        star_level=draw(st.integers(0, 7)),
        segment=draw(st.integers(0, 4)),
    )
    contact, recent = draw(log), draw(log)
    whole = Blobs(
        profile,
        membership_blob(*draw(st.sets(st.sampled_from((5, 6))))),
        recent_entries(*recent).tobytes(),
        contact_entries(*contact).tobytes(),
        None,
    )
    for view in ("profile", "membership", "recent", "contact", "patch"):
        if draw(st.integers(0, 6)) == 0:
            whole = whole._replace(**{view: draw(st.sampled_from((None, LATE_BLOB, b"x" * 33)))})
    return whole


@st.composite
def worlds(draw):
    """(live, query, effort, cached rows), with an overlay and kills."""
    changed = draw(changes)
    items = [item(n, **changed.get(n, {})) for n in range(N)]
    plan = tiny_plan(
        slots=[
            {"name": f"s{n}", "layout": layout, "size": draw(st.integers(1, 8)), "kinds": sorted(kinds)}
            for n, (layout, kinds) in enumerate(
                draw(
                    st.lists(
                        st.tuples(
                            st.sampled_from(("banner", "icon_grid", "shelf", "popup", "feed")),
                            st.sets(st.sampled_from(KINDS), min_size=1),
                        ),
                        min_size=1,
                        max_size=4,
                    )
                )
            )
        ],
        surfaces={"home": ["s0"]},
    )
    plan = plan.model_copy(update={"surfaces": {"home": tuple(slot.name for slot in plan.slots)}})
    new = item(900, "content", **draw(restrictions))
    overlay = [
        OverlayEntry(1, "item", "i1", None),
        OverlayEntry(2, "item", "i900", new.model_dump(mode="json", by_alias=True)),
    ]
    killed = {f"i{n}" for n in draw(st.sets(st.integers(0, N - 1), max_size=4))}
    kills = [Kill("item", name) for name in sorted(killed)]
    bundle = tiny_bundle(items=items, seed=draw(st.integers(0, 2)))
    live = build_live(bundle, overlay, plan, kills, strict=False)  # slots may be short of open items
    whole = draw(blobs())
    who = decode_customer(whole, now=NOW, profiling=draw(st.booleans()))
    out = [f"i{n}" for n in sorted(draw(st.sets(st.integers(0, N - 1), max_size=5)))]
    asked = query(
        live,
        who,
        exclude={"s0": out},
        channel=draw(st.integers(0, 5)),
        app_version=draw(st.sampled_from((0, 9_000_000))),
        auth_level=draw(st.integers(0, 4)),
        city=draw(st.sampled_from((0, key32("310000")))),
        location=draw(st.sampled_from((None, "wtw3s"))),
        locale=draw(st.sampled_from(("zh-CN", "en"))),
        anchor_row=draw(st.sampled_from((None, 2, N))),
    )
    cached = np.array(draw(st.lists(st.integers(-1, N + 3), max_size=20)), np.int32)
    return live, [*items, new], killed | {"i1"}, asked, draw(st.sampled_from(EFFORTS)), cached


def allowed(items, killed, asked, effort):
    """Per slot the rows that may stand there, worked out from the items themselves, one at a time."""
    rows = []
    for slot in asked.slots:
        kinds, layout = {KINDS[kind] for kind in slot.spec.kinds}, slot.spec.layout
        rows.append(
            {
                row
                for row, one in enumerate(items)
                if one.id not in killed
                and one.kind in kinds
                and permitted(one, asked)
                and rendered(one, layout, asked.now)
                and key64(one.id) not in slot.exclude
                and row != asked.anchor_row
                and (effort != "fallback" or is_open(one))
            }
        )
    return rows


def permitted(one, asked):
    """The rules once more, in plain words over plain values: None is unknown, and unknown denies."""
    who, at, now = asked.customer, asked.context, asked.now
    age = int(who.get("age")) if who.knows("age") and who.get("age") else None
    risk = int(who.get("risk_level")) if who.knows("risk_level") else None
    held = set(who.get("holdings").tolist()) - {0} if who.knows("holdings") else None
    consents = int(who.get("consents")) if who.knows("consents") else None
    city = at.city or (int(who.get("city")) if who.knows("city") else 0)
    told = None if who.contact is None else who.contact[["item", "what", "at"]].tolist()
    bought = {key for key, what, _ in told or () if what == WHAT["converted"]}
    refused = {key for key, what, when in told or () if what == WHAT["dismissed"] and when > now - 14 * DAY}
    asks_about_customer = not is_open(one, of_customer_only=True)
    return (
        (not one.channels or (at.channel > 0 and CHANNELS[at.channel - 1] in one.channels))
        and pack_version(one.min_app_version or "0") <= at.app_version
        and (not one.regions or city in {key32(code) for code in one.regions})
        and (one.starts is None or one.starts.timestamp() <= now)
        and not one.sold_out
        and one.stock != 0
        and AUTH_LEVELS.index(one.auth_level) <= at.auth_level
        and (one.risk_class == 0 or (risk is not None and one.risk_class <= risk))
        and (one.min_age == 0 or (age is not None and age >= one.min_age))
        and (one.max_age == 0 or (age is not None and age <= one.max_age))
        and (not one.consents or (consents is not None and not asked_of(one) & ~consents))
        and (not one.needs or (held is not None and all(key64(n) in held for n in one.needs)))
        and (not one.excludes or (held is not None and not any(key64(n) in held for n in one.excludes)))
        and (
            one.repeat != "never"
            or (held is not None and told is not None and key64(one.id) not in held | bought)
        )
        and (one.audience == 0 or (who.audiences is not None and one.audience in who.audiences.tolist()))
        and (not one.cooling or (told is not None and key64(one.id) not in refused))
        and (not asks_about_customer or (who.knows("blocked") and not int(who.get("blocked")) & 1))
        and not withheld_from(who, one.kind)
    )


def withheld_from(who, kind):
    """Known only: an open offer is shown to whom nothing is known of."""
    bits = int(who.get("blocked")) if who.knows("blocked") else 0
    of = {"product": 4, "activity": 8, "benefit": 32 + 1}
    return bool(bits & of.get(kind, 0))


def asked_of(one):
    return sum(1 << CONSENTS.index(consent) for consent in one.consents)


def rendered(one, layout, now):
    live = [c for c in one.creatives if c.state == "live" and (c.from_ is None or c.from_.timestamp() <= now)]
    return not one.creatives or any(not c.layouts or layout in c.layouts for c in live)


def is_open(one, of_customer_only=False):
    about_customer = (
        one.risk_class, one.min_age, one.max_age, one.consents, one.needs, one.excludes, one.audience,
        one.cooling, one.repeat == "never",
    )  # fmt: skip
    about_request = (
        one.channels, one.min_app_version, one.regions, one.starts, one.sold_out, one.stock == 0,
        one.auth_level != "none", any(c.from_ for c in one.creatives),
    )  # fmt: skip
    return not any(about_customer) and (of_customer_only or not any(about_request))


def most(rows, counts):
    """How many places can be filled at all: a maximum matching, by augmenting paths."""
    holder = {}

    def place(slot, seen):
        for row in sorted(rows[slot]):
            if row in seen:
                continue
            seen.add(row)
            if row not in holder or place(holder[row], seen):
                holder[row] = slot
                return True
        return False

    return sum(place(slot, set()) for slot, count in enumerate(counts) for _ in range(count))


@given(worlds())
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_every_page_is_permitted_without_repeats_as_full_as_can_be_and_the_same_again(world):
    live, items, killed, asked, effort, cached = world
    decision = decide(asked, live, effort, cached)
    rows = decision.rows.tolist()
    assert len(rows) == len(set(rows))
    may = allowed(items, killed, asked, effort)
    for place in decision.placements:
        assert place.row in may[place.slot]
        assert np.isfinite(place.score) and place.propensity == 1.0 and place.reason > 0
    counts = [slot.count for slot in asked.slots]
    assert all(size <= count for size, count in zip(decision.sizes, counts, strict=True))
    assert sum(decision.sizes) == most(may, counts)
    for slot in range(len(counts)):
        places = [p for p in decision.placements if p.slot == slot]
        assert [p.position for p in places] == list(range(len(places)))
    assert set(asked.customer.missing) <= set(decision.degraded)
    again = decide(asked, live, effort, cached)
    assert again.placements == decision.placements and again.drops == decision.drops


@given(st.binary(max_size=64 * 3), st.binary(max_size=80))
@settings(max_examples=40, deadline=None)
def test_bytes_of_any_kind_in_the_store_never_stop_a_page(contact, profile):
    live = _LIVE
    who = decode_customer(Blobs(profile, profile, contact, contact, None), now=NOW)
    decision = decide(query(live, who), live)
    assert decision.sizes == (3, 5, 4, 1, 3, 6)


_LIVE = build_live(tiny_bundle(), (), tiny_plan())


@given(st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_the_order_in_which_sources_answer_does_not_matter(order):
    asked = query(_LIVE)
    pipeline = _LIVE.pipelines["full"]
    page = page_of(asked, _LIVE)
    for u in pipeline.understanding:
        u.understand(page)
    parts = [(bit, s.propose(page)) for bit, s in pipeline.sources if s.enabled(page)]
    one = pipeline.merge(parts)
    other = pipeline.merge([parts[i] for i in order if i < len(parts)] + parts[6:])
    assert one.rows.tolist() == other.rows.tolist() and one.origin.tolist() == other.origin.tolist()
    assert one.score.tolist() == other.score.tolist()
