"""Where a benchmark gathers its figures, with what the table says about each."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.bench.harness import Bar, Result


@dataclass(slots=True)
class Tally:
    """Figures in the order in which they are measured."""

    figures: dict[str, float] = field(default_factory=dict)
    bars: dict[str, Bar] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: float, unit: str = "", note: str = "", bar: Bar | None = None) -> None:
        """One figure. ValueError when it is there already: two measurements must not hide one another."""
        if name in self.figures:
            raise ValueError(f"figure {name!r} was measured already")
        self.figures[name] = float(value)
        if unit:
            self.units[name] = unit
        if note:
            self.notes[name] = note
        if bar is not None:
            self.bars[name] = bar

    def result(self) -> Result:
        return Result(self.figures, self.bars, self.units, self.notes)
