"""The arguments of `fenliu plan`, `kill`, `keys` and `audit`. Light: commands are imported when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from training.verbs import Verbs, added, by_desk

PLAN_EXAMPLES: Final = """  fenliu plan check k8s/plan.yaml
  fenliu plan publish k8s/plan.yaml --alone          on a laptop, where nobody else would look at it
  fenliu plan propose bj.yaml --part org:bj --reason "winter campaign"
  fenliu plan diff p12-9f86d081
  fenliu plan approve p12-9f86d081                   by another principal: FENLIU_KEY says who
  fenliu plan publish p12-9f86d081
  fenliu plan rollback --part org:bj --reason "wrong price"
"""
KILL_EXAMPLES: Final = """  fenliu kill item p9 --reason "complaint 4711"
  fenliu kill slot home.popup --undo
"""
KEYS_EXAMPLES: Final = """  fenliu keys add root --scope admin              then: export FENLIU_KEY=fl_...
  fenliu keys add bob --scope operator:bj         then somebody else: fenliu keys confirm ID
  fenliu keys rotate                              one's own next key
  fenliu keys revoke 0123456789ab --reason lost
"""
AUDIT_EXAMPLES: Final = """  fenliu audit verify
  fenliu audit verify --head 120:9f86...             against a head that was kept elsewhere
  fenliu audit show --action killed
