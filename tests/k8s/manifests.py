"""What the overlays in k8s/ build to, and the pods in it, whatever holds them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("single", "dev", "prod", "prod-managed")
ON_RAY = ("dev", "prod", "prod-managed")
OLDEST = (1, 28)
Object = dict[str, Any]


def kubectl() -> str:
    """Skips, saying so, where no recent kubectl is."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("no kubectl on PATH: the overlays are not built")
    told = subprocess.run([found, "version", "--client", "-o", "yaml"], capture_output=True, text=True)
    version = yaml.safe_load(told.stdout)["clientVersion"]
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < OLDEST:
        pytest.skip(f"kubectl {version['gitVersion']} is older than {OLDEST}: the overlays are not built")
    return found


@cache
def text_of(overlay: str) -> str:
    return text_at(K8S / "overlays" / overlay)


def text_at(folder: Path) -> str:
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(overlay: str) -> list[Object]:
    """A fresh copy at each call: tests break it."""
    return list(yaml.safe_load_all(text_of(overlay)))


class Pod(NamedTuple):
    owner: str  # kind/name, and the group of Ray's pods
    labels: dict[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(objects: list[Object]) -> Iterator[Pod]:
    for one in objects:
        for name, template in _templates(one["spec"]) if "spec" in one else ():
            owner = "/".join(filter(None, (one["kind"], one["metadata"]["name"], name)))
            yield Pod(owner, template.get("metadata", {}).get("labels", {}), template["spec"])


def _templates(spec: Object) -> Iterator[tuple[str, Object]]:
    if "containers" in spec.get("template", {}).get("spec", {}):
        yield "", spec["template"]
    if "jobTemplate" in spec:
        yield "", spec["jobTemplate"]["spec"]["template"]
    for key in ("rayClusterConfig", "rayClusterSpec"):
        if key in spec:
            yield "head", spec[key]["headGroupSpec"]["template"]
            for group in spec[key].get("workerGroupSpecs", []):
                yield group["groupName"], group["template"]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def serve_of(service: Object) -> Object:
    found: Object = yaml.safe_load(service["spec"]["serveConfigV2"])
    return found


def environment(container: Object) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container.get("env", [])}


def replicas_of(service: Object) -> int:
    return int(serve_of(service)["applications"][0]["deployments"][0]["max_replicas_per_node"])


def given_to(objects: list[Object], container: Object) -> dict[str, str]:
    """A container's variables, those of its ConfigMaps included."""
    held = {one["metadata"]["name"]: one.get("data", {}) for one in of_kind(objects, "ConfigMap")}
    found: dict[str, str] = {}
    for one in container.get("envFrom", []):
        found |= held.get(one["configMapRef"]["name"], {})
    return found | environment(container)


def ours(objects: list[Object]) -> Iterator[tuple[Pod, Object, dict[str, str]]]:
    """Containers that run the product: pod, container, variables."""
    for pod in pods(objects):
        for one in pod.spec["containers"]:
            given = given_to(objects, one)
            if "FENLIU_HOME" in given:
                yield pod, one, given
