"""The rules that every overlay keeps. Each takes the built objects and names what breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from serving.app import ALWAYS, UNLESS_SET
from tests.k8s import own_rules as own
from tests.k8s.manifests import Object, environment, of_kind, pods, replicas_of, serve_of

Rule = Callable[[list[Object]], Iterator[str]]
WE_SET = {"RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}  # elsewhere
SECRET_WORDS = re.compile(r"KEY|TOKEN|PASSWORD|SECRET|_URL$")


def confined(objects: list[Object]) -> Iterator[str]:
    """Non-root, seccomp, a read-only root file system, no privileges, nothing of the node's."""
    for pod in pods(objects):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser", 0) > 0:
            yield f"{pod.owner}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.owner}: no seccomp profile"
        for one in pod.containers:
            yield from (
                f"{pod.owner}/{one['name']}: {what}" for what in _open(one.get("securityContext", {}))
            )
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield f"{pod.owner}: {key}"
        if any("hostPath" in volume for volume in pod.spec.get("volumes", [])):
            yield f"{pod.owner}: a folder of the node"
    for service in of_kind(objects, "RayService"):
        scaler = service["spec"]["rayClusterConfig"]["autoscalerOptions"]
        yield from (f"autoscaler: {what}" for what in _open(scaler.get("securityContext", {})))


def _open(context: Object) -> Iterator[str]:
    if context.get("readOnlyRootFilesystem") is not True:
        yield "writable root file system"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
        yield "has capabilities"


def sized(objects: list[Object]) -> Iterator[str]:
    """Requests for CPU and memory, a limit of memory; what serves has memory it cannot be evicted for."""
    for pod in pods(objects):
        for one in pod.containers:
            resources = one.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys():
                yield f"{pod.owner}/{one['name']}: no requests"
            if "memory" not in resources.get("limits", {}):
                yield f"{pod.owner}/{one['name']}: no limit of memory"
        if pod.owner.startswith("RayService"):
            for one in pod.spec["containers"]:
                if one["resources"]["requests"].get("memory") != one["resources"].get("limits", {}).get(
                    "memory"
                ):
                    yield f"{pod.owner}: requests less memory than it may use"


def probed(objects: list[Object]) -> Iterator[str]:
    """Long-running pods have the three probes; KubeRay brings those of Ray's pods. Liveness asks no store."""
    for pod in pods(objects):
        if not pod.owner.startswith(("Deployment", "StatefulSet")):
            continue
        for one in pod.spec["containers"]:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                if kind not in one:
                    yield f"{pod.owner}: no {kind}"
            if one.get("livenessProbe", {}).get("httpGet", {}).get("path", "/livez") != "/livez":
                yield f"{pod.owner}: liveness depends on more than the process"


def secrets_by_reference(objects: list[Object]) -> Iterator[str]:
    """Nothing secret stands in a manifest: keys, passwords and URLs with passwords come from Secrets."""
    for one in objects:
        if one["kind"] == "Secret":
            yield f"Secret/{one['metadata']['name']} is shipped"
        if one["kind"] == "ConfigMap":
            for name, value in one.get("data", {}).items():
                if SECRET_WORDS.search(name) or re.search(r"redis\S*://[^\s@]+:[^\s@]+@", value):
                    yield f"ConfigMap/{one['metadata']['name']}: {name}"
                for rule in re.findall(r"^user \S+ on.*$", value, re.MULTILINE):
                    if "nopass" in rule and "-@all +auth +hello +ping" not in rule:
                        yield f"ConfigMap/{one['metadata']['name']}: a user without a password"
                    if re.search(r" [>#](?!@(PASSWORD|KEEPER)_SHA256@)", rule):
                        yield f"ConfigMap/{one['metadata']['name']}: a password"
    for pod in pods(objects):
        for container in pod.containers:
            for variable in container.get("env", []):
                if SECRET_WORDS.search(variable["name"]) and variable.get("value"):
                    yield f"{pod.owner}: {variable['name']} is a literal"


def images(objects: list[Object]) -> Iterator[str]:
    """Tagged, never latest, one version of ours, and no registry: an overlay of the bank's names it."""
    seen = set()
    for pod in pods(objects):
        for one in pod.containers:
            name, _, tag = one["image"].partition(":")
            if not tag or tag == "latest":
                yield f"{pod.owner}: {one['image']} is not pinned"
            if "/" in name:
                yield f"{pod.owner}: {one['image']} names a registry"
            if name == "fenliu":
                seen.add(tag)
    if len(seen) > 1:
        yield f"several versions of ours: {sorted(seen)}"


