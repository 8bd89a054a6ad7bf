"""`fenliu plan …` and `fenliu kill`: proposals, approvals, publishing and undoing from a terminal.

Functions take the parsed arguments, a desk and a printer, and return the exit status; what cannot be done is
raised as Problem, PlanError or UsageError, with a message that says what to do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from serving.backing import backed
from serving.control import Kill
from serving.errors import Problem
from serving.overview import overview, part_document, proposal_document
from serving.own_process import KEY
from serving.plan import PlanError, load_plan
from serving.plan_diff import Change, differences
from serving.proposals import FRAME, Proposal, check_part
from training.desk import Desk, Say
from training.usage import UsageError
from training.workspace import alone

PROPOSAL: Final = re.compile(r"p\d+-[0-9a-f]{8}")


def plan_check(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """Validate a part, and the plan that would come of it, against the live bundle."""
    if args.whole:
        return _check_whole(args, desk, say)
    raw, governance = _read(args.file), desk.governance
    governance.refresh()
    if args.forecast:
        return _forecast(args, raw, desk)
    content, judged = governance.assembly.judge(args.part, raw)
    if args.json:
        said: dict[str, Any] = {"part": args.part, "plan": None, "aside": [], "report": {}}
        if judged is not None:
            aside = [one._asdict() for one in judged.aside]
            said |= {"plan": judged.plan.version, "aside": aside, "report": dict(judged.report)}
        changes = differences(governance.books.newest(args.part), content)
        say(_json({**said, "changes": [change.document() for change in changes]}))
        return 0
    if judged is None:
        say(f"{args.part}: valid")
        return 0
    if judged.report.get("bundle") is None:
        say(f"plan {judged.plan.version}: valid; no bundle is live yet, so its items were not checked")
    else:
        say(f"plan {judged.plan.version}: valid, and fits bundle {judged.report['bundle']}")
    for problem in judged.report.get("problems", ()):
        say(f"  was wrong before, and still is: {problem}")
    for one in judged.aside:
        say(f"  {one.org} would go on with an earlier version: {one.problem}")
    _say_changes(differences(governance.books.newest(args.part), content), say, most=10)
    return 0


def _forecast(args: argparse.Namespace, raw: Any, desk: Desk) -> int:
    """Tables, or JSON, and a plot. Exit status 1 when something does not fit."""
    from training.booking_commands import check
    from training.progress import wide_console

    _, judged = desk.governance.assembly.judge(args.part, raw, full=False)
    if judged is None:
        raise UsageError(f"{args.part} is in no plan: there is nothing to forecast")
    with backed(desk.settings) as settings:
        return check(settings, judged.plan, wide_console(), as_json=args.json, plot=args.plot)


def plan_sample(args: argparse.Namespace, desk: Desk, say: Say) -> int:  # noqa: ARG001 - it shows a bar
    """Daily, from a schedule: every page view of the last weeks that forecasts decide again.

    Alone in the home: a customer who is erased meanwhile must not come back with the pages read before.
    """
    from training.booking_commands import refresh_sample
    from training.progress import wide_console

    with alone(desk.settings.home), backed(desk.settings) as settings:
        return refresh_sample(settings, wide_console(), pages=args.pages, items=tuple(args.item))


def _check_whole(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """A plan as it would run, orgs' parts and all: what the service asks in a process of its own."""
    desk.governance.refresh()
    try:
        plan = load_plan(args.file)
        report = dict(desk.fit(plan, True))
    except PlanError as bad:
        if not args.json:
            raise
        say(_json({"error": {"path": bad.path, "problem": bad.problem, "remedy": bad.remedy}}))
        return 1
    said = {"plan": plan.version, "report": report}
    say(_json(said) if args.json else f"plan {plan.version}: valid; {_json(report)}")
    return 0


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def plan_diff(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """What a proposal changes, or a file would. Exit status 1 when there is a difference."""
    governance = desk.governance
    state = governance.refresh()
    if PROPOSAL.fullmatch(str(args.what)):
        one = state.proposal(str(args.what))
        before = governance.books.content(state.at(one.part, one.base).content) if one.base else None
        after = governance.books.content(one.content)
    else:
        before = governance.books.newest(check_part(args.part))
        after = governance.assembly.checked(args.part, _read(Path(args.what)))
    found = differences(before, after)
    _say_changes(found, say)
    if not found:
        say("nothing changes")
    return 1 if found else 0


def plan_propose(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    one = _proposed(args, desk)
    say(f"{one.id}: {one.part} proposed, from revision {one.base}; waits for {_waits(desk, one)}")
    return 0


def plan_approve(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """The proposal's id ends in the digest of its content, so naming it names what was looked at."""
    governance, seen = desk.governance, args.proposal.rpartition("-")[2]
    if args.review:
        one = governance.review(desk.who, args.proposal, content=seen, reason=args.reason)
    else:
        one = governance.approve(
            desk.who,
            args.proposal,
            content=seen,
            reason=args.reason,
            number=args.number,
            until=args.until,
        )
    say(f"{one.id}: {one.state} by {desk.who.principal}; waits for {_waits(desk, one)}")
    return 0


def plan_reject(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    one = desk.governance.reject(desk.who, args.proposal, reason=args.reason)
    say(f"{one.id}: rejected")
    return 0


def plan_publish(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """An approved proposal; or a file, proposed and published in one go where one person may do that."""
    if PROPOSAL.fullmatch(str(args.what)):
        return _publish(str(args.what), args, desk, say)
    desk.governance.refresh()
    policy = desk.governance.approvals
    raw = _read(Path(args.what))
    content = desk.governance.assembly.judge(args.part, raw, full=False)[0]
    if content == desk.governance.books.newest(args.part):
        desk.act(lambda office: office.reconcile())
        say(f"{args.part}: revision {desk.governance.state.number(args.part)} says the same already")
        return 0
    if policy == "required":
        raise UsageError(
            f"somebody else has to approve it: fenliu plan propose {args.what}, then the other person:"
            " fenliu plan approve ID, then fenliu plan publish ID"
        )
    if policy == "alone" and not args.alone:
        raise UsageError(
            "nobody else would look at it: say --alone to publish all the same (recorded), or make"
            " principals (fenliu keys add) so that two people decide"
        )
    return _publish(_proposed(args, desk).id, args, desk, say)


def _publish(proposal_id: str, args: argparse.Namespace, desk: Desk, say: Say) -> int:
    made = desk.act(
        lambda office: office.publish(desk.who, proposal_id, alone=args.alone, reason=args.reason)
    )
    part, release = desk.governance.state.proposal(proposal_id).part, desk.governance.state.release
    plan = f"; plan {release.plan} is live" if release is not None and _in_plan(part) else ""
    say(f"{part}: revision {made.number} is in force{plan}")
    if release is not None and release.aside:
        say(f"  going on with earlier versions: {', '.join(release.aside)}")
    return 0


def plan_rollback(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    if args.part is None:
        release = desk.act(lambda office: office.roll_back_whole(desk.who, reason=args.reason))
        say(f"plan {release.plan} is live again")
        return 0
    made = desk.act(lambda office: office.roll_back(desk.who, args.part, reason=args.reason, to=args.to))
    say(f"{args.part}: back to what it was; that is revision {made.number} now")
    return 0


def plan_withdraw(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    desk.act(lambda office: office.withdraw(desk.who, args.creative, reason=args.reason))
    say(f"creative {args.creative}: withdrawn, on every replica within about a second")
    return 0


def plan_status(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """What is in force, what waits for whom; with `--part` its text, as it was published."""
    governance = desk.governance
    governance.refresh()
    if args.part is not None:
        say(
            json.dumps(
                part_document(governance, desk.who, args.part, args.revision), indent=2, ensure_ascii=False
            )
        )
        return 0
    told = overview(governance, desk.who)
    say(f"plan {told['plan'] or 'none published'}, release {told['release']}, approvals {told['approvals']}")
    for part in told["parts"]:
        held = "" if part["in_use"] == part["revision"] else f" (in use: {part['in_use']})"
        approved = f", approved by {part['approved_by']}" if part["approved_by"] else ""
        say(f"  {part['part']}: revision {part['revision']}{held}, {part['at']} by {part['by']}{approved}")
    for one in told["proposals"]:
        stale = "; made from an older revision: propose it again" if one["stale"] else ""
        waits = f"{one['state']}, waits for {one['waits_for']}{stale}"
        say(f"  {one['id']} {one['part']} by {one['author']}: {waits}")
    for kill in told["killed"]:
        say(f"  off: {kill['scope']} {kill['id']} (by {kill['by']})")
    return 0


def plan_preview(args: argparse.Namespace, _desk: Desk, say: Say) -> int:
    """Asks the running service what a customer would see."""
    body: dict[str, Any] = {"user_id": args.user, "surface": args.surface}
    body |= {name: getattr(args, name) for name in ("proposal", "plan") if getattr(args, name)}
    say(json.dumps(_asked(args.url, "/v1/plan:preview", body), indent=2, ensure_ascii=False))
    return 0


def _asked(url: str, path: str, body: Mapping[str, Any]) -> Any:
    """The answer of a running service. Raises UsageError."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url is a service's address, such as http://127.0.0.1:8000, not {url!r}")
    headers = {"content-type": "application/json"} | _authorization(os.environ)
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}{path}", data, headers)  # noqa: S310 - checked
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - checked
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        said = json.loads(refused.read() or b"{}")
        raise UsageError(f"the service refused: {said.get('detail', refused.reason)}") from None
    except OSError as away:
        raise UsageError(f"no service answers at {url} ({away}): fenliu serve, or name it by --url") from None


def kill(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """Off everywhere at once, by whoever may; on the record."""
    if (args.scope == "everything") == bool(args.id):
        raise UsageError("name what to kill, unless it is everything: fenliu kill item p9")
    switch = Kill(args.scope, args.id)
    done = desk.act(lambda office: office.kill(desk.who, switch, reason=args.reason, undo=args.undo))
    name = f"{args.scope} {args.id}".rstrip()
    say(f"{name}: {'on again' if args.undo else 'off'}, on every replica within about a second")
    if not done.audited:
        say("  the registry did not answer, so this is not on the record")
    return 0


def record_forced(desk: Desk, version: str, reason: str) -> None:
    """A bundle promoted although its gate said no, in the audit log. Raises Problem `forbidden`."""
    if not desk.who.has("engineer", "admin"):
        raise Problem(
            "forbidden", f"{desk.who.principal} may not force a bundle: that needs engineer or admin"
        )
    desk.governance.record(desk.who, "bundle_forced", f"bundle:{version}", reason, {"bundle": version})


def _proposed(args: argparse.Namespace, desk: Desk) -> Proposal:
    path = Path(getattr(args, "file", None) or args.what)
    return desk.governance.propose(
        desk.who,
        check_part(args.part),
        _read(path),
        base=getattr(args, "base", None),
        reason=args.reason,
        replaces=getattr(args, "replaces", None) or "",
    )


def _waits(desk: Desk, one: Proposal) -> str:
    return str(proposal_document(desk.governance, one)["waits_for"])


def _in_plan(part: str) -> bool:
    return part == FRAME or part.startswith("org:")


def _read(path: Path) -> Any:
    """YAML or JSON. Raises PlanError naming the file."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(str(path), f"cannot be read ({error})", "name a readable UTF-8 file") from None
    except yaml.YAMLError as error:
        problem = f"is not YAML ({' '.join(str(error).split())})"
        raise PlanError(str(path), problem, "correct the text") from None


def _say_changes(found: list[Change], say: Say, most: int = 200) -> None:
    signs = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}
    for one in found[:most]:
        sides = [json.dumps(side, ensure_ascii=False) for side in (one.before, one.after) if side is not None]
        short = [side if len(side) <= 60 else f"{side[:57]}..." for side in sides]
        say(f"  {signs[one.kind]} {one.path or 'the whole'}: {' -> '.join(short)}")
    if len(found) > most:
        say(f"  and {len(found) - most} more")


def _authorization(env: Mapping[str, str]) -> dict[str, str]:
    key = env.get(KEY, "").strip() or env.get("FENLIU_APP_KEY", "").strip()
    return {"authorization": f"Bearer {key}"} if key else {}
