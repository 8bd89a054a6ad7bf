"""The submitter copies a mould that rests, and leaves a copy that runs alone."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from tests.k8s.manifests import K8S, built, of_kind


@pytest.fixture
def submit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("submit", K8S / "base/submit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copies(*states: str | None) -> dict[str, Any]:
    return {
        "items": [
            {"metadata": {"name": f"c{n}"}, "status": {"jobDeploymentStatus": state} if state else {}}
            for n, state in enumerate(states)
        ]
    }


def test_a_copy_runs_and_carries_nothing_of_the_server(submit: ModuleType) -> None:
    (mould,) = of_kind(built("prod"), "RayJob")
    assert mould["spec"]["suspend"] is True, "the mould itself never runs"
    mould["metadata"] |= {"uid": "u", "resourceVersion": "7", "annotations": {"x": "y"}}
    made = submit.copy_of({**mould, "status": {"jobStatus": "x"}}, 1_790_000_000.0)
    assert made["spec"] == {**mould["spec"], "suspend": False}
    assert made["metadata"].keys() == {"name", "labels"} and "status" not in made
    assert made["metadata"]["name"] == "fenliu-train-20260921-141320" and len(made["metadata"]["name"]) <= 47


@pytest.mark.parametrize("state", [None, "Initializing", "Running", "Retrying", "Waiting"])
def test_a_copy_that_runs_is_waited_for(submit: ModuleType, state: str | None) -> None:
    assert submit.running(copies("Complete", state, "Failed")) == ["c1"]


def test_copies_that_ended_are_not(submit: ModuleType) -> None:
    assert submit.running(copies("Complete", "Failed", "ValidationFailed")) == []
