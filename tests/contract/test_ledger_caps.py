"""Caps of every ledger: what is reserved, shown, lapsed, taken over and linked; on every store there is."""

from __future__ import annotations

import pytest

from features.ledger import Reserving
from features.live_store import CONTACT_LAST
from features.reservations import HELD, LATE, RESERVED, SHOWN
from tests.ledgers import HOME, LIFE, LedgerSuite, OnMemory, OnRedis, OnValkey, cap, contact, wish


class CapsContract(LedgerSuite):
    def test_a_cap_holds_within_a_page_and_across_surfaces(self):
        async def steps(it):
            first = await it.reserve("d1", wish(1), wish(2), wish(3), checks=[cap(2)])
            other = await it.reserve("d2", wish(4), checks=[cap(2)], scope=LIFE)
            apart = await it.reserve("d3", wish(4, campaign=10), checks=[cap(2)], scope=LIFE)
            return first, other, apart

        assert self.run(steps) == ((0, 0, -1), (-1,), (0,))

    def test_the_first_alternative_that_fits_is_taken(self):
        async def steps(it):
            place = (wish(1, caps=(0, 1)), wish(2, campaign=8, caps=(1,)), wish(3, campaign=7, caps=()))
            return [await it.reserve(f"d{i}", place, checks=[cap(1), cap(2, field="slot")], scope=i) for i in range(4)]  # noqa: E501  # fmt: skip

        assert self.run(steps) == [(0,), (1,), (2,), (2,)]

    def test_the_same_decision_again_gets_the_same_answer_even_when_shown(self):
        async def steps(it):
            first = await it.reserve("d1", wish(1), wish(2), checks=[cap(1)])
            await it.show("d1", 1)
            again = await it.reserve("d1", wish(1), wish(2), checks=[cap(1)])
            return first, again, len(await it.rows())

        assert self.run(steps) == ((0, -1), (0, -1), 2)

    def test_a_display_confirms_once_whichever_event_tells_of_it(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(2)])
            await it.show("d1", 1)
            await it.show("d1", 1)
            log = await it.log()
            left = await it.reserve("d2", wish(2), wish(3), checks=[cap(2)])
            return log["flags"].tolist(), left

        assert self.run(steps) == ([RESERVED], (0, -1))

    def test_the_next_page_of_the_same_scope_takes_over_what_was_not_shown(self):
        async def steps(it):
            await it.reserve("d1", wish(1), wish(2), checks=[cap(2)])
            await it.show("d1", 1)
            second = await it.reserve("d2", wish(3), wish(4), checks=[cap(2)])
            await it.show("d1", 2)  # superseded: counted, and late
            return (
                second,
                (await it.log())["flags"].tolist(),
                await it.reserve("d3", wish(5), checks=[cap(2)]),
            )

        assert self.run(steps) == ((0, -1), [RESERVED, RESERVED | LATE], (-1,))

    def test_what_lapsed_comes_back_and_its_display_is_late(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)], scope=LIFE)
            before = await it.reserve("d2", wish(2), checks=[cap(1)])
            await self.age(it, "u:1", 661)
            after = await it.reserve("d3", wish(2), checks=[cap(1)])
            await it.show("d1", 1)
            return before, after, (await it.log())["flags"].tolist()

        assert self.run(steps) == ((-1,), (0,), [RESERVED | LATE])

    def test_a_display_of_a_lapsed_row_is_late_even_where_the_row_still_lies(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)])
            await self.age(it, "u:1", 661)
            await it.show("d1", 1)
            return (await it.log())["flags"].tolist()

        assert self.run(steps) == [RESERVED | LATE]

    def test_it_is_held_for_a_minute_more_than_the_page(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)], scope=LIFE)
            await self.age(it, "u:1", 655)
            return await it.reserve("d2", wish(2), checks=[cap(1)])

        assert self.run(steps) == (-1,)

    def test_windows_gaps_and_events(self):
        async def steps(it):
            now = await it.ledger.now()
            old, young, click = now - 1000, now - 100, now - 5
            await it.live.append(
                "u:1",
                contact=contact(1, 1, 9, old) + contact(1, 2, 9, young) + contact(1, 3, 9, click, what=2),
            )
            tried = [
                cap(1, window=50), cap(1, window=200), cap(2, window=200), cap(2, window=2000),
                cap(1, window=0, since=now - 50), cap(1, window=0, since=now - 200), cap(2, window=0),
                cap(9, gap=50), cap(9, gap=150), cap(1, event="clicked"), cap(2, event="clicked"),
                cap(9, window=0, since=now + 60),
            ]  # fmt: skip
            return [(await it.reserve(f"d{i}", wish(5), checks=[one]))[0] for i, one in enumerate(tried)]

        assert self.run(steps) == [0, -1, 0, -1, 0, -1, -1, 0, -1, -1, 0, -1]

    def test_a_gap_lets_one_through_at_a_time(self):
        async def steps(it):
            return await it.reserve("d1", wish(1), wish(2), checks=[cap(9, gap=60)])

        assert self.run(steps) == (0, -1)

    @pytest.mark.parametrize("field", ["item", "campaign", "category", "slot", "channel", "creative"])
    def test_every_scope_counts_what_is_its_own(self, field):
        async def steps(it):
            now = await it.ledger.now()
            await it.live.append(
                "u:1", contact=contact(1, 1, 9, now - 10) + contact(2, 2, 8, now - 10, slot=6)
            )
            same = await it.reserve("d1", wish(1), checks=[cap(1, field=field)])
            other = wish(70, 71, slot=72, category=73, creative=74, channel=75)
            return same, await it.reserve("d2", other, checks=[cap(1, field=field)])

        assert self.run(steps) == ((-1,), (0,))

    def test_a_set_of_campaigns_counts_together(self):
        async def steps(it):
            both = cap(2, keys=(8, 9))
            now = await it.ledger.now()
            await it.live.append("u:1", contact=contact(1, 1, 8, now - 10))
            return await it.reserve("d1", wish(1, 9), wish(2, 8), wish(3, 10, caps=()), checks=[both])

        assert self.run(steps) == (0, -1, 0)

    def test_a_log_that_does_not_reach_back_is_told(self):
        async def steps(it):
            now = await it.ledger.now()
            log = b"".join(contact(100 + i, i, 3, now - 10) for i in range(CONTACT_LAST))
            await it.live.append("u:1", contact=log)
            asked = Reserving("d1", HOME, 600, ((wish(1),),), (cap(1),), it.epoch)
            near = asked._replace(decision_id="d2", checks=(cap(1, window=5),))
            return (await it.ledger.reserve("u:1", asked)).short, (await it.ledger.reserve("u:1", near)).short

        assert self.run(steps) == (1, 0)

    def test_released_places_come_back_and_stay_refused(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)])
            await it.ledger.release("u:1", "d1", [1])
            again = await it.reserve("d1", wish(1), checks=[cap(1)])
            return again, await it.reserve("d2", wish(2), checks=[cap(1)], scope=LIFE)

        assert self.run(steps) == ((-1,), (0,))

    def test_a_page_decided_afresh_takes_over_from_its_first_attempt(self):
        async def steps(it):
            await it.reserve("d1", wish(1), checks=[cap(1)])
            second = await it.reserve("d1", wish(2), checks=[cap(1)], attempt=1)
            await it.show("d1", 2)
            return second, (await it.log())["flags"].tolist()

        assert self.run(steps) == ((0,), [RESERVED])

    # --- devices and links

    def test_a_device_cap_holds_across_the_users_of_a_device(self):
        async def steps(it):
            checks = [cap(1, of="device"), cap(1)]
            first = await it.reserve("d1", wish(1, caps=(0, 1)), checks=checks, device="v:1")
            held = await it.reserve("d2", wish(2, caps=(0, 1)), checks=checks, subject="u:2", device="v:1")
            free = await it.reserve("d3", wish(2, caps=(1,)), checks=checks, subject="u:2", scope=LIFE)
            await it.show("d1", 1)
            await it.show("d1", 1, on="v:1")
            spent = await it.reserve("d4", wish(2, caps=(0,)), checks=checks, subject="u:3", device="v:1")
            own = await it.reserve("d5", wish(2, caps=(0,)), checks=checks, subject="v:1")
            none = await it.reserve("d6", wish(2, caps=(0,)), checks=checks, subject="u:4")
            return first, held, free, spent, own, none

        assert self.run(steps) == ((0,), (-1,), (0,), (-1,), (-1,), (-1,))

    def test_what_the_device_refuses_is_released_for_the_customer(self):
        async def steps(it):
            await it.reserve("d0", wish(1), checks=[cap(1, of="device")], subject="v:1", scope=LIFE)
            checks = [cap(1, of="device"), cap(1)]
            refused = await it.reserve("d1", wish(1, caps=(0, 1)), checks=checks, device="v:1")
            again = await it.reserve("d1", wish(1, caps=(0, 1)), checks=checks, device="v:1")
            return refused, again, await it.reserve("d2", wish(1, caps=(1,)), checks=checks, scope=LIFE)

        assert self.run(steps) == ((-1,), (-1,), (0,))

    def test_linking_adds_up_what_was_shown_and_what_is_held(self):
        async def steps(it):
            await it.reserve("d1", wish(1), wish(2), checks=[cap(3)], subject="v:1", scope=LIFE)
            await it.reserve("d2", wish(3), checks=[cap(3)])
            await it.live.link("v:1", "u:1")
            full = await it.reserve("d3", wish(4), checks=[cap(3)], scope=LIFE + 1)
            await it.show("d1", 1, subject="v:1")
            await it.live.link("v:1", "u:1")
            states = sorted(row.state for row in await it.rows() if row.entry[:1] in b"\1\2\3")
            return full, states, len(await it.log()), [row.state for row in await it.rows("v:1")]

        assert self.run(steps) == ((-1,), [SHOWN, HELD, HELD], 1, [SHOWN, HELD])


class TestMemoryCaps(OnMemory, CapsContract): ...


@pytest.mark.integration
class TestEmbeddedValkeyCaps(OnValkey, CapsContract): ...


@pytest.mark.integration
class TestRedisServerCaps(OnRedis, CapsContract): ...
