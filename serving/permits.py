"""Who may do what: one function per act, and each either returns or raises Problem.

A change needs two people: whoever proposes never approves, whatever keys and scopes they hold. What only
takes away (a kill, a rollback, withdrawing a creative) needs one, because an undo has to be fast.
"""

from __future__ import annotations

from serving.control import Kill
from serving.errors import Problem
from serving.principals import SYSTEM, Identity
from serving.proposals import FRAME, POLICY, Proposal


def forbidden(who: Identity, what: str, needs: str) -> Problem:
    held = ", ".join(sorted(scope.text for scope in who.scopes)) or "none"
    return Problem("forbidden", f"{who.principal} may not {what}: that needs {needs}; they have {held}")


def may_read(who: Identity, org: str) -> None:
    orgs = who.orgs
    if orgs is not None and org not in orgs:
        raise forbidden(who, f"see the plan of {org}", f"operator:{org} or approver:{org}")


def may_propose(who: Identity, part: str, org: str) -> None:
    if who.acts_for("operator", org) or (part in (FRAME, POLICY) and who.has("admin")):
        return
    needs = f"operator:{org}" + (" or admin" if part in (FRAME, POLICY) else "")
    raise forbidden(who, f"propose {part}", needs)


def may_approve(who: Identity, proposal: Proposal) -> None:
    """An approver of the org who is somebody else than the author. Raises Problem."""
    if not who.acts_for("approver", proposal.org):
        raise forbidden(who, f"approve for {proposal.org}", f"approver or approver:{proposal.org}")
    another_than(who, proposal)


def another_than(who: Identity, proposal: Proposal) -> None:
    """Two keys of one person are one person. Raises Problem `same_person`."""
    if who.principal == proposal.author:
        raise Problem(
            "same_person", f"{who.principal} proposed {proposal.id}: somebody else has to look at it"
        )


def may_reject(who: Identity, proposal: Proposal) -> None:
    """An approver, or the author who takes it back."""
    if who.principal != proposal.author and not who.acts_for("approver", proposal.org):
        raise forbidden(who, f"reject for {proposal.org}", f"approver or approver:{proposal.org}")


def may_publish(who: Identity, proposal: Proposal) -> None:
    org = proposal.org
    if not (who.acts_for("operator", org) or who.acts_for("approver", org) or who.has("admin")):
        raise forbidden(who, f"publish for {org}", f"operator:{org}, approver:{org} or admin")


def may_roll_back(who: Identity, org: str) -> None:
    """`org` is empty for the whole plan: that takes everybody's back, so it needs a head-office approver."""
    if not who.acts_for("approver", org):
        raise forbidden(who, f"roll back {org or 'the whole plan'}", f"approver{org and f':{org}'}")


def may_withdraw(who: Identity, org: str) -> None:
    if not (who.acts_for("operator", org) or who.acts_for("approver", org) or who.has("admin")):
        raise forbidden(who, f"withdraw creatives of {org}", f"operator:{org}, approver:{org} or admin")


def may_switch_off(who: Identity, org: str) -> None:
    """An arm of an experiment, in the frame of `org`: the service's own guard, and who may withdraw."""
    if who.principal == SYSTEM or who.has("admin"):
        return
    if not (who.acts_for("operator", org) or who.acts_for("approver", org)):
        raise forbidden(who, "switch an arm off", f"operator:{org}, approver:{org} or admin")


def may_kill(who: Identity, kill: Kill, owner: str | None, undo: bool, thrown_by: str | None) -> None:
    """Admins and approvers of every org: anything. Those of one org: its campaigns and creatives.

    An operator takes back only a switch that they threw themselves.
    """
    if who.has("admin") or who.acts_for("approver", ""):
        return
    what = f"{'revive' if undo else 'kill'} {kill.scope} {kill.id}".rstrip()
    if owner is None or kill.scope not in ("campaign", "creative"):
        raise forbidden(who, what, "admin or approver")
    if who.acts_for("approver", owner):
        return
    if not who.acts_for("operator", owner):
        raise forbidden(who, what, f"operator:{owner}, approver or admin")
    if undo and thrown_by != who.principal:
        raise forbidden(who, f"{what}: another threw that switch", f"approver:{owner}, approver or admin")


def may_manage_keys(who: Identity) -> None:
    if not who.has("admin"):
        raise forbidden(who, "manage principals and keys", "admin")


def may_trace(who: Identity) -> None:
    """A trace shows what was known of a customer."""
    if not (who.has("admin", "engineer") or who.acts_for("approver", "")):
        raise forbidden(who, "see how a customer's page was decided", "admin, engineer or approver")


def may_erase(who: Identity) -> None:
    """There is no way back."""
    if not who.has("admin"):
        raise forbidden(who, "erase a customer", "admin")


def may_audit(who: Identity) -> None:
    if not (who.has("admin", "engineer") or who.acts_for("approver", "")):
        raise forbidden(who, "read the audit log", "admin, engineer or approver")
