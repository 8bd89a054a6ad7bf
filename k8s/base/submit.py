"""Run a copy of a suspended RayJob, unless a copy of it still runs: `submit.py NAME`, from a CronJob.

The CronJob's own `concurrencyPolicy` cannot see it: the submitter ends long before its RayJob does. Only the
standard library, so that it starts in a tenth of a second; speaks to the API server as its service account.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
OVER = ("Complete", "Failed", "ValidationFailed")
OF = "fenliu/copy-of"
TIMEOUT_S = 30.0


def copy_of(mould: dict[str, Any], now: float) -> dict[str, Any]:
    """The RayJob to make: the mould's spec, running. `now`: POSIX seconds, for its name."""
    name = mould["metadata"]["name"]
    labels = {**mould["metadata"].get("labels", {}), OF: name}
    return {
        "apiVersion": mould["apiVersion"],
        "kind": mould["kind"],
        "metadata": {"name": f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}", "labels": labels},
        "spec": {**mould["spec"], "suspend": False},
    }


def running(copies: dict[str, Any]) -> list[str]:
    """Names of the copies that have not ended."""
    return [
        one["metadata"]["name"]
        for one in copies["items"]
        if one.get("status", {}).get("jobDeploymentStatus") not in OVER
    ]


def main(name: str) -> int:
    """Exit status: 0 submitted, or one still runs; any error of the API server is raised."""
    folder = f"/apis/ray.io/v1/namespaces/{(ACCOUNT / 'namespace').read_text().strip()}/rayjobs"
    if busy := running(_ask(f"{folder}?labelSelector={OF.replace('/', '%2F')}%3D{name}")):
        print(f"{busy[0]} still runs: nothing is submitted")
        return 0
    made = _ask(folder, copy_of(_ask(f"{folder}/{name}"), time.time()))
    print(f"submitted {made['metadata']['name']}")
    return 0


def _ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    if ":" in host:
        host = f"[{host}]"
    request = urllib.request.Request(
        f"https://{host}:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/json",
        },
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=trust) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
