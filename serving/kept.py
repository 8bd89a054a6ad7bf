"""What a decision was made by and its record only names: prices, item changes and lists, plan, bandit.

Each version goes into the event log once a UTC day, before the first record that names it, and with the log
into the lake: so any logged decision can be made again, after restarts and wherever it was made, and a day's
partition stands alone. What the registry keeps (bundles) is not repeated.

Item changes are kept as differences: `parent` names the content that `entries` change, "" is none. A
content's name is its digest, so that replicas which took other steps to it agree.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import orjson

from features.events import input_to_log
from features.log import Entry
from serving.bandit import Learned, decode_learned
from serving.control import OverlayEntry
from serving.live import Live
from serving.plan import Plan, parse_plan
from serving.prices import Prices, decode_prices

PRICES: Final = "prices"
CONTENT: Final = "content"  # item changes and lists
PLAN: Final = "plan"
BANDIT: Final = "bandit"
DAY_S: Final = 86_400.0
MOST_KNOWN: Final = 10_000  # versions of which this process knows that they were handed over
CHAIN: Final = 200  # differences until the whole is written again
FAST: Final = 1  # of zlib: prices of 2,000 campaigns in about a millisecond, off the request's path

Put = Callable[[Callable[[], Entry]], bool]


class Content(NamedTuple):
    """Item changes in force, by (kind, id), and the numbers of lists by name."""

    changes: Mapping[tuple[str, str], OverlayEntry]
    lists: Mapping[str, int]


class Keeping:
    """`put` is the publisher's: False when its queue is full, and the next page tries again."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._last: Live | None = None
        self._day = 0
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._content: Live | None = None  # whose content was handed over last
        self._links = 0

    def note(self, live: Live, now: float) -> None:
        """Called for every page before its record: nothing to do while the view stays the same."""
        day = int(now // DAY_S)
        if live is self._last and day == self._day:
            return
        if day != self._day:
            self._day, self._content, self._links = day, None, 0
            self._known.clear()
        done = [self._prices(live, now), self._plan(live, now), self._contents(live, now)]
        if all([*done, self._learned(live, now)]):
            self._last = live

    def _prices(self, live: Live, now: float) -> bool:
        if not live.prices.version:
            return True
        return self._once(PRICES, str(live.prices.version), now, partial(prices_body, live.prices))

    def _plan(self, live: Live, now: float) -> bool:
        return self._once(PLAN, live.plan.version, now, partial(plan_body, live.plan.plan))

    def _learned(self, live: Live, now: float) -> bool:
        one = live.learned
        return not one.version or self._once(BANDIT, one.version, now, partial(one.encode, whole=False))

    def _contents(self, live: Live, now: float) -> bool:
        if not live.content or (self._content is not None and self._content.content == live.content):
            return True
        before = self._content if self._links < CHAIN else None
        if not self._once(CONTENT, live.content, now, partial(content_body, live, before)):
            return False
        self._links = 0 if before is None else self._links + 1
        self._content = live
        return True

    def _once(self, kind: str, version: str, now: float, body: Callable[[], bytes]) -> bool:
        if (kind, version) in self._known:
            return True
        if not self._put(partial(kept_entry, kind, version, now, body)):
            return False
        self._known[kind, version] = None
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return True


def kept_entry(kind: str, version: str, now: float, body: Callable[[], bytes]) -> Entry:
    """The log's entry; one of each kind and version is accepted a day, whoever writes it."""
    payload = input_to_log(kind, version, now, zlib.compress(body(), FAST))
    return Entry(f"in:{kind}:{version}:{int(now // DAY_S)}", f"i:{kind}", payload)


def content_body(live: Live, before: Live | None) -> bytes:
    """The difference from the content of `before`; the whole where something of that is gone."""
    now = {(one.kind, one.id): one for one in live.changes}
    was = {} if before is None else {(one.kind, one.id): one for one in before.changes}
    parent = "" if before is None else before.content
    if was.keys() - now.keys():
        was, parent = {}, ""
    fresh = [one for key, one in now.items() if was.get(key) != one]
    return orjson.dumps(
        {
            "parent": parent,
            "entries": [[one.seq, one.kind, one.id, one.payload] for one in fresh],
            "lists": dict(live.lists),
        }
    )


def content_of(version: str, bodies: Mapping[str, bytes]) -> Content:
    """What a record names, put together. KeyError: a link is not among `bodies` (compressed, by version)."""
    links: list[Mapping[str, Any]] = []
    at = version
    while at:
        links.append(orjson.loads(zlib.decompress(bodies[at])))
        at = links[-1]["parent"]
    changes: dict[tuple[str, str], OverlayEntry] = {}
    for link in reversed(links):
        for seq, kind, name, payload in link["entries"]:
            changes[kind, name] = OverlayEntry(seq, kind, name, payload)
    return Content(changes, links[0]["lists"] if links else {})


def prices_body(prices: Prices) -> bytes:
    """What decisions read of prices: their causes and notes are for people."""
    return Prices(
        prices.version, prices.made_at, prices.per_display, prices.per_click, prices.per_convert, prices.open
    ).encode()


def prices_of(body: bytes) -> Prices:
    return decode_prices(zlib.decompress(body))


def learned_of(version: str, body: bytes) -> Learned:
    return decode_learned(zlib.decompress(body), version)


def plan_body(plan: Plan) -> bytes:
    return plan.model_dump_json(by_alias=True, exclude_defaults=True).encode()


def plan_of(version: str, body: bytes) -> Plan:
    """Raises PlanError: it was written by a version of the product whose plans are no more."""
    return parse_plan(zlib.decompress(body), f"plan {version}")