def network(objects: list[Object]) -> Iterator[str]:
    """Default deny both ways, and no rule that lets everybody in."""
    policies = of_kind(objects, "NetworkPolicy")
    if not any(
        one["spec"]["podSelector"] == {}
        and sorted(one["spec"]["policyTypes"]) == ["Egress", "Ingress"]
        and not {"ingress", "egress"} & one["spec"].keys()
        for one in policies
    ):
        yield "no default deny"
    for one in policies:
        for rule in one["spec"].get("ingress", []):
            if not rule.get("from"):
                yield f"{one['metadata']['name']}: lets everybody in"
            elif not rule.get("ports") and any("namespaceSelector" in peer for peer in rule["from"]):
                yield f"{one['metadata']['name']}: another namespace may reach every port"
            for port in rule.get("ports", []):
                if port["port"] <= 8404 <= port.get("endPort", port["port"]):
                    yield f"{one['metadata']['name']}: HAProxy's statistics are open"
    labels = [pod.labels.get("app.kubernetes.io/component") for pod in pods(objects)]
    for one in policies:
        for wanted in _components(one["spec"]["podSelector"]):
            if wanted not in labels and wanted not in ("ingest", "train"):
                yield f"{one['metadata']['name']}: selects {wanted}, which no pod is"


def _components(selector: Object) -> Iterator[str]:
    key = "app.kubernetes.io/component"
    if key in selector.get("matchLabels", {}):
        yield selector["matchLabels"][key]
    for one in selector.get("matchExpressions", []):
        if one["key"] == key:
            yield from one["values"]


def disruption(objects: list[Object]) -> Iterator[str]:
    """A PodDisruptionBudget selects whatever runs for long; Ray's one head is not to be evicted."""
    budgets = [one["spec"]["selector"]["matchLabels"] for one in of_kind(objects, "PodDisruptionBudget")]
    for pod in pods(objects):
        if pod.owner.startswith(("CronJob", "RayJob")) or pod.owner.endswith("/head"):
            continue
        if not any(wanted.items() <= pod.labels.items() for wanted in budgets):
            yield f"{pod.owner}: no budget"
    for one in of_kind(objects, "RayService"):
        head = one["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["metadata"]
        if head.get("annotations", {}).get("cluster-autoscaler.kubernetes.io/safe-to-evict") != "false":
            yield "the head may be evicted"


def ray_flags(objects: list[Object]) -> Iterator[str]:
    """Both flags, and what else serving/app.py sets, on head and workers alike."""
    for pod in pods(objects):
        if not pod.owner.startswith("RayService"):
            continue
        given = environment(pod.spec["containers"][0])
        for name, value in ALWAYS.items():
            if given.get(name) != value:
                yield f"{pod.owner}: {name} is not {value}"
        for name in UNLESS_SET.keys() - WE_SET - given.keys():
            yield f"{pod.owner}: {name} is missing"
        if given.get("FENLIU_ROLE") != "pages":
            yield f"{pod.owner}: answers governance"
        if pod.labels.get("app.kubernetes.io/component") == "pages" and not _spread(pod.spec):
            yield f"{pod.owner}: is not spread over zones"


def _spread(spec: Object) -> bool:
    keys = [one["topologyKey"] for one in spec.get("topologySpreadConstraints", [])]
    return "topology.kubernetes.io/zone" in keys


def ray_head(objects: list[Object]) -> Iterator[str]:
    """The head carries no traffic and no replicas; its control store survives it, and holds nothing else."""
    for service in of_kind(objects, "RayService"):
        spec = service["spec"]
        if spec.get("excludeHeadPodFromServeSvc") is not True:
            yield "the head takes traffic"
        head = spec["rayClusterConfig"]["headGroupSpec"]
        if head["rayStartParams"].get("num-cpus") != "0":
            yield "the head takes replicas"
        address = spec["rayClusterConfig"].get("gcsFaultToleranceOptions", {}).get("redisAddress", "")
        if address != "redis://fenliu-gcs:6379":
            yield "the control store does not survive the head, or shares a store"
        if "fenliu-gcs" not in [one["metadata"]["name"] for one in of_kind(objects, "StatefulSet")]:
            yield "the control store's server is missing"
        if spec["rayClusterConfig"].get("authOptions", {}).get("mode") != "token":
            yield "Ray's own ports ask for no token"


def draining(objects: list[Object]) -> Iterator[str]:
    """HAProxy's hard stop < a replica's draining < its grace < the node's drain < the pod's grace."""
    for service in of_kind(objects, "RayService"):
        (deployment,) = serve_of(service)["applications"][0]["deployments"]
        for pod in pods([service]):
            given = environment(pod.spec["containers"][0])
            times = [
                float(given.get("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", 120)),
                float(given.get("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", 30)),
                float(deployment["graceful_shutdown_timeout_s"]),
                float(given.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30)),
                float(pod.spec.get("terminationGracePeriodSeconds", 30)),
            ]
            if times != sorted(set(times)):
                yield f"{pod.owner}: {times} do not grow"
        if not deployment.get("max_surge_percent"):
            yield "an update stops old replicas before new ones are there"
        if service["spec"].get("rayClusterDeletionDelaySeconds", 60) < 120:
            yield "an old cluster goes before its kept-alive connections"


