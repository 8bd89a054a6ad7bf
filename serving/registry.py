"""The registry: published bundles on any fsspec URL, which of them is live, and who made it so.

    bundles/{version}/…      a bundle's files; its manifest, written last, makes it whole
    LIVE.json                {"version", "previous", "at", "by", …}, replaced in one step
    history/{number}.json    one entry per promotion and rollback, never changed

Content is immutable: a version is put once. Rolling back is promoting the version before.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from features.ids import BadId, check_id
from serving.bundle import MANIFEST, Bundle, BundleError, check_files, load, read_manifest

POINTER: Final = "LIVE.json"


class RegistryError(ValueError):
    """What was asked of the registry cannot be done; says what to do."""


class Registry:
    """`url`: a folder or an fsspec URL (`s3://…`, `gs://…`, `memory://…`). `clock` gives POSIX seconds."""

    def __init__(self, url: str | Path, clock: Callable[[], float] = time.time) -> None:
        self._files, root = fsspec.core.url_to_fs(str(url))
        self._root = str(root).rstrip("/")
        self._clock = clock

    def list(self) -> list[str]:
        """Whole bundles, oldest first."""
        found = self._files.glob(self._path(f"bundles/*/{MANIFEST}"))
        versions = [(self._made(str(path)), str(path).split("/")[-2]) for path in found]
        return [version for _, version in sorted(versions)]

    def put(self, folder: str | Path) -> str:
        """Publish the bundle in a local folder under its manifest's version; it is not live by that.

        Raises BundleError when it is not whole, RegistryError when the version is taken by other content.
        """
        root = Path(folder)
        manifest = read_manifest(root)
        check_files(root, manifest)
        version = _checked(str(manifest["version"]))
        target = self._path(f"bundles/{version}")
        if self._files.exists(f"{target}/{MANIFEST}"):
            if self.show(version)["files"] != manifest["files"]:
                raise RegistryError(f"bundle {version} is published with other content: use a new version")
            return version
        for name in manifest["files"]:
            self._upload(root / name, f"{target}/{name}")
        stamped = {**manifest, "published_at": self._clock()}
        self._replace(f"{target}/{MANIFEST}", _json(stamped))
        return version

    def fetch(self, version: str, cache_dir: str | Path) -> Path:
        """A local copy, downloaded once, each file checked. Raises RegistryError, BundleError."""
        target = Path(cache_dir) / _checked(version)
        if (target / MANIFEST).exists():
            return target
        manifest = self.show(version)
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".fetch-") as draft:
            folder = Path(draft) / "bundle"
            for name in manifest["files"]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._download(f"bundles/{version}/{name}", folder / name)
            (folder / MANIFEST).write_bytes(_json(manifest))
            check_files(folder, manifest)
            try:
                folder.rename(target)
            except OSError:
                if not (target / MANIFEST).exists():  # another process was faster: its copy is as good
                    raise
        return target

    def loader(self, cache_dir: str | Path) -> Callable[[str], Bundle]:
        """What gives bundles by version: fetched once, verified, memory-mapped."""
        return lambda version: load(self.fetch(version, cache_dir))

    def show(self, version: str) -> dict[str, Any]:
        """The manifest. Raises RegistryError when there is no such bundle."""
        found = self._read(f"bundles/{_checked(version)}/{MANIFEST}")
        if found is None:
            known = ", ".join(self.list()[-5:]) or "none"
            raise RegistryError(f"there is no bundle {version!r}: the latest are {known}")
        return found

    def live(self) -> str | None:
        """The version in service; None before the first promotion."""
        pointer = self._read(POINTER)
        return None if pointer is None else str(pointer["version"])

    def promote(self, version: str, by: str = "", forced: bool = False, reason: str = "") -> None:
        """Make a published bundle live. Whether it may be is the gate's question, asked before."""
        self.show(version)
        self._point(version, {"action": "promote", "by": by, "forced": forced, "reason": reason})

    def rollback(self, by: str = "", reason: str = "") -> str:
        """Make the version before live again; returns it. Raises RegistryError when there was none."""
        pointer = self._read(POINTER)
        before = pointer.get("previous") if pointer else None
        if pointer is None or before is None:
            raise RegistryError("there is no bundle to roll back to: only one was ever live")
        self.show(before)
        self._point(before, {"action": "rollback", "by": by, "forced": False, "reason": reason})
        return str(before)

    def history(self) -> Sequence[dict[str, Any]]:
        """Every promotion and rollback, oldest first."""
        paths = sorted(str(path) for path in self._files.glob(self._path("history/*.json")))
        return [json.loads(self._files.cat_file(path)) for path in paths]

    def taken_back(self, version: str) -> bool:
        """Whether the last word on a version was a rollback from it."""
        said = [one for one in self.history() if version in (one["version"], one["was"])]
        return bool(said) and said[-1]["action"] == "rollback" and said[-1]["was"] == version

    def _point(self, version: str, entry: dict[str, Any]) -> None:
        """The pointer remembers the versions below the live one, so that rollbacks can be repeated."""
        old = self._read(POINTER) or {}
        chain = [name for name in old.get("chain", []) if name != version]
        if entry["action"] == "promote" and old.get("version") not in (None, version):
            chain.append(old["version"])
        entry |= {"version": version, "was": old.get("version"), "at": self._clock()}
        number = len(self._files.glob(self._path("history/*.json")))
        self._replace(self._path(f"history/{number:08d}.json"), _json(entry))
        pointer = {**entry, "previous": chain[-1] if chain else None, "chain": chain[-50:]}
        self._replace(self._path(POINTER), _json(pointer))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _made(self, manifest: str) -> float:
        return float(json.loads(self._files.cat_file(manifest)).get("published_at", 0.0))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            raw: dict[str, Any] = json.loads(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            remedy = "restore it from a copy, or remove it and promote a bundle again"
            raise RegistryError(f"{self._path(name)} is not JSON ({error}): {remedy}") from error
        return raw

    def _upload(self, source: Path, target: str) -> None:
        if isinstance(self._files, LocalFileSystem):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            return
        self._files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        self._files.put_file(str(source), target)

    def _download(self, name: str, target: Path) -> None:
        try:
            self._files.get_file(self._path(name), str(target))
        except FileNotFoundError:
            raise BundleError(self._path(name), "is missing in the registry", "publish it again") from None

    def _replace(self, path: str, content: bytes) -> None:
        """In one step: a rename on a local disk; an object store's put is one already."""
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not isinstance(self._files, LocalFileSystem):
            self._files.pipe_file(path, content)
            return
        handle, draft = tempfile.mkstemp(dir=Path(path).parent, prefix=".draft-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)


def _checked(version: str) -> str:
    """A version is a folder's name, so it may not wander."""
    try:
        check_id(version, "bundle version")
    except BadId as bad:
        raise RegistryError(str(bad)) from None
    if version.startswith(".") or any(sign in version for sign in "/\\*?[]"):
        raise RegistryError(f"bundle version {version!r} may hold letters, digits, dots, dashes, underscores")
    return version


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
