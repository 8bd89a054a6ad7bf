"""`fenliu bench rights`: pages of customers who refuse profiling, in pairs that differ in nothing else.

The two of a pair share context, permission and service fields, holdings, uploaded lists and contacts (what
caps count). Every profiling field, the computed audiences, imported scores and what they did are drawn apart.
Both ask a whole service, in process, with `profiling: false`, by request or as stored; ids and tokens are cut
from the answers and the bytes compared. The same pairs with profiling allowed must differ: else nothing would
be shown. Every placement is judged by `rights_rules` and by the service's own rules, asked one by one: of
customers who are blocked, from whom kinds are withheld, who hold more than a record has room for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from training.bench.harness import Result
from training.bench.tally import Tally

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from features.customer import Blobs
    from serving.bundle import Bundle
    from serving.plan import Plan
    from training.bench.in_process import InProcess
    from training.bench.rights_rules import Person

ABOUT = "customers who refuse profiling: the same page byte for byte, whatever is known of them; suitability"
CONTROLS: Final = 10  # one pair in so many also asks with profiling allowed
TOGETHER: Final = 8  # pairs at once
CITIES: Final = 20
PERMISSION: Final = ("consents", "risk_level", "age", "blocked", "holdings", "tags_off")
BLOCKED: Final = (0, 0, 0, 0, 0, 0, 1, 4, 32, 44)  # as often each
SERVICE: Final = ("tz", "org", "city")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, help="pairs of customers (10,000; with --quick 800)")
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--campaigns", type=int, default=60)
    parser.add_argument("--seed", type=int, default=2026)


def run(args: argparse.Namespace) -> Result:
    from serving.plan import check_plan
    from training.bench.decide_world import bundle_of, plan_of
    from training.bench.rights_rules import restricted

    pairs = args.pairs or (800 if args.quick else 10_000)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="fenliu-rights-") as folder:
        bundle = restricted(bundle_of(args.items, args.seed), args.seed)
        plan = check_plan(plan_of(bundle, args.campaigns, 6, args.seed))
        asyncio.run(_asked(Path(folder), bundle, plan, pairs, args.seed, tally))
    return tally.result()


async def _asked(home: Path, bundle: Bundle, plan: Plan, pairs: int, seed: int, tally: Tally) -> None:
    import numpy as np

    from training.bench.decide_world import NOW
    from training.bench.in_process import in_process
    from training.bench.rights_rules import RULES, Judged
    from training.progress import counting, wide_console

    rng = np.random.default_rng([seed, 21])
    keys = np.ascontiguousarray(bundle.compiled.table["key"])
    differ = controls = apart = 0
    judged = Judged()
    async with in_process(home, bundle, plan, NOW) as bench:
        with counting(wide_console(), "pairs") as tick:
            for start in range(0, pairs, TOGETHER):
                batch = range(start, min(start + TOGETHER, pairs))
                made = [await _pair(bench, number, keys, rng) for number in batch]
                asks = [pair[:2] for pair in made]
                bodies = await asyncio.gather(*(bench.page(ask) for pair in asks for ask in pair))
                for at, number in enumerate(batch):
                    one, other = bodies[2 * at], bodies[2 * at + 1]
                    differ += _bare(one) != _bare(other)
                    judged.look(bench, one, *made[at][2:])
                    if number % CONTROLS == 0:
                        for ask in asks[at]:
                            ask["options"]["profiling"] = True
                        both = [await bench.page(ask) for ask in asks[at]]
                        if number % 2 == 0:  # stored refusals stay refusals, whatever the request says
                            controls += 1
                            apart += _bare(both[0]) != _bare(both[1])
                        else:
                            differ += _bare(both[0]) != _bare(both[1])
                tick(batch[-1] + 1, pairs)
    tally.put("pairs", pairs, "", "half by request, half as stored")
    tally.put("pairs_that_differ", differ, "", "pages compared as bytes, ids and tokens cut", ("<=", 0.0))
    share = apart / controls if controls else 0.0
    tally.put("controls_that_differ", share, "share", "of the same pairs with profiling allowed", (">=", 0.9))
    tally.put("places", judged.places, "", "placements looked at")
    tally.put("ruled", judged.ruled, "", "of them of items that ask something of the customer", (">=", 1.0))
    told = ", ".join(f"{rule} {many:,}" for rule, many in judged.wrong.items() if many)
    tally.put("unsuitable", sum(judged.wrong.values()), "", told or "by any of ten rules", ("<=", 0.0))
    tally.put("denied", judged.denied, "", "placements that the service's own rules deny", ("<=", 0.0))
    told = ", ".join(f"{rule} {many:,}" for rule, many in judged.met.items())
    tally.put("rules_met", sum(many > 0 for many in judged.met.values()), "", told, (">=", float(len(RULES))))
    tally.put("places_left_empty", judged.short, "", "asked for and not filled")


async def _pair(
    bench: InProcess, number: int, keys: NDArray[np.uint64], rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any], Person, Blobs]:
    """Two customers made known: what they ask, what permission may know of both, the first one's records."""
    from features.external import pack
    from features.ids import user_subject
    from training.bench.rights_rules import Person

    stored = number % 2 == 1
    shared = _facts(keys, rng)
    contact = _answered(_drawn(keys, rng).contact or b"", rng)
    lists = rng.choice(80, 6, replace=False) + 1
    asks, records = [], []
    context = {
        "channel": "app",
        "app_version": "9.2.0",
        "auth_level": "face",
        "city": str(310_000 + number % CITIES),
    }
    for name in (f"a{number}", f"b{number}"):
        own = _drawn(keys, rng)
        known = _record(own, shared, lists, rng, refuses=stored)._replace(external=pack(_scores(keys, rng)))
        bench.know(name, known)
        await bench.stores.live.append(user_subject(name), recent=own.recent or b"", contact=contact)
        records.append(known._replace(contact=contact))
        asks.append({"user_id": name, "context": context, "options": {"profiling": stored}})
    return asks[0], asks[1], Person.of(shared, lists, contact, bench.clock()), records[0]


