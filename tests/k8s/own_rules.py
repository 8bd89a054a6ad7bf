"""What the product needs of its own pods, wherever they run: a home, a spool, compiled code, logs, who may
what at stores, what has to run daily. Rules as in `tests.k8s.policy`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from serving.settings import Settings
from tests.k8s.manifests import Object, environment, of_kind, ours, pods, replicas_of


def spooling(objects: list[Object]) -> Iterator[str]:
    """Whoever answers events has a disk for the spool, large enough for all its replicas, no memory."""
    most = max((replicas_of(one) for one in of_kind(objects, "RayService")), default=1)
    for pod in pods(objects):
        for one in pod.spec["containers"]:
            given = environment(one)
            if given.get("FENLIU_ROLE") != "pages":
                continue
            mounts = {mount["mountPath"]: mount["name"] for mount in one.get("volumeMounts", [])}
            name = mounts.get(given.get("FENLIU_SPOOL", ""))
            volume = next((v for v in pod.spec.get("volumes", []) if v["name"] == name), {})
            room = volume.get("emptyDir")
            if room is None and "persistentVolumeClaim" not in volume and "ephemeral" not in volume:
                yield f"{pod.owner}: FENLIU_SPOOL is on no volume"
            elif room is not None and "medium" in room:
                yield f"{pod.owner}: the spool is in memory"
            elif room is not None:
                wanted = most * int(given.get("FENLIU_SPOOL_MB", Settings().spool_mb))
                if int(room.get("sizeLimit", "0Gi").removesuffix("Gi")) << 10 < wanted:
                    yield f"{pod.owner}: {most} replicas may spool {wanted} MiB, more than the volume holds"


def keeper(objects: list[Object]) -> Iterator[str]:
    """Erasure ends with files written anew, so who erases is given the keeper's password, and nobody else."""
    for pod, one, given in ours(objects):
        if pod.owner.startswith("StatefulSet"):
            continue  # its store is its own
        if ("FENLIU_KEEPER_PASSWORD" in environment(one)) != (given.get("FENLIU_ROLE") == "admin"):
            yield f"{pod.owner}: the keeper's password is missing, or too many"


def whole_home(objects: list[Object]) -> Iterator[str]:
    """Whoever may erase, train, ingest or drop has one and the same home, whole and to write in: what is not
    mounted is not erased, and a lock in another folder holds nobody off. Who serves pages has none of it.
    """
    homes = set()
    for pod, one, given in ours(objects):
        mounts = {mount["mountPath"]: mount for mount in one.get("volumeMounts", [])}
        home = given["FENLIU_HOME"]
        mount = mounts.get(home, {})
        volume = next((v for v in pod.spec.get("volumes", []) if v["name"] == mount.get("name")), {})
        claim = volume.get("persistentVolumeClaim", {})
        if given.get("FENLIU_ROLE") == "pages":
            if claim:
                yield f"{pod.owner}: a pod that serves pages holds the lake"
            continue
        if "emptyDir" in volume or not mount:
            yield f"{pod.owner}: its home is nobody else's"
        if mount.get("readOnly") or claim.get("readOnly") or "subPath" in mount:
            yield f"{pod.owner}: its home is not whole, or cannot be written"
        if any(path.startswith(f"{home}/") for path in mounts):
            yield f"{pod.owner}: something lies over a part of its home"
        homes.add(claim.get("claimName", "its own"))
    if len(homes) > 1:
        yield f"several homes: {sorted(homes)}"


def kernels(objects: list[Object]) -> Iterator[str]:
    """Compiled code is run, so it lies where only its own pod can write, copied there from the image."""
    for pod, one, given in ours(objects):
        mounts = {mount["mountPath"]: mount["name"] for mount in one.get("volumeMounts", [])}
        name = mounts.get(given.get("NUMBA_CACHE_DIR", ""))
        volume = next((v for v in pod.spec.get("volumes", []) if v["name"] == name), {})
        filled = any(
            mount["name"] == name
            for before in pod.spec.get("initContainers", [])
            for mount in before.get("volumeMounts", [])
        )
        if "emptyDir" not in volume or not filled:
            yield f"{pod.owner}: its compiled code is not its own, or not the image's"


def json_logs(objects: list[Object]) -> Iterator[str]:
    """One object a line, with the decision's id."""
    for pod, _, given in ours(objects):
        if given.get("FENLIU_LOG") != "json":
            yield f"{pod.owner}: its log is not JSON"


CERTIFICATES = "/etc/fenliu/tls"  # what store URLs name: ../../k8s/README.md, "TLS to the stores"


def certificates(objects: list[Object]) -> Iterator[str]:
    """Whoever has a store's URL has the folder of certificates that it may name; its Secret is optional."""
    for pod, one, given in ours(objects):
        if not any(name.endswith("_URL") for name in given):
            continue
        mounts = {mount["mountPath"]: mount for mount in one.get("volumeMounts", [])}
        mount = mounts.get(CERTIFICATES, {})
        volume = next((v for v in pod.spec.get("volumes", []) if v["name"] == mount.get("name")), {})
        if not mount.get("readOnly") or volume.get("secret", {}).get("optional") is not True:
            yield f"{pod.owner}: no folder of certificates, or one that has to be there"
        elif volume["secret"].get("defaultMode") != 0o440:
            yield f"{pod.owner}: everybody may read the client's key"


DAILY = (["customer", "retain"], ["plan", "sample"])  # what nothing else runs


def daily(objects: list[Object]) -> Iterator[str]:
    """Retention is in force, for a number of days that is written down, and forecasts have their sample."""
    if not of_kind(objects, "RayService"):
        return
    jobs = [one for pod in pods(objects) if pod.owner.startswith("CronJob") for one in pod.spec["containers"]]
    said = [one.get("args", []) for one in jobs]
    for verb in DAILY:
        if not any(words[: len(verb)] == verb for words in said):
            yield f"nothing runs {' '.join(verb)}"
    for words in said:
        if words[:2] == DAILY[0] and not re.search(r"--days [1-9]\d*$", " ".join(words)):
            yield "nobody says how long events are kept"
