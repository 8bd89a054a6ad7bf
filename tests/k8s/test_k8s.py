"""`make k8s-check`: every overlay builds, validates and keeps the rules; each check is shown to fail."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.settings import Settings
from tests.k8s import own_rules as own
from tests.k8s import policy, shapes
from tests.k8s.core_schemas import problems
from tests.k8s.manifests import (
    K8S,
    ON_RAY,
    OVERLAYS,
    ROOT,
    Object,
    built,
    of_kind,
    pods,
    serve_of,
    text_at,
)  # fmt: skip

KUBERAY = ROOT.parent / "shared/kuberay"
VERSION = "1.32"
THEIRS = ("ray.io", "monitoring.coreos.com", "gateway.networking.k8s.io")


def core(objects: list[Object]) -> list[Object]:
    return [one for one in objects if not one["apiVersion"].startswith(THEIRS)]


def ray_kinds(objects: list[Object]) -> list[Object]:
    return [one for one in objects if one["apiVersion"].startswith("ray.io")]


# --- shapes: each object, strictly


def misspelt_probe(objects: list[Object]) -> None:
    of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}


def port_in_words(objects: list[Object]) -> None:
    of_kind(objects, "Service")[0]["spec"]["ports"][0]["port"] = "http"


def without_a_selector(objects: list[Object]) -> None:
    del of_kind(objects, "StatefulSet")[0]["spec"]["selector"]


MISTAKES = {
    misspelt_probe: "Additional properties are not allowed ('livenesProbe' was unexpected)",
    port_in_words: "is not of type 'integer'",
    without_a_selector: "'selector' is a required property",
}


def test_core_kinds_by_the_published_schemas_which_refuse_broken_copies() -> None:
    copies = []
    for broken in MISTAKES:
        objects = core(built("prod"))
        broken(objects)
        copies.append(objects)
    sound = [core(built(overlay)) for overlay in OVERLAYS]
    found = problems(*sound, *copies, version=VERSION)
    assert found[: len(sound)] == [[]] * len(OVERLAYS)
    for told, said in zip(found[len(sound) :], MISTAKES.values(), strict=True):
        assert len(told) == 1 and said in told[0]


def test_without_the_schemas_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="make k8s-check"):
        problems([], version=VERSION, python=ROOT / "no-such-environment")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_kind_but_rays_by_our_own_shapes(overlay: str) -> None:
    objects = built(overlay)
    wrong = [text for one in objects if one not in ray_kinds(objects) for text in shapes.check(one)]
    assert wrong == []


def misspell(one: Object) -> None:
    one["spec"]["selektor"] = one["spec"].pop("selector", {})


@pytest.mark.parametrize(
    "kind", ["Deployment", "StatefulSet", "Service", "PodMonitor", "PodDisruptionBudget"]
)
def test_our_shapes_refuse_a_misspelt_field(kind: str) -> None:
    one = of_kind(built("prod"), kind)[0]
    misspell(one)
    assert any("selektor: no such field" in text for text in shapes.check(one))


@pytest.mark.parametrize("field", ["alert", "expr"])
def test_our_shapes_refuse_a_rule_without_what_it_needs(field: str) -> None:
    one = of_kind(built("prod"), "PrometheusRule")[0]
    del one["spec"]["groups"][0]["rules"][0][field]
    assert any("missing" in text for text in shapes.check(one))


def crd_check(objects: list[Object], folder: Path) -> subprocess.CompletedProcess[str]:
    if not KUBERAY.is_dir():
        pytest.skip(
            f"no KubeRay schemas at {KUBERAY.relative_to(ROOT.parent)}: ray.io kinds are not validated"
        )
    file = folder / "objects.yaml"
    file.write_text(yaml.safe_dump_all(ray_kinds(objects)))
    command = [sys.executable, str(KUBERAY / "crdcheck.py"), str(KUBERAY), str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("overlay", ON_RAY)
def test_rays_kinds_by_kuberays_schemas(overlay: str, tmp_path: Path) -> None:
    done = crd_check(built(overlay), tmp_path)
    assert done.returncode == 0 and "2 objects, 0 failed" in done.stdout, done.stdout + done.stderr


def test_kuberays_schemas_refuse_a_misspelt_field(tmp_path: Path) -> None:
    broken = built("prod")
    cluster = of_kind(broken, "RayService")[0]["spec"]["rayClusterConfig"]
    cluster["headGroupSpecs"] = cluster["headGroupSpec"]
    assert crd_check(broken, tmp_path).returncode == 1


# --- the Serve configuration by Ray's own schema; extras are ignored by it, so names are compared as well


SERVE = """
import importlib, json, sys
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema
said = []
for config in json.load(sys.stdin):
    found = [*(config.keys() - ServeDeploySchema.model_fields.keys())]
    for application in config["applications"]:
        found += application.keys() - ServeApplicationSchema.model_fields.keys()
        for deployment in application["deployments"]:
            found += deployment.keys() - DeploymentSchema.model_fields.keys()
        module, _, name = application["import_path"].partition(":")
        if not hasattr(importlib.import_module(module), name):
            found.append(application["import_path"])
    try:
        ServeDeploySchema.model_validate(config)
    except ValueError as problem:
        found.append(str(problem))
    said.append(found)