def _scores(keys: NDArray[np.uint64], rng: np.random.Generator) -> NDArray[np.void]:
    """Of two of the bank's models: proposals of one customer's own."""
    import numpy as np

    from features.external import ENTRY
    from training.bench.decide_world import DAY, NOW

    entries = np.zeros(16, ENTRY)
    entries["item"], entries["model"] = rng.choice(keys, 16, replace=False), np.repeat((1, 2), 8)
    entries["score"], entries["expires"] = rng.random(16), NOW + DAY
    return entries


def _answered(contact: bytes, rng: np.random.Generator) -> bytes:
    """Contacts of which some were dismissed or bought; one customer in ten complained."""
    import numpy as np

    from features.events import WHAT
    from features.views import CONTACT

    log = np.frombuffer(contact, CONTACT).copy()
    did = [WHAT["displayed"], WHAT["dismissed"], WHAT["converted"]]
    log["what"] = rng.choice(did, len(log), p=[0.7, 0.2, 0.1])
    if rng.random() < 0.1:
        log["what"][0] = WHAT["acted"]
    return log.tobytes()


def _drawn(keys: NDArray[np.uint64], rng: np.random.Generator) -> Blobs:
    from training.bench.decide_world import blobs_of

    return blobs_of(keys, int(rng.integers(4, 24)), rng)


def _facts(keys: NDArray[np.uint64], rng: np.random.Generator) -> NDArray[np.void]:
    """What the two share: service and permission fields."""
    from features.ids import key32
    from features.views import PROFILE

    facts = PROFILE.blank(1)[0]
    facts["consents"], facts["risk_level"], facts["age"] = (
        rng.integers(0, 8),
        rng.integers(1, 6),
        rng.integers(16, 90),
    )
    held = 16 if rng.random() < 0.1 else 3  # as many as a record has room for: more may be held
    facts["holdings"][:held], facts["blocked"] = rng.choice(keys, held, replace=False), rng.choice(BLOCKED)
    facts["tz"], facts["city"] = b"Asia/Shanghai", key32(str(310_000 + rng.integers(CITIES)))
    made: NDArray[np.void] = facts
    return made


def _record(
    own: Blobs, shared: NDArray[np.void], lists: NDArray[np.int64], rng: np.random.Generator, *, refuses: bool
) -> Blobs:
    """The customer's own profiling fields under the shared ones; computed audiences of their own."""
    import numpy as np

    from features.views import MEMBERSHIP, PROFILE
    from serving.predicates import COMPUTED_FROM
    from training.bench.decide_world import DAY, NOW

    profile = PROFILE.decode(own.profile or b"").values.copy()
    for name in (*PERMISSION, *SERVICE):
        profile[name] = shared[name]
    profile["profiling"] = 0 if refuses else 1
    profile["tags"] = rng.integers(0, 256, profile["tags"].shape, dtype=np.uint8)
    profile["kind_affinity"] = rng.random(profile["kind_affinity"].shape)
    for name in ("gender", "payroll", "lifecycle", "age_band"):
        profile[name] = rng.integers(0, 3)
    computed = COMPUTED_FROM + rng.choice(500, 8, replace=False)
    member = MEMBERSHIP.blank(1)[0]
    member["audiences"][: len(lists) + 8] = np.sort(np.concatenate([lists, computed]))
    at = NOW - DAY
    return own._replace(
        profile=PROFILE.encode(profile, as_of=at), membership=MEMBERSHIP.encode(member, as_of=at)
    )


def _bare(body: bytes) -> bytes:
    """The page without its id and token."""
    page = json.loads(body)
    bare = body
    for name in ("decision_id", "page_token"):
        bare = bare.replace(page[name].encode(), b"")
    return bare
