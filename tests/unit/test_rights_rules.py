"""What the benchmark of customers' rights judges by: the rules in plain words, against the service's own."""

from __future__ import annotations

from collections import Counter

import numpy as np

from features.customer import Blobs, decode_customer
from features.events import WHAT
from features.views import CONTACT, HOLDINGS_KEPT, MEMBERSHIP, PROFILE
from serving.decide import page_of
from serving.reasons import Drop
from tests.worlds import DAY, NOW, query, tiny_bundle, tiny_live, tiny_plan
from training.bench.rights_rules import RULES, Person, restricted, under

N = 120
CODES = {"consent": Drop.CONSENT, **{rule: Drop[rule.upper()] for rule in RULES if rule != "consent"}}


def people(keys: np.ndarray, rng: np.random.Generator) -> tuple[Person, Blobs]:
    facts = PROFILE.blank(1)[0]
    for name, most in (("risk_level", 6), ("consents", 8)):
        facts[name] = rng.integers(1, most)
    facts["age"], facts["blocked"] = rng.integers(16, 90), rng.choice((0, 0, 1, 4, 8, 32, 45))
    held = int(rng.choice((0, 3, HOLDINGS_KEPT)))
    facts["holdings"][:held] = rng.choice(keys, held, replace=False)
    lists = np.sort(rng.choice(80, 6, replace=False)) + 1
    member = MEMBERSHIP.blank(1)[0]
    member["audiences"][:6] = lists
    contact = np.zeros(12, CONTACT)
    contact["item"], contact["at"] = rng.choice(keys, 12), np.sort(NOW - rng.uniform(60, 30 * DAY, 12))
    contact["what"] = rng.choice([WHAT["displayed"], WHAT["dismissed"], WHAT["converted"]], 12)
    if rng.random() < 0.2:
        contact["what"][-1] = WHAT["acted"]
    raw = contact.tobytes()
    made = Blobs(
        PROFILE.encode(facts, as_of=NOW - DAY), MEMBERSHIP.encode(member, as_of=NOW - DAY), None, raw, None
    )
    return Person.of(facts, lists, raw, NOW), made


def test_both_forms_of_the_rules_agree_rule_by_rule() -> None:
    """Of every item and many customers: what the plain words forbid the filters deny, and nothing else."""
    live = tiny_live(restricted(tiny_bundle(), 7), plan=tiny_plan())
    rows, rng, met = np.arange(len(live.table), dtype=np.int32), np.random.default_rng(5), Counter[str]()
    keys = np.ascontiguousarray(live.table["key"])
    of_customers = sum(drop.bit for drop in CODES.values())
    for _ in range(40):
        person, blobs = people(keys, rng)
        page = page_of(query(live, decode_customer(blobs, now=NOW)), live)
        drops = live.pipelines["full"].permission.drops_asked(page, rows)
        for row in rows.tolist():
            said = person.broken(live.table[row])
            met.update(said)
            denied = {drop for drop in CODES.values() if int(drops[row]) & drop.bit}
            assert denied == {CODES[rule] for rule in said}, (row, said, denied)
            assert not int(drops[row]) & ~of_customers
    assert set(met) == set(RULES) and any(under(live.table[row]) for row in rows.tolist())