json.dump(said, sys.stdout)
"""


def serve_problems(*configs: Object) -> list[list[str]]:
    """In a process of its own: Ray reads its flags when it is imported, and other tests set them."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SERVE],
        input=json.dumps(configs),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_the_serve_configuration_by_rays_own_schema() -> None:
    configs = [serve_of(of_kind(built(overlay), "RayService")[0]) for overlay in ON_RAY]
    misspelt, unbounded = copy.deepcopy(configs[0]), copy.deepcopy(configs[0])
    misspelt["applications"][0]["deployments"][0]["max_ongoing_request"] = 5
    misspelt["applications"][0]["import_path"] = "serving.app:nothing"
    unbounded["applications"][0]["deployments"][0]["max_surge_percent"] = 500
    *sound, names, values = serve_problems(*configs, misspelt, unbounded)
    assert sound == [[]] * len(ON_RAY)
    assert sorted(names) == ["max_ongoing_request", "serving.app:nothing"]
    assert len(values) == 1 and "max_surge_percent" in values[0]


# --- our rules


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("rule", policy.EVERYWHERE, ids=lambda rule: rule.__name__)
def test_the_rules_hold(rule: policy.Rule, overlay: str) -> None:
    assert list(rule(built(overlay))) == []


def test_stores_stand_apart_in_production() -> None:
    assert list(policy.apart(built("prod"))) == []


@pytest.mark.parametrize("overlay", ["prod", "prod-managed"])
def test_production_has_room_for_an_update_and_differs_from_the_base_by_its_bounds(overlay: str) -> None:
    assert list(policy.room(built(overlay))) == []
    base = yaml.safe_load((K8S / "base/rayservice.yaml").read_text())
    configs = [serve_of(base), serve_of(of_kind(built(overlay), "RayService")[0])]
    bounds = [
        {name: one["applications"][0]["deployments"][0]["autoscaling_config"].pop(name)
         for name in ("min_replicas", "max_replicas")}
        for one in configs
    ]  # fmt: skip
    assert configs[0] == configs[1] and bounds[0] != bounds[1]


def service_of(objects: list[Object]) -> Object:
    return of_kind(objects, "RayService")[0]["spec"]


def cluster_of(objects: list[Object]) -> Object:
    found: Object = service_of(objects)["rayClusterConfig"]
    return found


def pod_of(objects: list[Object], owner: str) -> Object:
    (pod,) = [pod for pod in pods(objects) if pod.owner == owner]
    return pod.spec


def container(objects: list[Object], owner: str) -> Object:
    found: Object = pod_of(objects, owner)["containers"][0]
    return found


def volume_of(objects: list[Object], owner: str, name: str) -> Object:
    found: Object = next(one for one in pod_of(objects, owner)["volumes"] if one["name"] == name)
    return found


def mount_of(objects: list[Object], owner: str, name: str) -> Object:
    found: Object = next(one for one in container(objects, owner)["volumeMounts"] if one["name"] == name)
    return found


def serve_with(objects: list[Object], **changes: Any) -> None:
    config = serve_of(of_kind(objects, "RayService")[0])
    config["applications"][0]["deployments"][0] |= changes
    service_of(objects)["serveConfigV2"] = yaml.safe_dump(config)


def without(items: list[Object], name: str) -> None:
    items[:] = [one for one in items if one["name"] != name]


def named(objects: list[Object], kind: str, name: str) -> Object:
    return next(one for one in of_kind(objects, kind) if one["metadata"]["name"].startswith(name))


def settings_of(objects: list[Object]) -> Object:
    """The ConfigMap that every pod of ours takes; its name ends with a digest."""
    return named(objects, "ConfigMap", container(objects, ADMIN)["envFrom"][0]["configMapRef"]["name"])


def store(objects: list[Object], role: str, file: str, old: str, new: str) -> None:
    for one in of_kind(objects, "ConfigMap"):
        if one["metadata"]["name"].startswith(f"store-{role}"):
            assert old in one["data"][file]
            one["data"][file] = one["data"][file].replace(old, new)


