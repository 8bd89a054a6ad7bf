"""A synthetic bank app whose truth is known: something to learn on, and to be measured against.

    world = World.create(seed=7, customers=50_000, items=3_000)
    written = world.write(Lake("…"), days=21)                    # a past under a plausible logging policy
    Simulation.start(world, written.respondent)                  # … and a closed loop that goes on from there

Everything is drawn from the seed, each purpose from a stream of its own; the same seed and sizes give the
same bytes.

Modelled
  customers    age, gender, city, occupation, assets, income, stars, risk level, tenure, payroll and payday,
               lifecycle, consents, zone, home branch; visits a day are lognormal (sigma 1.4), with a trend
  catalogue    six kinds with risk class, minimum amount, age, regions, consents, dates, rate, cost, place;
               80 topics in 16 areas; no two titles alike in Chinese or in English
  visits       hour of the day (by the customer's zone and habit), weekends, payday, season; several pages
  tastes       five weighted interests in a space shared with the items; weights wander, interests change
  looking      what is on screen is a prefix of each slot; P(looked at) falls with the position; trust bias;
               a pop-up takes attention from everything else
  clicks       1 − exp(−hazard): appeal, affinity, hour, weekend and payday, fit to means, risk and city,
               fatigue by displays without a click, satiation by clicks in a topic, rivalry of the page's
               items of one area (between slots, and less within one), holdings
  purchases    needs that are met anyway at the customer's own rate, pulled into a placement by a click,
               caused by it, or put off by it (`World.uplift` and `Probabilities.uplift` are the truth); a
               little view-through
  conversions  seconds to weeks after the click, partly outside the app: then an outcome, which arrives
               hours to days later
  reporting    pages that never reach the screen (2 %), displays that are never reported (3 %), events that
               arrive hours to days late (5 %), pages seen after they expired (1.5 %), clocks off by seconds
  own doings   logins, look-ups, searches, transfers by taste; purchases without a placement; complaints

Not modelled
  Visitors without an account, and linking; the traffic of push and search; word of mouth; prices and rates
  that move; stock; several devices; lifecycle stages that change (they are as of the start); visits cut
  short by a click (places are clicked independently given the page); a click's effect on when the customer
  comes back (visits do not depend on what is shown, so that two policies meet the same ones); daylight
  saving; branches and relationship managers. A need's rate does not drift with the tastes.

Where: `layout` positions, `naming` and `words*` titles, `catalogue`, `customers`, `tastes`, `needs`
(uplift), `memory` (fatigue, satiation, holdings), `response` (the probabilities), `respondent` (drawing and
remembering), `traffic`, `policy` (who decided the past), `history` (`World`), `lakeside` (into the lake);
`training.simulate` closes the loop.
"""

from __future__ import annotations

from training.world.history import Day, World, Written
from training.world.layout import HOME, Layout, Slot

__all__ = ["HOME", "Day", "Layout", "Slot", "World", "Written"]
