"""An arm switched off, a winner promoted: what is proposed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fenliu import main
from serving.arm_switch import ArmError, switched_off
from serving.governance import Governance
from serving.plan import check_plan
from serving.principals import local_identity
from serving.proposals import FRAME
from tests.worlds import NOW, sold, tiny_plan
from training.experiment.changes import promoted
from training.usage import UsageError


def frame(**changes: Any) -> dict[str, Any]:
    arms = [{"name": "control"}, {"name": "a", "changes": changes}, {"name": "b"}]
    one = {"name": "e", "ramp": [{"at": "2026-01-01T00:00:00Z", "enrolled": 1}], "arms": arms}
    text = {"layers": [{"name": "l", "experiments": [one]}]}
    plan = tiny_plan(experiments=text, campaigns=[sold(1, "i2"), sold(2, "i8")])
    made: dict[str, Any] = plan.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return made


def test_an_arm_goes_off_and_nothing_else_changes() -> None:
    before = frame(ranker="popularity")
    after = switched_off(before, "e", "a")
    assert after["experiments"]["layers"][0]["experiments"][0]["arms"][1].pop("state") == "off"
    assert after == before and check_plan(switched_off(before, "e", "a"))
    for arm, said in (("control", "pause"), ("x", "it has control, a, b")):
        with pytest.raises(ArmError, match=said):
            switched_off(before, "e", arm)
    with pytest.raises(ArmError, match="off already"):
        switched_off(switched_off(before, "e", "a"), "e", "a")
    with pytest.raises(ArmError, match="no experiment 'f'"):
        switched_off(before, "f", "a")


def test_a_promoted_arm_is_the_plan() -> None:
    changes = {
        "slots": {"home.banner": {"size": 2, "explore": 0.1}},
        "levers": {"c1": 1.5},
        "paused": ["c2"],
        "values": {"version": "v2", "click": 2.0},
    }
    made = promoted(frame(**changes), "e", "a", owner="li", now=NOW)
    plan = check_plan(made)
    assert plan.experiments is not None and not plan.experiments.layers[0].experiments
    banner = next(slot for slot in plan.slots if slot.name == "home.banner")
    assert (banner.size, banner.explore) == (2, 0.1)
    assert plan.values is not None and plan.values.version == "v2"
    assert plan.campaigns[0].lever is not None and plan.campaigns[0].lever.owner == "li"
    assert plan.campaigns[1].state == "paused"
    with pytest.raises(UsageError, match="no field of a plan"):
        promoted(frame(ranker="popularity"), "e", "a", owner="li", now=NOW)


def test_a_promoted_shape_is_the_slots() -> None:
    shape = {"layout": "feed", "kinds": ["product", "content"], "kinds_most": {"content": 1}}
    before = frame(slots={"home.shelf": shape})
    for slot in before["slots"]:
        if slot["name"] == "home.shelf":
            slot["display_rates"] = [0.9, 0.7, 0.5, 0.3]
    plan = check_plan(promoted(before, "e", "a", owner="li", now=NOW))
    shelf = next(slot for slot in plan.slots if slot.name == "home.shelf")
    assert (shelf.layout, shelf.kinds) == ("feed", ("product", "content"))
    assert shelf.kinds_most == {"content": 1} and shelf.display_rates is None, "measured of another layout"


def test_the_commands_propose(tmp_path: Path, capsys: Any) -> None:
    home = ["--home", str(tmp_path), "experiment"]
    assert main([*home, "off", "e", "a", "--reason", "r"]) == 2
    assert "no plan was published" in capsys.readouterr().err
    governance = Governance(str(tmp_path / "registry"), approvals=False)
    me = local_identity("me")
    one = governance.propose(me, FRAME, frame(ranker="popularity"), base=None, reason="first")
    governance.publish(me, one.id, alone=True, reason="first")
    assert main([*home, "off", "e", "a", "--reason", "dismissals"]) == 0
    name = capsys.readouterr().out.split()[1].rstrip(":")
    governance.refresh()
    proposal = governance.state.proposal(name)
    made = governance.books.content(proposal.content)
    assert made["experiments"]["layers"][0]["experiments"][0]["arms"][1]["state"] == "off"
