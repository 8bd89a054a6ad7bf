"""Which rules drop which rows: looked up where an answer depends on little, asked where it depends on much.

Most rules ask little of a request: its channel, a risk level, in which period it falls. Their answers for
all rows are worked out when first needed and kept for the life of a Live, in one table of drop masks per
combination that was met. Rules about the customer's lists (what is held, what was dismissed) say which few
rows they deny, or are asked on every page about the candidates under them. `drops_asked` asks every rule: it
is the definition, and the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final

import numpy as np

from serving.domain import Column, ContractError, Drops, Facts, Rows
from serving.pipeline import Filter, Page
from serving.reasons import STATIC

KEPT_BYTES: Final = 16 << 20  # of tables in memory; beyond, all are let go

_STATIC: Final = np.uint32(STATIC)
Cause = Callable[[Page], Hashable]
Listed = Callable[[Page], Sequence[int] | None]


class Permission:
    """The rules of one Live over its rows. Every rung, and every back-fill, passes here."""

    def __init__(
        self, filters: Sequence[Filter], columns: Mapping[str, Column], rules: Drops, kept: int = KEPT_BYTES
    ) -> None:
        """`rules` (n rows,): which rules each row is under; `columns`: every ITEM field of all rows."""
        self.filters, self.columns, self.rules = tuple(filters), columns, rules
        self._static = rules & _STATIC
        self._asked: list[tuple[int, Filter]] = []
        self._listed: list[tuple[np.uint32, Rows, Listed]] = []
        self._tabled: list[tuple[Filter, Rows, Cause]] = []
        for one in filters:
            under = np.flatnonzero(rules & np.uint32(one.rule.bit)).astype(np.int32)
            if not len(under):
                continue
            facts = Facts(columns, under)
            if (cause := one.cause(facts)) is not None:
                self._tabled.append((one, under, cause))
            elif (listed := one.listed(facts)) is not None:
                self._listed.append((np.uint32(one.rule.bit), under, listed))
            else:
                self._asked.append((one.rule.bit, one))
        self._causes = [cause for *_, cause in self._tabled]
        self._most = max(4, kept // max(1, 4 * len(rules)))  # tables
        self._tables: dict[Hashable, Drops] = {}

    def drops(self, page: Page, rows: Rows) -> Drops:
        """What drops each row, 0 for what may be shown."""
        drops: Drops = self._table(page).take(rows)
        for rule, under, listed in self._listed:
            denied = listed(page)
            if denied is None:
                drops |= self.rules.take(rows) & rule
            elif denied:
                drops[(rows[:, None] == under[denied]).any(axis=1)] |= rule
        if len(rows) and self._asked:
            rules = self.rules.take(rows)
            subject = int(np.bitwise_or.reduce(rules))
            for bit, one in self._asked:
                if subject & bit:
                    self._ask(one, page, rows, rules, drops)
        return drops

    def drops_asked(self, page: Page, rows: Rows) -> Drops:
        """The same, by asking every rule about every row under it."""
        rules = self.rules[rows]
        drops = rules & _STATIC
        for one in self.filters:
            if (rules & np.uint32(one.rule.bit)).any():
                self._ask(one, page, rows, rules, drops)
        return drops

    def _ask(self, one: Filter, page: Page, rows: Rows, rules: Drops, drops: Drops) -> None:
        bit = np.uint32(one.rule.bit)
        under = (rules & bit).nonzero()[0]
        denied = one.denies(page, Facts(self.columns, rows[under]))
        if denied is True:
            drops |= rules & bit
        elif denied is not False:
            if len(denied) != len(under):
                raise ContractError(f"{one.name} answered {len(denied)} for {len(under)} candidates")
            drops[under[denied]] |= bit

    def _table(self, page: Page) -> Drops:
        """Of all rows: the drops by rules whose answer depends on their cause alone."""
        causes = tuple([cause(page) for cause in self._causes])
        table = self._tables.get(causes)
        if table is None:
            table = self._static.copy()
            for one, under, _ in self._tabled:
                self._ask(one, page, under, self.rules[under], part := np.zeros(len(under), np.uint32))
                table[under] |= part
            if len(self._tables) >= self._most:
                self._tables.clear()
            self._tables[causes] = table
        return table