HEAD, WORKER, ADMIN = "RayService/fenliu/head", "RayService/fenliu/pages", "Deployment/fenliu-admin"
RETAIN = "CronJob/fenliu-retain"
Break = Callable[[list[Object]], Any]
BREAKS: list[tuple[policy.Rule, Break]] = [
    (policy.confined, lambda o: container(o, ADMIN)["securityContext"].update(readOnlyRootFilesystem=False)),
    (policy.confined, lambda o: container(o, WORKER)["securityContext"]["capabilities"].update(drop=[])),
    (policy.confined, lambda o: next(pods(o)).spec["securityContext"].pop("seccompProfile")),
    (policy.confined, lambda o: next(pods(o)).spec["securityContext"].update(runAsNonRoot=False)),
    (policy.sized, lambda o: container(o, WORKER)["resources"].pop("limits")),
    (policy.sized, lambda o: container(o, HEAD)["resources"]["requests"].update(memory="1Gi")),
    (policy.probed, lambda o: container(o, ADMIN).pop("startupProbe")),
    (policy.probed, lambda o: container(o, ADMIN)["livenessProbe"]["httpGet"].update(path="/readyz")),
    (policy.secrets_by_reference, lambda o: container(o, ADMIN)["env"].append(
        {"name": "FENLIU_LOG_URL", "value": "redis://x"})),
    (policy.secrets_by_reference, lambda o: o.append({"kind": "Secret", "metadata": {"name": "x"}})),
    (policy.secrets_by_reference, lambda o: store(o, "live", "users.acl", "#@PASSWORD_SHA256@", ">open")),
    (policy.images, lambda o: container(o, ADMIN).update(image="fenliu:latest")),
    (policy.images, lambda o: container(o, ADMIN).update(image="fenliu:0.2.0")),
    (policy.images, lambda o: container(o, ADMIN).update(image="host/fenliu:0.1.0")),
    (policy.network, lambda o: o.remove(named(o, "NetworkPolicy", "default-deny"))),
    (policy.network, lambda o: named(o, "NetworkPolicy", "pages")["spec"]["ingress"].append({})),
    (policy.network, lambda o: named(o, "NetworkPolicy", "pages")["spec"]["ingress"][3]["ports"].append(
        {"port": 8000, "endPort": 9000})),
    (policy.disruption, lambda o: o.remove(named(o, "PodDisruptionBudget", "fenliu-admin"))),
    (policy.ray_flags, lambda o: without(container(o, WORKER)["env"], "RAY_SERVE_ENABLE_HA_PROXY")),
    (policy.ray_flags, lambda o: without(container(o, HEAD)["env"], "RAY_SERVE_THROUGHPUT_OPTIMIZED")),
    (policy.ray_flags, lambda o: without(container(o, HEAD)["env"], "FENLIU_ROLE")),
    (policy.ray_head, lambda o: service_of(o).update(excludeHeadPodFromServeSvc=False)),
    (policy.ray_head, lambda o: cluster_of(o)["headGroupSpec"]["rayStartParams"].pop("num-cpus")),
    (policy.ray_head, lambda o: cluster_of(o)["gcsFaultToleranceOptions"].update(
        redisAddress="redis://fenliu-live:6379")),
    (policy.draining, lambda o: without(
        container(o, WORKER)["env"], "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")),
    (policy.draining, lambda o: serve_with(o, max_surge_percent=0)),
    (policy.scaling, lambda o: o.append({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}})),
    (policy.scaling, lambda o: serve_with(o, max_replicas_per_node=8)),
    (policy.scaling, lambda o: cluster_of(o)["workerGroupSpecs"][0].update(maxReplicas=6)),
    (policy.room, lambda o: cluster_of(o)["workerGroupSpecs"][0].update(maxReplicas=8)),
    (policy.room, lambda o: cluster_of(o)["workerGroupSpecs"][0].update(minReplicas=2)),
    (policy.stores, lambda o: store(o, "live", "store.conf", "appendfsync always", "appendfsync everysec")),
    (policy.stores, lambda o: store(o, "log", "store.conf", "noeviction", "allkeys-lru")),
    (policy.stores, lambda o: store(o, "control", "store.conf", "appendonly yes", "appendonly no")),
    (policy.stores, lambda o: store(o, "features", "users.acl", "user default off", "user default on")),
    (policy.stores, lambda o: store(o, "log", "users.acl", "+bgrewriteaof", "+bgrewriteaof +config|set")),
    (policy.stores, lambda o: store(o, "live", "users.acl", "user keeper on", "user keeper off")),
    (own.keeper, lambda o: without(container(o, ADMIN)["env"], "FENLIU_KEEPER_PASSWORD")),
    (own.keeper, lambda o: container(o, WORKER)["env"].append(
        {"name": "FENLIU_KEEPER_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}})),
    (policy.apart, lambda o: of_kind(o, "StatefulSet")[0]["spec"]["template"]["spec"].pop("affinity")),
    (policy.references, lambda o: o.remove(settings_of(o))),
    (own.spooling, lambda o: without(container(o, WORKER)["volumeMounts"], "spool")),
    (own.spooling, lambda o: volume_of(o, WORKER, "spool")["emptyDir"].update(medium="Memory")),
    (own.spooling, lambda o: volume_of(o, WORKER, "spool")["emptyDir"].update(sizeLimit="1Gi")),
    (policy.references, lambda o: o.remove(named(o, "PersistentVolumeClaim", "fenliu-lake"))),
    (own.whole_home, lambda o: volume_of(o, ADMIN, "home").update(
        emptyDir=volume_of(o, ADMIN, "home").pop("persistentVolumeClaim") and {})),
    (own.whole_home, lambda o: volume_of(o, ADMIN, "home")["persistentVolumeClaim"].update(
        claimName="fenliu-registry")),
    (own.whole_home, lambda o: mount_of(o, ADMIN, "home").update(subPath="lake")),
    (own.whole_home, lambda o: mount_of(o, RETAIN, "home").update(readOnly=True)),
    (own.whole_home, lambda o: mount_of(o, ADMIN, "home").update(mountPath="/var/lib/fenliu/lake")),
    (own.whole_home, lambda o: container(o, ADMIN)["volumeMounts"].append(
        {"name": "tmp", "mountPath": "/var/lib/fenliu/work"})),
    (own.whole_home, lambda o: volume_of(o, WORKER, "home").update(
        persistentVolumeClaim={"claimName": "fenliu-lake"})),
    (own.kernels, lambda o: mount_of(o, ADMIN, "kernels").update(name="home")),
    (own.kernels, lambda o: pod_of(o, WORKER).pop("initContainers")),
    (own.json_logs, lambda o: settings_of(o)["data"].pop("FENLIU_LOG")),
    (own.json_logs, lambda o: container(o, ADMIN)["env"].append({"name": "FENLIU_LOG", "value": "text"})),
    (own.certificates, lambda o: without(container(o, WORKER)["volumeMounts"], "tls")),
    (own.certificates, lambda o: volume_of(o, ADMIN, "tls")["secret"].pop("optional")),
    (own.certificates, lambda o: volume_of(o, ADMIN, "tls")["secret"].update(defaultMode=0o444)),
    (own.daily, lambda o: o.remove(named(o, "CronJob", "fenliu-retain"))),
    (own.daily, lambda o: o.remove(named(o, "CronJob", "fenliu-sample"))),
    (own.daily, lambda o: container(o, RETAIN).update(args=["customer", "retain", "--days", "0"])),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "broken"), BREAKS)
def test_a_broken_copy_breaks_its_rule(rule: policy.Rule, broken: Break) -> None:
    objects = copy.deepcopy(built("prod"))
    broken(objects)
    assert list(rule(objects)), "the rule did not see it"


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule for rule, _ in BREAKS} == {*policy.EVERYWHERE, policy.apart, policy.room}


