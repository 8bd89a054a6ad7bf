"""Governance as the command line reaches it: on the settings' registry, and by whom.

With principals the caller is whoever FENLIU_KEY says; without, whoever sits here, as one person.
"""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from serving.backing import backed
from serving.bundle import Bundle, load
from serving.check_process import NO_SAMPLE, SAMPLE
from serving.errors import Problem
from serving.governance import Governance
from serving.keys import Keys
from serving.lists import ListShelf
from serving.office import Office
from serving.own_process import KEY
from serving.plan import Plan, PlanError
from serving.plan_fit import Booking, Fit, item_orgs, orgs_in
from serving.principals import Identity, local_identity
from serving.proposals import FRAME
from serving.redis_control import RedisControl
from serving.registry import Registry
from serving.security import JWT, tokens_of
from serving.settings import Settings
from training.usage import UsageError

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass
class Desk:
    """Governance as the command line reaches it."""

    settings: Settings
    env: Mapping[str, str]
    booking: Booking | None = None

    @cached_property
    def governance(self) -> Governance:
        return Governance(
            self.settings.registry_url,
            check=self.fit,
            item_org=item_orgs(lambda: self.bundle, lambda: orgs_in(self.governance.books.newest(FRAME))),
            approvals=self.settings.approvals,
        )

    @cached_property
    def fit(self) -> Fit:
        """What a whole plan is judged by."""
        lists = ListShelf(self.settings.registry_url).numbers
        bundles = Registry(self.settings.registry_url).loader(self.settings.bundles)
        return Fit(lambda: self.bundle, self._current, self.booking, lists, bundles)

    @cached_property
    def keys(self) -> Keys:
        return Keys(self.settings.registry_url, self.governance.books)

    @cached_property
    def bundle(self) -> Bundle | None:
        """The bundle in service by the registry; None before the first."""
        registry = Registry(self.settings.registry_url)
        version = registry.live()
        return None if version is None else load(registry.fetch(version, self.settings.bundles))

    @cached_property
    def who(self) -> Identity:
        """Raises UsageError when there are principals and the key is none of theirs."""
        key = self.env.get(KEY, "").strip()
        if key.encode().startswith(JWT) and (tokens := tokens_of(self.settings)) is not None:
            tokens.keys.refresh()
            try:
                return tokens.identify(key.encode())
            except Problem as refused:
                raise UsageError(f"{KEY}: {refused.detail}") from None
        if not self.keys:
            return local_identity(getpass.getuser())
        if not key:
            raise UsageError(f"there are principals: set {KEY} to your key, so that it is known who you are")
        found = self.keys.identify(key.encode())
        if found is None:
            raise UsageError(f"{KEY} is no valid key: it may have expired, or wait for its confirmation")
        return found

    def _current(self) -> Plan | None:
        release = self.governance.state.release
        if release is None:
            return None
        try:
            return self.governance.shelf.fetch(release.plan)
        except PlanError:
            return None  # what was wrong before cannot be told from what is new: everything counts

    def act(self, act: Callable[[Office], Awaitable[T]]) -> T:
        """Run something that control is told of, on the settings' stores."""

        async def run(url: str) -> T:
            control = RedisControl.at(url)
            try:
                return await act(Office(self.governance, control))
            finally:
                await control.close()

        with backed(self.settings) as settings:
            return asyncio.run(run(settings.control_url or ""))


def desk_of(settings: Settings) -> Desk:
    return Desk(settings, os.environ, booking_of(settings))


def booking_of(settings: Settings, env: Mapping[str, str] = os.environ) -> Booking:
    """What forecasts a plan, and asks logged traffic for it; imported when there is something to ask."""

    def made(plan: Plan) -> Mapping[str, Any]:
        said = dict(_booked(settings, plan))
        if (settings.home / "lake").exists():
            from training.ope.plan_release import off_policy

            said["off_policy"] = off_policy(settings, plan, env)
        return said

    return made


def _booked(settings: Settings, plan: Plan) -> Mapping[str, Any]:
    if not (settings.home / SAMPLE).exists():
        return NO_SAMPLE
    from training.booked import book

    with backed(settings) as complete:
        return book(complete, plan)
