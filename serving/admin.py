"""What each path of the admin application does: who may, which act, and what is answered.

Pure handlers, like serving.handlers: they know neither Ray nor sockets. A part's revision is its ETag, and
If-Match (or `base`) on a proposal is the revision it was made from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel

from serving import permits, wire
from serving.admin_asks import (
    ApproveAsk,
    CheckAsk,
    KillAsk,
    PreviewAsk,
    ProposeAsk,
    PublishAsk,
    RejectAsk,
    RollbackAsk,
    WithdrawAsk,
)
from serving.admin_query import flag, only, revision, whole
from serving.assembly import Judged
from serving.audit import AuditError, Head, parse_head
from serving.control import Kill
from serving.errors import Header, Problem
from serving.governance import Governance
from serving.office import Office
from serving.overview import audit_lines, overview, part_document, proposal_document, revision_document
from serving.plan import Plan, PlanError
from serving.plan_diff import differences
from serving.principals import Identity
from serving.proposals import check_part
from serving.tracing import MOST_ITEMS, Eraser, Tracer

M = TypeVar("M", bound=BaseModel)
PLAN_LIMIT: Final = 4 * 1024 * 1024
MOST_RECORDS: Final = 1000
MOST_REASON: Final = 200
DECISION: Final = "/v1/decisions/{id}"
USER: Final = "/v1/users/{id}"

Preview = Callable[[PreviewAsk, Plan | None], Awaitable[Mapping[str, Any]]]
"""Decides the page of a customer under a plan (None: the one in force); reserves, logs and counts nothing."""


class AdminRequest(NamedTuple):
    """What a handler may read. `if_match` is the header as it was sent; `key` what the caller is known by."""

    who: Identity
    query: Mapping[str, str] = {}
    body: bytes = b""
    if_match: str | None = None
    key: str = ""


class AdminAnswer(NamedTuple):
    status: int
    body: bytes
    headers: tuple[Header, ...] = ()


AdminHandler = Callable[[AdminRequest], Awaitable[AdminAnswer]]


@dataclass(frozen=True, slots=True)
class Admin:
    """What the handlers work on. `preview`, `tracer` and `eraser` are None where nothing can decide pages."""

    office: Office
    preview: Preview | None = None
    tracer: Tracer | None = None
    eraser: Eraser | None = None

    @property
    def governance(self) -> Governance:
        return self.office.governance


def admin_routes(admin: Admin) -> dict[str, dict[str, AdminHandler]]:
    """Handlers by path and method."""
    posts = {
        "/v1/plan:check": _check,
        "/v1/plan:propose": _propose,
        "/v1/plan:approve": _approve,
        "/v1/plan:reject": _reject,
        "/v1/plan:publish": _publish,
        "/v1/plan:rollback": _rollback,
        "/v1/plan:withdraw": _withdraw,
        "/v1/plan:preview": _preview,
        "/v1/kill": _kill,
    }
    gets = {"/v1/plan": _status, "/v1/plan:diff": _diff, "/v1/audit": _audit, DECISION: _decision}
    made: dict[str, dict[str, AdminHandler]] = {
        path: {"POST": partial(handler, admin)} for path, handler in posts.items()
    }
    made[USER] = {"DELETE": partial(_erase, admin)}
    return made | {path: {"GET": partial(handler, admin)} for path, handler in gets.items()}


async def _check(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask = _ask(CheckAsk, request)
    return _json(await _thread(_checked, admin.governance, request.who, ask))


def _checked(governance: Governance, who: Identity, ask: CheckAsk) -> dict[str, Any]:
    """Whoever may propose it, or approve it, may ask what it would do."""
    governance.refresh()
    check_part(ask.part)
    _may_see(governance, who, ask.part, ask.content)
    content, judged = governance.assembly.judge(ask.part, ask.content)
    before = governance.books.newest(ask.part)
    changes = [change.document() for change in differences(before, content)]
    return {
        "part": ask.part,
        "base": governance.state.number(ask.part),
        **_judged(judged),
        "changes": changes,
    }


def _judged(judged: Judged | None) -> dict[str, Any]:
    if judged is None:
        return {"plan": None, "aside": [], "report": {}}
    aside = [one._asdict() for one in judged.aside]
    return {"plan": judged.plan.version, "aside": aside, "report": judged.report}


async def _propose(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask, governance = _ask(ProposeAsk, request), admin.governance
    base = revision(request.if_match)
    if base is not None and ask.base is not None and base != ask.base:
        raise Problem("invalid_field", f"base: If-Match says revision {base}")
    base = ask.base if base is None else base
    if base is None and (await _thread(governance.refresh)).number(check_part(ask.part)):
        raise Problem("precondition_needed", "say which revision it was made from: If-Match, or `base`")
    made = await _thread(
        governance.propose,
        request.who,
        ask.part,
        ask.content,
        base=base,
        reason=ask.reason,
        replaces=ask.replaces or "",
    )
    document = await _thread(proposal_document, governance, made)
    return _json(document, 201)


async def _approve(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask, governance = _ask(ApproveAsk, request), admin.governance
    if ask.stage == "reviewed":
        made = await _thread(
            governance.review, request.who, ask.proposal, content=ask.content, reason=ask.reason
        )
    else:
        made = await _thread(
            governance.approve,
            request.who,
            ask.proposal,
            content=ask.content,
            reason=ask.reason,
            number=ask.number,
            until=ask.until,
        )
    return _json(await _thread(proposal_document, governance, made))


async def _reject(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask = _ask(RejectAsk, request)
    made = await _thread(admin.governance.reject, request.who, ask.proposal, reason=ask.reason)
    return _json(await _thread(proposal_document, admin.governance, made))


async def _publish(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask = _ask(PublishAsk, request)
    base = revision(request.if_match)
    if base is not None:
        one = (await _thread(admin.governance.refresh)).proposal(ask.proposal)
        if base != admin.governance.state.number(one.part):
            raise Problem("stale_revision", f"{one.part} is not at revision {base} any more")
    made = await admin.office.publish(request.who, ask.proposal, alone=ask.alone, reason=ask.reason)
    part = admin.governance.state.proposal(ask.proposal).part
    return _json(revision_document(admin.governance, part, made), headers=_etag(made.number))


async def _rollback(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask = _ask(RollbackAsk, request)
    if ask.part is None:
        if ask.to is not None:
            raise Problem("invalid_field", "to: goes with `part`; the whole plan goes back one at a time")
        release = await admin.office.roll_back_whole(request.who, reason=ask.reason)
        return _json(release._asdict())
    made = await admin.office.roll_back(request.who, check_part(ask.part), reason=ask.reason, to=ask.to)
    return _json(revision_document(admin.governance, ask.part, made), headers=_etag(made.number))


async def _withdraw(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask = _ask(WithdrawAsk, request)
    made = await admin.office.withdraw(request.who, ask.creative, reason=ask.reason)
    part = f"creative:{ask.creative}"
    return _json(revision_document(admin.governance, part, made), headers=_etag(made.number))


async def _kill(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask = _ask(KillAsk, request)
    done = await admin.office.kill(request.who, Kill(ask.scope, ask.id), reason=ask.reason, undo=ask.undo)
    return _json({"scope": ask.scope, "id": ask.id, "off": not ask.undo, "audited": done.audited})


async def _preview(admin: Admin, request: AdminRequest) -> AdminAnswer:
    ask = _ask(PreviewAsk, request)
    if admin.preview is None:
        raise Problem("not_ready", "nothing here can decide pages: ask where the service runs")
    if ask.proposal is not None and ask.plan is not None:
        raise Problem("invalid_field", "plan: name a proposal or a plan, not both")
    plan = await _thread(_plan_of, admin.governance, request.who, ask)
    return _json(await admin.preview(ask, plan))


def _plan_of(governance: Governance, who: Identity, ask: PreviewAsk) -> Plan | None:
    governance.refresh()
    if ask.proposal is not None:
        one = governance.state.proposal(ask.proposal)
        permits.may_read(who, one.org)
        judged = governance.assembly.judge(one.part, governance.books.content(one.content), full=False)[1]
        return None if judged is None else judged.plan
    if not who.has("operator", "approver", "engineer", "admin"):
        raise permits.forbidden(who, "preview pages", "operator:ORG, approver, engineer or admin")
    try:
        return None if ask.plan is None else governance.shelf.fetch(ask.plan)
    except PlanError as bad:
        raise Problem("not_found", str(bad)) from None


async def _status(admin: Admin, request: AdminRequest) -> AdminAnswer:
    governance, part = admin.governance, request.query.get("part")
    only(request.query, "part", "revision")
    number = whole(request.query, "revision")
    await _thread(governance.refresh)
    if part is None:
        return _json(await _thread(overview, governance, request.who))
    document = await _thread(part_document, governance, request.who, check_part(part), number)
    return _json(document, headers=_etag(document["revision"]))


async def _diff(admin: Admin, request: AdminRequest) -> AdminAnswer:
    only(request.query, "proposal", "part", "from", "to")
    return _json(await _thread(_differing, admin.governance, request.who, request.query))


def _differing(governance: Governance, who: Identity, query: Mapping[str, str]) -> dict[str, Any]:
    """A proposal against what it would replace, or two revisions of a part."""
    start, to = whole(query, "from"), whole(query, "to")
    state = governance.refresh()
    if "proposal" in query:
        one = state.proposal(query["proposal"])
        permits.may_read(who, one.org)
        now = state.number(one.part)
        before = governance.books.content(state.at(one.part, one.base).content) if one.base else None
        after, about = governance.books.content(one.content), asdict(one)
        head = {"part": one.part, "base": one.base, "stale": now != one.base, "content": about["content"]}
    else:
        part = check_part(query.get("part", ""))
        _may_see(governance, who, part, governance.books.newest(part))
        newest = state.number(part)
        to = to or newest
        start = max(0, to - 1) if start is None else start
        before = governance.books.content(state.at(part, start).content) if start else None
        after = governance.books.content(state.at(part, to).content)
        head = {"part": part, "base": start, "stale": False, "content": state.at(part, to).content}
    return {**head, "changes": [change.document() for change in differences(before, after)]}


async def _decision(admin: Admin, request: AdminRequest) -> AdminAnswer:
    """The trace of a decision. `item` (several by commas): why it is not on the page."""
    permits.may_trace(request.who)
    if admin.tracer is None:
        raise Problem("not_ready", "nothing here can decide pages: ask where the service runs")
    only(request.query, "id", "item", "subject")
    decision_id = wire.check_path_id(request.query.get("id", ""), "decision")
    items = [item for item in request.query.get("item", "").split(",") if item]
    if len(items) > MOST_ITEMS:
        raise Problem("bad_query", f"item: at most {MOST_ITEMS} at once")
    subject = request.query.get("subject")
    return _json(await _thread(admin.tracer, decision_id, subject, items, key=request.key))


async def _erase(admin: Admin, request: AdminRequest) -> AdminAnswer:
    """Erasure; the answer says what was deleted, and what still names the customer."""
    permits.may_erase(request.who)
    if admin.eraser is None:
        raise Problem("not_ready", "nothing here reaches the stores: ask where the service runs")
    only(request.query, "id", "reason", "devices")
    user_id = wire.check_path_id(request.query.get("id", ""), "user")
    reason = request.query.get("reason", "")[:MOST_REASON] or f"asked for by {request.who.principal}"
    devices = flag(request.query, "devices")
    return _json(await _thread(admin.eraser, user_id, reason, devices=devices, key=request.key))


async def _audit(admin: Admin, request: AdminRequest) -> AdminAnswer:
    permits.may_audit(request.who)
    only(request.query, "since", "most", "action", "principal", "verify", "head")
    return _json(await _thread(_records, admin.governance, request.query))


def _records(governance: Governance, query: Mapping[str, str]) -> dict[str, Any]:
    """Records after `since`, newest last; `verify` reads the whole log again and checks it."""
    since, most = whole(query, "since"), whole(query, "most", MOST_RECORDS)
    if flag(query, "verify"):
        try:
            heads: tuple[Head, ...] = (parse_head(query["head"]),) if "head" in query else ()
        except AuditError as bad:
            raise Problem("bad_query", f"head: {bad}") from None
        found = governance.books.audit.verify(*heads)
        said = {"records": found.records, "head": found.head.text, "broken": found.broken}
        return {"ok": found.ok, **said, "problem": found.problem}
    governance.refresh()
    lines = audit_lines(governance, since, most or 100, query.get("action"), query.get("principal"))
    return {"head": governance.books.audit.head.text, "records": lines}


def _may_see(governance: Governance, who: Identity, part: str, content: Any) -> None:
    """Raises Problem `forbidden`. The frame is everybody's who has a part in the plan."""
    if part in ("frame", "policy"):
        if not who.has("operator", "approver", "engineer", "admin"):
            raise permits.forbidden(who, "see the plan", "operator:ORG, approver, engineer or admin")
        return
    if part.startswith("org:"):
        permits.may_read(who, part.removeprefix("org:"))
        return
    checked = governance.assembly.checked(part, content) if content is not None else None
    for one in (checked, governance.books.newest(part)):
        if one is not None:
            permits.may_read(who, governance.assembly.org_of(part, one))


def _ask(model: type[M], request: AdminRequest) -> M:
    return wire.parse(model, wire.parse_json(request.body))


def _etag(number: int) -> tuple[Header, ...]:
    return ((b"etag", b'"%d"' % number),)


def _json(value: Any, status: int = 200, headers: tuple[Header, ...] = ()) -> AdminAnswer:
    return AdminAnswer(status, orjson.dumps(value), headers)


T = TypeVar("T")


async def _thread(call: Callable[..., T], *args: Any, **options: Any) -> T:
    return await asyncio.to_thread(call, *args, **options)
