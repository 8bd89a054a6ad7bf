"""What is wrong with a plan: where, what, and what to do. Every part of a plan may raise it."""

from __future__ import annotations


class PlanError(ValueError):
    """A plan that cannot be run; says where, what is wrong, and what to do."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"plan, {path}: {problem}; {remedy}")
        self.path, self.problem, self.remedy = path, problem, remedy

    def within(self, where: str) -> PlanError:
        """The same error, of a part: `where` names the part it stands in."""
        return PlanError(f"{where}: {self.path}", self.problem, self.remedy)
