"""`fenliu keys …` and `fenliu audit …`: who there is, and what they did."""

from __future__ import annotations

import argparse
import json

from serving.audit import Head, parse_head
from serving.overview import audit_lines
from serving.permits import may_audit, may_manage_keys
from serving.principals import Key
from training.desk import Desk, Say
from training.usage import UsageError


def keys_add(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """A principal with its first key, or another key for a known one; the key is printed once."""
    text, counts = desk.keys.issue(
        desk.who, args.name, args.scope or (), expires=args.expires, reason=args.reason
    )
    say(f"the key of {args.name}, shown this once: {text}")
    if not counts:
        key_id = text.split("_", 2)[1]
        say(f"  it counts once somebody else has confirmed it: fenliu keys confirm {key_id}")
    return 0


def keys_rotate(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """Another key for oneself; the former stays valid until it is revoked."""
    if args.name is None and desk.who.principal not in desk.keys.current().people:
        raise UsageError("name whose key: there are no principals yet, or you are none of them")
    name = args.name or desk.who.principal
    keys_add(argparse.Namespace(name=name, scope=(), expires=args.expires, reason=args.reason), desk, say)
    say("  when it is in use, revoke the former: fenliu keys revoke ID (fenliu keys list)")
    return 0


def keys_list(_args: argparse.Namespace, desk: Desk, say: Say) -> int:
    may_manage_keys(desk.who)
    known = desk.keys.current()
    if not known:
        say("no principals: whoever sits here may do everything; fenliu keys add NAME --scope admin")
    now = desk.governance.books.clock()
    for one in known.people.values():
        say(f"{one.name}: {', '.join(one.scopes)}")
        for key in one.keys:
            say(f"  {key.id} {_state(key, now)}, made {key.made} by {key.issued_by}")
    return 0


def _state(key: Key, now: float) -> str:
    if key.revoked:
        return f"revoked {key.revoked}"
    if not key.confirmed_by:
        return "waits for confirmation"
    if not key.works(now):
        return f"expired {key.expires}"
    return f"valid until {key.expires}" if key.expires else "valid"


def keys_confirm(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    desk.keys.confirm(desk.who, args.key, reason=args.reason)
    say(f"{args.key} counts now")
    return 0


def keys_revoke(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    desk.keys.revoke(desk.who, args.key, reason=args.reason)
    say(f"{args.key} is revoked, on every replica within seconds")
    return 0


def audit_verify(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    """Exit status 1 when the log does not hold."""
    heads: tuple[Head, ...] = tuple(parse_head(text) for text in args.head or ())
    found = desk.governance.books.audit.verify(*heads)
    if found.ok:
        say(f"{found.records} records, every one in its place; head {found.head.text}")
        return 0
    say(f"the log does not hold from record {found.broken} on: {found.problem}")
    return 1


def audit_show(args: argparse.Namespace, desk: Desk, say: Say) -> int:
    may_audit(desk.who)
    desk.governance.refresh()
    for one in audit_lines(desk.governance, args.since, args.most, args.action, args.principal):
        if args.json:
            say(json.dumps(one, ensure_ascii=False))
            continue
        said = f": {one['reason']}" if one["reason"] else ""
        say(f"{one['seq']:6d} {one['at']} {one['principal']} {one['action']} {one['object']}{said}")
    return 0
