"""What the bank's own systems told of an experiment's units, each outcome once, as last corrected.

By the rules that training goes by: only kinds that are purchases have a value, not below zero; one that the
app reported as well counts once, as the app told it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from training.experiment.units import Asked, rows_of
from training.results import SAME_PURCHASE_S, OutcomeRules

if TYPE_CHECKING:
    import duckdb

COMPLAINTS: Final = ("complaint", "complaints", "complained")
COLUMNS: Final = ("value", "complaints", "nps_sum", "nps_answers")  # those that outcomes have a part in


def gather(
    base: duckdb.DuckDBPyConnection, outcomes: Sequence[str], events: Sequence[str], asked: Asked
) -> None:
    """Table `told` (i, first, at, type, amount, item_key, action); needs `who`. `type` is outcome (a
    purchase), complaint or outcome:nps.
    """
    kinds: dict[str, Any] = {"purchases": list(OutcomeRules().kinds), "complaints": list(COMPLAINTS)}
    base.execute(
        """CREATE OR REPLACE TEMP TABLE told AS
        SELECT w.i, w.first, o.occurred_at AS "at", o.amount, o.item_key, CAST(NULL AS VARCHAR) AS action,
               CASE WHEN list_contains($purchases, o.kind) THEN 'outcome'
                    WHEN list_contains($complaints, o.kind) THEN 'complaint' ELSE 'outcome:nps' END AS type
        FROM (SELECT * FROM read_parquet($files, union_by_name = true)
              QUALIFY row_number() OVER (PARTITION BY outcome_id
                                         ORDER BY recorded_at DESC, received_at DESC) = 1) o
        JOIN who w ON w.subject = 'u:' || o.user_id
        WHERE o.occurred_at <= $until
          AND CASE WHEN list_contains($purchases, o.kind) THEN coalesce(o.amount > 0, true)
                   WHEN list_contains($complaints, o.kind) THEN coalesce(o.amount <> 0, true)
                   ELSE o.kind = 'nps' END""",
        {**kinds, "files": list(outcomes), "until": asked.ends},
    )
    if not events:
        return
    base.execute(
        f"""DELETE FROM told USING (
            SELECT w.i, e.item_key, e."at", e.amount
            FROM (SELECT {asked.of_event} AS owner, item_key, "at", amount FROM {rows_of(base, events)}
                  WHERE type = 'converted' AND amount IS NOT NULL) e JOIN who w ON e.owner = w.subject) c
        WHERE told.type = 'outcome' AND told.i = c.i AND abs(told."at" - c."at") <= $near
          AND (told.item_key = c.item_key OR (told.item_key IS NULL AND told.amount = c.amount))""",  # noqa: S608
        {"files": list(events), "near": SAME_PURCHASE_S},
    )
