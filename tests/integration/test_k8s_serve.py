"""The Serve configuration in k8s/ is deployed for real, as KubeRay hands it over; only sizes differ."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from features.ports import free_port
from serving.backing import backed
from serving.bundle import save
from serving.registry import Registry
from serving.settings import Settings
from tests.shell import CONTEXT
from tests.worlds import item, tiny_bundle

pytestmark = [
    pytest.mark.integration,
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # importing and running Ray warns of its own affairs
]
KEY = "k" * 24
MANIFEST = Path(__file__).parents[2] / "k8s/base/rayservice.yaml"


def configuration(port: int) -> dict[str, Any]:
    raw = yaml.safe_load(MANIFEST.read_text())["spec"]["serveConfigV2"]
    found: dict[str, Any] = yaml.safe_load(raw)
    found["http_options"] |= {"host": "127.0.0.1", "port": port}
    (deployment,) = found["applications"][0]["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    deployment["ray_actor_options"] = {"num_cpus": 0.5}
    return found


def test_the_configuration_starts_and_answers(tmp_path: Path) -> None:
    from serving import app

    registry = Registry(str(tmp_path / "registry"))
    registry.put(save(tiny_bundle(items=[item(n) for n in range(120)], version="b-pod"), tmp_path / "made"))
    registry.promote("b-pod", by="test")
    port, first = free_port(), free_port()
    settings = Settings(home=tmp_path, port=port, app_key=KEY, deadline_ms=2000)
    with backed(settings) as complete:
        scratch = tmp_path / "s"
        scratch.mkdir()
        pod = complete.as_env() | {  # what the pods' ConfigMap and Secrets say
            "FENLIU_HOST": "0.0.0.0",
            "FENLIU_PORT": str(port),
            "FENLIU_APP_KEY": KEY,
            "FENLIU_TOKEN_KEYS": "k1:" + "ab" * 32,
            "FENLIU_ROLE": "pages",
            "FENLIU_DEADLINE_MS": "2000",
            "FENLIU_READ_TIMEOUT_S": "0.5",
            "FENLIU_METRICS_PORTS": f"{first}-{first + 7}",
        }
        with app._flags(app._environment(complete, scratch) | pod), app._ray(complete):
            deploy(configuration(port))
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/readyz")
            body = {"user_id": "u1", "context": CONTEXT}
            assert httpx.post(f"{url}/v1/recommend", json=body, timeout=10).status_code == 401
            with_key = {"Authorization": f"Bearer {KEY}"}
            page = httpx.post(f"{url}/v1/recommend", json=body, headers=with_key, timeout=10)
            assert page.status_code == 200 and page.json()["slots"], page.text
            plan = httpx.get(f"{url}/v1/plan", headers=with_key, timeout=10)
            assert plan.status_code == 404, "governance is not answered by the pages' replicas"
            answered = [scraped(one) for one in range(first, first + 8)]
            assert sum(answered) == 2, "each replica is scraped on a port of its own"
        assert "FENLIU_ROLE" not in os.environ


def deploy(raw: dict[str, Any]) -> None:
    """As the dashboard does with what KubeRay sends it, without the dashboard."""
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    checked = ServeDeploySchema.model_validate(raw)
    serve.start(http_options=HTTPOptions(**raw["http_options"]))
    client = _get_global_client()
    client.deploy_apps(checked, _blocking=False)
    until = time.monotonic() + 45.0
    while (state := client.get_serve_status("pages")).app_status.status != "RUNNING":
        assert state.app_status.status != "DEPLOY_FAILED" and time.monotonic() < until, str(state)
        time.sleep(0.2)


def wait_for(url: str, limit_s: float = 60.0) -> None:
    until = time.monotonic() + limit_s
    said = "nothing"
    while time.monotonic() < until:
        try:
            answer = httpx.get(url, timeout=2)
            said = f"{answer.status_code} {answer.text}"
            if answer.status_code == 200:
                return
        except httpx.TransportError as problem:
            said = repr(problem)
        time.sleep(0.2)
    raise AssertionError(f"{url} said {said}")


def scraped(port: int) -> bool:
    try:
        return "fenliu_running_info" in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=2).text
    except httpx.TransportError:
        return False