"""


def add_plan(parser: argparse.ArgumentParser) -> Verbs:
    """The verbs of `fenliu plan`; returned so that more can be added."""
    verbs = parser.add_subparsers(dest="plan_verb", metavar="VERB", required=True)
    check = _verb(
        verbs, "check", "validate a part, and the plan it gives, against the live bundle", "plan_check"
    )
    check.add_argument("file", type=Path)
    _part(check)
    check.add_argument("--whole", action="store_true", help="the file is the whole plan, orgs' parts and all")
    check.add_argument("--json", action="store_true", help="print what was found as JSON")
    check.add_argument(
        "--forecast", action="store_true", help="what it would deliver, over the replay sample"
    )
    check.add_argument("--plot", type=Path, metavar="FILE", help="the forecast as a picture (PNG)")
    sample = _verb(verbs, "sample", "take the replay sample anew: forecasts decide it again", "plan_sample")
    sample.add_argument("--pages", type=int, default=200_000, metavar="N", help="page views in it (200,000)")
    sample.add_argument("--item", action="append", default=[], help="also bookable; may be repeated")
    diff = _verb(verbs, "diff", "what a proposal, or a file, changes", "plan_diff")
    diff.add_argument("what", metavar="PROPOSAL|FILE")
    _part(diff)
    propose = _verb(verbs, "propose", "propose a change; another principal approves it", "plan_propose")
    propose.add_argument("file", type=Path)
    _part(propose)
    _reason(propose, needed=True)
    propose.add_argument("--base", type=int, metavar="N", help="the revision it was made from (the newest)")
    propose.add_argument("--replaces", metavar="PROPOSAL", help="the proposal that this one edits")
    approve = _verb(verbs, "approve", "approve what somebody else proposed", "plan_approve")
    approve.add_argument("proposal")
    approve.add_argument("--review", action="store_true", help="reviewed only, not approved yet")
    approve.add_argument("--number", default="", help="the approval's number (creatives need one)")
    approve.add_argument("--until", default="", metavar="TIME", help="RFC 3339; not to be published later")
    _reason(approve)
    reject = _verb(verbs, "reject", "reject a proposal, or take one's own back", "plan_reject")
    reject.add_argument("proposal")
    _reason(reject, needed=True)
    publish = _verb(verbs, "publish", "put an approved proposal, or a file, in force", "plan_publish")
    publish.add_argument("what", metavar="PROPOSAL|FILE")
    _part(publish)
    publish.add_argument("--alone", action="store_true", help="nobody else is there to approve it (recorded)")
    _reason(publish, "published by hand")
    rollback = _verb(verbs, "rollback", "the whole plan, or a part, as it was before", "plan_rollback")
    rollback.add_argument("--part", metavar="PART", help="frame, org:ID or creative:ID (the whole plan)")
    rollback.add_argument("--to", type=int, metavar="N", help="that revision of the part")
    _reason(rollback, "rolled back by hand")
    withdraw = _verb(verbs, "withdraw", "take a creative off at once", "plan_withdraw")
    withdraw.add_argument("creative")
    _reason(withdraw, "withdrawn by hand")
    status = _verb(verbs, "status", "what is in force, and what waits for whom", "plan_status")
    status.add_argument("--part", metavar="PART", help="the text of a part")
    status.add_argument("--revision", type=int, metavar="N", help="of the part (the newest)")
    preview = _verb(verbs, "preview", "what a customer would see, and why", "plan_preview")
    preview.add_argument("user")
    preview.add_argument("--surface", default="home")
    preview.add_argument("--proposal", metavar="PROPOSAL", help="under this proposal")
    preview.add_argument("--plan", metavar="VERSION", help="under this plan")
    preview.add_argument("--url", default="http://127.0.0.1:8000", help="of the running service")
    return verbs


def add_kill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scope", choices=["item", "creative", "campaign", "slot", "everything"])
    parser.add_argument("id", nargs="?", default="", help="what to switch off (not for everything)")
    parser.add_argument("--undo", action="store_true", help="switch it on again")
    _reason(parser, "by hand")
    parser.set_defaults(run=by_desk("training.plan_commands", "kill"))


def add_keys(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="keys_verb", metavar="VERB", required=True)
    module = "training.key_commands"
    add = _verb(verbs, "add", "a principal with a key, or another key for one", "keys_add", module)
    add.add_argument("name")
    scopes = "app, core, operator:ORG, approver, approver:ORG, engineer or admin; may be repeated"
    add.add_argument("--scope", action="append", metavar="SCOPE", help=scopes)
    rotate = _verb(
        verbs, "rotate", "one's own next key; the former stays until revoked", "keys_rotate", module
    )
    rotate.add_argument("name", nargs="?")
    for one in (add, rotate):
        one.add_argument("--expires", default="", metavar="TIME", help="RFC 3339 (never)")
        _reason(one)
    _verb(verbs, "list", "everybody, with their keys' ids", "keys_list", module)
    for name, about in (("confirm", "stand for a key that somebody else issued"), ("revoke", "for ever")):
        one = _verb(verbs, name, about, f"keys_{name}", module)
        one.add_argument("key", metavar="ID")
        _reason(one)


def add_audit(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="audit_verb", metavar="VERB", required=True)
    module = "training.key_commands"
    verify = _verb(verbs, "verify", "read the whole log and check its chain", "audit_verify", module)
    verify.add_argument("--head", action="append", metavar="SEQ:HASH", help="a head kept elsewhere")
    show = _verb(verbs, "show", "the latest records", "audit_show", module)
    show.add_argument("--since", type=int, metavar="N", help="those after record N")
    show.add_argument("--most", type=int, default=50, metavar="N")
    show.add_argument("--action", help="only these: published, approved, killed, keys ...")
    show.add_argument("--principal", help="only of this principal")
    show.add_argument("--json", action="store_true", help="whole records, one a line")


def _verb(
    verbs: Verbs, name: str, about: str, function: str, module: str = "training.plan_commands"
) -> argparse.ArgumentParser:
    return added(verbs, name, about, by_desk(module, function))


def _part(parser: argparse.ArgumentParser) -> None:
    what = "frame (the plan itself), policy, org:ID (that org's fragment) or creative:ID"
    parser.add_argument("--part", default="frame", metavar="PART", help=what)


def _reason(parser: argparse.ArgumentParser, default: str = "", *, needed: bool = False) -> None:
    parser.add_argument("--reason", default=default, required=needed, help="for the audit log")