def test_identity_and_traces_are_added_to_an_overlay(tmp_path: Path) -> None:
    """Their settings reach every process that serves, and are settings; the rules hold with them."""
    added = [f"../components/{name}" for name in ("identity", "traces")]
    folder = tmp_path / "k8s"
    shutil.copytree(K8S, folder)
    (folder / "mine").mkdir()
    whole = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "fenliu"}
    whole |= {"resources": ["../overlays/prod"], "components": added}
    (folder / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    objects = list(yaml.safe_load_all(text_at(folder / "mine")))
    named_map = container(objects, ADMIN)["envFrom"][0]["configMapRef"]["name"]
    (held,) = [one["data"] for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"] == named_map]
    settings = Settings.from_env({name: value for name, value in held.items() if name.startswith("FENLIU_")})
    assert settings.oidc is not None and settings.oidc.roles == ("app",) and settings.rates["*"].per_s == 20
    assert settings.traces is not None and settings.approvals and settings.host == "0.0.0.0"
    for pod in (ADMIN, WORKER, HEAD):
        assert container(objects, pod)["envFrom"][0]["configMapRef"]["name"] == named_map
    assert [text for rule in policy.EVERYWHERE for text in rule(objects)] == []


def test_no_registry_and_no_folder_of_a_machine_is_named() -> None:
    for file in K8S.rglob("*"):
        if file.is_file():
            text = file.read_text()
            for word in ("docker.io", "ghcr.io", "quay.io", "gcr.io", "/work/", "/home/", "/root/"):
                assert word not in text, f"{file.relative_to(ROOT)} names {word}"


def test_the_image_starts_haproxy_by_the_script_that_takes_requests_whole() -> None:
    text = (K8S / "Dockerfile").read_text()
    assert "RAY_SERVE_HAPROXY_BINARY_PATH=/opt/fenliu/haproxy" in text
    assert "python -m serving.haproxy /opt/fenliu/haproxy" in text
