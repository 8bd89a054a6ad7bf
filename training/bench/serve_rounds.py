"""What the closed loops of `fenliu bench serve` saw, and the ratios that follow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from training.bench.load import Outcome

CONNECTIONS: Final = (1, 16, 64)
OURS, EMPTY, LIGHT, NAIVE = "ours", "empty", "light", "naive"
FULL_ENOUGH: Final = 0.95


@dataclass(slots=True)
class Rounds:
    """By deployment and connections."""

    rates: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    latencies: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    efforts: dict[int, Counter[str]] = field(default_factory=dict)  # our pages by rung of the ladder
    unread: dict[int, int] = field(default_factory=dict)  # our pages made without the customer's records
    cpu: dict[tuple[str, int], float] = field(default_factory=dict)  # seconds of the replicas'
    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, connections: int, outcome: Outcome) -> None:
        key = name, connections
        self.rates.setdefault(key, []).append(outcome.rate)
        self.latencies.setdefault(key, []).extend(outcome.latencies)
        self.count(name, outcome)

    def count(self, name: str, outcome: Outcome) -> None:
        self.asked += sum(outcome.statuses.values())
        self.failed[name] += outcome.failed

    def rate(self, name: str, connections: int) -> float:
        return median(self.rates[name, connections])

    def p50_ms(self, name: str, connections: int) -> float:
        return median(self.latencies[name, connections]) * 1e3

    def spent(self, name: str, connections: int, seconds: float) -> None:
        key = name, connections
        self.cpu[key] = self.cpu.get(key, 0.0) + seconds

    def cpu_us(self, name: str, connections: int, seconds: float) -> float:
        """µs of the replica's processor an answer; `seconds`: of each loop with its warming up."""
        answers = sum(self.rates[name, connections]) * seconds
        return self.cpu[name, connections] / answers * 1e6

    def full(self, connections: int) -> float:
        """The share of our pages made with full effort and of the customer's records: a page whose store was
        late is cheaper, and no whole one.
        """
        made = self.efforts[connections]
        whole = made["full"] - self.unread.get(connections, 0)
        return max(0, whole) / made.total() if made.total() else float("nan")

    def knee(self) -> float:
        """The most pages a second that ours makes with full effort: faster but poorer does not count."""
        rates = {one: self.rate(OURS, one) for one in CONNECTIONS}
        whole = [rate for one, rate in rates.items() if self.full(one) >= FULL_ENOUGH]
        return max(whole or rates.values())

    def ratio(self, connections: int, over: str = EMPTY, name: str = OURS) -> float:
        """The median of the rounds' own ratios: what disturbs a round disturbs both."""
        pairs = zip(self.rates[name, connections], self.rates[over, connections], strict=True)
        return median(ours / theirs for ours, theirs in pairs)
