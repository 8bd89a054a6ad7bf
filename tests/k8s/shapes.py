"""A strict structural check of the fields that k8s/ uses, where no published schema is at hand.

A shape is a type, a one-element list (of any length), a mapping of the fields there may be ("!" ends those
that must be), or a mapping of the single key "*" (any key). What a shape does not name is refused, so a
misspelt field is found; a new field is added here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Shape = Any
LABELS = {"*": str}
META = {"name!": str, "namespace": str, "labels": LABELS, "annotations": LABELS}
SELECTOR = {"matchLabels": LABELS, "matchExpressions": [{"key!": str, "operator!": str, "values": [str]}]}
CONFINED = {
    "allowPrivilegeEscalation": bool,
    "readOnlyRootFilesystem": bool,
    "capabilities": {"drop": [str]},
}
PROBE = {
    "httpGet": {"path!": str, "port!": (int, str)},
    "exec": {"command!": [str]},
    **dict.fromkeys(("periodSeconds", "timeoutSeconds", "failureThreshold"), int),
}
KEY_OF = {"name!": str, "key!": str, "optional": bool}
CONTAINER = {
    "name!": str, "image!": str, "command": [str], "args": [str],
    "env": [{"name!": str, "value": str, "valueFrom": {"secretKeyRef": KEY_OF}}],
    "envFrom": [{"configMapRef": {"name!": str}}],
    "ports": [{"name!": str, "containerPort!": int}],
    "resources": {"requests": {"*": str}, "limits": {"*": str}},
    "securityContext": CONFINED,
    "startupProbe": PROBE, "livenessProbe": PROBE, "readinessProbe": PROBE,
    "volumeMounts": [{"name!": str, "mountPath!": str, "subPath": str, "readOnly": bool}],
}  # fmt: skip
POD = {
    "serviceAccountName": str, "automountServiceAccountToken": bool, "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "securityContext": {
        "runAsNonRoot": bool, "runAsUser": int, "runAsGroup": int, "fsGroup": int,
        "fsGroupChangePolicy": str, "seccompProfile": {"type!": str},
    },
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey!": str, "labelSelector": SELECTOR},
    ]}},
    "topologySpreadConstraints": [
        {"maxSkew!": int, "topologyKey!": str, "whenUnsatisfiable!": str, "labelSelector": SELECTOR}
    ],
    "initContainers": [CONTAINER], "containers!": [CONTAINER],
    "volumes": [{
        "name!": str, "emptyDir": {"medium": str, "sizeLimit": str}, "configMap": {"name!": str},
        "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
        "secret": {"secretName!": str, "optional": bool, "defaultMode": int},
    }],
}  # fmt: skip
TEMPLATE = {"metadata": {"labels": LABELS, "annotations": LABELS}, "spec!": POD}
CLAIM = {"accessModes!": [str], "resources!": {"requests!": {"storage!": str}}, "storageClassName": str}
POLICY_PORTS = [{"protocol": str, "port!": int, "endPort": int}]
PEERS = [{"podSelector": SELECTOR, "namespaceSelector": SELECTOR, "ipBlock": {"cidr!": str}}]
JOB = {"backoffLimit": int, "activeDeadlineSeconds": int, "template!": TEMPLATE}
CORE: dict[tuple[str, str], Shape] = {
    ("v1", "Namespace"): {},
    ("v1", "ServiceAccount"): {},
    ("v1", "ConfigMap"): {"data": {"*": str}},
    ("v1", "Service"): {"spec!": {
        "selector!": LABELS, "ports!": [{"name": str, "port!": int, "targetPort": (int, str)}],
    }},
    ("v1", "PersistentVolumeClaim"): {"spec!": CLAIM},
    ("policy/v1", "PodDisruptionBudget"): {"spec!": {
        "maxUnavailable": int, "minAvailable": int, "selector!": SELECTOR,
    }},
    ("networking.k8s.io/v1", "NetworkPolicy"): {"spec!": {
        "podSelector!": SELECTOR, "policyTypes!": [str],
        "ingress": [{"from": PEERS, "ports": POLICY_PORTS}], "egress": [{"to": PEERS, "ports": POLICY_PORTS}],
    }},
    ("rbac.authorization.k8s.io/v1", "Role"): {
        "rules!": [{"apiGroups!": [str], "resources!": [str], "verbs!": [str]}],
    },
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): {
        "roleRef!": {"apiGroup!": str, "kind!": str, "name!": str},
        "subjects!": [{"kind!": str, "name!": str, "namespace!": str}],
    },
    ("apps/v1", "Deployment"): {"spec!": {
        "replicas": int, "selector!": SELECTOR, "template!": TEMPLATE,
        "strategy": {"type!": str, "rollingUpdate": {"maxUnavailable": int, "maxSurge": int}},
    }},
    ("apps/v1", "StatefulSet"): {"spec!": {
        "replicas": int, "selector!": SELECTOR, "template!": TEMPLATE, "serviceName!": str,
        "volumeClaimTemplates": [{"metadata!": {"name!": str, "labels": LABELS}, "spec!": CLAIM}],
    }},
    ("batch/v1", "CronJob"): {"spec!": {
        "schedule!": str, "timeZone": str, "concurrencyPolicy": str, "jobTemplate!": {"spec!": JOB},
        **dict.fromkeys(
            ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"), int
        ),
    }},
}  # fmt: skip
OTHERS: dict[tuple[str, str], Shape] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): {"spec!": {
        "selector!": SELECTOR, "podMetricsEndpoints!": [{"port!": str, "path": str, "interval": str}],
    }},
    ("monitoring.coreos.com/v1", "PrometheusRule"): {"spec!": {"groups!": [{
        "name!": str,
        "rules!": [{
            "alert!": str, "expr!": str, "for": str, "labels": LABELS,
            "annotations!": {"summary!": str, "runbook!": str},
        }],
    }]}},
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {"spec!": {
        "parentRefs!": [{
            "group": str, "kind": str, "name!": str, "namespace": str, "sectionName": str,
        }],
        "hostnames": [str],
        "rules!": [{
            "matches": [{"path!": {"type!": str, "value!": str}}],
            "timeouts": {"request": str, "backendRequest": str},
            "backendRefs!": [{"name!": str, "port!": int}],
        }],
    }},
}  # fmt: skip


def check(one: dict[str, Any]) -> list[str]:
    """What of an object is not of its kind's shape. Raises KeyError for a kind that has none."""
    shape = (CORE | OTHERS)[one.get("apiVersion", ""), one.get("kind", "")]
    return list(_wrong(one, {"apiVersion!": str, "kind!": str, "metadata!": META, **shape}, one["kind"]))


def _wrong(value: Any, shape: Shape, at: str) -> Iterator[str]:
    if isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{at}: not a list"
            return
        for place, one in enumerate(value):
            yield from _wrong(one, shape[0], f"{at}[{place}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{at}: not a mapping"
            return
        if "*" in shape:
            shape = dict.fromkeys(value, shape["*"])
        named = {key.rstrip("!"): inner for key, inner in shape.items()}
        yield from (f"{at}.{key}: no such field" for key in value.keys() - named.keys())
        needed = {key[:-1] for key in shape if key.endswith("!")}
        yield from (f"{at}.{key}: missing" for key in needed - value.keys())
        for key in value.keys() & named.keys():
            yield from _wrong(value[key], named[key], f"{at}.{key}")
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        yield f"{at}: {value!r} is not of type {shape}"
