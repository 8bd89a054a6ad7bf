"""Two people of the demo bank: one proposes, the other approves, and what was approved is published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from serving.own_process import KEY
from serving.settings import Settings
from training.demo_campaigns import BRANCH, PARTNER
from training.desk import Desk

MAKER, CHECKER = "li.na", "chen.hui"
SCOPES = ("admin", "operator:head", f"operator:{BRANCH}", f"operator:{PARTNER}")


class Done(NamedTuple):
    """What became of one part."""

    part: str
    proposal: str
    revision: int


class People:
    """Their keys, and their desks. Blocking: called from a thread."""

    def __init__(self, settings: Settings, keys: tuple[str, str]) -> None:
        self.keys = keys
        self.maker, self.checker = (Desk(settings, {KEY: key}) for key in keys)

    @classmethod
    def hired(cls, settings: Settings) -> Self:
        """With new keys, in a registry that knew nobody. Raises Problem."""
        desk = Desk(settings, {})
        first, _ = desk.keys.issue(desk.who, MAKER, SCOPES, reason="demo")
        maker = Desk(settings, {KEY: first})
        second, _ = maker.keys.issue(maker.who, CHECKER, ("approver",), reason="demo")
        return cls(settings, (first, second))

    def publish(self, parts: Mapping[str, Mapping[str, Any]], reason: str) -> tuple[str, list[Done]]:
        """The plan's version once control names it, and what became of each part. Raises Problem."""
        done = [self._publish(part, content, reason) for part, content in parts.items()]
        release = self.maker.governance.state.release
        return (release.plan if release is not None else ""), done

    def _publish(self, part: str, content: Mapping[str, Any], reason: str) -> Done:
        maker, checker = self.maker, self.checker
        one = maker.governance.propose(maker.who, part, content, base=None, reason=reason)
        checker.governance.approve(checker.who, one.id, content=one.content, reason="looked at")
        made = maker.act(lambda office: office.publish(maker.who, one.id, reason=reason))
        return Done(part, one.id, made.number)