def scaling(objects: list[Object]) -> Iterator[str]:
    """No HPA beside Ray's autoscaler; enough ports to scrape each replica of a pod."""
    for one in of_kind(objects, "HorizontalPodAutoscaler"):
        yield f"HPA {one['metadata']['name']} fights Ray's autoscaler"
    for service in of_kind(objects, "RayService"):
        cluster = service["spec"]["rayClusterConfig"]
        if (
            cluster.get("enableInTreeAutoscaling") is not True
            or cluster["autoscalerOptions"]["version"] != "v2"
        ):
            yield "Ray's autoscaler is off, or the old one"
        (deployment,) = serve_of(service)["applications"][0]["deployments"]
        bounds = deployment["autoscaling_config"]
        if bounds["min_replicas"] < 2:
            yield "one replica's end is an outage"
        if (fit := _fit(service)) < bounds["max_replicas"]:
            yield f"{bounds['max_replicas']} replicas at most, and workers for {fit}"
        for pod in pods([service]):
            if not pod.owner.endswith("/pages"):
                continue
            first, last = environment(pod.spec["containers"][0])["FENLIU_METRICS_PORTS"].split("-")
            named = [one["containerPort"] for one in pod.spec["containers"][0]["ports"]]
            wanted = range(int(first), int(last) + 1)
            if len(wanted) < deployment["max_replicas_per_node"] or not set(wanted) <= set(named):
                yield f"{pod.owner}: a replica without a port to scrape"


def _fit(service: Object) -> int:
    """Replicas that the most workers hold: a core each, and not more of a node than has ports."""
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    cores = int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    return int(group["maxReplicas"]) * min(cores, replicas_of(service))


def room(objects: list[Object]) -> Iterator[str]:
    """A worker in each of three zones, and nodes for the replicas that an update adds (production only)."""
    for service in of_kind(objects, "RayService"):
        (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        (deployment,) = serve_of(service)["applications"][0]["deployments"]
        surging = deployment["autoscaling_config"]["max_replicas"] * (100 + deployment["max_surge_percent"])
        if group["minReplicas"] < 3:
            yield "a zone without a worker"
        if _fit(service) * 100 < surging:
            yield "no nodes for the replicas of an update"


def stores(objects: list[Object]) -> Iterator[str]:
    """Append-only files; each write of live, log and control synced; no eviction but of features; users."""
    configs = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap") if "data" in one}
    for one in of_kind(objects, "StatefulSet"):
        role = one["spec"]["template"]["metadata"]["labels"].get("fenliu/role")
        if role is None:
            continue
        (name,) = [
            volume["configMap"]["name"]
            for volume in one["spec"]["template"]["spec"]["volumes"]
            if "configMap" in volume
        ]
        found = configs.get(name, {"store.conf": "", "users.acl": ""})
        lines = [line for line in found["store.conf"].splitlines() if not line.startswith("#")]
        config = dict(line.split(" ", 1) for line in lines)
        if config.get("appendonly") != "yes":
            yield f"{role}: no append-only file"
        if role not in ("features", "gcs") and config.get("appendfsync") != "always":
            yield f"{role}: an acknowledged write may be lost"
        if role != "features" and config.get("maxmemory-policy") != "noeviction":
            yield f"{role}: evicts what it must keep"
        if "aclfile" not in config or "user default off" not in found["users.acl"]:
            yield f"{role}: everybody may connect"
        if not one["spec"].get("volumeClaimTemplates"):
            yield f"{role}: no disk"
        keeper = re.search(r"^user keeper on #@KEEPER_SHA256@ (.*)$", found["users.acl"], re.MULTILINE)
        if keeper is None or keeper[1] != KEEPER:
            yield f"{role}: nobody may have its file written anew, or the keeper may more than that"


KEEPER = "resetkeys resetchannels -@all +auth +ping +info +bgrewriteaof"


def apart(objects: list[Object]) -> Iterator[str]:
    """Stores of different roles on different nodes (production only)."""
    for one in of_kind(objects, "StatefulSet"):
        spec, role = one["spec"]["template"]["spec"], one["metadata"]["name"]
        terms = (
            spec.get("affinity", {})
            .get("podAntiAffinity", {})
            .get("requiredDuringSchedulingIgnoredDuringExecution", [])
        )
        if not any(
            term["topologyKey"] == "kubernetes.io/hostname"
            and "fenliu/role" not in str(term["labelSelector"])
            for term in terms
        ):
            yield f"{role}: may share a node with another role"


def references(objects: list[Object]) -> Iterator[str]:
    """Every ConfigMap, claim and service account that a pod names is there."""
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for pod in pods(objects):
        wanted = set()
        for volume in pod.spec.get("volumes", []):
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        for container in pod.containers:
            for one in container.get("envFrom", []):
                if "configMapRef" in one:
                    wanted.add(("ConfigMap", one["configMapRef"]["name"]))
        if "serviceAccountName" in pod.spec:
            wanted.add(("ServiceAccount", pod.spec["serviceAccountName"]))
        yield from (f"{pod.owner}: no {kind} {name}" for kind, name in sorted(wanted - there))


EVERYWHERE: tuple[Rule, ...] = (
    confined, sized, probed, secrets_by_reference, images, network, disruption, ray_flags, ray_head, draining,
    scaling, stores, references,
    own.spooling, own.keeper, own.whole_home, own.kernels, own.json_logs, own.certificates, own.daily,
)  # fmt: skip
