"""What the admin application is asked: bodies as Pydantic models without leniency, like serving.wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.control import Scope
from serving.wire import ContextAsk, Id

Reason = Annotated[str, Field(min_length=1, max_length=500)]
Part = Annotated[
    str, Field(min_length=1, max_length=80, examples=["frame", "policy", "org:bj", "creative:v2"])
]
ProposalId = Annotated[str, Field(pattern=r"^p[0-9]{1,12}-[0-9a-f]{8}$", examples=["p12-9f86d081"])]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$", description="as status and diff show it")]
Revision = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CheckAsk(_Model):
    """`POST /v1/plan:check`: what would come of it, without keeping anything."""

    part: Part
    content: Any


class ProposeAsk(_Model):
    """`POST /v1/plan:propose`. `base` is the revision it was made from, unless If-Match says it."""

    part: Part
    content: Any
    reason: Reason
    base: Revision | None = None
    replaces: ProposalId | None = None


class ApproveAsk(_Model):
    """`POST /v1/plan:approve`. `content` is the digest of what was looked at."""

    proposal: ProposalId
    content: Digest
    stage: Literal["reviewed", "approved"] = "approved"
    reason: Annotated[str, Field(max_length=500)] = ""
    number: Annotated[str, Field(max_length=64)] = ""
    until: Annotated[str, Field(max_length=40)] = ""


class RejectAsk(_Model):
    """`POST /v1/plan:reject`."""

    proposal: ProposalId
    reason: Reason


class PublishAsk(_Model):
    """`POST /v1/plan:publish`. `alone`: without a second person, where nobody else is known."""

    proposal: ProposalId
    alone: bool = False
    reason: Annotated[str, Field(max_length=500)] = ""


class RollbackAsk(_Model):
    """`POST /v1/plan:rollback`. Without `part` the whole plan; without `to` the last good revision."""

    reason: Reason
    part: Part | None = None
    to: Annotated[int, Field(ge=1)] | None = None


class WithdrawAsk(_Model):
    """`POST /v1/plan:withdraw`: a creative is taken off at once."""

    creative: Id
    reason: Reason


class KillAsk(_Model):
    """`POST /v1/kill`. `id` is left out for `everything`."""

    scope: Scope
    reason: Reason
    id: Id | Literal[""] = ""
    undo: bool = False


class PreviewAsk(_Model):
    """`POST /v1/plan:preview`: what a customer would see under a proposal, a plan or the live plan."""

    user_id: Id
    surface: Id = "home"
    proposal: ProposalId | None = None
    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    context: ContextAsk = ContextAsk()
