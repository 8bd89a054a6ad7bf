"""Kubernetes' published schemas, asked in `.venv-k8s`, an environment of their own (`make k8s-check`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.k8s.manifests import ROOT, Object

PYTHON = ROOT / ".venv-k8s/bin/python"
CHECK = """
import json, sys, warnings
warnings.simplefilter("ignore")
from kubernetes_validate import ValidationError, validate
said = []
for objects in json.load(sys.stdin):
    found = []
    for one in objects:
        try:
            validate(one, sys.argv[1], strict=True)
        except ValidationError as bad:
            found.append(f"{one['kind']}/{one['metadata']['name']}: {bad.message}")
    said.append(found)
json.dump(said, sys.stdout)
"""


def problems(*lots: list[Object], version: str, python: Path = PYTHON) -> list[list[str]]:
    """What is wrong with each lot of objects, strictly. Skips, saying so, where the schemas are not."""
    if not python.exists():
        pytest.skip(f"no {python.relative_to(ROOT)} (make k8s-check makes it): core kinds are not validated")
    done = subprocess.run(
        [str(python), "-c", CHECK, version],
        input=json.dumps(lots),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found
