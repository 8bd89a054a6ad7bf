"""Dashboards ask for metrics and labels that a process exports, and for every one that matters."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.k8s.exported import exported
from tests.k8s.manifests import K8S

FOLDER = K8S / "components/monitoring/dashboards"
BOARDS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
NOT_SHOWN = {"fenliu_overlay_seq", "fenliu_replayed_total", "fenliu_swap_seconds_bucket"}  # for looking up


EXPORTED = exported()


def asked(board: Any) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def unknown(expr: str) -> list[str]:
    names = re.findall(r"fenliu_[a-z_]+", expr)
    labels = {label for name in names for label in EXPORTED.get(name, ())}
    used = re.findall(r"([a-z_]+)\s*=[~\"]", expr)
    used += [one.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for one in group.split(",")]
    return [name for name in names if name not in EXPORTED] + [one for one in used if one not in labels]


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_asks_for_what_is_exported(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == name.removesuffix(".json") and len(asked(board)) > 10
    assert [unknown(expr) for expr in asked(board) if unknown(expr)] == []
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    spots = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(spots)) == len(spots)


def test_what_nobody_exports_is_found() -> None:
    assert unknown("rate(fenliu_request_total[5m])") == ["fenliu_request_total"]
    assert unknown('sum by (pod) (rate(fenliu_requests_total{code="5"}[5m]))') == ["code", "pod"]


def test_every_metric_is_on_a_dashboard_or_left_out_by_name() -> None:
    shown = {
        name
        for board in BOARDS.values()
        for expr in asked(board)
        for name in re.findall(r"fenliu_[a-z_]+", expr)
    }
    wanted = {
        name
        for name in EXPORTED
        if not name.endswith(("_created", "_sum", "_count")) and f"{name}_total" not in EXPORTED
        and f"{name}_bucket" not in EXPORTED
    }  # fmt: skip
    rest = wanted - shown - NOT_SHOWN
    assert {name for name in rest if not name.startswith("fenliu_campaign_")} == set()


def test_every_dashboard_is_handed_to_grafana() -> None:
    made = yaml.safe_load((FOLDER.parent / "kustomization.yaml").read_text())["configMapGenerator"][0]
    assert {one.partition("/")[2] for one in made["files"]} == set(BOARDS)
    assert made["options"]["labels"] == {"grafana_dashboard": "1"}
